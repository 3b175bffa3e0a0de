"""Weights that stable-worldmodel saves mean the same here, and weights of ours the same there.

Slow, and only where the environment variable names a Python that has the peer (tests/benchmarks/peer_weights.py).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_bench.agents.dino_wm import DINO_WM, DinoWM, DinoWMConfig
from lewm_bench.agents.parts.encoders import Dinov2Encoder
from lewm_bench.agents.parts.jepa import JEPA
from lewm_bench.planning import cem as cem_module
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import latent_cost
from lewm_bench.run.checkpoints import located
from lewm_bench.run.released import LAYOUTS, export_release, import_release, statistics_of
from lewm_bench.run.released_dino_wm import import_dino_wm, proprio_statistics_of
from lewm_bench.system.checkpoint import load_card, load_weights

PUSHT = "lewm_bench/PushT-v0"
VARIABLE = "LEWM_BENCH_PEER_PYTHON"
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peer_weights.py"

pytestmark = pytest.mark.slow


def peer(*arguments: Path | str) -> None:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"`python {SCRIPT} environment peer` makes the peer's environment; then {VARIABLE}=peer/bin/python")
    command = [python, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module", params=["lewm", "pldm"])
def agent(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def theirs(agent: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release that the peer wrote, what it answered, and our checkpoint of the release."""
    folder = tmp_path_factory.mktemp("peer")
    peer("write", agent, folder / "release", folder / "answers.npz")
    pytest.importorskip("gym_pusht")
    statistics = statistics_of(agent, PUSHT, (), (), None)
    import_release(agent, located(folder / "release"), folder / "ours", PUSHT, statistics, 5)
    return folder


@pytest.fixture(scope="module")
def model(agent: str, theirs: Path) -> JEPA:
    family = LAYOUTS[agent].family
    found = family.build(family.Config(), 224, 2)
    load_weights(found, theirs / "ours")
    return found.eval().requires_grad_(False)


def answers(path: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(path).items()}


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the size of what is compared; single latents near 0 have no relative error to speak of."""
    assert (found - expected).norm() / expected.norm() < 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().mean().item())


@pytest.mark.parametrize("rollout", ["reference", "fast"])
def test_latents_costs_and_plans_are_the_peers(
    agent: str, theirs: Path, model: JEPA, rollout: str, monkeypatch
) -> None:
    asked = answers(theirs / "answers.npz")
    config = PlannerConfig(num_iterations=len(asked["noise"]), rollout=rollout)
    with torch.inference_mode():
        latents = model.encode(asked["frames"])
        assert_equal(latents, asked["latents"])
        search = LAYOUTS[agent].family.rollout(model, config)(latents[:, :1], torch.zeros(1, 0, 10))
        cost = latent_cost(search, model.encode(asked["goal"])[:, 0], config)
        torch.testing.assert_close(192 * cost(asked["plans"]), asked["costs"], rtol=1e-5, atol=0)  # ours is a mean
        monkeypatch.setattr(cem_module, "standard_normal", lambda *_: asked["noise"].clone())
        plan = cem(cost, torch.zeros(1, config.horizon, 10), config, [])
    torch.testing.assert_close(plan.actions, asked["plan"], rtol=1e-4, atol=1e-4)


def test_an_exported_checkpoint_is_the_same_model_there(agent: str, theirs: Path, tmp_path: Path) -> None:
    """It came from the peer; the peer loads strictly what we hand back and answers what it answered."""
    export_release(agent, theirs / "ours", tmp_path / "back")
    peer("read", tmp_path / "back", theirs / "answers.npz", tmp_path / "again.npz")
    before, again = answers(theirs / "answers.npz"), answers(tmp_path / "again.npz")
    for name in ("latents", "costs", "plan"):
        assert torch.equal(before[name], again[name]), name


@pytest.fixture(scope="module", params=["dino-wm", "dino-wm:proprio"])
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DinoWM]:
    """A folder with what the peer answered of its DINO-WM, and ours with its weights."""
    pytest.importorskip("gym_pusht")
    folder = tmp_path_factory.mktemp("peer")
    peer("write", request.param, folder / "release", folder / "answers.npz")
    statistics, proprio = statistics_of("dino-wm", PUSHT, (), (), None), proprio_statistics_of(PUSHT, (), (), None)
    dinov2 = folder / "dinov2"
    import_dino_wm(located(folder / "release"), folder / "ours", PUSHT, statistics, proprio, str(dinov2), 5)
    config = DinoWMConfig(**load_card(folder / "ours")["config"])
    model = DinoWM(config, Dinov2Encoder(dinov2, config.frames), 2, 4 if config.proprio else 0)
    load_weights(model, folder / "ours")
    return folder, model.eval().requires_grad_(False)


def test_tokens_and_their_futures_are_the_peers(tokens: tuple[Path, DinoWM]) -> None:
    folder, model = tokens
    asked = answers(folder / "answers.npz")
    felt = None if model.proprio is None else asked["proprio"] * model.proprio.std + model.proprio.mean
    with torch.inference_mode():
        latents = model.encode(asked["frames"], felt)
        assert latents.shape == (1, 3, 256, 34 if model.proprio is not None else 24)
        assert_equal(latents, asked["latents"])
        assert_equal(model.predictor(latents, asked["actions"]), asked["predictions"])


@pytest.mark.parametrize("rollout", ["reference", "fast"])
def test_costs_and_plans_of_dino_wm_are_the_peers(tokens: tuple[Path, DinoWM], rollout: str, monkeypatch) -> None:
    folder, model = tokens
    if model.proprio is not None:
        pytest.skip("with proprioception the peer's cost is another one (docs/weights.md)")
    asked = answers(folder / "answers.npz")
    config = PlannerConfig(num_iterations=len(asked["noise"]), rollout=rollout)
    with torch.inference_mode():
        search = DINO_WM.rollout(model, config)(model.encode(asked["frames"][:, :1]), torch.zeros(1, 0, 10))
        cost = latent_cost(search, model.encode(asked["goal"])[:, 0], config)
        torch.testing.assert_close(cost(asked["plans"]), asked["costs"], rtol=1e-5, atol=0)
        monkeypatch.setattr(cem_module, "standard_normal", lambda *_: asked["noise"].clone())
        plan = cem(cost, torch.zeros(1, config.horizon, 10), config, [])
    torch.testing.assert_close(plan.actions, asked["plan"], rtol=1e-4, atol=1e-4)
