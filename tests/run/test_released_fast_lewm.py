"""The state dict of a published Fast-LeWM: it computes here what it does there, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import outcome
from released_fast_lewm_layout import Theirs, random_tensors
from released_layout import modern

from lewm_bench.agents.fast_lewm import FAST_LEWM, FastLeWM, FastLeWMConfig
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import latent_cost
from lewm_bench.system.checkpoint import load_card, load_weights

TWOROOM = "lewm_bench/TwoRoom-v0"
SMALL = 28  # pixels: four patches; all other sizes are the published ones
OPTIONS = ("--out", "mine", "--env", TWOROOM, "--action-mean", "-0.1,0.2", "--action-std", "0.5,0.6")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return random_tensors(10, SMALL)


@pytest.fixture
def lewm_bench(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: outcome(monkeypatch, capsys, *map(str, arguments))


def written(folder: Path, tensors: Any) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "weights.pt")
    return folder


@pytest.fixture
def model(lewm_bench, tensors, tmp_path) -> FastLeWM:
    source = written(tmp_path / "source", tensors)
    assert lewm_bench("import", "fast-lewm-weights", source, *OPTIONS) == (0, "mine\n", "")
    card = load_card(tmp_path / "mine")
    assert (card["agent"], card["image_size"], card["released"]["source"]) == ("fast-lewm", SMALL, "source")
    assert list(card["released"]["sha256"]) == ["weights.pt"]
    found = FAST_LEWM.build(FastLeWMConfig(**card["config"]), card["image_size"], card["action_dim"])
    load_weights(found, tmp_path / "mine")
    return found.eval().requires_grad_(False)


def test_the_counts_of_tensors_are_the_published_ones(tensors) -> None:
    """47 of the action encoder and 86 of the predictor, as who has loaded the published weights tells."""
    assert sum(name.startswith("action_encoder.") for name in tensors) == 47
    assert sum(name.startswith("predictor.") for name in tensors) == 86
    full = random_tensors(10)
    numbers = sum(t.numel() for name, t in full.items() if "running" not in name and "num_batches" not in name)
    assert numbers == 17_913_184


def test_it_predicts_what_the_published_module_does(model, tensors) -> None:
    generator = torch.Generator().manual_seed(1)
    latent, blocks = torch.randn(3, 192, generator=generator), torch.randn(3, 5, 10, generator=generator)
    theirs = Theirs(tensors).futures(latent, blocks).float()
    assert theirs.std(0).min() > 0  # every latent and every prefix has a future of its own
    found = model.predict_prefixes(latent, blocks)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().mean().item())
    assert torch.equal(model.encoder.state_dict()["layernorm.weight"], tensors["encoder.layernorm.weight"])


def test_its_two_norms_in_a_row_are_one_here(model, tensors) -> None:
    """Of tokens that are so small that what is added to their variance matters: 5 % with the usual number."""
    tokens = 0.01 * torch.randn(2, 6, 192, generator=torch.Generator().manual_seed(2))
    theirs = Theirs(tensors).block(1, tokens.double()).float()
    torch.testing.assert_close(model.prefix_encoder.blocks[1](tokens), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rollout", ["reference", "fast"])
def test_costs_of_candidates_are_the_published_modules(model, tensors, rollout: str) -> None:
    generator = torch.Generator().manual_seed(3)
    latent, goal = torch.randn(2, 1, 192, generator=generator)
    plans = torch.randn(1, 300, 5, 10, generator=generator)
    config = PlannerConfig(rollout=rollout)
    search = FAST_LEWM.rollout(model, config)(latent[None], torch.zeros(1, 0, 10))
    costs = 192 * latent_cost(search, goal, config)(plans)  # theirs is a sum over dimensions
    ends = Theirs(tensors).futures(latent.expand(300, -1), plans[0])[:, -1]
    theirs = (ends - goal.double()).square().sum(-1).float()[None]
    torch.testing.assert_close(costs, theirs, rtol=1e-5, atol=0)


def test_the_names_of_transformers_5_are_understood(lewm_bench, tensors, tmp_path) -> None:
    source = written(tmp_path / "source", {modern(name): tensor for name, tensor in tensors.items()})
    assert lewm_bench("import", "fast-lewm-weights", source, *OPTIONS) == (0, "mine\n", "")


def without(name: str) -> Callable[[dict], dict]:
    return lambda found: {key: value for key, value in found.items() if key != name}


def changed(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[dict], dict]:
    return lambda found: found | {name: make(found[name])}


TOKENS, POSITIONS = "action_encoder.impl.token_proj.weight", "encoder.embeddings.position_embeddings"
NORM = "action_encoder.impl.temporal_mixer.layers.0.attn.norm.weight"
BAD = {
    "missing": (without("predictor.transition_stack.norm.bias"), ["1 missing (first: predictor.norm.bias)"]),
    "extra": (lambda found: found | {"decoder.x": torch.zeros(1)}, ["1 unexpected (first: decoder.x)"]),
    "shape": (changed(NORM, lambda t: t[:-1].clone()), ["1 of another shape (first: prefix_encoder.blocks.0.norm"]),
    "nan": (changed(NORM, lambda t: t * float("nan")), ["not finite", "prefix_encoder.blocks.0.norm"]),
    "no tokens": (without(TOKENS), ["is no Fast-LeWM", "got none", "docs/weights.md"]),
    "flat tokens": (changed(TOKENS, torch.Tensor.flatten), ["is no Fast-LeWM", "got (320,)"]),
    "no square": (changed(POSITIONS, lambda t: t[:, :-1].clone()), ["for 3 patches, which are no square"]),
    "other actions": (changed(TOKENS, lambda t: t[:, :-1].clone()), ["action blocks of 9 numbers"]),
    "both names": (lambda found: found | {"predictor.norm.bias": torch.zeros(192)}, ["holds tensors twice"]),
    "a module": (lambda found: torch.nn.Linear(2, 2), ["holds more than tensors", "docs/weights.md"]),
    "LeWM": (lambda found: {"predictor.pos_embedding": torch.zeros(1, 3, 192)}, ["is no Fast-LeWM"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(lewm_bench, tensors, tmp_path, kind) -> None:
    make, says = BAD[kind]
    source = written(tmp_path / "source", make(tensors))
    status, shown, err = lewm_bench("import", "fast-lewm-weights", source, *OPTIONS)
    assert status == 2 and not shown and len(err.splitlines()) == 1, err
    assert all(part in err for part in [*says, "weights.pt"][: None if kind != "other actions" else 1]), err
    assert not (tmp_path / "mine").exists()


def test_a_link_that_leaves_the_folder_is_refused(lewm_bench, tensors, tmp_path) -> None:
    source = written(tmp_path / "source", tensors)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.pt").symlink_to(source / "weights.pt")
    status, _, err = lewm_bench("import", "fast-lewm-weights", tmp_path / "other", *OPTIONS)
    assert status == 2 and "is a link that leaves" in err and not (tmp_path / "mine").exists()
    status, _, err = lewm_bench("import", "fast-lewm-weights", tmp_path, *OPTIONS)
    assert status == 2 and "weights.pt is missing" in err and "docs/weights.md" in err
