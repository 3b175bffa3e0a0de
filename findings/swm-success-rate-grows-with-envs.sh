#!/usr/bin/env bash
# stable-worldmodel 0.1.1: World.evaluate counts the episodes that finish first, so its success rate grows with num_envs.
#
# In its default mode, "auto", every environment that is done begins another episode, and the run stops as soon as
# `episodes` of them have finished. An episode that succeeds ends early and one that fails lasts until it is truncated, so
# the more environments run side by side, the more failures are still under way when counting stops. The environment here
# draws success at reset, before any action: 23 of the 50 episodes with seeds 0 to 49 succeed, whatever the policy does.
# Its documentation tells when the run stops, and not that this moves the rate. Unbiased are num_envs=1, and
# reset_mode="wait" with one environment per episode, which is the default where a data set gives the goals.
# Seen with Python 3.11, gymnasium 1.4.0: the four lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy STABLEWM_HOME="$place/home"
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check \
    "stable-worldmodel==0.1.1" "torch==2.14.1" "torchvision==0.29.1" "gymnasium==1.4.0" "numpy==2.4.6" "lancedb==0.40.0" \
    "pylance==14.0.2" "pyarrow==26.0.1" "opencv-python-headless==5.0.0.93" "imageio==2.38.1" "pygame==2.6.1" \
    "pymunk==7.3.1" "shapely==2.2.0"
"$place/env/bin/python" -W ignore - 2>"$place/noise" <<'PY' | grep "num_envs" | tee "$place/seen"
import gymnasium
import numpy as np
import stable_worldmodel as swm


class DecidedAtReset(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.succeeds = self.np_random.random() < 0.5
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, self.succeeds, False, {}


gymnasium.register("DecidedAtReset-v0", DecidedAtReset)
for num_envs, mode in ((1, "auto"), (10, "auto"), (50, "auto"), (50, "wait")):
    world = swm.World("DecidedAtReset-v0", num_envs, add_pixels=False, max_episode_steps=50)
    world.set_policy(swm.policy.RandomPolicy(seed=0))
    found = world.evaluate(episodes=50, seed=0, reset_mode=mode)
    print(f"num_envs {num_envs}, {mode}: success rate {found['success_rate']:.0f} %, largest seed {found['seeds'].max()}")
PY
diff "$place/seen" - <<'SEEN'
num_envs 1, auto: success rate 46 %, largest seed 49
num_envs 10, auto: success rate 52 %, largest seed 58
num_envs 50, auto: success rate 80 %, largest seed 88
num_envs 50, wait: success rate 46 %, largest seed 49
SEEN
