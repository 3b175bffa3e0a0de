"""Violation of expectation: what the conditions share and where they part, and what the statistics may claim."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import PlanningAgent, Setting, embed_frames
from lewm_bench.agents.dino_wm import DINO_WM, DinoWMConfig
from lewm_bench.agents.parts.encoders import LocalConfig
from lewm_bench.core import statistics as stats
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.environments import make_env
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig
from lewm_bench.understand import surprise as voe
from lewm_bench.understand.model import ExaminedModel, examined_model
from lewm_bench.understand.records import Surprise
from lewm_bench.understand.surprise import MatchedClips, Scene, SurpriseConfig
from lewm_bench.understand.surprise_statistics import comparisons, roc, summarise

CPU = torch.device("cpu")
SKIP, HISTORY = 2, 3
CONFIG = SurpriseConfig(triples=40, before=1, after=2)  # clips of 7 frames, 12 steps; the fifth frame is the event's
EVENT, FRAMES = 4, 7
NAMES = ("untouched", "camera noise", "recoloured", "teleported")


class Actions:
    """What both models below do with actions: nothing."""

    history, frame_skip = HISTORY, SKIP

    def normalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        return actions

    denormalize_actions = normalize_actions


class Perfect(Actions):
    """The toy environment itself: latents are states."""

    def predict_next(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        state = latents[:, -1]
        for move in actions[:, -1].double().unflatten(-1, (SKIP, 2)).unbind(1):
            state = (state + 0.1 * move.clamp(-1, 1)).clamp(-1, 1)
        return state


class Knowing(PlanningAgent):
    """Encodes by looking at the states, as agents with proprioception do."""

    def encode(self, frames: torch.Tensor, states: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(states)


class Pixels(Actions):
    """Random projections of the frame to latents of two tokens; predicts a mix of the window and the action."""

    def __init__(self) -> None:
        rng = stream(0, "test", "pixels")
        self.projection = torch.from_numpy(rng.normal(size=(3 * 16 * 16, 8)).astype(np.float32) / 30)
        self.action = torch.from_numpy(rng.normal(size=(SKIP * 2, 8)).astype(np.float32) / 10)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.tanh(frames.flatten(2).float() / 255 @ self.projection).unflatten(-1, (2, 4))

    def predict_next(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor([0.1, -0.3, 1.2])[:, None, None]
        return (weights * latents).sum(1) + (actions[:, -1] @ self.action).unflatten(-1, (2, 4))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = CollectConfig(
        episodes=40, steps=27, policies={"drift": 0.5, "jitter": 0.5}, train=0.25, val=0.25, test=0.5
    )
    return collect(make_toy(), config, 0, tmp_path_factory.mktemp("data") / "toy", progress=False)


@pytest.fixture(scope="module")
def pixels(data: Dataset) -> ExaminedModel:
    model = Pixels()
    return ExaminedModel(make_toy(), TOY_ID, data, model, embed_frames(model, CPU), CPU, "pixels", 0)


@pytest.fixture(scope="module")
def perfect(pixels: ExaminedModel) -> ExaminedModel:
    model = Perfect()
    return replace(pixels, model=model, planner=Knowing(model, PlannerConfig(), CPU))


@pytest.fixture(scope="module")
def clips(pixels: ExaminedModel) -> np.ndarray:
    return voe.clips(pixels, CONFIG)[0]


@pytest.fixture(scope="module")
def matched(pixels: ExaminedModel, clips: np.ndarray) -> MatchedClips:
    return voe.matched_clips(pixels, clips, CONFIG, voe.least_distance(pixels, CONFIG))


# Which clips.


def test_clips_lie_in_test_episodes_share_no_block_and_come_from_all_episodes_first(pixels: ExaminedModel) -> None:
    data = pixels.dataset
    rows, episodes = voe.clips(pixels, CONFIG)
    assert rows.shape == (40, FRAMES) and (np.diff(rows) == SKIP).all()
    assert (data.starts[episodes] <= rows[:, 0]).all() and (rows[:, -1] < data.ends[episodes]).all()
    assert sorted(set(episodes)) == data.episodes("test").tolist()
    used = [first + step for first in rows[:, 0] for step in range((FRAMES - 1) * SKIP)]
    assert len(set(used)) == len(used), "two clips share an action"
    for count in (7, 20, 33):
        some, of = voe.clips(pixels, CONFIG.model_copy(update={"triples": count}))
        assert np.array_equal(some, rows[:count]) and len(set(of)) == min(count, 20)
    assert len(set((rows[:, 0] - data.starts[episodes]).tolist())) > 3, "not always at the same time"
    assert np.array_equal(voe.clips(replace(pixels, seed=5, agent="other"), CONFIG)[0], rows), "the same for all agents"


def test_no_room_for_clips_is_said_in_one_line(pixels: ExaminedModel) -> None:
    with pytest.raises(UserError, match=r"two test episodes of 46 steps in tests/Toy-v0; raise collect"):
        voe.examine_surprise(pixels, CONFIG.model_copy(update={"after": 19}))


# What the conditions share, and where they part.


def test_the_past_is_the_recorded_one_and_the_event_is_the_first_difference(
    pixels: ExaminedModel, clips: np.ndarray, matched: MatchedClips
) -> None:
    data = pixels.dataset
    assert tuple(matched.futures) == NAMES and np.array_equal(matched.rows, clips)
    assert np.array_equal(matched.past.frames, data.frames[clips[:, :EVENT]])
    assert np.array_equal(matched.past.states, data.states[clips[:, :EVENT]])
    plain = matched.futures["untouched"]
    assert np.array_equal(plain.frames, data.frames[clips[:, EVENT:]])
    for name in NAMES[1:]:
        frames = matched.futures[name].frames
        assert frames.dtype == np.uint8 and frames.shape == plain.frames.shape
        assert (frames[:, 0] != plain.frames[:, 0]).any((1, 2, 3)).all(), f"{name} begins later than the event"
    for name in NAMES[:3]:
        assert np.array_equal(matched.futures[name].states, data.states[clips[:, EVENT:]])


def test_the_recoloured_member_shows_the_same_states_in_other_colours(
    pixels: ExaminedModel, matched: MatchedClips
) -> None:
    for n, scene in enumerate(matched.futures["recoloured"].frames):
        assert np.array_equal(scene, pixels.env.recolored(matched.futures["untouched"].states[n]))


def test_the_camera_noise_has_its_deviation_and_hits_every_pixel_alone(
    pixels: ExaminedModel, matched: MatchedClips
) -> None:
    grey = np.full((30, 2, 16, 16, 3), 128, np.uint8)
    rngs = [stream(0, "test", n) for n in range(30)]
    noise = (voe.noisy(grey, 0.05, rngs).astype(float) - 128) / 255
    assert noise.std() == pytest.approx(0.05, rel=0.02) and abs(noise.mean()) < 0.001
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.03
    bright = voe.noisy(np.full((1, 8, 8, 3), 255, np.uint8), 0.3, [stream(0, "test")])
    assert bright.max() == 255 and (bright == 255).mean() > 0.4, "clipped, not wrapped"


def test_after_the_jump_the_simulator_obeys_the_recorded_actions(
    pixels: ExaminedModel, clips: np.ndarray, matched: MatchedClips
) -> None:
    env, states = make_toy(), matched.futures["teleported"].states
    for n, rows in enumerate(clips):
        env.set_state(states[n, 0])
        for t, row in enumerate(rows[EVENT:-1], 1):
            for action in pixels.dataset.actions[row : row + SKIP]:
                env.advance(action)
            assert np.array_equal(env.get_state(), states[n, t])
        assert np.array_equal(env.render(), matched.futures["teleported"].frames[n, -1])


def test_a_teleport_leads_farther_than_blocks_go_and_than_the_set_distance(
    pixels: ExaminedModel, matched: MatchedClips
) -> None:
    data, jumps = pixels.dataset, matched.futures
    far = pixels.env.distance(jumps["teleported"].states[:, 0], jumps["untouched"].states[:, 0])
    ways = [
        np.linalg.norm(e.states[t + SKIP] - e.states[t])
        for e in (data[int(k)] for k in data.episodes("test"))
        for t in range(len(e.actions) - SKIP + 1)
    ]
    usual = sorted(ways)[int(0.99 * len(ways))]
    assert far.min() > max(3 * 0.1, usual * 0.999) and len(np.unique(far)) == len(far)
    wide = CONFIG.model_copy(update={"min_distance": 9.0})
    assert voe.least_distance(pixels, wide) == pytest.approx(0.9)
    by_blocks = CONFIG.model_copy(update={"min_distance": 0.0, "min_blocks": 2.0})
    assert voe.least_distance(pixels, by_blocks) == pytest.approx(2 * np.percentile(ways, 99))


def test_a_teleport_is_drawn_again_by_its_own_generator_until_it_is_far(pixels: ExaminedModel) -> None:
    states = np.zeros((12, 2))
    found = voe.teleported(pixels.env, states, [stream(0, "t", n) for n in range(12)], 0.8)
    for n in range(12):
        rng = stream(0, "t", n)
        draws = (pixels.env.sample_state(rng) for _ in range(100))
        assert np.array_equal(next(d for d in draws if np.linalg.norm(d) > 0.8), found[n])
    with pytest.raises(UserError, match=r"farther than 3 box half-widths in 1000 draws; lower understanding.surprise"):
        voe.teleported(pixels.env, states, [stream(0, "t", n) for n in range(12)], 3.0)


def test_a_clip_does_not_depend_on_those_beside_it(
    pixels: ExaminedModel, clips: np.ndarray, matched: MatchedClips
) -> None:
    alone = voe.matched_clips(pixels, clips[17:18], CONFIG, voe.least_distance(pixels, CONFIG))
    for name, scene in alone.futures.items():
        assert np.array_equal(scene.states[0], matched.futures[name].states[17])
        assert np.array_equal(scene.frames[0], matched.futures[name].frames[17])
    whole, *others = (voe.surprises(pixels, clips, CONFIG, piece) for piece in (40, 1, 7))
    for other, name in product(others, NAMES):
        np.testing.assert_allclose(other[name], whole[name], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["PointMaze-UMaze", "TwoRoom", "Wall", "PushT", "Reacher"])
def test_every_environment_can_be_examined(name: str, tmp_path: Path, pixels: ExaminedModel) -> None:
    try:
        env = make_env(f"lewm_bench/{name}-v0", 16)
        env.render_states(env.sample_state(stream(0, "test"))[None])
    except NotRun as error:
        pytest.skip(str(error))
    config = CollectConfig(episodes=4, steps=14, policies={"ornstein_uhlenbeck": 1.0}, train=0.25, val=0.25, test=0.5)
    examined = replace(pixels, env=env, env_id=name, dataset=collect(env, config, 0, tmp_path / "data", progress=False))
    found = voe.surprises(examined, voe.clips(examined, CONFIG)[0], CONFIG)
    assert all(found[name].shape == (2, FRAMES - HISTORY) and np.isfinite(found[name]).all() for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("proprio", [False, True])
def test_dino_wm_is_examined_by_its_tokens_and_by_what_it_senses(proprio: bool, tmp_path: Path) -> None:
    env = make_env("lewm_bench/PointMaze-UMaze-v0", 32)
    config = CollectConfig(episodes=4, steps=14, policies={"ornstein_uhlenbeck": 1.0}, train=0.25, val=0.25, test=0.5)
    data, train = collect(env, config, 0, tmp_path / "data", progress=False), TrainConfig(steps=2, batch_size=2)
    local = LocalConfig(width=16, depth=1, heads=2, channels=8, scales=(4, 10), train=train)
    sizes = {"width": 16, "depth": 1, "heads": 2, "head_size": 8, "mlp_hidden": 32, "frame_skip": SKIP}
    config = DinoWMConfig(encoder="lowpass", local=local, proprio=proprio, train=train, **sizes)
    name, store = "dino-wm:proprio" if proprio else "dino-wm", Store(tmp_path / "cache")
    setting = Setting(env, "PointMaze", name, data, "key", config, PlannerConfig(), 0, CPU, store)
    DINO_WM.train(setting, tmp_path / "model")
    examined = examined_model(setting, DINO_WM.load(setting, tmp_path / "model"))
    rows, _ = voe.clips(examined, CONFIG)
    clips = voe.matched_clips(examined, rows, CONFIG, 0.5)
    assert voe.encode(examined, clips.past).shape == (len(rows), EVENT, 4, 8 + 10 * proprio)
    found = voe.surprise_of(examined, clips)
    assert all(values.shape == (len(rows), FRAMES - HISTORY) for values in found.values())
    assert (found["teleported"][:, 1] > found["untouched"][:, 1]).all()


# Surprise.


def test_surprise_is_the_mean_squared_error_of_the_next_latent(pixels: ExaminedModel, matched: MatchedClips) -> None:
    """Against a plain loop over clips, steps and numbers."""
    model, found = pixels.model, voe.surprise_of(pixels, matched)
    for name, n in product(NAMES, (0, 11)):
        frames = np.concatenate([matched.past.frames[n], matched.futures[name].frames[n]])
        flat = np.moveaxis(frames, -1, 1).reshape(FRAMES, -1) / 255
        z = np.tanh(flat @ model.projection.double().numpy())  # (T, 8)
        for k in range(FRAMES - HISTORY):
            first = matched.rows[n, k + HISTORY - 1]
            block = pixels.dataset.actions[first : first + SKIP].ravel() @ model.action.numpy()
            guess = 0.1 * z[k] - 0.3 * z[k + 1] + 1.2 * z[k + 2] + block
            assert found[name][n, k] == pytest.approx(((guess - z[k + HISTORY]) ** 2).mean(), rel=1e-4)


def test_before_the_event_all_conditions_surprise_alike_to_the_bit(
    pixels: ExaminedModel, matched: MatchedClips
) -> None:
    found = voe.surprise_of(pixels, matched)
    for name in NAMES[1:]:
        assert np.array_equal(found[name][:, :1], found["untouched"][:, :1])
        assert (found[name][:, 1] != found["untouched"][:, 1]).all()


def test_a_perfect_model_is_surprised_by_the_jump_alone_and_by_its_length(perfect: ExaminedModel) -> None:
    rows, _ = voe.clips(perfect, CONFIG)
    found = voe.surprises(perfect, rows, CONFIG)
    jumps = voe.matched_clips(perfect, rows, CONFIG, voe.least_distance(perfect, CONFIG)).futures
    far = perfect.env.distance(jumps["teleported"].states[:, 0], jumps["untouched"].states[:, 0])
    for name in NAMES:
        expected = np.zeros((40, 4))
        if name == "teleported":
            expected[:, 1] = far**2 / 2  # mean over the two numbers of the state
        np.testing.assert_allclose(found[name], expected, atol=1e-12)
    record = voe.examine_surprise(perfect, CONFIG)
    tests = {test.condition: test for test in record.tests}
    for name in ("recoloured", "camera noise"):  # nothing changed at all, so nothing is claimed
        assert (tests[name].p, tests[name].p_holm, tests[name].p_sign_flip) == (1, 1, 1)
        assert tests[name].difference.value == tests[name].effect_size == 0 and tests[name].auc.value == 0.5
    assert tests["teleported"].p_holm < 1e-4 and tests["teleported"].auc.value == 1
    assert record.recolour_to_teleport.value == 0 and record.teleport_against_recolour.value == 1


def test_the_record_says_what_was_counted_and_is_the_same_every_time(pixels: ExaminedModel) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = voe.examine_surprise(pixels, CONFIG)
    assert voe.examine_surprise(replace(pixels, seed=3), CONFIG) == found
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert Surprise.model_validate_json(found.model_dump_json()) == found
    assert (found.n, found.n_episodes, found.context) == (40, 20, HISTORY)
    assert [curve.condition for curve in found.curves] == list(NAMES)
    assert all(curve.steps == (-1, 0, 1, 2) for curve in found.curves)
    assert [test.condition for test in found.tests] == list(NAMES[1:])
    assert list(found.detection) == [*NAMES[1:], "teleported against recoloured"]
    assert next(t for t in found.tests if t.condition == "teleported").p_holm < 0.01, "the toy's jump is seen"


# What is made of surprises.


def synthetic(rng: np.random.Generator, shift: float = 0.0, per: int = 2) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Skewed surprises of 30 episodes; an episode is easier in one condition than in another for all its clips."""
    episodes = np.repeat(np.arange(30), per)
    shared = rng.gamma(2.0, size=30 * per)

    def condition() -> np.ndarray:
        own = 0.7 * rng.gamma(2.0, size=30)[episodes]
        return (shared + own + 0.3 * rng.gamma(2.0, size=30 * per))[:, None]

    return {name: condition() + (shift if name == "teleported" else 0.0) for name in NAMES}, episodes


def false_alarms(repetitions: int, per: int) -> np.ndarray:
    """(repetitions, 4) of a null: the t-test and sign flips over episodes, any of three after Holm, and the t-test that
    takes clips for independent."""
    out = []
    for k in range(repetitions):
        found, episodes = synthetic(stream(k, "test", "null", per), per=per)
        differences = [found[name][:, 0] - found["untouched"][:, 0] for name in NAMES[1:]]
        units = [stats.cluster_means(d, episodes) for d in differences]
        p = [stats.paired_t(u).p for u in units]
        flips = stats.sign_flip_p(units[0], stream(k, "test", "flips"), 399)
        out.append((p[0], flips, min(stats.holm(p)), stats.paired_t(differences[0]).p))
    return np.array(out)


def test_tests_raise_false_alarms_in_five_percent_of_nulls() -> None:
    low, high = stats.binomial_range(0.05, 600, 0.999)
    alarms = (false_alarms(600, per=4) < 0.05).mean(0)
    assert low <= alarms[0] <= high and low <= alarms[1] <= high, alarms
    assert alarms[2] <= high, "the three tests together, corrected"
    assert alarms[3] > high, "clips of one episode are not independent, and the nulls show it"


def test_untouched_against_another_picture_of_untouched_raises_few_alarms(
    pixels: ExaminedModel, clips: np.ndarray, matched: MatchedClips
) -> None:
    """The whole way from frames to p, in the toy environment: two recordings of the same states by a noisy camera."""
    event, episodes = matched.futures["untouched"], pixels.episodes_of(clips[:, 0])
    event, repetitions = Scene(event.states[:, :1], event.frames[:, :1]), 300
    rows, p = clips[:, : EVENT + 1], []

    def again(k: int, name: str) -> Scene:
        rngs = [stream(k, "test", name, n) for n in range(len(rows))]
        return Scene(event.states, voe.noisy(event.frames, 0.05, rngs))

    for k in range(repetitions):
        pair = MatchedClips(rows, matched.past, {"untouched": again(k, "one"), "recoloured": again(k, "another")})
        found = voe.surprise_of(pixels, pair)
        units = stats.cluster_means((found["recoloured"] - found["untouched"])[:, CONFIG.before], episodes)
        p.append((stats.paired_t(units).p, stats.sign_flip_p(units, stream(k, "test", "flip"), 199)))
    low, high = stats.binomial_range(0.05, repetitions, 0.999)
    alarms = (np.array(p) < 0.05).mean(0)
    assert (low <= alarms).all() and (alarms <= high).all(), alarms


def test_a_planted_effect_is_found() -> None:
    hits = []
    for k in range(40):
        found, episodes = synthetic(stream(k, "test", "power"), shift=1.2)
        units = stats.cluster_means((found["teleported"] - found["untouched"])[:, 0], episodes)
        hits.append(3 * stats.paired_t(units).p < 0.01)
    assert np.mean(hits) > 0.9


def test_comparisons_against_scipy_sklearn_and_a_hand_made_holm() -> None:
    found, episodes = synthetic(stream(0, "test", "record"), shift=0.9)
    event = {name: values[:, 0] for name, values in found.items()}
    tests = {test.condition: test for test in comparisons(event, episodes)}
    p = {}
    for name, test in tests.items():
        ours, theirs = (event[k].reshape(30, 2).mean(1) for k in (name, "untouched"))
        expected = scipy.stats.ttest_rel(ours, theirs)
        assert test.p == pytest.approx(expected.pvalue, rel=1e-9) and test.n == 60
        limits = expected.confidence_interval()
        found_limits = test.difference.low, test.difference.high
        assert found_limits == pytest.approx((limits.low, limits.high)), name
        difference = event[name] - event["untouched"]
        assert test.difference.value == pytest.approx(difference.mean())
        assert test.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))
        labels = np.repeat([1, 0], 60)
        scores = np.concatenate([event[name], event["untouched"]])
        assert test.auc.value == pytest.approx(roc_auc_score(labels, scores))
        assert test.auc.low < test.auc.value < test.auc.high
        assert test.p_sign_flip == pytest.approx(test.p, abs=0.03)
        p[name] = test.p
    first, second, third = sorted(p, key=p.get)
    assert tests[first].p_holm == pytest.approx(min(3 * p[first], 1))
    assert tests[second].p_holm == pytest.approx(min(max(3 * p[first], 2 * p[second]), 1))
    assert tests[third].p_holm == pytest.approx(min(max(3 * p[first], 2 * p[second], p[third]), 1))


def test_curves_ratio_and_detection_of_a_record() -> None:
    rng = stream(0, "test", "curves")
    episodes = np.repeat(np.arange(25), [1, 3] * 12 + [2])  # some episodes gave more clips
    plain = rng.gamma(3.0, size=(len(episodes), 3))
    found = {name: plain.copy() for name in NAMES}
    found["recoloured"][:, 1] += 0.5 * (jump := rng.gamma(9.0, size=len(episodes)))
    found["teleported"][:, 1] += jump
    record = summarise(found, episodes, before=1, context=HISTORY)
    by_episode = [plain[episodes == e].mean(0) for e in range(25)]
    untouched = record.curves[0]
    np.testing.assert_allclose(untouched.mean, np.mean(by_episode, 0))
    error = np.std(by_episode, 0, ddof=1) / 5
    np.testing.assert_allclose(np.subtract(untouched.high, untouched.low), 2 * 1.96 * error, rtol=0.15)
    assert (np.array(untouched.low) < untouched.mean).all() and untouched.steps == (-1, 0, 1)
    ratio = record.recolour_to_teleport
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5)), "half of it in every clip"
    assert record.n == len(episodes) and record.n_episodes == 25
    expected = roc_auc_score(np.repeat([1, 0], len(episodes)), [*found["teleported"][:, 1], *found["recoloured"][:, 1]])
    assert record.teleport_against_recolour.value == pytest.approx(expected)
    points = np.array(record.detection["teleported against recoloured"])
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(expected)
    assert all(false == true for false, true in record.detection["camera noise"]) and record.tests[0].auc.value == 0.5


def test_detection_curves_rise_from_corner_to_corner_over_their_area() -> None:
    rng = stream(0, "test", "roc")
    positive, negative = rng.integers(3, 12, 50).astype(float), rng.integers(0, 9, 70).astype(float)
    points = np.array(roc(positive, negative))
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1] and (np.diff(points, axis=0) >= 0).all()
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(stats.auc(positive, negative))
    for threshold in range(13):  # every threshold lies on the curve
        false, true = (negative >= threshold).mean(), (positive >= threshold).mean()
        here = np.interp(false, points[:, 0], points[:, 1])
        assert true <= here + 1e-9, "below or on the curve: points between two others are left out"


# The statistics, one by one.


@pytest.mark.parametrize("n", [2, 5, 60])
def test_paired_t_agrees_with_scipy(n: int) -> None:
    rng = stream(n, "test", "t")
    ours, theirs = rng.normal(0.4, 1, n), rng.normal(0, 2, n)
    found, expected = stats.paired_t(ours - theirs, 0.9), scipy.stats.ttest_rel(ours, theirs)
    limits = expected.confidence_interval(0.9)
    assert found == pytest.approx(((ours - theirs).mean(), limits.low, limits.high, expected.pvalue), rel=1e-9)
    assert stats.cohens_dz(ours - theirs) * np.sqrt(n) == pytest.approx(expected.statistic)


def test_paired_t_without_variance_claims_nothing_or_everything() -> None:
    assert stats.paired_t(np.zeros(5)) == (0, 0, 0, 1) and stats.cohens_dz(np.zeros(5)) == 0
    assert stats.paired_t(np.full(5, -2.0)).p == 0 and stats.cohens_dz(np.full(5, -2.0)) == -np.inf
    with pytest.raises(ValueError, match="at least two"):
        stats.paired_t(np.ones(1))


def test_sign_flips_are_the_exact_permutation_test_where_that_is_possible() -> None:
    for n in (1, 4, 9):
        values = stream(n, "test", "flip").normal(0.7, 1, n)
        sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=n)]
        expected = np.mean([s >= abs(values.sum()) - 1e-9 for s in sums])
        assert stats.sign_flip_p(values, stream(0, "test"), 1000) == pytest.approx(expected)
        drawn = stats.sign_flip_p(values, stream(0, "test"), 2**n - 1) if n > 4 else expected
        assert drawn == pytest.approx(expected, abs=0.08), "random flips estimate it"
    many = stats.sign_flip_p(stream(0, "test", "m").normal(0.2, 1, 80), stream(1, "test"), 4321)
    assert many == pytest.approx(stats.paired_t(stream(0, "test", "m").normal(0.2, 1, 80)).p, abs=0.02)
    assert stats.sign_flip_p(np.ones(80), stream(0, "test"), 999) == 1 / 1000, "the data are one of the flips"
    assert stats.sign_flip_p(np.zeros(80), stream(0, "test"), 99) == 1


def test_cluster_means_are_those_of_a_loop() -> None:
    rng = stream(0, "test", "clusters")
    values, clusters = rng.normal(size=(20, 3)), rng.choice([2, 5, 11], 20)
    expected = [values[clusters == c].mean(0) for c in (2, 5, 11)]
    np.testing.assert_allclose(stats.cluster_means(values, clusters), expected)


def test_auc_agrees_with_sklearn_also_with_ties() -> None:
    rng = stream(0, "test", "auc")
    for values in (rng.normal(size=60), rng.integers(0, 5, 60).astype(float), np.ones(60)):
        positive, negative = values[:25] + rng.integers(2), values[25:]
        labels = np.repeat([1, 0], [25, 35])
        expected = roc_auc_score(labels, np.concatenate([positive, negative]))
        assert stats.auc(positive, negative) == pytest.approx(expected)


def test_the_interval_of_an_auc_is_that_of_drawn_clusters() -> None:
    """Against resamples made one by one, where clusters differ so much that the least interval plays no part."""
    rng = stream(0, "test", "clustered")
    clusters = np.repeat(np.arange(12), [1, 4, 2, 5, 3, 3, 1, 4, 2, 5, 3, 3])
    effect = rng.choice([-2.0, 2.5], 12)[clusters]  # raises one side and lowers the other, so the two vary together
    positive, negative = rng.normal(size=36) + effect, rng.normal(size=36) - effect
    found = stats.clustered_auc(positive, negative, clusters, stream(1, "test"))
    draws = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in rng.integers(12, size=12)])
        draws.append((positive[rows][:, None] > negative[rows]).mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    least = stats.newcombe_auc(found.value, 12)
    assert found.low < least.low and found.high > least.high


def test_the_interval_of_an_auc_is_never_empty() -> None:
    """Neither where everything is tied nor where nothing overlaps, and no resample differs."""
    clusters, rising = np.repeat(np.arange(20), 2), np.arange(40.0)
    tied = stats.clustered_auc(np.ones(40), np.ones(40), clusters, stream(0, "test"))
    assert tied == pytest.approx(stats.newcombe_auc(0.5, 20)) and tied.low < 0.45 and tied.high > 0.55
    apart = stats.clustered_auc(rising + 40, rising, clusters, stream(0, "test"))
    assert apart == pytest.approx(stats.newcombe_auc(1.0, 20)) and apart.low < 0.95


def test_the_interval_of_an_auc_covers_the_truth() -> None:
    truth = scipy.stats.norm.cdf(1.5 / np.sqrt(2 * 1.5))  # of two normals of variance 1.5, 1.5 apart
    clusters, inside = np.repeat(np.arange(25), 2), []
    for k in range(300):
        rng = stream(k, "test", "coverage")
        shared = [np.sqrt(0.5) * rng.normal(size=25)[clusters] for _ in range(2)]
        positive, negative = rng.normal(1.5, 1, 50) + shared[0], rng.normal(0, 1, 50) + shared[1]
        found = stats.clustered_auc(positive, negative, clusters, rng, resamples=400)
        inside.append(found.low <= truth <= found.high)
    assert np.mean(inside) >= stats.binomial_range(0.95, 300, 0.999)[0]


@pytest.mark.parametrize(("value", "n"), [(0.5, 10), (0.93, 60), (0.08, 25), (1.0, 60), (0.0, 5)])
def test_newcombes_limits_are_z_errors_away_at_the_limits(value: float, n: int) -> None:
    found = stats.newcombe_auc(value, n)
    for limit in {found.low, found.high} - {0.0, 1.0}:
        first, second = limit / (2 - limit), 2 * limit**2 / (1 + limit)  # Hanley and McNeil's Q1 and Q2
        spread = (n - 1) * (first - limit**2) + (n - 1) * (second - limit**2)
        variance = (limit * (1 - limit) + spread) / n**2
        assert abs(value - limit) == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)
    assert found.low <= value <= found.high and found.high - found.low > 0.01
    assert found.low > 0.9 or (value, n) != (1.0, 60)


def test_the_ratio_of_means_has_fiellers_interval_and_none_to_nothing() -> None:
    rng = stream(0, "test", "ratio")
    below = rng.normal(3, 1, 200)
    above = 0.6 * below + rng.normal(0, 0.5, 200)
    found = stats.ratio_of_means(above, below, stream(1, "test"))
    ratio = above.mean() / below.mean()
    error = np.std(above - ratio * below, ddof=1) / np.sqrt(200) / below.mean()
    assert found == pytest.approx((ratio, ratio - 1.96 * error, ratio + 1.96 * error), abs=0.15 * error)
    assert stats.ratio_of_means(above, rng.normal(0, 1, 200), stream(1, "test")) is None
    assert stats.ratio_of_means(above, np.zeros(200), stream(1, "test")) is None
