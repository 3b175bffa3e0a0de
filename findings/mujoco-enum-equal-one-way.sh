#!/usr/bin/env bash
# MuJoCo 3.12 and later: an entry of model.jnt_type equals mjtJoint.mjJNT_HINGE, but mjJNT_HINGE does not equal it.
#
# model.jnt_type holds numpy integers. Up to MuJoCo 3.11 they and the enums of the bindings are equal in both
# directions; from 3.12 on `number == enum` is True and `enum == number` is False, and so is `number in (enum, ...)`,
# since `in` asks the element of the tuple first. A dictionary that is keyed by enums does not find the number either.
# With Python's own int the comparison holds in both directions.
# What it does to others: gymnasium-robotics 1.4.2 asserts `joint_type in (mjJNT_HINGE, mjJNT_SLIDE)`, so its Fetch,
# Shadow hand and Franka kitchen environments end with a bare AssertionError under 3.12 to 3.17; its mazes do not ask.
# Seen with Python 3.11, numpy 2.4.6:
#   3.11.0 number == enum True, enum == number True, number in (enum,) True, int == enum True | FetchReach-v4 made
#   3.12.0 number == enum True, enum == number False, number in (enum,) False, int == enum True | FetchReach-v4 AssertionError
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
install() { "$place/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install "numpy==2.4.6" "gymnasium==1.4.0" "gymnasium-robotics==1.4.2"
for version in 3.11.0 3.12.0; do
    install "mujoco==$version"
    "$place/env/bin/python" -W ignore - 2>>"$place/noise" <<'PY' | tee -a "$place/seen"
import gymnasium
import gymnasium_robotics
import mujoco

model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><body><joint type="hinge"/><geom size=".1"/></body></worldbody></mujoco>'
)
number, enum = model.jnt_type[0], mujoco.mjtJoint.mjJNT_HINGE
gymnasium.register_envs(gymnasium_robotics)
try:
    gymnasium.make("FetchReach-v4").reset(seed=0)
    outcome = "made"
except AssertionError:
    outcome = "AssertionError"
print(
    f"{mujoco.__version__} number == enum {number == enum}, enum == number {enum == number}, "
    f"number in (enum,) {number in (enum,)}, int == enum {enum == int(number)} | FetchReach-v4 {outcome}"
)
PY
done
diff "$place/seen" - <<'SEEN'
3.11.0 number == enum True, enum == number True, number in (enum,) True, int == enum True | FetchReach-v4 made
3.12.0 number == enum True, enum == number False, number in (enum,) False, int == enum True | FetchReach-v4 AssertionError
SEEN
