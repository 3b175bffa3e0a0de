"""The environments of the benchmark; importing this registers them with Gymnasium and does nothing else."""

import gymnasium as _gym

for _maze in ("UMaze", "Medium", "Large"):
    for _suffix, _damped in (("", True), ("Inertial", False)):
        _id = f"lewm_bench/PointMaze-{_maze}{_suffix}-v0"
        if _id not in _gym.registry:  # a reload must not warn that it overrides
            _gym.register(
                _id, "lewm_bench.envs.pointmaze:PointMaze", kwargs={"maze": _maze, "damped": _damped, "image_size": 64}
            )
