#!/usr/bin/env bash
# gym-wm 0.1.1: collect_dataset(seed=...) repeats the starts of episodes and not the actions; and needs two extras of Minari.
#
# The seed goes to env.reset, which leaves the generator of env.action_space alone; the default policy samples from that
# space, so every process collects other actions from the same starts. `env.action_space.seed(...)` beside it mends that.
# Before that, the plain install cannot collect at all: it asks for minari without the extras hdf5 (h5py, to store) and
# create (jax, to buffer steps), and both are missing only when the collector first needs them.
# Seen with Python 3.11, gymnasium 1.4.0, Minari 0.5.4: "plain install: ImportError", then "two processes, one seed: starts
# alike True, actions alike False".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy
python3 -m venv "$place/env"
install() { "$place/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install "gym-wm==0.1.1" "gymnasium==1.4.0" "gymnasium-robotics==1.4.2" "mujoco==3.17.0" "minari==0.5.4" "pygame==2.6.1" "numpy==2.4.6"
cat >"$place/collect.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import gym_wm

folder = Path(sys.argv[1])
try:
    data = gym_wm.collect_dataset(
        "Pendulum-v1", num_episodes=2, dataset_name="probe/test-v0", data_path=folder, seed=7, img_height=16, img_width=16
    )
except ImportError:
    sys.exit("ImportError")
episodes = list(data.iterate_episodes())
np.savez(
    folder / "seen.npz",
    starts=[e.observations["state"][0] for e in episodes],
    actions=[e.actions for e in episodes],
)
PY
outcome=$("$place/env/bin/python" -W ignore "$place/collect.py" "$place/plain" 2>&1 >"$place/noise" | tail -n 1 || true)
echo "plain install: $outcome" | tee "$place/seen"
install "minari[hdf5,create]==0.5.4"
for run in one two; do
    "$place/env/bin/python" -W ignore "$place/collect.py" "$place/$run" >>"$place/noise" 2>&1
done
"$place/env/bin/python" - "$place" <<'PY' | tee -a "$place/seen"
import sys
import numpy as np

one, two = (np.load(f"{sys.argv[1]}/{run}/seen.npz") for run in ("one", "two"))
starts, actions = (np.array_equal(one[name], two[name]) for name in ("starts", "actions"))
print(f"two processes, one seed: starts alike {starts}, actions alike {actions}")
PY
printf 'plain install: ImportError\ntwo processes, one seed: starts alike True, actions alike False\n' | diff "$place/seen" -
