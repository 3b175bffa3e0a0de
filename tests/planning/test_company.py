"""Where kernels are chosen by size: calls of one size, and episodes in them whose numbers are their own, or none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from shaken import shaken
from torch import Tensor

from lewm_bench.agent import PlanningAgent
from lewm_bench.agents.dino_wm import DINO_WM, DinoWM, DinoWMConfig
from lewm_bench.agents.lewm import LEWM, LeWM, LeWMConfig
from lewm_bench.agents.parts.encoders import LocalConfig, LocalEncoder
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals, Past
from lewm_bench.planning.company import Company, apart
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, Rollout, Score, latent_cost, objective_of
from lewm_bench.planning.fast.dino_wm import PackedDinoWM
from lewm_bench.planning.fast.lewm import PackedLeWM

CPU = torch.device("cpu")
BLOCK, SIDE, T = 6, 32, 2
CONFIG = PlannerConfig(num_samples=40, num_iterations=3, num_elites=6, horizon=3, receding=3)


def lewm() -> LeWM:
    torch.manual_seed(0)
    config = LeWMConfig(
        encoder="cnn", latent=12, projector_hidden=24, width=16, depth=2, heads=2, head_size=4, mlp_hidden=32, frame_skip=2
    )  # fmt: skip
    return shaken(LeWM(config, SIDE, BLOCK // 2))


def dino() -> DinoWM:
    torch.manual_seed(0)
    local = LocalConfig(width=16, depth=1, heads=2, channels=8)
    config = DinoWMConfig(
        encoder="lowpass", local=local, width=16, depth=2, heads=2, head_size=4, mlp_hidden=24, frame_skip=2
    )
    return shaken(DinoWM(config, LocalEncoder(local, "lowpass", SIDE), BLOCK // 2))


class Problem:
    """Random latents, goals and plans of ``B`` episodes."""

    def __init__(self, B: int, S: int = 40) -> None:
        g = torch.Generator().manual_seed(1)
        self.z, self.goal = torch.randn(B, T, 12, generator=g), torch.randn(B, 12, generator=g)
        self.past, self.plans = torch.randn(B, T - 1, BLOCK, generator=g), torch.randn(B, S, 3, BLOCK, generator=g)

    def costs(self, begin: BeginRollout, *episodes: int) -> Tensor:
        at = list(episodes) or list(range(len(self.z)))
        return latent_cost(begin(self.z[at], self.past[at]), self.goal[at], CONFIG)(self.plans[at])


class Counted(PackedLeWM):
    """Remembers how many episodes and candidates its calls had."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.calls: list[tuple[int, int]] = []

    def roll_out(self, latents, known, plans, ranges):
        self.calls.append(tuple(plans.shape[:2]))
        return super().roll_out(latents, known, plans, ranges)


def one_size(candidates: int = 1000) -> Counted:
    """LeWM packed as for a device that chooses kernels by size."""
    packed = Counted(lewm().parts())
    packed.sharing, packed.candidates = "one size", candidates
    return packed


def off(begin: BeginRollout, change: str) -> BeginRollout:
    """``begin`` on a device that rounds by the place of an episode, or by the episodes beside it, in calls of several."""

    def begin_off(latents: Tensor, past_actions: Tensor) -> Rollout:
        inner, B = begin(latents, past_actions), len(latents)
        tiny = torch.arange(B) if change == "place" else latents[:, 0].mean(1).roll(1)

        def rollout(plans: Tensor, score: Score) -> Tensor:
            costs = inner(plans, score)
            return costs * (1 + 1e-6 * tiny[:, None]) if B > 1 else costs

        return rollout

    return begin_off


@pytest.mark.parametrize(
    ("candidates", "B", "shared"), [(1000, 6, 6), (100, 6, 2), (160, 6, 3), (100, 7, 1), (40, 6, 1), (30, 6, 1), (1000, 1, 1)]
)  # fmt: skip
def test_all_calls_have_one_size(candidates: int, B: int, shared: int) -> None:
    packed, problem = one_size(candidates), Problem(B)
    costs = problem.costs(packed)
    pieces = {S for _, S in packed.calls}
    assert {b for b, _ in packed.calls} == {shared} and sum(b * S for b, S in packed.calls) == B * 40
    assert max(pieces) <= candidates
    torch.testing.assert_close(costs, problem.costs(PackedLeWM(lewm().parts())), rtol=1e-5, atol=0)


def test_what_a_cpu_shares_is_what_it_was() -> None:
    packed = PackedLeWM(lewm().parts())
    if packed.linears.onednn:
        assert packed.sharing == "any size" and packed.episodes(3, 40) == packed.candidates // 40
    assert PackedLeWM(lewm().parts(), "bfloat16").sharing == "no"
    assert PlanningAgent(lewm(), CONFIG, CPU).company is None


def test_a_rollout_of_any_company_has_the_numbers_of_the_episode() -> None:
    begin, problem = Company().rollouts(one_size(), objective_of(CONFIG)), Problem(6)
    together = problem.costs(begin, 0, 1, 2, 3)
    for others in ((3, 2, 1, 0), (2, 4, 5, 1), (0, 0, 0, 0), (1, 3, 3, 3)):
        found = problem.costs(begin, *others)
        for place, episode in enumerate(others):
            if episode < 4:
                assert torch.equal(found[place], together[episode])


@pytest.mark.parametrize("change", ["place", "company"])
def test_episodes_that_place_or_company_change_have_calls_of_their_own(change: str, caplog) -> None:
    packed = one_size()
    company, problem = Company(), Problem(4)
    begin = company.rollouts(off(packed, change), objective_of(CONFIG))
    expected = torch.cat([problem.costs(packed, e) for e in range(4)])
    assert not torch.equal(problem.costs(off(packed, change)), expected)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            packed.calls.clear()
            assert torch.equal(problem.costs(begin), expected)
    assert packed.calls == [(1, 40)] * 4  # tried once
    assert [r.getMessage() for r in caplog.records] == [
        "rollouts depend on an episode's place in a call, so each episode has its own"
    ]


def test_every_shape_is_tried_once_and_one_episode_never() -> None:
    packed, company = one_size(), Company()
    begin = company.rollouts(packed, objective_of(CONFIG))
    before = torch.get_rng_state()
    Problem(1).costs(begin)
    assert packed.calls == [(1, 40)]
    for B, S, calls in ((4, 40, 3), (4, 40, 1), (4, 30, 3), (3, 40, 3), (4, 30, 1)):
        packed.calls.clear()
        Problem(B, S).costs(begin)
        assert packed.calls == [(B, S)] * calls
    assert torch.equal(torch.get_rng_state(), before)


def test_apart_is_one_after_the_other() -> None:
    packed, problem = one_size(), Problem(3)
    expected = torch.cat([problem.costs(packed, e) for e in range(3)])
    packed.calls.clear()
    assert torch.equal(problem.costs(apart(packed)), expected) and packed.calls == [(1, 40)] * 3


class Encoder:
    """Encodes by a row's own numbers and, if ``off``, by its place."""

    def __init__(self, off: bool) -> None:
        self.off, self.calls = off, []

    def __call__(self, frames: Tensor, states: np.ndarray) -> Tensor:
        assert len(frames) == len(states) and frames.dtype == torch.uint8
        self.calls.append(len(frames))
        own = frames.float().flatten(1).mean(1) + torch.from_numpy(states[:, 0]).float()
        return (own + torch.arange(len(frames)) * 1e-3 * self.off)[:, None]


@pytest.mark.parametrize("off", [False, True])
def test_encodings_are_those_of_the_episode(off: bool) -> None:
    encode, company = Encoder(off), Company()
    frames = torch.randint(0, 256, (4, 1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    states = np.arange(4.0)[:, None]
    alone = torch.cat([encode(frames[b : b + 1], states[b : b + 1]) for b in range(4)])
    encode.calls.clear()
    for tries in ([4, 4], []):
        assert torch.equal(company.encoded(encode, frames, states), alone)
        assert encode.calls == tries + ([1] * 4 if off else [4])
        encode.calls.clear()


def decisions(agent: PlanningAgent, episodes: Sequence[int], count: int = 2) -> np.ndarray:
    """What an agent does in some of eight random episodes that it sees together, (B, count, steps, action_dim)."""
    g = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (8, T + count, 3, SIDE, SIDE), dtype=torch.uint8, generator=g)[list(episodes)]
    actions, nothing = torch.randn(8, T + count, BLOCK, generator=g)[list(episodes)], np.zeros((len(episodes), 0))
    rngs = [stream(0, "plan", e) for e in episodes]
    controller = agent.start(Goals(frames[:, -1], nothing), rngs)
    return np.stack(
        [
            controller.search(controller.encode(Past(frames[:, k : k + T], actions[:, k : k + T - 1], nothing)))
            for k in range(count)
        ],
        1,
    )


def assert_company_changes_nothing(agent: PlanningAgent) -> None:
    together = decisions(agent, range(4))
    assert np.ptp(together, 0).max() > 0.1
    for others in ((3, 2, 1, 0), (6, 0, 7, 2), (3, 3, 3, 3), (0, 1, 1, 1)):  # the last as groups are filled
        found = decisions(agent, others)
        for place, episode in enumerate(others):
            if episode < 4:
                np.testing.assert_array_equal(found[place], together[episode])


@pytest.mark.parametrize("change", ["", "place", "company"])
def test_plans_are_those_of_the_episode(change: str) -> None:
    packed = one_size()
    begin = off(packed, change) if change else packed
    agent = PlanningAgent(lewm(), CONFIG, CPU, begin, company=Company())
    assert_company_changes_nothing(agent)
    assert ((4, 40) in packed.calls) and (((1, 40) in packed.calls) == bool(change))


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_plans_of_dino_wm_are_those_of_the_episode(arithmetic: str) -> None:
    packed = PackedDinoWM(dino().parts(), arithmetic)
    packed.sharing, packed.candidates = "one size", 90  # two episodes in a call, or one if their place mattered
    assert_company_changes_nothing(PlanningAgent(dino(), CONFIG, CPU, packed, company=Company()))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_call_is_compiled_once_per_shape() -> None:
    packed = PackedLeWM(lewm().parts(), "float32", True)
    packed.sharing = "one size"
    begin, problem = Company().rollouts(packed, objective_of(CONFIG)), Problem(6)
    with torch.inference_mode():
        expected = problem.costs(PackedLeWM(lewm().parts()), 0, 1, 2)
        torch.testing.assert_close(problem.costs(begin, 0, 1, 2), expected, rtol=1e-4, atol=1e-6)
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(problem.costs(begin, 2, 1, 0), expected.flip(0), rtol=1e-4, atol=1e-6)
            problem.costs(begin, 3, 4, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("arithmetic", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize(("family", "model"), [(LEWM, lewm), (DINO_WM, dino)], ids=["lewm", "dino-wm"])
def test_plans_are_those_of_the_episode_on_the_device(family, model, arithmetic: str) -> None:
    device = torch.device("cuda")
    network = model().to(device)
    planner = CONFIG.model_copy(update={"arithmetic": arithmetic})
    agent = family.agent(network, network.config, planner, device)
    assert agent.company is not None
    assert_company_changes_nothing(agent)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_compiled_plans_are_those_of_the_episode_on_the_device() -> None:
    device = torch.device("cuda")
    network = lewm().to(device)
    agent = LEWM.agent(network, network.config, CONFIG.model_copy(update={"compile": True}), device)
    assert_company_changes_nothing(agent)
