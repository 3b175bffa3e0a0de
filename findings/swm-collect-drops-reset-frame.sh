#!/usr/bin/env bash
# stable-worldmodel 0.1.1: World.collect never records the frame after a reset, and an episode's last action is its first.
#
# The recorder looks after each step and not after a reset, then moves the actions up by one row, as if the first row were
# the reset's with its NaN action. So an episode of n steps has n rows instead of n + 1, begins one step late, and its last
# row holds an action that was taken n rows before; readers that drop NaN at the border of episodes keep it. step_idx counts
# from 1 in HDF5 and from 0 in Lance, which numbers rows itself, for the same rows. The environment here shows how many
# steps it has taken, and the policy takes 10 times that as its action: frames 0 to 4, actions 0 to 30 and then none.
# Known upstream: galilai-group/stable-worldmodel issue 293, repaired by pull request 294, which no release has yet.
# Seen with Python 3.11, gymnasium 1.4.0, pylance 14.0.2, h5py 3.16.0: the two lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy STABLEWM_HOME="$place/home"
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check \
    "stable-worldmodel==0.1.1" "torch==2.14.1" "torchvision==0.29.1" "gymnasium==1.4.0" "numpy==2.4.6" "lancedb==0.40.0" \
    "pylance==14.0.2" "pyarrow==26.0.1" "opencv-python-headless==5.0.0.93" "imageio==2.38.1" "pygame==2.6.1" \
    "pymunk==7.3.1" "shapely==2.2.0" "h5py==3.16.0" "hdf5plugin==7.1.0"
"$place/env/bin/python" -W ignore - "$place" 2>"$place/noise" <<'PY' | grep "frames" | tee "$place/seen"
import sys

import gymnasium
import numpy as np
import stable_worldmodel as swm


class CountsSteps(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0, 99, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.float32([self.steps]), {}

    def step(self, action):
        assert action == 10 * self.steps
        self.steps += 1
        return np.float32([self.steps]), 0.0, self.steps == 4, False, {}


class TenTimes(swm.policy.BasePolicy):
    def get_action(self, info):
        return 10 * info["observation"][:, 0]


gymnasium.register("CountsSteps-v0", CountsSteps)
for name, suffix in (("hdf5", "h5"), ("lance", "lance")):
    world = swm.World("CountsSteps-v0", 1, add_pixels=False)
    world.set_policy(TenTimes())
    path = f"{sys.argv[1]}/recorded.{suffix}"
    world.collect(path, episodes=2, seed=0, format=name, progress=False)
    data = swm.data.load_dataset(path)
    frames, actions, steps = (
        [int(number) for number in np.ravel(data.get_col_data(column))[:4]] for column in ("observation", "action", "step_idx")
    )
    print(f"{name}: {list(map(int, data.lengths))} rows; frames {frames}, actions {actions}, step_idx {steps}")
PY
diff "$place/seen" - <<'SEEN'
hdf5: [4, 4] rows; frames [1, 2, 3, 4], actions [10, 20, 30, 0], step_idx [1, 2, 3, 4]
lance: [4, 4] rows; frames [1, 2, 3, 4], actions [10, 20, 30, 0], step_idx [0, 1, 2, 3]
SEEN
