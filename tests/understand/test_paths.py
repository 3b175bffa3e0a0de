"""Straightness of paths whose straightness is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import SKIP, planted, planted_data

from lewm_bench.core.errors import UserError
from lewm_bench.train.diagnostics import straightness as logged_straightness
from lewm_bench.understand.paths import PathsConfig, cosines, straightness


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    return planted_data(tmp_path_factory.mktemp("paths"), episodes=100)


def test_a_line_is_straight() -> None:
    path = np.outer([0, 1, 3, 3.5, 7], [1.0, -2, 0.5])
    np.testing.assert_allclose(cosines(path), 1)
    np.testing.assert_allclose(cosines(path[[0, 1, 0, 1]]), -1)


@pytest.mark.parametrize("size", [2, 50])
def test_independent_velocities_have_no_common_direction(size: int) -> None:
    velocity = np.random.default_rng(0).normal(size=(20_000, size))
    assert cosines(velocity.cumsum(0)).mean() == pytest.approx(0, abs=4 / np.sqrt(20_000 * size))


def test_independent_positions_turn_back() -> None:
    """Velocities share a position with opposite signs: their correlation is -1/2, and so is the cosine in many dimensions."""
    positions = np.random.default_rng(0).normal(size=(2_000, 400))
    assert cosines(positions).mean() == pytest.approx(-0.5, abs=0.01)


@pytest.mark.parametrize("n", [3, 4, 12])
def test_a_circle_turns_by_its_angle(n: int) -> None:
    angle = 2 * np.pi * np.arange(n + 1) / n
    np.testing.assert_allclose(
        cosines(np.column_stack([np.cos(angle), np.sin(angle)])), np.cos(2 * np.pi / n), atol=1e-12
    )


def test_scale_rotation_and_offset_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    path, (rotation, _) = rng.normal(size=(30, 6)), np.linalg.qr(rng.normal(size=(6, 6)))
    np.testing.assert_allclose(cosines(1e-5 * path @ rotation + 3), cosines(path), atol=1e-6)


def test_pauses_have_no_direction() -> None:
    path = np.array([[0.0, 0], [1, 0], [1, 0], [2, 0], [2, 1], [2, 1]])
    np.testing.assert_allclose(cosines(path), [0])  # of steps 3 and 4, the only two in a row that move
    np.testing.assert_allclose(cosines(path, np.array([True, True, True, False, True])), [])
    assert not len(cosines(np.ones((5, 2))))


def test_it_is_the_quantity_that_training_logs() -> None:
    path = np.random.default_rng(2).normal(size=(8, 10, 5))
    expected = logged_straightness(torch.from_numpy(path)).item()
    assert np.mean([cosines(p).mean() for p in path]) == pytest.approx(expected)


def turns(dataset) -> list[np.ndarray]:
    """Cosines along test episodes in true positions, by the definition; pauses are where a frame repeats."""
    found = []
    for episode in (dataset[i] for i in dataset.episodes("test")):
        states, frames = episode.states[::SKIP], episode.frames[::SKIP]
        own = []
        for t in range(len(states) - 2):
            if (frames[t] != frames[t + 1]).any() and (frames[t + 1] != frames[t + 2]).any():
                a, b = states[t + 1] - states[t], states[t + 2] - states[t + 1]
                own.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        found.append(np.array(own))
    return found


def test_paths_of_an_examined_model(dataset) -> None:
    rng = np.random.default_rng(0)
    untrained = planted(dataset, lambda states: rng.normal(size=(len(states), 300)))
    rows = {r.features: r for r in straightness(planted(dataset, lambda s: 1e-3 * s), untrained, PathsConfig(pixels=8))}
    assert list(rows) == ["model", "random encoder", "pixels"]
    expected = [own for own in turns(dataset) if len(own)]
    assert len(expected) < len(dataset.episodes("test"))  # some of them stand still
    assert rows["model"].value.value == pytest.approx(np.concatenate(expected).mean(), abs=1e-3)
    assert {r.n_episodes for r in rows.values()} == {r.n_paths for r in rows.values()} == {len(expected)}
    for row in rows.values():
        assert row.value.low < row.value.value < row.value.high
    assert rows["random encoder"].value.value == pytest.approx(-0.5, abs=0.03)
    means = np.array([own.mean() for own in expected])
    error = means.std() / np.sqrt(len(means))
    assert (rows["model"].value.high - rows["model"].value.low) / 4 == pytest.approx(error, rel=0.5)


def test_paths_of_constant_latents_do_not_exist(dataset) -> None:
    rows = straightness(planted(dataset, lambda s: np.ones((len(s), 3))), None, PathsConfig())
    assert [r.features for r in rows] == ["pixels"]


def test_episodes_that_are_too_short(tmp_path) -> None:
    short = planted_data(tmp_path, episodes=10, steps=3)
    with pytest.raises(UserError, match=r"has 4 steps; raise collect\.steps"):
        straightness(planted(short, lambda s: s), None, PathsConfig())
