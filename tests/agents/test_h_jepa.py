"""H-JEPA: its loss and networks against numpy, its windows by hand, and its planner where the best plan is known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shaken import shaken
from test_lewm import SMALL
from torch import Tensor, nn

from lewm_bench.agents.h_jepa import H_JEPA, HJEPA, HJEPAConfig, InverseDynamics, LatentEncoder
from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.agents.parts.hierarchical_planning import HierarchicalAgent, horizons, subgoal_objective
from lewm_bench.agents.parts.hierarchy import ActionPooler, Level, MacroScale, window_frames, windows
from lewm_bench.agents.parts.sigreg import directions
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Clip
from lewm_bench.planning.agent import Encoded
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import plain_rollout
from lewm_bench.train.loop import Step

CPU = torch.device("cpu")
CONFIG = HJEPAConfig(
    **SMALL.model_dump(include=set(LeWMConfig.model_fields) - {"dropout", "num_directions"}),
    dropout=0.0,
    num_directions=8,
    pooler_width=8,
    latent_hidden=10,
    macro_memory=16,
    inverse_dynamics_hidden=10,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def model_of(**changes) -> HJEPA:
    """In training mode without dropout, no block the identity."""
    torch.manual_seed(0)
    model = HJEPA(CONFIG.model_copy(update=changes), 32, 3)
    model.begin_training()
    return shaken(model).requires_grad_().train()


def clip_of(config: HJEPAConfig, batch: int = 6) -> Clip:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, config.steps + 1, 3, 32, 32), dtype=torch.uint8, generator=g)
    return Clip(frames, torch.randn(batch, config.steps, 6, generator=g))


def step(log: bool = True) -> Step:
    return Step(5, 10, torch.Generator().manual_seed(3), log)


# What a clip is cut into.


def test_windows_are_drawn_among_all_that_fit() -> None:
    """Three levels at stride 2 with three states of context: 13, 7 and 4 states, of which 4 are learned from."""
    drawn = [windows(3, 2, 3, torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert [sorted({d[k] for d in drawn}) for k in range(3)] == [list(range(10)), list(range(4)), [0]]
    assert HJEPAConfig(levels=3).steps == 12 and H_JEPA.clip_frames(HJEPAConfig(levels=3)) == 13
    assert H_JEPA.clip_frames(HJEPAConfig()) == 7


def test_frames_of_the_windows_by_hand() -> None:
    assert window_frames((5, 2, 0), 2, 3) == [[5, 6, 7, 8], [4, 6, 8, 10], [0, 4, 8, 12]]
    assert window_frames((4, 0), 3, 2) == [[4, 5, 6], [0, 3, 6]]


class Total(nn.Module):
    """A pooler that adds up its chunks."""

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings.unflatten(1, (-1, 2)).sum(2)


def test_states_and_actions_of_all_levels_stand_at_the_same_times() -> None:
    """Frame t is the number t and block t the number 10^-t: so a macro action is made of the blocks it should be."""
    model = model_of(levels=3)
    model.encode = lambda frames: frames[:, :, 0, 0, :1].float()
    model.normalize_actions = model.action_encoder.forward = lambda actions: actions
    for upper in model.upper:
        upper.encoder, upper.pooler, upper.action_encoder = nn.Identity(), Total(), nn.Identity()
    numbers = torch.arange(13, dtype=torch.uint8)[None, :, None, None, None].expand(1, 13, 3, 32, 32)
    at = window_frames((5, 1, 0), 2, 3)
    states = model.states_of_levels(numbers, at)
    assert [z.flatten().tolist() for z in states] == [[5, 6, 7, 8], [2, 4, 6, 8], [0, 4, 8, 12]]
    actions = model.actions_of_levels((2.0 ** torch.arange(12))[None, :, None])
    for level, (own, first) in enumerate(zip(actions, (5, 1, 0), strict=True)):
        macro, embedded = (x[0, first : first + 3, 0].tolist() for x in own)
        span = 2**level
        expected = [sum(2.0**b for b in range(f, f + span)) for f in at[level][:-1]]
        assert macro == embedded == expected  # the blocks from a state of the level to its next


# Networks and loss.


def normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


@torch.no_grad()
def test_the_pooler_against_loops() -> None:
    """A query that reads the actions of a chunk, in order, by one transformer block of two heads."""
    pooler = shaken(ActionPooler(CONFIG))
    x = torch.randn(2, 6, 16)
    actual = pooler(x).numpy()
    assert actual.shape == (2, 3, 4)
    p = {k: v.double().numpy() for k, v in pooler.state_dict().items()}

    def linear(y: np.ndarray, name: str) -> np.ndarray:
        return y @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(y: np.ndarray, name: str) -> np.ndarray:
        return normed(y, p[f"{name}.weight"], p[f"{name}.bias"])

    for b in range(2):
        for t in range(3):
            chunk = linear(x[b, 2 * t : 2 * t + 2].double().numpy(), "step")
            tokens = np.concatenate([np.zeros((1, 8)), chunk]) + p["positions"]
            y = norm(tokens, "blocks.0.norm1")
            q, k, v = linear(y, "blocks.0.attention.qkv").reshape(3, 3, 2, 4).transpose(1, 2, 0, 3)
            scores = np.exp(q @ k.transpose(0, 2, 1) / 2)
            seen = (scores / scores.sum(-1, keepdims=True)) @ v  # (heads, tokens, 4)
            tokens = tokens + linear(seen.transpose(1, 0, 2).reshape(3, 8), "blocks.0.attention.out")
            hidden = gelu(linear(norm(tokens, "blocks.0.norm2"), "blocks.0.mlp.0"))
            query = (tokens + linear(hidden, "blocks.0.mlp.2"))[0]
            expected = norm(linear(norm(gelu(linear(query, "head.0")), "head.2"), "head.3"), "head.4")
            np.testing.assert_allclose(actual[b, t], expected, atol=2e-5)


def sigreg_by_quadrature(z: np.ndarray, u: np.ndarray) -> float:
    """Epps-Pulley distance of the projections' characteristic function to a normal's, by the definition."""
    knots = np.linspace(0, 3, 17)
    found = []
    for sample in z.transpose(1, 0, 2):  # of every time step
        h = sample @ u  # (B, M)
        phi = np.exp(1j * knots[:, None, None] * h).mean(1)  # (K, M)
        distance = np.abs(phi - np.exp(-(knots**2) / 2)[:, None]) ** 2 * np.exp(-(knots**2) / 2)[:, None]
        found.append(2 * np.trapezoid(distance, knots, axis=0) * len(sample))
    return float(np.mean(found))


def test_the_loss_against_numpy() -> None:
    """Two levels, every term; the weight of SIGReg decays as LeWM's."""
    model = model_of(inverse_dynamics_weight=0.7, sigreg_weight=0.01, sigreg_initial_weight=0.1, sigreg_decay=1.0)
    clip = clip_of(model.config)
    total, parts = model.loss(clip, step())
    g = torch.Generator().manual_seed(3)  # as the step's: first the windows, then directions level by level
    first = int(torch.randint(4, (), generator=g))
    torch.randint(1, (), generator=g)
    at = [list(range(first, first + 4)), [0, 2, 4, 6]]
    seen = sorted({*at[0], *at[1]})
    z = model.encode(clip.frames[:, seen])
    expected = 0.0
    for level, own in enumerate(at, 1):
        suffix = "" if level == 1 else "_2"
        own_z = z[:, [seen.index(f) for f in own]]
        blocks = model.normalize_actions(clip.actions)
        if level == 1:
            actions = blocks[:, first : first + 3]
            prediction = model.predict(own_z[:, :-1], actions)
        else:
            upper = model.upper[0]
            own_z, actions = upper.encoder(own_z), upper.pooler(model.action_encoder(blocks))
            prediction = upper.pred_proj(upper.predictor(own_z[:, :-1], upper.action_encoder(actions)))
        own_z, actions, prediction = (x.detach().double().numpy() for x in (own_z, actions, prediction))
        error = ((prediction - own_z[:, 1:]) ** 2).mean()
        regulariser = sigreg_by_quadrature(own_z, directions(8, 12, g).double().numpy())
        p = {k: v.double().numpy() for k, v in model.auxiliary[f"inverse_dynamics_{level}"].net.state_dict().items()}
        hidden = np.concatenate([own_z[:, :-1], own_z[:, 1:]], -1)
        for name in ("0", "2"):
            hidden = np.maximum(hidden @ p[f"{name}.weight"].T + p[f"{name}.bias"], 0)
        inverse = ((hidden @ p["4.weight"].T + p["4.bias"] - actions) ** 2).mean()
        terms = {"prediction": error, "sigreg": regulariser, "inverse_dynamics": inverse}
        for name, value in terms.items():
            assert float(parts[name + suffix].detach()) == pytest.approx(value, rel=1e-3), (name, level)
        expected += error + 0.1**1.5 * regulariser + 0.7 * inverse  # half way from 0.1 to 0.01
    assert float(total.detach()) == pytest.approx(expected, rel=1e-3)
    assert {"latent_std", "latent_std_2", "effective_rank_2"} <= set(parts)
    assert not {"latent_std_2"} & set(model.loss(clip, step(log=False))[1])


@pytest.mark.parametrize("levels", [2, 3])
def test_gradients_reach_every_level(levels: int) -> None:
    model = model_of(levels=levels, inverse_dynamics_weight=1.0)
    total, parts = model.loss(clip_of(model.config), step())
    total.backward(retain_graph=True)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    top = parts[f"prediction_{levels}"]
    below = [model.encoder.stem[0].weight, model.action_encoder.patch_embed.weight, model.projector.net[3].weight]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(top, below, retain_graph=True))
    heads = torch.autograd.grad(
        parts[f"inverse_dynamics_{levels}"], model.upper[-1].pooler.step.weight, allow_unused=True
    )
    assert heads == (None,), "what inverse dynamics predicts is given, or the pooler would make it easy"


def test_macro_actions_of_training_are_remembered_newest_last() -> None:
    model = model_of()
    clip = clip_of(model.config)
    with torch.no_grad():
        macros = model.upper[0].pooler(model.action_encoder(model.normalize_actions(clip.actions)))  # 6 x 3
        model.loss(clip, step())
        torch.testing.assert_close(model.upper[0].macro_actions, macros.flatten(0, 1)[-16:])
        kept = model.upper[0].macro_actions.clone()
        model.eval().loss(clip_of(model.config, 4), step())
    assert torch.equal(model.upper[0].macro_actions, kept)


def test_plans_are_held_to_what_was_seen_and_still_move_outside() -> None:
    level = Level(CONFIG, LatentEncoder(CONFIG))
    level.macro_actions.copy_(torch.arange(16.0)[:, None].expand(16, 4))
    scale = level.scale(0.1)
    values = np.arange(16.0)
    np.testing.assert_allclose(scale.mean, values.mean())
    np.testing.assert_allclose(scale.std, values.std(), rtol=1e-6)
    np.testing.assert_allclose([scale.low[0], scale.high[0]], np.quantile(values, [0.1, 0.9]), rtol=1e-6)
    plans = torch.tensor([[0.0, 0.5, 3.0, -3.0]], requires_grad=True)
    macros = scale.macros(plans)
    inside = values.mean() + 0.5 * values.std()
    np.testing.assert_allclose(macros.detach()[0], [7.5, inside, 13.5, 1.5], rtol=1e-6)
    macros.sum().backward()
    np.testing.assert_allclose(plans.grad[0], values.std(), rtol=1e-6)


# Planning.


@pytest.mark.parametrize(
    ("levels", "blocks", "reach", "expected"),
    [
        (2, 2, 24, (2, 12)),  # the authors' four rooms
        (3, 2, 24, (2, 2, 6)),
        (2, 5, 24, (6, 12)),  # five blocks are executed, six end in a macro step
        (3, 5, 24, (6, 4, 6)),  # three subgoals, so four steps of level 2, two of level 3
        (2, 5, 6, (6, 3)),
        (2, 5, 5, (5,)),  # nothing is left beyond what level 1 sees itself
        (2, 5, -3, (5,)),
        (3, 2, 4, (2, 2)),  # one step of level 3 is the goal itself
        (3, 2, 5, (2, 2, 2)),
        (2, 1, 2, (1,)),
    ],
)
def test_horizons_by_hand(levels: int, blocks: int, reach: int, expected: tuple[int, ...]) -> None:
    assert horizons(levels, 2, blocks, reach) == expected


def test_a_plan_under_subgoals_costs_its_distances_above() -> None:
    imagined, subgoals = torch.randn(2, 5, 6, 3), torch.randn(2, 2, 3)
    actual = subgoal_objective(lambda z: z * 2, 3).score(imagined, subgoals)
    for b in range(2):
        for s in range(5):
            expected = sum(((2 * imagined[b, s, 3 * n + 2] - subgoals[b, n]) ** 2).mean() for n in range(2))
            assert float(actual[b, s]) == pytest.approx(float(expected), rel=1e-5)


class Double(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return 2 * latents


class Walk:
    """Level k: a place of two numbers, times 2^(k-1), to which actions are added; a macro action is one of them."""

    def __init__(self, level: int) -> None:
        self.history, self.frame_skip, self.encoder, self.level = 1, 1, Double(), level

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        return latents[:, -1] + 2 ** (self.level - 1) * actions[:, -1, :2]

    def scale(self, quantile: float) -> MacroScale:
        del quantile
        ones = torch.ones(2)
        return MacroScale(0 * ones, ones, -1e3 * ones, 1e3 * ones)


class Walks(Walk):
    """As the agent sees an H-JEPA."""

    def __init__(self, levels: int) -> None:
        super().__init__(1)
        self.upper = [Walk(level) for level in range(2, levels + 1)]

    def lifted(self, latents: Tensor, level: int) -> Tensor:
        return latents * 2 ** (level - 1)

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return actions


GRADIENTS = PlannerConfig(
    solver="adam",
    num_iterations=60,
    horizon=2,
    receding=2,
    std=1e-3,
    adam={"optimizer": "sgd", "learning_rate": 0.02, "num_starts": 2},
)


def walking(levels: int, planner: PlannerConfig = GRADIENTS, **changes) -> HierarchicalAgent:
    model = Walks(levels)
    config = HJEPAConfig(levels=levels, macro_size=2, **changes)
    return HierarchicalAgent(model, config, planner, CPU, plain_rollout(model))


def went(agent: HierarchicalAgent, goal: Tensor, searches: int = 1, batch: slice = slice(None)) -> np.ndarray:
    """Where the blocks of each search lead from 0, (searches, B, 2)."""
    rngs = [stream(0, "plan", b) for b in range(len(goal))][batch]
    controller, place, found = agent.controller(goal[batch], rngs), torch.zeros_like(goal[batch]), []
    for _ in range(searches):
        blocks = controller.search(Encoded(place[:, None], torch.zeros(len(place), 0, 2)))
        place = place + torch.from_numpy(blocks).sum(1)
        found.append(place.numpy())
    return np.stack(found)


@pytest.mark.parametrize("levels", [2, 3])
def test_subgoals_from_above_are_followed(levels: int) -> None:
    """All steps of the highest level pull alike, so its plan is a straight line of equal steps; what is executed is the
    share of it that two of 16 blocks are, and not the way to the goal, which level 1 could reach at once."""
    goal = torch.tensor([[4.0, -8.0], [1.0, 0.5]])
    np.testing.assert_allclose(went(walking(levels, reach=16), goal)[0], goal / 8, atol=0.02)


def test_the_reach_shrinks_until_level_one_goes_to_the_goal_itself() -> None:
    goal = torch.tensor([[4.0, -8.0]])
    places = went(walking(2, reach=8), goal, searches=4)
    for share, place in zip((1 / 4, 1 / 2, 3 / 4, 1), places, strict=True):
        np.testing.assert_allclose(place, share * goal, atol=0.2)
    again = went(walking(2, reach=8, approach=False), goal, searches=2)
    np.testing.assert_allclose(again[1], (1 - 0.75**2) * goal, atol=0.2)


def test_a_plan_that_ends_within_the_subgoals_ends_at_the_goal() -> None:
    """However badly the highest level imagines: of three steps none is beyond level 1's six blocks."""
    agent = walking(2, GRADIENTS.model_copy(update={"horizon": 6, "receding": 6}), reach=7)
    agent.planners[0].level.predict_next = lambda latents, actions: 0 * latents[:, -1] + 0 * actions[:, -1]
    assert agent.horizons(0) == (6, 4) and walking(2, agent.config, reach=6).horizons(0) == (6,)
    agent.settings = agent.settings.model_copy(update={"reach": 6})
    agent.config = agent.config.model_copy(update={"horizon": 5, "receding": 5})
    assert agent.horizons(0) == (6, 3)
    controller = agent.controller(torch.tensor([[2.0, 2.0]]), [stream(0, "plan", 0)])
    subgoals = controller.subgoals(torch.zeros(1, 2), torch.tensor([[2.0, 2.0]]), (6, 3))
    assert subgoals.tolist() == [[[0, 0], [0, 0], [4, 4]]]


@pytest.mark.parametrize("solver", ["adam", "cem"])
def test_a_plan_does_not_depend_on_its_batch(solver: str) -> None:
    """To the bit, with real networks; the noise is the episode's own and not torch's."""
    model = shaken(HJEPA(CONFIG.model_copy(update={"levels": 3}), 32, 3))
    planner = PlannerConfig(solver=solver, num_samples=12, num_iterations=2, num_elites=4, horizon=3, receding=2)
    agent = H_JEPA.agent(model, model.config, planner, CPU)
    latents, actions, goal = torch.randn(4, 2, 12), torch.randn(4, 1, 6), torch.randn(4, 12)
    found = []
    for chosen in (slice(0, 4), slice(2, 3)):
        torch.manual_seed(chosen.start)
        rngs = [stream(0, "plan", b) for b in range(4)][chosen]
        controller = agent.controller(goal[chosen], rngs)
        encoded = Encoded(latents[chosen], actions[chosen])
        found.append(np.concatenate([controller.search(encoded) for _ in range(2)], 1))
    assert found[0].shape == (4, 8, 3)
    np.testing.assert_array_equal(found[0][2:3], found[1])
    assert not np.array_equal(found[0][0], found[0][1])


@torch.no_grad()
def test_the_fast_rollout_of_upper_levels_is_the_plain_one() -> None:
    model = shaken(HJEPA(CONFIG, 32, 3))
    costs = []
    for kind in ("fast", "reference"):
        planner = PlannerConfig(rollout=kind)
        begin = H_JEPA.agent(model, CONFIG, planner, CPU).planners[0].begin
        g = torch.Generator().manual_seed(1)
        latents, plans = torch.randn(2, 1, 12, generator=g), torch.randn(2, 7, 5, 4, generator=g)
        goal = torch.randn(2, 12, generator=g)
        search = begin(latents, torch.zeros(2, 0, 4))
        costs.append(search(plans, lambda z, own, goal=goal: (z - goal[own, None, None]).square().sum((2, 3))))
    torch.testing.assert_close(*costs, rtol=1e-4, atol=1e-4)


# The family.


@dataclass(frozen=True)
class Chosen:
    """As much of a setting as ``trained_as`` reads."""

    agent: str
    config: HJEPAConfig


def test_level_one_has_the_names_and_shapes_of_lewm() -> None:
    with torch.device("meta"):
        both = (HJEPA(HJEPAConfig(levels=3), 224, 2), LeWM(LeWMConfig(), 224, 2))
    own, lewm = ({name: tensor.shape for name, tensor in model.state_dict().items()} for model in both)
    assert {name: shape for name, shape in own.items() if not name.startswith("upper.")} == lewm
    assert {name.split(".")[1] for name in own if name.startswith("upper.")} == {"0", "1"}


def test_heads_are_of_training_alone() -> None:
    model = model_of(inverse_dynamics_weight=1.0)
    assert isinstance(model.auxiliary["inverse_dynamics_2"], InverseDynamics)
    model.end_training()
    assert not [name for name in model.state_dict() if "inverse" in name]
    assert not model_of().auxiliary


def test_variants_and_what_is_of_planning_alone() -> None:
    assert H_JEPA.configure({}, "3") == HJEPAConfig(levels=3)
    assert H_JEPA.label(SimpleNamespace(), HJEPAConfig(levels=3)) == "H-JEPA (3 levels)"
    with pytest.raises(UserError, match="number of levels"):
        H_JEPA.configure({}, "7")
    setting = Chosen("h-jepa", HJEPAConfig(levels=3, reach=7, approach=False, macro_quantile=0.1))
    assert H_JEPA.trained_as(setting).config == HJEPAConfig(levels=3)
