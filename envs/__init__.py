"""The environments of the benchmark; importing this registers them with Gymnasium and does nothing else."""

import gymnasium as _gym


def _register(name: str, entry_point: str, **kwargs: object) -> None:
    env_id = f"lewm_bench/{name}-v0"
    if env_id not in _gym.registry:  # a reload must not warn that it overrides
        _gym.register(env_id, f"lewm_bench.envs.{entry_point}", kwargs={**kwargs, "image_size": 64})


for _maze in ("UMaze", "Medium", "Large"):
    for _suffix, _damped in (("", True), ("Inertial", False)):
        _register(f"PointMaze-{_maze}{_suffix}", "pointmaze:PointMaze", maze=_maze, damped=_damped)
_register("TwoRoom", "tworoom:TwoRoom")
_register("Wall", "wall:Wall")
for _name, _distractors in (("FourRooms", 0), ("FourRoomsDistractors", 3)):
    _register(_name, "fourrooms:FourRooms", distractors=_distractors)
for _maze in ("UMaze", "Medium"):
    _register(f"AntMaze-{_maze}", "antmaze:AntMaze", maze=_maze)
_register("AntMaze-MediumOGBench", "antmaze:AntMaze", maze="Medium", body="ogbench", view="back")
_register("Cube", "cube:Cube")
_register("Scene", "scene:Scene")
_register("Reacher", "reacher:Reacher")
_register("PushT", "pusht:PushT")
