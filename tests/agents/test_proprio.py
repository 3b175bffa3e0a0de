"""Proprioception: what environments name, how DINO-WM reads, predicts and compares it, and that it says so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_env import TOY_ID, ToyEnv, make_toy

from lewm_bench.agent import Loaded, PlanningAgent, Setting
from lewm_bench.agents.dino_wm import DINO_WM, DinoWM, DinoWMConfig, ProprioAgent, Proprioception
from lewm_bench.agents.oracle import LatentOracle, simulation_of
from lewm_bench.agents.parts.encoders import LocalConfig, LocalEncoder
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman
from lewm_bench.core.types import Goals, Past
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.evaluation.episodes import distance_rank_correlation, evaluate, latent_oracle
from lewm_bench.evaluation.protocol import CLEAN_1, sample_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import latent_cost, plain_rollout, rollout
from lewm_bench.planning.fast.dino_wm import PackedDinoWM
from lewm_bench.run.environments import make_env
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainConfig

CPU = torch.device("cpu")
SKIP, E = 2, 3
TRAIN = TrainConfig(steps=4, batch_size=4, learning_rate=1e-3)
CONFIG = DinoWMConfig(
    encoder="lowpass",
    local=LocalConfig(width=16, depth=1, heads=2, channels=8, scales=(4, 10), train=TRAIN),
    proprio=True,
    proprio_size=E,
    width=16,
    depth=2,
    heads=2,
    head_size=8,
    mlp_hidden=32,
    frame_skip=SKIP,
    train=TRAIN,
)
CEM = PlannerConfig(num_samples=10, num_iterations=2, num_elites=4, horizon=3, receding=2)
PUBLISHED = {  # what the data of DINO-WM and LeWM call proprioception, as entries of our states
    "PointMaze-UMaze-v0": [0, 1, 2, 3],
    "Wall-v0": [0, 1],
    "TwoRoom-v0": [0, 1],
    "PushT-v0": [0, 1, 5, 6],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_environments_name_what_the_published_data_has(name: str) -> None:
    try:
        env = make_env(f"lewm_bench/{name}", 64)
    except NotRun as error:
        pytest.skip(str(error))
    states = np.stack([env.sample_state(stream(0, "test", i)) for i in range(4)])
    np.testing.assert_array_equal(env.proprio(states), states[:, PUBLISHED[name]])


@pytest.mark.parametrize("name", ["Reacher-v0", pytest.param("Cube-v0", marks=pytest.mark.slow)])
def test_the_arms_sense_their_joints_and_not_their_goal(name: str) -> None:
    try:
        env = make_env(f"lewm_bench/{name}", 64)
    except NotRun as error:
        pytest.skip(str(error))
    state = env.sample_state(stream(0, "test"))[None]
    felt = env.proprio(state)
    assert felt.shape == (1, {"Reacher-v0": 6, "Cube-v0": 3 + 2 + 1 + 12}[name]) and np.isfinite(felt).all()
    if name == "Reacher-v0":
        shoulder, wrist = state[0, :2]
        expected = [np.cos(shoulder), np.sin(shoulder), np.cos(wrist), np.sin(wrist), *state[0, 2:]]
        np.testing.assert_allclose(felt[0], expected)


class FeelingEnv(ToyEnv):
    """The toy environment with a body: it senses half its position and nothing that changes beside."""

    proprioception = ("here", "weight")

    def quantities(self, states: np.ndarray) -> dict[str, np.ndarray]:
        return {"weight": np.full((len(states), 1), 7.0), "here": states[:, :1] * 3 - 1}


def felt(states: np.ndarray) -> np.ndarray:
    """(..., 2) states to what ``FeelingEnv`` senses, (..., 2)."""
    return np.stack([states[..., 0] * 3 - 1, np.full(states.shape[:-1], 7.0)], -1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("proprio"), FeelingEnv(size=32)
    make_toy()  # registers the id that the data names
    env.spec = gym.spec(TOY_ID)
    data = collect(env, CollectConfig(episodes=20, steps=14, policies={"drift": 1.0}), 0, folder / "data", False)
    return Setting(env, TOY_ID, "dino-wm:proprio", data, "key", CONFIG, CEM, 0, CPU, Store(folder))


@pytest.fixture(scope="module")
def checkpoint(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    DINO_WM.train(setting, folder)
    return folder


@pytest.fixture(scope="module")
def loaded(setting: Setting, checkpoint: Path) -> Loaded:
    return DINO_WM.load(setting, checkpoint)


def world_model(**changes) -> DinoWM:
    """A model none of whose parts is silent."""
    torch.manual_seed(1)
    model = DinoWM(CONFIG.model_copy(update=changes), LocalEncoder(CONFIG.local, "lowpass", 32), 2, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        model.encoder.components.normal_()
    return model.eval().requires_grad_(False)


def test_statistics_are_those_of_the_vectors() -> None:
    vectors = np.random.default_rng(0).normal([3, 0, -2], [2, 0.5, 0], (500, 3)).astype(np.float32)
    module = Proprioception(3, 4)
    module.fit(torch.from_numpy(vectors))
    np.testing.assert_allclose(module.mean, vectors.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.std[:2], vectors[:, :2].std(0), rtol=1e-5)
    assert module.std[2] == 1  # it never changes
    scores = (vectors - vectors.mean(0)) / [*vectors[:, :2].std(0), 1]
    expected = scores @ module.embedding.weight.detach().numpy().T + module.embedding.bias.detach().numpy()
    np.testing.assert_allclose(module(torch.from_numpy(vectors)).detach(), expected, rtol=1e-4, atol=1e-4)


def test_the_checkpoint_holds_the_statistics_of_the_training_split(setting: Setting, checkpoint: Path) -> None:
    data = setting.dataset
    rows = np.concatenate([np.arange(data.starts[e], data.ends[e]) for e in data.splits["train"]])
    expected = felt(data.states[rows])
    tensors = load_tensors(checkpoint / "model.safetensors")
    np.testing.assert_allclose(tensors["proprio.mean"], expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(tensors["proprio.std"], [expected[:, 0].std(), 1], rtol=1e-5)


def test_latents_are_the_tokens_and_one_embedding_beside_each() -> None:
    model = world_model()
    frames, vectors = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8), torch.randn(3, 2, 2)
    latents = model.encode(frames, vectors)
    assert latents.shape == (3, 2, 4, 8 + E)
    assert torch.equal(latents[..., :8], model.encoder(frames.flatten(0, 1)).view(3, 2, 4, 8))
    for token in range(4):
        assert torch.equal(latents[:, :, token, 8:], model.proprio(vectors))
    with pytest.raises(ValueError, match="proprioception"):
        model.encode(frames)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_cost_is_visual_plus_weighted_proprioceptive_distance(setting: Setting, weight: float) -> None:
    """DINO-WM's objective, by numpy, along a rollout of the model."""
    model = world_model(proprio_weight=weight)
    agent = ProprioAgent(model, CEM, CPU, plain_rollout(model), setting.env)
    rng = np.random.default_rng(3)
    frames = torch.from_numpy(rng.integers(0, 256, (2, 4, 3, 32, 32), np.uint8))
    states, plans = rng.uniform(-1, 1, (2, 4, 2)), torch.randn(2, 5, 3, SKIP * 2)
    latents = agent.encode(frames[:, :3], states[:, :3])
    past_actions = torch.randn(2, 2, SKIP * 2)
    cost = latent_cost(agent.rollout(latents, past_actions), agent.embed(frames[:, 3], states[:, 3]), CEM)(plans)
    imagined = rollout(model, latents, past_actions, plans)[:, :, -1].numpy()  # (B, S, P, C)
    goal = model.encode(frames[:, 3:], torch.from_numpy(felt(states[:, 3:])).float())[:, 0].numpy()
    squares = (imagined - goal[:, None]) ** 2
    expected = squares[..., :8].mean((-1, -2)) + weight * squares[..., 8:].mean((-1, -2))
    np.testing.assert_allclose(cost, expected, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("style", [{}, {"width": None}, {"conditioning": "adaln"}])
def test_the_fast_rollout_is_the_plain_one(style: dict) -> None:
    model = world_model(**style)
    latents = model.encode(torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 3, 2))
    actions, plans = torch.randn(2, 2, 4), torch.randn(2, 6, 4, 4)
    found = []
    for begin in (plain_rollout(model), PackedDinoWM(model.parts())):
        begin(latents, actions)(plans, lambda z, _: found.append(z) or z.flatten(2).mean(-1))
    fast = found[1] if len(found) == 2 else torch.cat(found[1:])
    torch.testing.assert_close(fast, found[0], rtol=1e-3, atol=1e-4)


def test_the_loss_is_over_all_channels_and_its_targets_give_no_gradient() -> None:
    model = world_model().train().requires_grad_(True)
    tokens, actions, vectors = torch.randn(5, 4, 4, 8).half(), torch.randn(5, 3, 4), torch.randn(5, 4, 2)
    model.predictor.eval()  # no dropout
    loss, parts = model.loss((tokens, actions, vectors), Step(0, 1, torch.Generator(), True))
    latents = model.join(tokens.float(), vectors)
    errors = (model.predictor(latents[:, :3], model.normalize_actions(actions)) - latents[:, 1:]).square()
    assert loss.item() == pytest.approx(errors.mean().item(), rel=1e-5)
    assert parts["proprioception"].item() == pytest.approx(errors[..., 8:].mean().item(), rel=1e-5)
    loss.backward()
    assert model.proprio.embedding.weight.grad.abs().max() > 0  # through what the predictor sees
    model.zero_grad()
    with torch.no_grad():
        model.predictor.output.weight.zero_()  # now the prediction is a constant, whatever the predictor sees
    model.loss((tokens, actions, vectors), Step(0, 1, torch.Generator(), False))[0].backward()
    assert model.proprio.embedding.weight.grad.abs().max() == 0


def test_it_reads_the_states_of_context_and_goal(setting: Setting, loaded: Loaded) -> None:
    agent, data = loaded.agent, setting.dataset
    rows = data.starts[:3, None] + SKIP * np.arange(3)
    frames = torch.from_numpy(np.moveaxis(data.frames[rows], -1, 2).copy())
    past = Past(frames, torch.zeros(3, 2, 4), data.states[rows[:, -1]], data.states[rows])
    goals = Goals(frames[:, 0], data.states[rows[:, 0]])
    controller = agent.start(goals, [stream(0, "plan", i) for i in range(3)])
    latents = controller.encode(past).latents
    for t in range(3):
        expected = loaded.model.proprio(torch.from_numpy(felt(data.states[rows[:, t]])).float())
        torch.testing.assert_close(latents[:, t, 2, 8:], expected)
    assert controller.search(controller.encode(past)).shape == (3, 2 * SKIP, 2)
    alone = agent.start(goals, [stream(0, "plan", 1)]).encode(Past(frames[:, -1:], torch.zeros(3, 0, 4), past.states))
    torch.testing.assert_close(alone.latents, latents[:, -1:])  # one frame: its state is the current one
    moved = replace(goals, states=goals.states + 0.3)
    assert not torch.equal(agent.embed(goals.frames, goals.states), agent.embed(moved.frames, moved.states))


def test_an_agent_for_frames_never_sees_a_state(setting: Setting) -> None:
    config = CONFIG.model_copy(update={"proprio": False})
    chosen = replace(setting, config=config)
    loaded = DINO_WM.load(chosen, None)
    assert type(loaded.agent) is PlanningAgent and loaded.model.proprio is None
    frames = torch.from_numpy(np.moveaxis(setting.dataset.frames[:4], -1, 1).copy())
    nothing = np.full((4, 2), np.nan)
    assert loaded.agent.embed(frames, nothing).isfinite().all()
    torch.testing.assert_close(loaded.agent.embed(frames, nothing), loaded.model.encode(frames[:, None])[:, 0])


@dataclass
class Watcher:
    """Notes what it is shown and stays where it is."""

    history: int = 3
    frame_skip: int = SKIP
    shown: list[Past] = field(default_factory=list)

    def start(self, goals: Goals, rngs) -> Watcher:
        self.count = len(rngs)
        return self

    def encode(self, past: Past) -> None:
        self.shown.append(past)

    def search(self, encoded: None) -> np.ndarray:
        return np.tile(np.float32([[[0.5, -1]]]), (self.count, 2 * SKIP, 1))


@pytest.mark.parametrize("real_history", [True, False])
def test_evaluation_shows_the_state_of_every_frame(setting: Setting, real_history: bool) -> None:
    """The frames of these states are the frames that are shown."""
    watcher = Watcher()
    pairs = sample_pairs(setting.dataset, setting.env, CLEAN_1, 6, 6, "all")
    for _ in evaluate(watcher, setting, pairs, 9, goal_offset=6, real_history=real_history, batch=2):
        pass
    assert {past.frames.shape[1] for past in watcher.shown} >= {3 if real_history else 1}
    for past in watcher.shown:
        assert past.frame_states.shape == (*past.frames.shape[:2], 2)
        drawn = setting.env.render_states(past.frame_states.reshape(-1, 2))
        np.testing.assert_array_equal(np.moveaxis(past.frames.flatten(0, 1).numpy(), 1, -1), drawn)
        np.testing.assert_array_equal(past.frame_states[:, -1], past.states)


def test_the_latent_oracle_and_the_rank_correlation_use_the_same_cost(setting: Setting, checkpoint: Path) -> None:
    config = CONFIG.model_copy(update={"proprio_weight": 1e6})  # the visual distance no longer counts
    chosen = replace(setting, config=config)
    loaded = DINO_WM.load(chosen, checkpoint)
    data = setting.dataset
    oracle = LatentOracle(simulation_of(chosen), CEM, loaded.model, CPU, chunk=5, embed=loaded.embed)
    images = torch.from_numpy(np.moveaxis(data.frames[:2], -1, 1).copy())
    states = data.states[20:44].reshape(2, 3, 4, 2)
    costs = oracle.costs(Goals(images, data.states[:2]))
    distance = np.stack([costs(states[:, :, h : h + 1]).numpy() for h in range(4)], -1)
    weight = loaded.model.proprio.embedding.weight.numpy() / loaded.model.proprio.std.numpy()
    away = (felt(states) - felt(data.states[:2])[:, None, None]) @ weight.T
    np.testing.assert_allclose(distance, 1e6 * (away**2).mean(-1), rtol=2e-3, atol=20)
    rows = np.sort(stream(0, "rank correlation", TOY_ID, "train").choice(data.rows("train"), 40, replace=False))
    i, j = np.triu_indices(40, 1)
    x = data.states[rows]
    expected = spearman(np.abs(x[i, 0] - x[j, 0]), np.linalg.norm(x[i] - x[j], axis=-1))
    assert distance_rank_correlation(loaded, chosen, "train", 40) == pytest.approx(expected, abs=2e-2)
    pairs = sample_pairs(data, setting.env, CLEAN_1, 2, 6, "all")
    assert latent_oracle(loaded, chosen, pairs, 4, 6, 2) in (0, 0.5, 1)  # it, too, gives the model what it reads


def test_the_table_says_so(loaded: Loaded) -> None:
    told = "with proprioception (reads part of the state)"
    assert loaded.label == f"DINO-WM (frozen low-pass ViT, 4 tokens) {told}" and told in loaded.note
    assert DINO_WM.kind == "world model"


def test_it_is_a_variant_beside_the_encoders() -> None:
    for variant, encoder in (("proprio", "lowpass"), ("mae:proprio", "mae"), ("proprio:mae", "mae")):
        config = DINO_WM.configure({"encoder": "lowpass"}, variant)
        assert config.proprio and config.encoder == encoder
    assert not DINO_WM.configure({}, "mae").proprio and not DINO_WM.configure({}, None).proprio
    with pytest.raises(UserError, match="did you mean 'proprio'"):
        DINO_WM.configure({}, "propio")


def test_an_environment_without_it_is_a_mistake_in_one_line(setting: Setting, tmp_path: Path) -> None:
    numb: GoalEnv = make_toy(size=32)
    chosen = replace(setting, env=numb)
    for call in (DINO_WM.requirements, lambda s: DINO_WM.train(s, tmp_path), lambda s: DINO_WM.load(s, None)):
        with pytest.raises(UserError, match="names no proprioception") as caught:
            call(chosen)
        assert "\n" not in str(caught.value)
    DINO_WM.requirements(setting)


def test_a_misspelt_quantity_is_named(setting: Setting, monkeypatch) -> None:
    monkeypatch.setattr(FeelingEnv, "proprioception", ("here", "wieght"))
    with pytest.raises(UserError, match=r"no quantity of FeelingEnv named 'wieght'.*did you mean 'weight'"):
        DINO_WM.requirements(setting)
