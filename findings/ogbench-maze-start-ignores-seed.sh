#!/usr/bin/env bash
# OGBench 1.2.2: reset(seed=...) of a maze does not fix where the episode starts; numpy's global generator does.
#
# Gymnasium's contract is that two resets with one seed begin alike. The mazes draw their task and the noise of start
# and goal from numpy's global generator, so two resets with the same seed differ, and whoever seeds the environment
# only has other episodes in every process. Seeding numpy globally before each reset makes them repeat.
# Seen with Python 3.11, mujoco 3.17.0, gymnasium 1.4.0: "pointmaze-medium-v0: same seed alike False, same global state
# alike True", and the same for antmaze-medium-v0.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check \
    "ogbench==1.2.2" "gymnasium==1.4.0" "mujoco==3.17.0" "dm-control==1.0.50" "numpy==2.4.6"
"$place/env/bin/python" -W ignore - 2>"$place/noise" <<'PY' | tee "$place/seen"
import gymnasium
import numpy as np
import ogbench

for name in ("pointmaze-medium-v0", "antmaze-medium-v0"):
    env = gymnasium.make(name)

    def start(global_seed):
        np.random.seed(global_seed)
        observation, info = env.reset(seed=5)
        return np.concatenate([observation[:2], info["goal"][:2]])

    alike = np.array_equal(start(0), start(1)), np.array_equal(start(0), start(0))
    print(f"{name}: same seed alike {alike[0]}, same global state alike {alike[1]}")
PY
diff "$place/seen" - <<'SEEN'
pointmaze-medium-v0: same seed alike False, same global state alike True
antmaze-medium-v0: same seed alike False, same global state alike True
SEEN
