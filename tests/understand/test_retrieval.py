"""Retrieval of goals against counts by hand and closed forms, on walks that are known to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_walks import SKIP, Constant, Tokens, Walk, Watchful, dataset, knowing, walks

from lewm_bench.core.errors import UserError
from lewm_bench.understand.retrieval import RetrievalConfig, found, retrieval

RAGGED = [25, 31, 40, 18, 22, 27, 33, 40, 21, 50, 36, 29]
CONFIG = RetrievalConfig(clips=20, horizon=4)


def straight(lengths: list[int], held_out: int, apart: float = 100.0):
    """Walks along x at a constant pace, each on a height of its own: no two frames are alike."""
    states = [np.column_stack([np.arange(n) / 4.0, np.full(n, apart * i)]) for i, n in enumerate(lengths)]
    actions = [np.tile([[0.25, 0.0]], (n - 1, 1)) for n in lengths]
    return dataset(states, actions, held_out)


def values(intervals) -> list[float]:
    return [each.value for each in intervals]


def test_the_true_dynamics_find_the_very_frame() -> None:
    examined = knowing(straight(RAGGED, 8), Watchful())
    got = retrieval(examined, None, CONFIG)
    assert got.horizons == (1, 2, 3, 4) and got.within == SKIP and got.n == 20 and got.n_episodes == 8
    assert values(got.exact) == values(got.near) == [1] * 4
    clips = examined.clips("test", Walk.history + 4, 20)
    candidates, ends = np.unique(clips), examined.dataset.ends
    assert got.candidates == len(candidates) and got.exact_chance == 1 / len(candidates)
    shares = []
    for goal in clips[:, Walk.history :].ravel():
        hits = [c for c in candidates if abs(c - goal) <= SKIP and (ends <= c).sum() == (ends <= goal).sum()]
        shares.append(len(hits))
    assert got.near_chance == pytest.approx(np.mean(shares) / len(candidates))
    assert got.frames_chance == pytest.approx((np.mean(shares) - 1) / (len(candidates) - 1))
    model, pixels = got.frames
    assert model.features == "model" and model.near.value == 1  # a neighbour in time is one in space
    assert pixels.features == "pixels" and pixels.near.value == pytest.approx(got.frames_chance)  # frames all alike


@pytest.mark.parametrize("kind", [(), (Tokens,)])
def test_a_model_that_is_a_block_off_is_near_and_never_exact(kind) -> None:
    """A bias of one block's way per block: nearest is the frame k blocks behind the goal."""
    way = SKIP * 0.25
    got = retrieval(
        knowing(straight([60] * 6, 4), Walk(torch.tensor([[way], [0.0]]) if kind else torch.tensor([way, 0.0])), *kind),
        None,
        RetrievalConfig(clips=400, horizon=3),
    )
    # Every frame of every held-out episode but the first and last few is a candidate.
    assert got.exact[0].value < 0.05 and got.near[0].value > 0.95
    assert got.near[1].value < 0.1 and got.near[2].value < 0.1


def test_equal_latents_score_as_chance_does() -> None:
    data = walks(RAGGED, held_out=8)
    still = dataset([np.zeros_like(e.states) for e in data], [e.actions for e in data], 8)
    got = retrieval(knowing(still, Constant(torch.zeros(2))), None, CONFIG)
    assert values(got.exact) == pytest.approx([got.exact_chance] * 4)
    assert np.mean(values(got.near)) == pytest.approx(got.near_chance)
    assert got.frames[0].near.value == pytest.approx(got.frames_chance)


def test_untrained_networks_stand_beside_and_the_same_is_found_twice() -> None:
    examined = knowing(walks(RAGGED, held_out=8), Watchful())
    got = retrieval(examined, examined, CONFIG)
    assert [each.features for each in got.frames] == ["model", "random encoder", "pixels"]
    assert got.frames[0].near == got.frames[1].near and got == retrieval(examined, examined, CONFIG)
    assert all(each.low <= each.value <= each.high for each in (*got.near, *got.exact))


def test_the_nearest_share_their_count() -> None:
    features = torch.tensor([[0.0], [1.0], [1.0], [5.0]])
    queries = torch.tensor([[0.9], [4.0], [1.0]])
    wanted = np.array([[False, True, False, False], [True, False, False, False], [False, False, False, True]])
    assert found(queries, features, wanted).tolist() == [0.5, 0, 0]
    others = np.array([[True] * 4, [True] * 4, [False, False, False, True]])
    assert found(queries, features, wanted, others).tolist() == [0.5, 0, 1]


def test_short_episodes_say_so() -> None:
    with pytest.raises(UserError, match="end within the model's context"):
        retrieval(knowing(walks([30, 4, 4, 4], held_out=3), Walk()), None, CONFIG)
