"""Maps: a planted plane comes back, planted groups stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from planted import planted, planted_data
from scipy.spatial import procrustes
from sklearn.manifold import trustworthiness

from lewm_bench.core.errors import UserError
from lewm_bench.understand.maps import MapsConfig, maps, pca, tsne


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    return planted_data(tmp_path_factory.mktemp("maps"))


def test_a_planted_plane_is_recovered_up_to_rotation() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * [2, 1]
    basis, _ = np.linalg.qr(rng.normal(size=(30, 2)))
    points, explained = pca(plane @ basis.T + 5)
    assert procrustes(plane, points)[2] < 1e-12
    variance = np.sort(np.linalg.eigvalsh(np.cov(plane.T)))[::-1]
    np.testing.assert_allclose(explained, variance / variance.sum())
    np.testing.assert_allclose(points.std(0), np.sqrt(variance * 199 / 200))


def test_the_second_component_of_one_number_is_zero() -> None:
    line = np.linspace(0, 1, 20)[:, None]
    points, explained = pca(line)
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(line[:, 0] - 0.5))
    assert explained == (1.0, 0.0) and not points[:, 1].any()
    drawn = tsne(line, 5)
    assert np.isfinite(drawn).all()
    np.random.seed(0)
    np.testing.assert_array_equal(tsne(line, 5), drawn)


def test_planted_groups_stay_apart() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(4), 30)
    latents = rng.normal(size=(4, 60))[group] * 4 + 0.3 * rng.normal(size=(120, 60))
    points = tsne(latents, 15)
    assert trustworthiness(latents, points, n_neighbors=5) >= 0.9
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(1)] == group).all()


def test_maps_of_an_examined_model(dataset) -> None:
    examined = planted(dataset, lambda s: 1e-4 * np.column_stack([s, s @ [1, 1], s @ [1, -1]]) + 1)
    config = MapsConfig(frames=80)
    flat, near = found = maps(examined, config)
    assert [m.method for m in found] == ["PCA", "t-SNE"]
    rows = examined.frames("test", 80)
    assert flat.quantity == near.quantity == "position"  # though `depth` comes first
    np.testing.assert_array_equal(flat.values, dataset.states[rows])
    assert procrustes(dataset.states[rows], np.array(flat.points))[2] < 1e-4
    assert sum(flat.explained) == pytest.approx(1, abs=1e-4) and near.explained is None
    assert trustworthiness(dataset.states[rows], np.array(near.points), n_neighbors=5) >= 0.9
    np.random.seed(3)
    assert maps(examined, config) == found


def test_the_quantity_can_be_chosen(dataset) -> None:
    examined = planted(dataset, lambda s: s)
    config = MapsConfig(frames=12, methods=("PCA",), quantity="depth")
    assert maps(examined, config)[0].quantity == "depth"
    with pytest.raises(UserError, match=r"no quantity of tests/Toy-v0 named 'positon'.*did you mean 'position'"):
        maps(examined, config.model_copy(update={"quantity": "positon"}))


def test_few_frames_and_constant_latents(dataset) -> None:
    assert len(maps(planted(dataset, lambda s: s), MapsConfig(frames=10))[1].points) == 10  # perplexity 30 is too much
    assert maps(planted(dataset, lambda s: np.full((len(s), 3), 0.1)), MapsConfig()) == ()
