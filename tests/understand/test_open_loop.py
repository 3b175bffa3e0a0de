"""Open-loop errors against closed forms, on walks that are known to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_walks import CPU, SKIP, Constant, Tokens, Walk, Watchful, dataset, knowing, walks

from lewm_bench.agent import PlanningAgent
from lewm_bench.agents.fast_lewm import FAST_LEWM, FastLeWM, FastLeWMConfig
from lewm_bench.core.errors import UserError
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import plain_rollout
from lewm_bench.planning.fast import fast_lewm
from lewm_bench.understand import open_loop as module
from lewm_bench.understand.model import ExaminedModel
from lewm_bench.understand.open_loop import OpenLoopConfig, open_loop, possible_horizon, rolled_out

RAGGED = [25, 31, 40, 18, 22, 27, 33, 40, 21, 50, 36, 29]
CONFIG = OpenLoopConfig(clips=30, horizon=5)


def values(intervals) -> np.ndarray:
    return np.array([i.value for i in intervals])


def futures(data, horizon: int, clips: int = CONFIG.clips) -> np.ndarray:
    """The states (N, 1 + H, X) of now and after each block."""
    rows = knowing(data, Walk()).clips("test", Walk.history + horizon, clips)
    return data.states[rows[:, Walk.history - 1 :]]


def test_the_true_dynamics_have_no_error_and_copying_has_the_displacement():
    data = walks(RAGGED, held_out=8)
    found = open_loop(knowing(data, Watchful()), CONFIG)
    assert found.horizons == (1, 2, 3, 4, 5) and found.n == 30 and found.n_episodes == 8
    assert all(i.value == i.low == i.high == 0 for i in found.model)
    x = futures(data, 5)
    moved = np.square(x[:, 1:] - x[:, :1]).mean((0, 2))
    np.testing.assert_allclose(values(found.copy_last), moved / x[:, 1:].reshape(-1, 2).var(0).mean(), rtol=1e-9)
    assert all(i.low < i.value < i.high for i in found.copy_last)


def test_predicting_the_mean_gives_one():
    data = walks(RAGGED, held_out=8)
    mean = futures(data, 5)[:, 1:].reshape(-1, 2).mean(0)
    found = open_loop(knowing(data, Constant(torch.tensor(mean, dtype=torch.float32))), CONFIG)
    assert values(found.model).mean() == pytest.approx(1, rel=1e-5)


def test_a_rollout_feeds_on_itself():
    """A model that is off by a constant per block is off by k of them after k blocks: nothing real comes in between."""
    data, bias = walks(RAGGED, held_out=8), 1 / 32
    found = open_loop(knowing(data, Walk(bias)), CONFIG)
    unit = futures(data, 5)[:, 1:].reshape(-1, 2).var(0).mean()
    np.testing.assert_allclose(values(found.model), (bias * np.arange(1, 6)) ** 2 / unit, rtol=1e-6)


def test_clips_stay_in_their_episode():
    """Episodes a world apart: a step from one into the next is no walk, and its action is not a number."""
    rng = np.random.default_rng(0)
    actions = [rng.integers(-8, 9, (length - 1, 2)) / 64 for length in RAGGED]
    states = [np.cumsum(np.concatenate([np.full((1, 2), 64.0 * k), a]), 0) for k, a in enumerate(actions)]
    found = open_loop(knowing(dataset(states, actions, 8), Walk()), OpenLoopConfig(clips=500, horizon=6))
    assert (values(found.model) == 0).all() and (values(found.copy_last) < 1e-3).all()
    assert found.n > 100


def test_tokens_are_latents_like_any_other():
    data = walks(RAGGED, held_out=8)
    flat, tokens = (open_loop(knowing(data, Walk(1 / 32), *kind), CONFIG) for kind in ((), (Tokens,)))
    assert flat == tokens


def test_the_result_does_not_depend_on_what_is_in_memory_together(monkeypatch):
    examined = knowing(walks(RAGGED, held_out=8), Walk(1 / 32))
    whole = open_loop(examined, CONFIG)
    monkeypatch.setattr(module, "PIECE", 7)
    assert open_loop(examined, CONFIG) == whole


def test_long_latents_are_resampled_like_short_ones():
    """More numbers than episodes: 20 copies of each number change neither errors nor intervals."""
    rng = np.random.default_rng(1)
    states = [rng.normal(size=(20, 2)) for _ in range(10)]
    actions = [np.zeros((19, 1))] * 10
    short, long = (
        open_loop(knowing(dataset([np.tile(s, n) for s in states], actions, 6), Constant(torch.zeros(()))), CONFIG)
        for n in (1, 20)
    )
    for a, b in zip((*short.model, *short.copy_last), (*long.model, *long.copy_last), strict=True):
        np.testing.assert_allclose([a.value, a.low, a.high], [b.value, b.low, b.high], rtol=1e-6)


def test_intervals_cover():
    """Frames x = u + v, u common to an episode: zero errs by 1 in units of the variance, copying by 2 var(v)."""
    spread, covered, repeats = 0.5, [], 150
    truth = 1.0, 2 * spread**2 / (1 + spread**2)
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        states = [rng.normal(size=(1, 1)) + spread * rng.normal(size=(16, 1)) for _ in range(50)]
        data = dataset(states, [np.zeros((15, 1))] * 50, held_out=48)
        found = open_loop(knowing(data, Constant(torch.zeros(()))), OpenLoopConfig(clips=96, horizon=2))
        both = found.model[0], found.copy_last[0]
        covered.append([i.low <= t <= i.high for i, t in zip(both, truth, strict=True)])
    share = np.mean(covered, 0)
    assert (share > 0.88).all() and (share < 0.995).all(), share


@pytest.mark.parametrize("lengths", [[9, 11, 13, 15, 17], [9, 11, 13, 15], [30, 30, 8, 30], [8, 12, 8, 30]])
def test_horizons_are_those_that_half_of_the_episodes_have(lengths: list[int]):
    examined = knowing(walks([40, *lengths], held_out=len(lengths)), Walk())

    def enough(blocks: int) -> bool:
        return np.mean([n >= 1 + SKIP * (Walk.history - 1 + blocks) for n in lengths]) >= 0.5

    found = possible_horizon(examined, 100)
    assert enough(found)
    assert possible_horizon(examined, 1) == 1
    if len(lengths) % 2:
        assert not enough(found + 1)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match=r"raise collect\.steps"):
        open_loop(knowing(walks([30, 6, 6, 6], held_out=3), Walk()), CONFIG)
    still = [np.ones((30, 2))] * 4
    with pytest.raises(UserError, match="equal"):
        open_loop(knowing(dataset(still, [np.zeros((29, 2))] * 4, 3), Walk()), CONFIG)


@pytest.mark.parametrize("consistency", [0.0, 1.0])
@pytest.mark.parametrize("objective", ["final", "sum"])
def test_fast_lewm_is_rolled_out_as_it_plans(objective: str, consistency: float):
    """All prefixes at once from the newest frame, chained behind its horizon, and not block by block."""
    config = FastLeWMConfig(
        encoder="cnn", latent=8, projector_hidden=16, width=16, depth=1, heads=2, head_size=8, mlp_hidden=16, horizon=3,
        prefix_depth=1, prefix_heads=2, prefix_head_size=8, prefix_mlp_hidden=16, fusion_hidden=16, frame_skip=SKIP,
        self_consistency=consistency,
    )  # fmt: skip
    with torch_stream(0, "test"):
        model = FastLeWM(config, 16, 2).eval().requires_grad_(False)
        for parameter in model.parameters():  # the modulations start at zero, where prefixes play no part
            parameter.add_(0.1 * torch.randn_like(parameter))
    data = walks(RAGGED, held_out=8, draw=True)
    planner = PlannerConfig(objective=objective)
    agent = PlanningAgent(model, planner, CPU, FAST_LEWM.rollout(model, planner))
    examined = ExaminedModel(None, "tests/Walk-v0", data, model, agent.embed, CPU, "fast-lewm", 0, agent)
    clips = examined.clips("test", 1 + 5, 4)
    first, blocks = examined.latents_at(clips[:, 0]), examined.blocks(clips)
    found = rolled_out(examined, clips)
    torch.testing.assert_close(found, fast_lewm.rollout(model, first, blocks), rtol=1e-4, atol=1e-5)
    kept = []
    plain_rollout(model)(first[:, None], blocks[:, :0])(
        blocks[:, None], lambda z, _: kept.append(z[:, 0]) or z[:, :, 0, 0]
    )
    assert (found[:, 0] - kept[0][:, 0]).abs().max() < 1e-4 < (found[:, 1:] - kept[0][:, 1:]).abs().max()
