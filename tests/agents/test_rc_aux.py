"""RC-aux: its pairs and losses against loops, its curriculum, and what its plans cost."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from shaken import shaken
from test_lewm import SMALL, clip
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents import rc_aux as module
from lewm_bench.agents.lewm import LEWM, LeWM, LeWMConfig
from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.agents.rc_aux import (
    RC_AUX,
    RCAux,
    RCAuxConfig,
    ReachabilityHead,
    ahead,
    logits_of,
    on_the_way,
    reachability_loss,
)
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import frame_costs, imagined_cost, plain_rollout, rollout
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.keys import evaluation_spec, model_spec
from lewm_bench.run.resolve import resolve
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.store import Store
from lewm_bench.train import ranks
from lewm_bench.train.loop import Step, TrainConfig

CONFIG = RCAuxConfig(
    **{**SMALL.model_dump(), "dropout": 0.0}, rollout_blocks=3, max_budget=4, head_hidden=10, head_budget=3
)
FRAMES = CONFIG.history + CONFIG.max_budget


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes) -> RCAux:
    """With no silent part; gradients flow, running statistics stay."""
    torch.manual_seed(0)
    return shaken(RCAux(CONFIG.model_copy(update=changes), 32, 3)).requires_grad_(True)


def step(index: int = 9, log: bool = False, seed: int = 1) -> Step:
    return Step(index, 10, torch.Generator().manual_seed(seed), log)


def fixed(monkeypatch, *numbers: int) -> None:
    """What a step draws: frames of context, blocks of the rollout, places to the other trajectory."""
    left = list(numbers)
    monkeypatch.setattr(module, "drawn", lambda step, most: left.pop(0))


def numpy_head(head: ReachabilityHead):
    """Source (D,), goal (D,) and budget to a logit, in float64."""
    p = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}

    def logit(source: np.ndarray, goal: np.ndarray, budget: int) -> float:
        x = np.concatenate([source, goal, abs(source - goal), source * goal, p["budgets.weight"][budget - 1]])
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["net.0.weight"] + p["net.0.bias"]
        for layer in (1, 3):
            x = p[f"net.{layer}.weight"] @ x + p[f"net.{layer}.bias"]
            x = x / (1 + np.exp(-x))
        return float((p["net.5.weight"] @ x + p["net.5.bias"])[0])

    return logit


def entropy(logit: float, label: int) -> float:
    chance = 1 / (1 + np.exp(-logit))
    return -np.log(chance if label else 1 - chance)


# The head.


@torch.no_grad()
def test_the_head_against_numpy() -> None:
    head = small().reachability
    sources, goals, budgets = torch.randn(5, 12), torch.randn(5, 12), torch.tensor([1, 2, 3, 4, 4])
    asked = zip(sources.numpy(), goals.numpy(), budgets.tolist(), strict=True)
    expected = [numpy_head(head)(*question) for question in asked]
    np.testing.assert_allclose(head(sources, goals, budgets).numpy(), expected, rtol=1e-4, atol=1e-5)
    many = head(sources, goals, torch.tensor([9]))
    torch.testing.assert_close(many, head(sources, goals, torch.tensor([4])))  # it knows none that is larger


def test_the_default_adds_the_papers_share_of_parameters() -> None:
    """3.7 %: five budgets of 32 numbers beside four times 192, and 512-512-1."""
    with torch.device("meta"):
        model, lewm = RCAux(RCAuxConfig(), 224, 2), LeWM(LeWMConfig(), 224, 2)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, lewm)]
    assert counts[0] - counts[1] == 5 * 32 + 2 * 800 + 801 * 512 + 513 * 512 + 513
    assert (counts[0] - counts[1]) / counts[1] == pytest.approx(0.037, abs=5e-4)
    assert RC_AUX.clip_frames(RCAuxConfig()) == 3 + 5


# Labels. The latent of a hand-made clip is its number and its time.


def walks(clips: int, frames: int) -> torch.Tensor:
    """(clips, frames, 2): which clip, and when."""
    return torch.tensor([[[float(c), float(t)] for t in range(frames)] for c in range(clips)])


class Asked(torch.nn.Module):
    """A head that takes down what it is asked, and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[tuple[int, ...]]] = []

    def forward(self, sources: torch.Tensor, goals: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([sources, goals, budgets.expand(sources.shape[:-1])[..., None].float()], -1).flatten(0, 1)
        assert len(set(map(tuple, rows.tolist()))) == len(rows), "a question was asked twice"
        self.seen.append(set(map(tuple, rows.int().tolist())))
        return torch.zeros(sources.shape[:-1])


def test_goals_ahead_are_within_budgets_from_their_gap_on() -> None:
    z, head = walks(3, 4), Asked()
    reachability_loss(head, ahead(z[:, 0], z[:, 1:]), 1)
    enough = [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]  # time of the goal, budget
    short = [(2, 1), (3, 1), (3, 2)]
    assert head.seen[0] == {(c, 0, c, t, h) for c in range(3) for t, h in enough}
    assert head.seen[1] == {(c, 0, (c + 1) % 3, t, h) for c in range(3) for t, h in enough}  # another trajectory's
    assert head.seen[2] == {(c, 0, c, t, h) for c in range(3) for t, h in short}


def test_on_the_way_the_budget_is_what_is_left_or_less() -> None:
    z, head = walks(3, 4), Asked()
    reachability_loss(head, on_the_way(z[:, :3], z[:, 3]), 2)
    enough = [(0, 3), (1, 2), (2, 1)]  # time of the source, budget
    short = [(0, 1), (0, 2), (1, 1)]
    assert head.seen[0] == {(c, t, c, 3, h) for c in range(3) for t, h in enough}
    assert head.seen[1] == {(c, t, (c + 2) % 3, 3, h) for c in range(3) for t, h in enough}
    assert head.seen[2] == {(c, t, c, 3, h) for c in range(3) for t, h in short}


@pytest.mark.parametrize("shift", [1, 2])
def test_no_clip_stands_for_another_trajectory_than_its_own(shift: int) -> None:
    assert not torch.equal(ranks.further_on(torch.arange(3), shift), torch.arange(3))
    assert (ranks.further_on(torch.arange(3), shift) == (torch.arange(3) + shift) % 3).all()


def test_the_other_trajectory_is_the_same_in_several_processes(monkeypatch) -> None:
    everything = torch.randn(6, 2)
    monkeypatch.setattr(ranks, "in_group", lambda: 3)
    monkeypatch.setattr(ranks, "gathered", lambda x: everything)
    for by in range(1, 6):
        found = []
        for rank in range(3):
            monkeypatch.setattr(ranks.dist, "get_rank", lambda rank=rank: rank)
            found.append(ranks.further_on(everything[2 * rank : 2 * rank + 2], by))
        assert torch.equal(torch.cat(found), everything.roll(-by, 0))
    assert ranks.whole_batch(2) == 6


# Losses.


@torch.no_grad()
def test_the_reachability_loss_against_loops() -> None:
    head, z = small().reachability, torch.randn(3, 4, 12)
    logit, x = numpy_head(head), z.numpy()
    enough, beyond, elsewhere = [], [], []
    for c in range(3):
        for gap in (1, 2, 3):
            for budget in (1, 2, 3):
                own = logit(x[c, 0], x[c, gap], budget)
                if budget >= gap:
                    enough.append(entropy(own, 1))
                    elsewhere.append(entropy(logit(x[c, 0], x[(c + 2) % 3, gap], budget), 0))
                else:
                    beyond.append(entropy(own, 0))
    for weight in (1.0, 0.5):
        expected = (np.mean(enough) + (np.mean(elsewhere) + weight * np.mean(beyond)) / (1 + weight)) / 2
        found = reachability_loss(head, ahead(z[:, 0], z[:, 1:]), 2, weight)
        assert found.item() == pytest.approx(expected, rel=1e-4)
    # one block ahead no budget is too small
    expected = 0.5 * np.mean([entropy(logit(x[c, 0], x[c, 1], 1), 1) for c in range(3)])
    expected += 0.25 * np.mean([entropy(logit(x[c, 0], x[(c + 2) % 3, 1], 1), 0) for c in range(3)])
    assert reachability_loss(head, ahead(z[:, 0], z[:, 1:2]), 2).item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("context", "blocks"), [(1, 1), (1, 3), (2, 2), (3, 3)])
def test_a_rollout_is_the_planners(context: int, blocks: int) -> None:
    """The same latents as when its actions are a plan, from as many frames."""
    model = small()
    z, actions = torch.randn(5, context, 12), torch.randn(5, context - 1 + blocks, 6)
    expected = rollout(model, z, actions[:, : context - 1], actions[:, None, context - 1 :])[:, 0]
    torch.testing.assert_close(model.open_loop(z, actions, blocks), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("context", "blocks"), [(1, 1), (2, 3), (3, 2)])
def test_the_loss_is_rollout_plus_sigreg_plus_reachability(monkeypatch, context: int, blocks: int) -> None:
    model, data = small(reachability_weight=0.7, way_weight=0.9, sigreg_weight=0.3), clip(4, FRAMES)
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    fixed(monkeypatch, context, blocks, 3)
    total, parts = model.loss(data, step())
    z, actions = model.encode(data.frames), model.normalize_actions(data.actions)
    seen = slice(3 - context, 3)
    plans = actions[:, None, 2 : 2 + blocks]
    imagined = rollout(model, z[:, seen], actions[:, 3 - context : 2], plans)[:, 0]
    errors = ((imagined - z[:, 3 : 3 + blocks]) ** 2).mean((0, 2)).numpy()
    prediction = sum((k + 1) * errors[k] for k in range(blocks)) / sum(range(1, blocks + 1))
    regulariser = sigreg(z.transpose(0, 1), directions(16, 12, torch.Generator().manual_seed(1)))

    def loss(pairs, hard: float = 1.0) -> float:
        return reachability_loss(model.reachability, pairs, 3, hard).item()

    reach = loss(ahead(z[:, 2], z[:, 3:7])) + 0.5 * loss(ahead(z[:, 2], imagined), 0.5)
    reach += 0.9 * loss(on_the_way(z[:, 2 : 2 + blocks], z[:, 2 + blocks]))
    if blocks > 1:
        reach += 0.9 * 0.5 * loss(on_the_way(imagined[:, :-1], z[:, 2 + blocks]))
    assert parts["prediction"].item() == pytest.approx(prediction, rel=2e-5)
    torch.testing.assert_close(parts["sigreg"], regulariser)
    assert parts["reachability"].item() == pytest.approx(reach, rel=2e-5)
    assert total.item() == pytest.approx(prediction + 0.3 * regulariser.item() + 0.7 * reach, rel=2e-5)
    assert tuple(parts) == RC_AUX.card.loss_terms


def test_latents_are_watched(monkeypatch) -> None:
    found = small().loss(clip(4, FRAMES), step(log=True))[1]
    assert found.keys() - set(RC_AUX.card.loss_terms) == {"latent_std", "effective_rank", "straightness"}


@pytest.mark.parametrize("part", ["encoder", "projector", "predictor", "action_encoder", "reachability"])
def test_gradients_of_the_head_reach(part: str) -> None:
    model = small()
    model.loss(clip(4, FRAMES), step())[1]["reachability"].backward()
    assert max(p.grad.abs().max() for p in getattr(model, part).parameters()) > 0


def test_gradients_flow_into_the_targets_and_reach_every_parameter(monkeypatch) -> None:
    model = small(reachability_weight=0.0)
    latents = model.encode(clip(4, FRAMES).frames).detach().requires_grad_()
    fixed(monkeypatch, 3, 2, 1)
    monkeypatch.setattr(model, "encode", lambda _: latents)
    model.loss(clip(4, FRAMES), step())[1]["prediction"].backward()
    assert latents.grad[:, 3:5].abs().amax((0, 2)).min() > 0 and (latents.grad[:, 5:] == 0).all()
    fixed(monkeypatch, 3, 2, 1)
    whole = small()
    whole.loss(clip(4, FRAMES), step())[0].backward()
    assert [name for name, p in whole.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


# The curriculum.


@pytest.mark.parametrize(
    ("progress", "longest"),
    [(0.0, 1), (0.09, 1), (0.11, 2), (0.19, 2), (0.21, 3), (0.29, 3), (0.31, 4), (0.4, 4), (1.0, 4)],
)
def test_rollouts_grow_in_equal_shares_of_the_curriculum(progress: float, longest: int) -> None:
    assert RCAuxConfig().longest_rollout(progress) == longest  # 4 blocks, in 0.4 of the training
    assert RCAuxConfig(rollout_blocks=1).longest_rollout(progress) == 1


def test_every_length_up_to_the_longest_and_every_context_is_drawn(monkeypatch) -> None:
    model, seen = small(rollout_curriculum=0.6), set()
    real = model.open_loop

    def open_loop(context: torch.Tensor, actions: torch.Tensor, blocks: int) -> torch.Tensor:
        seen.add((context.shape[1], blocks))
        return real(context, actions, blocks)

    monkeypatch.setattr(model, "open_loop", open_loop)
    for index, longest in ((0, 1), (3, 2), (9, 3)):
        seen.clear()
        for seed in range(60):
            with torch.no_grad():
                model.loss(clip(2, FRAMES), step(index, seed=seed))
        assert seen == {(c, n) for c in (1, 2, 3) for n in range(1, longest + 1)}


# Plans.


def costs_by_hand(model: RCAux, imagined: np.ndarray, goals: np.ndarray, how: str) -> np.ndarray:
    """(b, S) of latents (b, S, H, D): every number in turn."""
    logit, config = numpy_head(model.reachability), model.config
    found = np.empty(imagined.shape[:2])
    for b, s in np.ndindex(*found.shape):
        plan = imagined[b, s]
        far = ((plan - goals[b]) ** 2).mean(-1)
        left = [min(len(plan) - k, config.max_budget) for k in range(len(plan))]  # 6 blocks: 4 4 4 3 2 1
        best = max(1 / (1 + np.exp(-logit(z, goals[b], h))) for z, h in zip(plan, left, strict=True))
        factor = max(config.planning_floor, 1 - config.planning_weight * best)
        found[b, s] = (far[-1] if how == "final" else far.sum()) * factor
    return found


@torch.no_grad()
@pytest.mark.parametrize("how", ["final", "sum"])
@pytest.mark.parametrize("weight", [0.35, 1.0])
def test_what_plans_cost_by_hand(how: str, weight: float) -> None:
    model = small(planning_weight=weight, planning_floor=0.4)
    imagined, goals = torch.randn(2, 5, 6, 12), torch.randn(2, 12)
    objective = RC_AUX.objective(model, PlannerConfig(objective=how))
    assert not objective.last  # it looks at every block
    expected = costs_by_hand(model, imagined.numpy(), goals.numpy(), how)
    np.testing.assert_allclose(objective.score(imagined, goals).numpy(), expected, rtol=1e-4)
    plain = costs_by_hand(small(planning_weight=0.0), imagined.numpy(), goals.numpy(), how)
    shares = expected / plain
    assert shares.min() >= 0.4 - 1e-6 and shares.std() > 1e-3


@torch.no_grad()
def test_the_latent_distance_is_never_forgotten() -> None:
    """A head that is sure of everything leaves the floor of it."""
    model = small(planning_weight=1.0, planning_floor=0.05)
    model.reachability.net[-1].bias += 100
    imagined, goals = torch.randn(2, 5, 3, 12), torch.randn(2, 12)
    distance = (imagined[:, :, -1] - goals[:, None]).square().mean(-1)
    torch.testing.assert_close(RC_AUX.objective(model, PlannerConfig()).score(imagined, goals), 0.05 * distance)


@torch.no_grad()
def test_a_plan_is_cheaper_where_the_goal_is_passed() -> None:
    """Two plans end equally far away; one comes by the goal, where the head is sure."""
    model = small(planning_weight=0.5)

    class Near(torch.nn.Module):
        def forward(self, sources, goals, budgets):
            assert budgets.tolist() == [2, 1]
            return 40 * ((sources - goals).abs().amax(-1) < 1e-3) - 20.0

    model.reachability = Near()
    goal, end = torch.randn(12), torch.randn(12)
    plans = torch.stack([torch.stack([goal, end]), torch.stack([end, end])])[None]
    passing, never = RC_AUX.objective(model, PlannerConfig()).score(plans, goal[None])[0]
    torch.testing.assert_close(passing, never / 2)


@torch.no_grad()
@pytest.mark.parametrize("how", ["fast", "reference"])
def test_an_agent_plans_by_it(how: str) -> None:
    """Its own rollout and cost against the plain loop; and without the weight they are LeWM's."""
    planner, cpu = PlannerConfig(rollout=how), torch.device("cpu")
    z, past, plans, goal = torch.randn(2, 3, 12), torch.randn(2, 2, 6), torch.randn(2, 20, 5, 6), torch.randn(2, 12)
    found = {}
    for weight in (0.0, 0.8):
        model = small(planning_weight=weight).requires_grad_(False)
        agent = RC_AUX.agent(model, model.config, planner, cpu)
        found[weight] = imagined_cost(agent.rollout(z, past), goal, agent.objective)(plans)
        imagined = plain_rollout(model)(z, past)(plans, lambda latents, episodes: latents)
        expected = costs_by_hand(model, imagined.numpy(), goal.numpy(), "final")
        np.testing.assert_allclose(found[weight].numpy(), expected, rtol=1e-3)
    lewm = LeWM(SMALL, 32, 3).eval().requires_grad_(False)
    own = small(planning_weight=0.0).state_dict()
    lewm.load_state_dict({name: tensor for name, tensor in own.items() if "reachability" not in name})
    agent = LEWM.agent(lewm, SMALL, planner, cpu)
    assert torch.equal(imagined_cost(agent.rollout(z, past), goal, agent.objective)(plans), found[0.0])
    assert (found[0.8] / found[0.0]).std() > 1e-3


def test_gradients_flow_through_the_cost() -> None:
    model, goal = small().requires_grad_(False), torch.randn(1, 12)
    imagined = torch.randn(1, 4, 3, 12, requires_grad=True)
    RC_AUX.objective(model, PlannerConfig()).score(imagined, goal).sum().backward()
    assert (imagined.grad[:, :, -1].abs().amax(-1) > 0).all()


@torch.no_grad()
def test_a_frame_costs_what_one_block_from_it_is_believed_to_do() -> None:
    model, frames, goals = small(), torch.randn(3, 12), torch.randn(2, 12)
    found = frame_costs(RC_AUX.objective(model, PlannerConfig()), frames, goals).numpy()
    expected = costs_by_hand(model, frames.numpy()[None, :, None].repeat(2, 0), goals.numpy(), "final")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# The agent.


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("rc-aux"), make_toy(size=32, speed=0.3)
    data = collect(env, CollectConfig(episodes=40, steps=16, policies={"drift": 1.0}), 0, folder / "data", False)
    config = CONFIG.model_copy(update={"train": TrainConfig(steps=5, batch_size=4, learning_rate=1e-3)})
    return Setting(env, TOY_ID, "rc-aux", data, "key", config, PlannerConfig(), 0, torch.device("cpu"), Store(folder))


def test_the_head_is_saved_and_the_way_to_plan_is_not_part_of_the_weights(setting: Setting, tmp_path: Path) -> None:
    other = replace(setting, config=setting.config.model_copy(update={"planning_weight": 0.0}))
    for chosen, name in ((setting, "a"), (other, "b")):
        RC_AUX.train(chosen, tmp_path / name)
    assert (tmp_path / "a" / "card.json").read_bytes() == (tmp_path / "b" / "card.json").read_bytes()
    tensors = load_tensors(tmp_path / "a" / "model.safetensors")
    loaded, plain = RC_AUX.load(setting, tmp_path / "a"), RC_AUX.load(other, tmp_path / "b")
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, tensors[key]) and torch.equal(tensor, plain.model.state_dict()[key])
    untrained = RC_AUX.load(setting, None).model.reachability.net[-1].weight
    assert not torch.equal(untrained, tensors["reachability.net.5.weight"])
    assert loaded.objective is not None and plain.objective is None
    assert plain.label == loaded.label + ", plans by distance alone" and loaded.label.startswith("RC-aux")


def test_settings_of_planning_alone_share_a_training_and_no_evaluation(setting: Setting) -> None:
    suite = resolve(load(find_file(None)), "smoke", "quick", agents=["rc-aux"])
    changes = ({}, {"planning_weight": 0.85}, {"planning_floor": 0.2}, {"way_weight": 0.5})
    settings = [replace(setting, config=setting.config.model_copy(update=change)) for change in changes]
    trainings = [model_spec(s, RC_AUX) for s in settings]
    assert trainings[0] == trainings[1] == trainings[2] != trainings[3]
    evaluations = [evaluation_spec(suite, suite.jobs[0], s, RC_AUX, 25) for s in settings[:3]]
    assert all(a != b for a, b in combinations(evaluations, 2))


@torch.no_grad()
def test_the_head_learns_what_is_reachable(setting: Setting, tmp_path: Path) -> None:
    """On ways that go straight on: in episodes that it has not seen, enough blocks for a goal from too few."""
    train = TrainConfig(steps=80, batch_size=8, learning_rate=5e-3, on_collapse="continue")
    with torch.enable_grad():
        RC_AUX.train(replace(setting, config=setting.config.model_copy(update={"train": train})), tmp_path)
    model, data = RC_AUX.load(setting, tmp_path).model, setting.dataset
    rows = data.starts[list(data.splits["test"])][:, None] + 2 * np.arange(1 + CONFIG.max_budget)
    z = model.encode(torch.from_numpy(np.moveaxis(data.frames[rows], -1, 2).copy()))
    pairs = ahead(z[:, 0], z[:, 1:])
    enough, short = (
        logits_of(model.reachability, pairs.sources, pairs.goals, asked).sigmoid().mean()
        for asked in (pairs.enough, pairs.short)
    )
    assert enough > short + 0.1
