"""Operations per environment step against counts by hand, and that counting changes nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_agents import NAMES, SKIP, checkpoint_of, setting_of, toy_setting
from torch import Tensor, nn

from lewm_bench.agent import Setting, load_agent
from lewm_bench.core.types import Past
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.flops import counter, flops_per_step
from lewm_bench.evaluation.protocol import CLEAN_1, Pairs, sample_pairs
from lewm_bench.planning.agent import PlanningAgent
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.fast.linears import Linears, Ranges, has_int8
from lewm_bench.run.registry import agent_family

D, HIDDEN, BLOCK, PIXELS = 4, 7, 2 * SKIP, 3 * 32 * 32
PLANNER = PlannerConfig(num_samples=12, num_iterations=5, num_elites=4, horizon=3, receding=2)
BUDGET = 11


class Tiny(nn.Module):
    """One linear layer that encodes, two that predict."""

    history, frame_skip, tokens_per_frame = 1, SKIP, 1

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(PIXELS, D)
        self.first, self.second = nn.Linear(D + BLOCK, HIDDEN), nn.Linear(HIDDEN, D)

    def encode(self, frames: Tensor) -> Tensor:
        return self.encoder(frames.flatten(2) / 255)

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.cat([latents[:, -1], actions[:, -1]], -1))))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return replace(toy_setting(tmp_path_factory.mktemp("flops")), planner=PLANNER, agent="tiny")


@pytest.fixture(scope="module")
def pairs(setting: Setting) -> Pairs:
    return sample_pairs(setting.dataset, setting.env, CLEAN_1, 3, 8)


def counted(agent: object, setting: Setting, pairs: Pairs, budget: int = BUDGET) -> float | None:
    return flops_per_step(agent, setting, pairs, budget, real_history=True)


def test_a_small_model_is_counted_as_by_hand(setting: Setting, pairs: Pairs) -> None:
    agent = PlanningAgent(Tiny().eval(), PLANNER, setting.device)
    encoding = 2 * PIXELS * D
    imagined = 12 * 5 * 3  # candidates, iterations and blocks
    decision = encoding + imagined * 2 * ((D + BLOCK) * HIDDEN + HIDDEN * D)
    # Two blocks of two steps are executed: 11 steps are three decisions, the last one cut short, as its time is.
    assert counted(agent, setting, pairs) == pytest.approx(3 * decision / BUDGET)
    often = PlanningAgent(Tiny().eval(), PLANNER.model_copy(update={"receding": 1}), setting.device)
    assert counted(often, setting, pairs, 12) == pytest.approx(decision / SKIP)


def test_what_cannot_be_counted_is_none_and_fails_nothing(
    setting: Setting, pairs: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(PlanningAgent):
        def controller(self, goal: Tensor, rngs: object) -> object:
            raise RuntimeError("their code")

    assert counted(Broken(Tiny(), PLANNER, setting.device), setting, pairs) is None
    assert "tiny" in caplog.text and "their code" in caplog.text
    compiled = replace(setting, planner=PLANNER.model_copy(update={"compile": True}))
    assert counted(PlanningAgent(Tiny(), PLANNER, setting.device), compiled, pairs) is None


def test_neither_streams_nor_states_are_touched(setting: Setting, pairs: Pairs) -> None:
    class Drawing(PlanningAgent):
        """Draws from every global generator while it plans."""

        def encode(self, frames: Tensor, states: np.ndarray) -> Tensor:
            torch.rand(1), np.random.rand(), random.random()
            return super().encode(frames, states)

    agent = Drawing(Tiny().eval(), PLANNER, setting.device)

    def results() -> list:
        options = {"goal_offset": 8, "real_history": True}
        return [r.states for r in evaluate(agent, setting, pairs, BUDGET, **options)]

    before = results()
    drawn = torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate()
    data = setting.dataset.states[:].copy()
    assert counted(agent, setting, pairs)
    assert torch.equal(torch.get_rng_state(), drawn[0]) and np.array_equal(np.random.get_state()[1], drawn[1])
    assert random.getstate() == drawn[2]
    assert results() == before and np.array_equal(setting.dataset.states[:], data)


WITHOUT_TORCH = {"noop", "random", "oracle", "greedy", "straight"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dino-wm:mae", "dino-wm:dinov2", "sac-her")])
def test_every_agent_is_counted(setting: Setting, pairs: Pairs, name: str, tmp_path: Path) -> None:
    own = setting_of(setting, name)
    loaded = load_agent(agent_family(name), own, checkpoint_of(own, tmp_path / "model"))
    found = counted(loaded.agent, own, pairs)
    assert (found is None) == (name in WITHOUT_TORCH)


class Seen:
    """Shows what an agent is asked, of which nothing but the number of frames matters here."""

    history, frame_skip = 3, SKIP

    def __init__(self) -> None:
        self.frames: list[int] = []

    def start(self, goals: object, rngs: object) -> Seen:
        return self

    def encode(self, past: Past) -> int:
        self.frames.append(past.frames.shape[1])
        return past.frames.shape[1]

    def search(self, frames: int) -> np.ndarray:
        torch.ones(2, 3) @ torch.ones(3, 5)
        return np.zeros((1, 4, 2), np.float32)


def test_one_decision_is_made_with_the_frames_of_the_first_start(setting: Setting, pairs: Pairs) -> None:
    agent = Seen()
    assert counted(agent, setting, pairs, 8) == 2 * 2 * 3 * 5 / 4
    recorded = (pairs.start_row[0] - setting.dataset.starts[pairs.episode[0]]) // SKIP
    assert agent.frames == [min(3, 1 + recorded)]


@pytest.mark.skipif(not has_int8(), reason="no int8")
def test_layers_in_8_bits_count_as_much() -> None:
    layer, ranges, x = (
        Linears("int8", torch.device("cpu")).linear(torch.ones(16, 512), None),
        Ranges(),
        torch.ones(4, 512),
    )
    layer(x, ranges)
    ranges.watching = False
    with torch.inference_mode(), counter() as found:
        layer(x, ranges)
    assert found.get_total_flops() == 2 * 4 * 512 * 16


def test_fused_layers_of_torch_are_counted_as_by_hand() -> None:
    """Attention, evaluated encoder layers and LSTM, which torch itself takes for nothing on a CPU."""
    B, T, W, F = 2, 16, 64, 256
    tokens, attention = torch.randn(B, T, W), 2 * B * T * (4 * W * W + 2 * T * W)
    layers = {
        nn.MultiheadAttention(W, 4, batch_first=True): attention,
        nn.TransformerEncoderLayer(W, 4, F, batch_first=True): attention + 2 * B * T * 2 * W * F,
        nn.LSTM(W, 32, batch_first=True): 2 * B * T * 4 * 32 * (W + 32),
        nn.GRU(W, 32, batch_first=True): 2 * B * T * 3 * 32 * (W + 32),
    }
    for layer, expected in layers.items():
        layer.eval()
        arguments = (tokens,) * 3 if isinstance(layer, nn.MultiheadAttention) else (tokens,)
        with torch.no_grad(), counter() as found:
            layer(*arguments, **({"need_weights": False} if len(arguments) == 3 else {}))
        assert found.get_total_flops() == expected, layer
