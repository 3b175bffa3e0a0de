"""A DINO-WM that stable-worldmodel has saved: what it becomes here, what it reads, and every bad file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import outcome
from released_dino_wm_layout import (
    HEADS,
    PATCHES,
    PROPRIO,
    WIDTH,
    jepa_wms,
    make_dinov2,
    prediction,
    random_tensors,
    sizes,
)
from released_layout import write_release

from lewm_bench.agents.dino_wm import DinoWM, DinoWMConfig, proprio_of
from lewm_bench.agents.parts.encoders import Dinov2Encoder
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.run.environments import make_env
from lewm_bench.run.released_dino_wm import PUBLISHED
from lewm_bench.system.checkpoint import load_card, load_weights

TWOROOM = "lewm_bench/TwoRoom-v0"
ACTIONS = ("--env", TWOROOM, "--action-mean", "-0.1,0.2", "--action-std", "0.5,0.6")
FELT = ("--proprio-mean", "30,31", "--proprio-std", "10,11")

Files = tuple[dict[str, torch.Tensor], Path]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("dinov2")
    return make_dinov2(folder), folder


@pytest.fixture
def lewm_bench(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: outcome(monkeypatch, capsys, *map(str, arguments))


def released(dinov2: Files, felt: int, folder: Path) -> Path:
    return write_release(folder, {**dinov2[0], **random_tensors(10, felt)}, sizes(10, felt))


def command(source: Path, dinov2: Files, *options: str) -> tuple[Any, ...]:
    return "import", "dino-wm-weights", source, "--out", "mine", "--dinov2", dinov2[1], *ACTIONS, *options


def loaded(folder: Path, dinov2: Files) -> DinoWM:
    card = load_card(folder)
    config = DinoWMConfig(**card["config"])
    model = DinoWM(config, Dinov2Encoder(dinov2[1], config.frames), card["action_dim"], 2 if config.proprio else 0)
    load_weights(model, folder)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("felt", [0, 2])
def test_a_release_becomes_a_checkpoint(lewm_bench, dinov2, tmp_path, felt) -> None:
    source = released(dinov2, felt, tmp_path / "source")
    assert lewm_bench(*command(source, dinov2, *(FELT if felt else ()))) == (0, "mine\n", "")
    card, theirs = load_card(tmp_path / "mine"), random_tensors(10, felt)
    assert (card["agent"], card["env"], card["image_size"], card["seed"]) == ("dino-wm", TWOROOM, 224, None)
    assert (card["config"]["history"], card["config"]["proprio"], card["config"]["width"]) == (2, felt > 0, None)
    assert card["released"]["source"] == "source" and set(card["released"]["sha256"]) == {"weights.pt", "config.json"}
    model = loaded(tmp_path / "mine", dinov2)
    own = model.state_dict()
    assert torch.equal(own["predictor.positions"], theirs["predictor.pos_embedding"])
    assert torch.equal(own["predictor.blocks.1.mlp.3.bias"], theirs["predictor.transformer.layers.1.1.net.4.bias"])
    assert torch.equal(own["predictor.action.weight"], theirs["extra_encoders.action.patch_embed.weight"][:, :, 0])
    assert model.action_scale.std.tolist() == pytest.approx([0.5, 0.6])
    size = WIDTH + (PROPRIO if felt else 0)
    assert own["predictor.output.weight"].shape == (size, size + 10) and model.tokens_per_frame == PATCHES
    if felt:
        assert (model.proprio.mean.tolist(), model.proprio.std.tolist()) == ([30, 31], [10, 11])


@torch.no_grad()
def test_tokens_are_those_of_transformers_at_224_px(lewm_bench, dinov2, tmp_path) -> None:
    """It resamples positions itself, and keeps 256 patches."""
    from transformers import Dinov2Model

    assert lewm_bench(*command(released(dinov2, 0, tmp_path / "source"), dinov2))[0] == 0
    frames = torch.randint(0, 256, (1, 2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    theirs = Dinov2Model.from_pretrained(dinov2[1]).eval()((frames[0] / 255 - mean) / std).last_hidden_state[:, 1:]
    found = loaded(tmp_path / "mine", dinov2).encode(frames)[0]
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)


def written(found: Any, path: Path) -> Path:
    torch.save(found, path)
    return path


@pytest.mark.parametrize("theirs", ["stable-worldmodel", "jepa-wms"])
@torch.no_grad()
def test_it_predicts_what_theirs_does(lewm_bench, dinov2, tmp_path, theirs) -> None:
    single = theirs == "jepa-wms"
    tensors = random_tensors(10, 2, 4, 16, 64) if single else random_tensors(10, 2)
    source = written(jepa_wms(10, 2), tmp_path / "x.pth.tar") if single else released(dinov2, 2, tmp_path / "x")
    assert lewm_bench(*command(source, dinov2, *FELT)) == (0, "mine\n", "")
    card, model = load_card(tmp_path / "mine"), loaded(tmp_path / "mine", dinov2)
    assert (card["config"]["frames"], card["config"]["history"], card["released"]["source"]) == (theirs, 2, source.name)
    generator = torch.Generator().manual_seed(1)
    tokens, felt = torch.randn(1, 2, PATCHES, WIDTH, generator=generator), torch.randn(1, 2, 2, generator=generator)
    actions = torch.randn(1, 2, 10, generator=generator)

    def embedded(name: str, numbers: torch.Tensor) -> torch.Tensor:
        weight, bias = (tensors[f"extra_encoders.{name}.patch_embed.{part}"] for part in ("weight", "bias"))
        return (numbers @ weight[:, :, 0].T + bias)[:, :, None].expand(-1, -1, PATCHES, -1)

    joined = torch.cat([tokens, embedded("proprio", felt), embedded("action", actions)], -1)
    expected = prediction(tensors, joined, 16 if single else HEADS)[..., : WIDTH + PROPRIO].float()
    latents = model.join(tokens, felt * model.proprio.std + model.proprio.mean)
    torch.testing.assert_close(model.predictor(latents, actions), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_jepa_wms_feeds_dinov2_halves_and_the_original_positions(lewm_bench, dinov2, tmp_path) -> None:
    from transformers import Dinov2Model

    source = written(jepa_wms(10, 0), tmp_path / "x.pth.tar")
    assert lewm_bench(*command(source, dinov2))[0] == 0
    frames = torch.randint(0, 256, (1, 2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = Dinov2Model.from_pretrained(dinov2[1]).eval()
    grid = model.embeddings.position_embeddings
    # The original code, for DINOv2 without registers: by the factor (16 + 0.1) / 37.
    resampled = torch.nn.functional.interpolate(
        grid[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2), mode="bicubic", scale_factor=16.1 / 37
    )
    patches = resampled.permute(0, 2, 3, 1).flatten(1, 2)
    model.embeddings.position_embeddings = torch.nn.Parameter(torch.cat([grid[:, :1], patches], 1))
    theirs = model((frames[0] / 255 - 0.5) / 0.5).last_hidden_state[:, 1:]
    torch.testing.assert_close(loaded(tmp_path / "mine", dinov2).encode(frames)[0], theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_state_dicts_of_dino_wms_authors_keep_their_history_and_colours(lewm_bench, dinov2, tmp_path) -> None:
    source = written(jepa_wms(10, 2, frames=3, patches=196), tmp_path / "x.pth")
    assert lewm_bench(*command(source, dinov2, *FELT)) == (0, "mine\n", "")
    config, model = load_card(tmp_path / "mine")["config"], loaded(tmp_path / "mine", dinov2)
    assert (config["frames"], config["history"], model.tokens_per_frame) == ("dino-wm-halves", 3, 196)
    frames = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    halves = Dinov2Encoder(dinov2[1]).eval()  # by hand: the same image, in the colours that the other rule undoes
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    recoloured = ((frames / 255 - 0.5) / 0.5 * std + mean) * 255
    torch.testing.assert_close(model.encoder(frames), halves(recoloured), rtol=1e-4, atol=1e-4)


def nested(part: str, name: str, value: Any) -> Callable[[dict], Any]:
    return lambda found: found | {part: found[part] | {name: value}}


BAD_FILES = {
    "a module": (lambda found: found | {"encoder": torch.nn.Linear(2, 2)}, ["holds more than tensors"]),
    "modules": (lambda found: {"predictor": 3}, ["has no state dicts of predictor and action_encoder"]),
    "a list": (lambda found: [], ["has no state dicts"]),
    "missing": (
        lambda found: found | {"predictor": without("transformer.norm.bias")(found["predictor"])},
        ["1 missing (first: predictor.norm.bias)"],
    ),
    "nan": (nested("action_encoder", "patch_embed.bias", torch.full((10,), float("nan"))), ["not finite"]),
    "no positions": (nested("predictor", "pos_embedding", torch.zeros(3)), ["predictor.positions has the shape (3,)"]),
    "other patches": (nested("predictor", "pos_embedding", torch.zeros(1, 200, 34)), ["positions for 200 tokens", "of 256", "of 196"]),
    "one frame": (nested("predictor", "pos_embedding", torch.zeros(1, 256, 34)), ["positions for 256 tokens"]),
    "narrow": (nested("predictor", "pos_embedding", torch.zeros(1, 1024, 10)), ["no channels for the frame"]),
    "not torch": (lambda found: None, ["has no state dicts"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_of_jepa_wms_is_one_line_and_nothing_is_written(lewm_bench, dinov2, tmp_path, kind) -> None:
    make, says = BAD_FILES[kind]
    source = written(make(jepa_wms(10, 0)), tmp_path / "x.pth.tar")
    refused(lewm_bench(*command(source, dinov2)), [*says, "x.pth.tar"], tmp_path / "mine")


def test_statistics_come_from_a_dataset(lewm_bench, dinov2, tmp_path) -> None:
    dataset = collect(make_env(TWOROOM, 28), CollectConfig(episodes=10, steps=12), 0, tmp_path / "data")
    source = released(dinov2, 2, tmp_path / "source")
    options = ("--env", TWOROOM, "--data", dataset.folder)
    arguments = ("import", "dino-wm-weights", source, "--out", "mine", "--dinov2", dinov2[1], *options)
    assert lewm_bench(*arguments) == (0, "mine\n", "")
    model = loaded(tmp_path / "mine", dinov2)
    felt = proprio_of(make_env(TWOROOM, 28), dataset.states[dataset.rows("train")]).double()
    np.testing.assert_allclose(model.proprio.mean, felt.mean(0), rtol=1e-6)
    np.testing.assert_allclose(model.proprio.std, felt.std(0, correction=0), rtol=1e-6)
    refused(lewm_bench(*arguments[:3], "--out", "two", *arguments[5:], *FELT), ["not from both"], tmp_path / "two")


def test_published_statistics_are_dino_wms_for_pusht() -> None:
    assert set(PUBLISHED) == {"lewm_bench/PushT-v0"}
    assert PUBLISHED["lewm_bench/PushT-v0"].mean[:2] == (236.6155, 264.5674)


def refused(result: tuple[int, str, str], says: list[str], out: Path) -> None:
    status, shown, err = result
    assert status == 2 and not shown, err
    assert len(err.splitlines()) == 1 and all(part in err for part in says), err
    assert not out.exists()


MISTAKES = [
    ((), ["statistics of proprioception", "none are published for", "--proprio-mean", "--data"]),
    (("--proprio-mean", "1", "--proprio-std", "1"), ["has 2 numbers", "have 1"]),
    (("--proprio-mean", "1,2", "--proprio-std", "1,0"), ["deviations above 0"]),
    (("--proprio-mean", "1,x", "--proprio-std", "1,1"), ["--proprio-mean takes comma-separated numbers"]),
    ((*FELT, "--env", "lewm_bench/PointMaze-UMaze-v0"), ["reads 2 numbers of proprioception", "has 4", "--env"]),
    ((*FELT, "--frame-skip", "4"), ["blocks of 10 numbers, but 4 actions", "--frame-skip"]),
    ((*FELT, "--dinov2", "nowhere"), ["nowhere has no config.json and no model.safetensors"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), MISTAKES)
def test_a_mistake_is_one_line(lewm_bench, dinov2, tmp_path, options, says) -> None:
    source = released(dinov2, 2, tmp_path / "source")
    refused(lewm_bench(*command(source, dinov2, *options)), says, tmp_path / "mine")


def without(name: str) -> Callable[[dict], dict]:
    return lambda found: {key: value for key, value in found.items() if key != name}


def changed(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[dict], dict]:
    return lambda found: found | {name: make(found[name])}


NORM = "predictor.transformer.layers.1.0.norm.weight"
QKV = "predictor.transformer.layers.0.0.to_qkv.weight"
BAD_TENSORS = {
    "missing": (without(NORM), ["1 missing (first: predictor.blocks.1.norm1.weight)"]),
    "extra": (lambda found: found | {"decoder.x": torch.zeros(1)}, ["1 unexpected (first: decoder.x)"]),
    "shape": (changed(NORM, lambda t: t[:-1].clone()), ["of another shape (first: predictor.blocks.1.norm1.weight)"]),
    "nan": (changed(NORM, lambda t: t * float("nan")), ["not finite", "predictor.blocks.1.norm1.weight"]),
    "no sizes": (without(QKV), ["config.json says that predictor.blocks.0.qkv.weight", "it is missing"]),
    "other sizes": (changed(QKV, lambda t: t[:-3].clone()), ["config.json says that", "(48, 34), but it has"]),
    "another DINOv2": (
        changed("backbone.layernorm.bias", lambda t: t + 1), ["has another DINOv2 in it", "--dinov2 FOLDER"],
    ),
    "no DINOv2": (without("backbone.layernorm.bias"), ["has another DINOv2 in it"]),
    "a module": (lambda found: torch.nn.Linear(2, 2), ["holds more than tensors"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_bad_tensors_are_one_line_and_nothing_is_written(lewm_bench, dinov2, tmp_path, kind) -> None:
    make, says = BAD_TENSORS[kind]
    source = write_release(tmp_path / "source", make({**dinov2[0], **random_tensors(10, 0)}), sizes(10, 0))
    refused(lewm_bench(*command(source, dinov2)), says, tmp_path / "mine")


def set_to(*path: str, value: Any) -> Callable[[dict], dict]:
    def make(found: dict) -> dict:
        place = found
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return found

    return make


READ = ("extra_encoders", "modules")
BAD_SIZES = {
    "another model": (set_to("_target_", value="x.LeWM"), ["says that this is LeWM", "`lewm-bench import lewm-weights`"]),
    "no predictor": (set_to("predictor", value=None), ["must say predictor, an object"]),
    "other history": (set_to("history_size", value=3), ["predictor.num_frames is 2 and not 3"]),
    "other patches": (set_to("predictor", "num_patches", value=196), ["predictor.num_patches is 196 and not 256"]),
    "huge": (set_to("predictor", "mlp_dim", value=10**12), ["(1000000000000, 34), but it has the shape (32, 34)"]),
    "deep": (set_to("predictor", "depth", value=10**9), ["predictor.depth 1000000000, but there are 2 blocks"]),
    "other order": (lambda found: found | {"extra_encoders": {"modules": {"action": {}, "proprio": {}}}}, ["in that order"]),
    "more inputs": (set_to(*READ, "force", value={"in_chans": 1, "emb_dim": 1}), ["['action', 'force']"]),
    "two steps": (set_to("num_pred", value=2), ["num_pred is 2 and not 1"]),
    "a decoder": (set_to("decoder", value={}), ["decoder is {} and not None"]),
    "no channels": (set_to("predictor", "dim", value=10), ["leaves no channels"]),
    "true": (set_to("predictor", "heads", value=True), ["predictor.heads, a whole number"]),
    "dropout": (set_to("predictor", "dropout", value=1), ["predictor.dropout must be"]),
    "tubelets": (set_to(*READ, "action", "tubelet_size", value=2), ["tubelet_size is not 1"]),
    "not JSON": (lambda found: "{", ["is damaged"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_SIZES)
def test_a_bad_config_is_one_line_and_nothing_is_written(lewm_bench, dinov2, tmp_path, kind) -> None:
    make, says = BAD_SIZES[kind]
    source = write_release(tmp_path / "source", {**dinov2[0], **random_tensors(10, 0)}, make(sizes(10, 0)))
    refused(lewm_bench(*command(source, dinov2)), [*says, "config.json"], tmp_path / "mine")


def test_a_folder_of_it_is_no_checkpoint_yet(lewm_bench, dinov2, tmp_path) -> None:
    source = released(dinov2, 0, tmp_path / "source")
    status, _, err = lewm_bench("evaluate", "dino-wm", "--env", TWOROOM, "--checkpoint", source)
    assert status == 2 and "make one of it with `lewm-bench import dino-wm-weights`" in err


FEW = (
    "--suite", "tworoom", "--profile", "paper", "--device", "cpu", "--quiet", "--set", "collect.episodes=20",
    "--set", "collect.steps=40", "--set", "evaluate={protocol: clean-1, num_pairs: 1, goal_offset: [5], budget: 5}",
    "--set", "planner={num_samples: 4, num_iterations: 1, num_elites: 2, horizon: 2, receding: 1}",
)  # fmt: skip


@pytest.mark.slow
def test_it_is_evaluated_with_the_settings_that_its_card_has(lewm_bench, dinov2, tmp_path) -> None:
    source = released(dinov2, 2, tmp_path / "source")
    assert lewm_bench(*command(source, dinov2, *FELT))[0] == 0
    card = load_card(tmp_path / "mine")["config"]
    same = ("frames", "proprio_size", "history", "depth", "heads", "head_size", "mlp_hidden", "weights")
    alike = [part for name in same for part in ("--set", f"dino-wm.{name}={json.dumps(card[name])}")]
    evaluate = ("evaluate", "dino-wm:proprio", *FEW, *alike, "--checkpoint", "mine", "--out", "out")
    status, _, err = lewm_bench(*evaluate)
    assert status == 0, err
    (cell,) = (tmp_path / "out" / "cells").glob("*.json")
    record = json.loads(cell.read_text())
    assert record["status"] == "done" and "256 tokens" in json.dumps(record)
    assert "released weights of" in record["note"] and "positions resampled as in transformers" in record["note"]
    status, _, err = lewm_bench(*evaluate, "--set", "dino-wm.frames=dino-wm")
    assert status == 2 and "dino-wm.frames 'stable-worldmodel', but here it is 'dino-wm'" in err.splitlines()[-1]
