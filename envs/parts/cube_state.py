"""Where things stand in a state of ``Cube``."""

from __future__ import annotations

# Where a state keeps what; see Cube.
QPOS, QVEL, WARMSTART = slice(0, 21), slice(21, 41), slice(41, 61)
EFFECTOR_POSITION, EFFECTOR_ROTATION, GRIPPER_CONTACT = slice(61, 64), slice(64, 73), 73
STATE_SIZE = 74
JOINTS, GRIPPER_JOINT, CUBE_POSITION, CUBE_QUATERNION = slice(0, 6), 6, slice(14, 17), slice(17, 21)
CUBE_VELOCITY = slice(QVEL.start + 14, QVEL.stop)
GRIPPER_RANGE = 0.8  # radians of the gripper's joint from open to closed
CUBE_HEIGHT = 0.02  # metres of its centre above the table on which it lies
