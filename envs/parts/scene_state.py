"""Where things stand in a state of ``Scene``."""

from __future__ import annotations

# Where a state keeps what; see Scene.
QPOS, QVEL, WARMSTART = slice(0, 25), slice(25, 49), slice(49, 73)
EFFECTOR_POSITION, EFFECTOR_ROTATION, GRIPPER_CONTACT = slice(73, 76), slice(76, 85), 85
BUTTONS = slice(86, 88)  # 0: locked, 1: free; the first is the drawer's, the second the window's
STATE_SIZE = 88
JOINTS, GRIPPER_JOINT, CUBE_POSITION, CUBE_QUATERNION = slice(0, 6), 6, slice(14, 17), slice(17, 21)
CUBE_VELOCITY = slice(QVEL.start + 14, QVEL.start + 20)
PRESSED, DRAWER, WINDOW = slice(21, 23), 23, 24  # metres: how deep buttons are, how far drawer and window are slid
DRAWER_RANGE, WINDOW_RANGE = (-0.16, 0.0), (0.0, 0.2)  # metres: open to closed, closed to open
