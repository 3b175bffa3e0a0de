"""Probes: what they find where it was planted, what they do not find in noise, and that episodes do not leak."""

from __future__ import annotations

import numpy as np
import pytest
from planted import planted, planted_data
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from lewm_bench.understand.probes import (
    PENALTIES,
    PUBLISHED_PROBES,
    ProbeConfig,
    Split,
    mlp,
    prepared,
    principal,
    probe,
    read_out,
    ridge,
    scores,
    standardised,
)
from lewm_bench.understand.records import ProbeRow

SMALL = ProbeConfig(train_frames=400, test_frames=100, pixels=4, width=32, steps=600, patience=4, batch_size=64)
HERE = ("test",)


def split(features: np.ndarray, targets: np.ndarray, episodes: int) -> Split:
    """Rows dealt to episodes of equal length, in order."""
    return Split(features, targets, np.repeat(np.arange(episodes), len(features) // episodes))


def pair(function, rng: np.random.Generator, size: int = 8, frames: int = 1200) -> tuple[Split, Split]:
    """Independent normal features and a function of them, for training and testing."""
    parts = [rng.normal(size=(frames, size)) for _ in range(2)]
    train, test = (split(x, function(x), 40) for x in parts)
    return train, test._replace(episodes=test.episodes + 1000)


def rows_of(train: Split, test: Split, config: ProbeConfig = SMALL) -> dict[str, ProbeRow]:
    features = prepared(train.features, test.features, config.components)
    train, test = (part._replace(features=x) for part, x in zip((train, test), features, strict=True))
    return {row.kind: row for row in read_out("model", train, test, {"planted": slice(None)}, config, "test")}


def test_a_planted_linear_map_is_recovered() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 2))
    found = rows_of(*pair(lambda x: x @ weights + 3, rng))
    assert found["ridge"].r.value == pytest.approx(1, abs=1e-9) and found["ridge"].mse.value < 1e-9
    assert found["mlp"].r.value > 0.98
    assert found["ridge"].components == 2 and found["ridge"].n_train == found["ridge"].n_test == 1200
    assert found["ridge"].n_test_episodes == 40


def test_what_a_linear_map_leaves_over_is_the_noise() -> None:
    """mse = s^2 / (|w|^2 + s^2) and r = sqrt(1 - mse) for independent features of variance 1 and noise of deviation s."""
    rng = np.random.default_rng(1)
    weights, noise = rng.normal(size=(8, 1)), 1.5
    train, test = pair(lambda x: x @ weights + noise * rng.normal(size=(len(x), 1)), rng, frames=20_000)
    found = ridge(Split(*map(np.copy, train)), test.features, 5)
    mse, r = scores(found, test.targets, test.episodes, np.random.default_rng(0))
    variance = (weights**2).sum() + noise**2
    assert mse.value == pytest.approx(noise**2, rel=0.03)
    assert r.value == pytest.approx(np.sqrt(1 - noise**2 / variance), rel=0.01)
    assert mse.low < noise**2 < mse.high
    standard = rows_of(train, test, SMALL.model_copy(update={"steps": 1}))["ridge"]
    assert standard.mse.value == pytest.approx(noise**2 / variance, rel=0.03)


def walks(rng: np.random.Generator, episodes: int, steps: int, size: int) -> np.ndarray:
    """Features that resemble each other within an episode: half of their variance is the episode's."""
    own = rng.normal(size=(episodes, 1, size)) + rng.normal(size=(episodes, steps, size))
    return own.reshape(episodes * steps, size)


def test_noise_is_found_as_rarely_as_the_interval_promises() -> None:
    """Features and targets that have nothing to do with each other, each alike within an episode."""
    alarms, errors, trials = 0, [], 150
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        train, test = (split(walks(rng, 40, 10, 3), walks(rng, 40, 10, 1), 40) for _ in range(2))
        mse, r = scores(ridge(train, test.features, 5), test.targets, test.episodes, rng)
        alarms += not r.low <= 0 <= r.high
        errors.append(mse.value / test.targets.var())
    assert 0.01 <= alarms / trials <= 0.12  # 5 % promised; percentile intervals of 40 episodes are a little short
    assert np.mean(errors) == pytest.approx(1, abs=0.1)


def test_an_mlp_reads_what_is_not_linear() -> None:
    found = rows_of(*pair(lambda x: x[:, :1] * x[:, 1:2], np.random.default_rng(2), size=3))
    assert abs(found["ridge"].r.value) < 0.2 and found["mlp"].r.value > 0.8
    assert found["mlp"].mse.value < 0.4 < found["ridge"].mse.value


def test_knowing_the_episode_does_not_help() -> None:
    """A feature vector of its own for every episode reads training episodes perfectly; nothing of it holds elsewhere."""
    rng = np.random.default_rng(3)
    train, test = (
        split(np.repeat(rng.normal(size=(40, 40)), 30, 0), np.repeat(rng.normal(size=(40, 1)), 30, 0), 40)
        for _ in range(2)
    )
    for row in rows_of(train, test).values():
        assert row.r.low <= 0 <= row.r.high
        assert row.mse.value < 1.5 * test.targets.var()  # folds that share episodes end near 10


def test_ridge_is_sklearns_with_whole_episodes_held_out() -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(20, 1))
    train, test = pair(lambda x: x @ weights + 8 * rng.normal(size=(len(x), 1)), rng, size=20, frames=120)
    # The penalty counts per frame, of which a fold has fewer than the whole.
    errors = np.zeros(len(PENALTIES))
    for fit, held in GroupKFold(5).split(train.features, groups=train.episodes):
        for k, alpha in enumerate(PENALTIES):
            model = Ridge(alpha * len(fit)).fit(train.features[fit], train.targets[fit])
            errors[k] += ((model.predict(train.features[held]).reshape(-1, 1) - train.targets[held]) ** 2).sum()
    best = Ridge(PENALTIES[errors.argmin()] * len(train.features)).fit(train.features, train.targets)
    assert 0 < errors.argmin() < len(PENALTIES) - 1  # the choice is a choice
    np.testing.assert_allclose(ridge(train, test.features, 5), best.predict(test.features).reshape(-1, 1), rtol=1e-8)


def test_the_dual_form_is_the_primal_one() -> None:
    """More numbers than frames: in coordinates of the training frames' span nothing is lost."""
    rng = np.random.default_rng(5)
    train, test = pair(lambda x: x[:, :2] + rng.normal(size=(len(x), 2)), rng, size=300, frames=120)
    few, few_test = principal(train.features, test.features, 1000)
    assert few.shape[1] <= 120 < train.features.shape[1]
    np.testing.assert_allclose(
        ridge(train._replace(features=few), few_test, 5), ridge(train, test.features, 5), atol=1e-8
    )


def test_scale_and_offset_do_not_matter() -> None:
    rng = np.random.default_rng(6)
    train, test = pair(lambda x: np.tanh(x[:, :1]) + 0.3 * rng.normal(size=(len(x), 1)), rng)
    moved = [s._replace(features=1e-4 * s.features + 7, targets=100 * s.targets - 3) for s in (train, test)]
    plain, other = rows_of(train, test), rows_of(*moved)
    for kind, tolerance in (("ridge", 1e-6), ("mlp", 2e-2)):
        assert other[kind].r.value == pytest.approx(plain[kind].r.value, abs=tolerance)
        assert other[kind].mse.value == pytest.approx(plain[kind].mse.value, abs=tolerance)


def test_the_same_frames_again_make_no_interval_narrower() -> None:
    rng = np.random.default_rng(7)
    predicted, targets = rng.normal(size=(400, 2)), rng.normal(size=(400, 2))
    episodes = np.repeat(np.arange(20), 20)
    once = scores(predicted, targets, episodes, np.random.default_rng(0))
    thrice = scores(*(np.repeat(a, 3, 0) for a in (predicted, targets, episodes)), np.random.default_rng(0))
    for a, b in zip(once, thrice, strict=True):
        assert a.model_dump() == pytest.approx(b.model_dump())


def test_features_that_repeat_each_other_change_nothing() -> None:
    rng = np.random.default_rng(8)
    train, test = pair(lambda x: x[:, :1] + 0.1 * rng.normal(size=(len(x), 1)), rng)
    twice = [s._replace(features=np.tile(s.features, 3)) for s in (train, test)]
    plain, other = (ridge(a, b.features, 5) for a, b in ((train, test), twice))
    np.testing.assert_allclose(plain, other, atol=1e-2)


def test_scores_are_those_of_numpy() -> None:
    rng = np.random.default_rng(9)
    targets = rng.normal(size=(300, 3))
    predicted = targets + rng.normal(size=(300, 3)) * [0.1, 1, 3]
    mse, r = scores(predicted, targets, np.repeat(np.arange(30), 10), np.random.default_rng(0))
    assert mse.value == pytest.approx(((predicted - targets) ** 2).mean())
    assert r.value == pytest.approx(np.mean([np.corrcoef(predicted[:, k], targets[:, k])[0, 1] for k in range(3)]))
    assert mse.low < mse.value < mse.high and r.low < r.value < r.high


def test_the_interval_is_as_wide_as_means_of_episodes_vary() -> None:
    """For errors that are an episode's own, the standard error is that of as many independent episodes."""
    rng = np.random.default_rng(10)
    own = rng.normal(size=(200, 1))
    targets = np.repeat(own, 7, 0)
    mse, _ = scores(np.zeros_like(targets), targets, np.repeat(np.arange(200), 7), np.random.default_rng(0))
    error = (own**2).std() / np.sqrt(200)
    assert (mse.high - mse.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_a_prediction_that_does_not_vary_tells_nothing() -> None:
    targets = np.random.default_rng(11).normal(size=(100, 1))
    mse, r = scores(np.zeros((100, 1)), targets, np.repeat(np.arange(10), 10), np.random.default_rng(0))
    assert r.value == r.low == r.high == 0
    assert mse.value == pytest.approx((targets**2).mean())


def test_constant_components_are_left_out() -> None:
    rng = np.random.default_rng(12)
    train, test = pair(lambda x: np.column_stack([x[:, 0], np.full(len(x), 0.1)]), rng)
    assert {row.components for row in rows_of(train, test).values()} == {1}
    still = [s._replace(targets=np.full((len(s.features), 1), 0.1)) for s in (train, test)]
    assert not rows_of(*still)
    varies_in_one = test._replace(targets=still[1].targets)
    assert not rows_of(train._replace(targets=train.targets[:, :1]), varies_in_one)


def test_constant_features_tell_nothing() -> None:
    rng = np.random.default_rng(13)
    train, test = pair(lambda x: x[:, :1], rng)
    still = [s._replace(features=np.full_like(s.features, 0.7)) for s in (train, test)]
    for row in rows_of(*still).values():
        assert row.r.value == 0 and row.mse.value == pytest.approx(1, abs=0.2)


def test_features_are_standardised_by_training_frames_alone() -> None:
    train, test = standardised(np.array([[0.0, 5], [2, 5]]), np.array([[4.0, 6]]))
    np.testing.assert_allclose(train, [[-1], [1]])
    np.testing.assert_allclose(test, [[3]])


def test_an_mlp_goes_back_to_its_best_weights() -> None:
    """On noise it may not end anywhere but near the mean, however long it trains."""
    rng = np.random.default_rng(14)
    train, test = pair(lambda x: rng.normal(size=(len(x), 1)), rng, frames=200)
    predicted = mlp(train, test.features, SMALL.model_copy(update={"steps": 500, "patience": 100}), HERE)
    assert predicted.std() < 0.3


def test_large_features_are_reduced() -> None:
    """Most of what can be read stays where most of the variance is."""
    rng = np.random.default_rng(15)
    basis = rng.normal(size=(4, 200))
    train, test = pair(lambda x: x[:, :1], rng, size=4)
    wide = [s._replace(features=(s.features @ basis).astype(np.float32)) for s in (train, test)]
    assert prepared(wide[0].features, wide[1].features, 4)[0].shape[1] == 4
    config = SMALL.model_copy(update={"components": 4, "steps": 1})
    assert rows_of(*wide, config)["ridge"].r.value == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    return planted_data(tmp_path_factory.mktemp("probes"))


def test_probes_of_an_examined_model(dataset) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 5))
    examined = planted(dataset, lambda states: states @ weights)
    noise = planted(dataset, lambda states: np.random.default_rng(len(states)).normal(size=(len(states), 5)))
    config = SMALL.model_copy(update={"steps": 100})
    rows = probe(examined, noise, config)
    found = {(row.features, row.kind): row for row in rows}
    assert {row.quantity for row in rows} == {"position"}
    assert [f for f, _ in found][::2] == ["model", "random encoder", "pixels", "pixels, reduced"]
    assert found["model", "ridge"].r.value > 0.9999
    assert abs(found["random encoder", "ridge"].r.value) < 0.5
    assert 0.5 < found["pixels, reduced", "ridge"].r.value <= found["pixels", "ridge"].r.value
    assert found["model", "ridge"].n_test_episodes == len(dataset.episodes("test"))
    np.random.seed(1)
    assert probe(examined, noise, config) == rows
    assert {row.features for row in probe(examined, None, config)} == {"model", "pixels", "pixels, reduced"}


def test_quantities_beside_each_other_are_read_as_alone() -> None:
    """A quantity's penalty, prediction and streams are its own; constant columns between them move nothing."""
    rng = np.random.default_rng(16)
    train, test = pair(lambda x: np.column_stack([x[:, :2], np.ones(len(x)), rng.normal(size=len(x))]), rng)
    config = SMALL.model_copy(update={"steps": 50})
    places = {"near": slice(2), "still": slice(2, 3), "noise": slice(3, 4)}
    together = read_out("model", train, test, places, config, "test")
    for name, place in places.items():
        one, other = (part._replace(targets=part.targets[:, place]) for part in (train, test))
        alone = read_out("model", one, other, {name: slice(None)}, config, "test")
        shared = [row for row in together if row.quantity == name]
        assert len(alone) == len(shared) == (0 if name == "still" else 2)
        for a, b in zip(alone, shared, strict=True):
            assert (a.kind, a.components, a.n_train) == (b.kind, b.components, b.n_train)
            for which in ("r", "mse"):
                assert getattr(a, which).model_dump() == pytest.approx(getattr(b, which).model_dump(), abs=1e-9)


def test_floors_can_be_kept_and_the_models_own_rows_cannot(dataset) -> None:
    config = SMALL.model_copy(update={"steps": 20})
    examined, kept = planted(dataset, lambda s: s), {}

    def keep(name, features, find):
        assert [len(part) for part in features] == [400, 100] and name not in kept
        kept[name] = find()
        return kept[name]

    rows = probe(examined, examined, config, keep)
    assert list(kept) == ["random encoder", "pixels", "pixels, reduced"] and rows == probe(examined, examined, config)
    none = probe(examined, examined, config, lambda *_: ())
    assert none and {row.features for row in none} == {"model"}


def test_floors_do_not_depend_on_the_model(dataset) -> None:
    config = SMALL.model_copy(update={"steps": 20})
    one, other = (probe(planted(dataset, latent), None, config) for latent in (lambda s: s, lambda s: np.sin(5 * s)))
    assert [r for r in one if r.features == "pixels"] == [r for r in other if r.features == "pixels"]


def test_published_rows() -> None:
    """Two of them, typed once more from the paper's table."""
    found = {(p.env, p.quantity, p.kind, p.agent): (p.mse, p.r) for p in PUBLISHED_PROBES}
    assert found["lewm_bench/PushT-v0", "block_angle", "mlp", "lewm"] == (0.021, 0.990)
    assert found["lewm_bench/TwoRoom-v0", "position", "ridge", "dino-wm"] == (0.488, 0.824)
    assert len(found) == len(PUBLISHED_PROBES) == 21
