"""PushT against gym-pusht itself, stepped and drawn side by side."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gym_pusht", reason="PushT is the extra 'pusht'")

from lewm_bench.check import check_goal_env
from lewm_bench.envs.pusht import PushT


def test_every_promise_is_kept() -> None:
    assert not [finding for finding in check_goal_env(PushT()) if not finding.ok]


def test_success_asks_position_and_angle() -> None:
    env, goal = PushT(), np.array([100, 100, 300, 300, 0.1, 0, 0, 0, 0, 0], np.float64)
    for change, reached in (
        ([0, 0, 0, 0, 0], True),
        ([12, 0, 0, 15.9, 0], True),
        ([12, 0, 0, 16.1, 0], False),
        ([0, 0, 0, 0, np.pi / 9 - 1e-3], True),
        ([0, 0, 0, 0, -np.pi / 9 - 1e-3], False),
        ([0, 0, 0, 0, 2 * np.pi], True),
    ):
        state = goal + np.array([*change, 9, 9, 9, 9, 9])
        assert env.reached(state, goal) == reached
