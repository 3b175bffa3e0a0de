"""Whether an environment keeps the promises that the numbers depend on, as `lewm-bench check` asks."""

from __future__ import annotations

import gymnasium as gym
import pandas as pd

from lewm_bench.data.check import check_goal_env
from lewm_bench.run.environments import make_env


def check(env: str | gym.Env, *, image_size: int = 64) -> pd.DataFrame:
    """Hold an environment to the contract of the benchmark; takes from seconds to minutes.

    Args:
        env: a Gymnasium id, or an environment, wrapped or not.
        image_size: pixels, where an id is given.

    Returns:
        A row per promise: its name, whether it is kept (``ok``), and in ``detail`` a measurement or what to mend.

    Raises:
        UserError: there is no such id, or its environment cannot be made.
    """
    made = make_env(env, image_size) if isinstance(env, str) else env
    return pd.DataFrame([vars(finding) for finding in check_goal_env(made)], columns=["name", "ok", "detail"])
