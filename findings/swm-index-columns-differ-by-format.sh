#!/usr/bin/env bash
# stable-worldmodel 0.1.1: the columns that say which episode and step a row is differ by format, and convert() loses them.
#
# World.collect writes episode_idx and step_idx to a Lance table and step_idx alone to HDF5; convert() from Lance to HDF5
# keeps neither. The Lance reader leaves both out of column_names, and gives them to who asks by name. Who evaluates from
# a data set as scripts/plan/eval_wm.py of the same version does (episode_idx if column_names has it, else ep_idx; then
# step_idx) gets an error from each of these files. Later that script asks Lance for its whole schema; HDF5 still fails.
# The reader's lengths and offsets tell in each of them where an episode begins.
# Seen with Python 3.11, gymnasium 1.4.0, pylance 14.0.2, h5py 3.16.0: the three lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy STABLEWM_HOME="$place/home"
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check \
    "stable-worldmodel==0.1.1" "torch==2.14.1" "torchvision==0.29.1" "gymnasium==1.4.0" "numpy==2.4.6" "lancedb==0.40.0" \
    "pylance==14.0.2" "pyarrow==26.0.1" "opencv-python-headless==5.0.0.93" "imageio==2.38.1" "pygame==2.6.1" \
    "pymunk==7.3.1" "shapely==2.2.0" "h5py==3.16.0" "hdf5plugin==7.1.0"
"$place/env/bin/python" -W ignore - "$place" 2>"$place/noise" <<'PY' | grep "lists" | tee "$place/seen"
import sys

import stable_worldmodel as swm

INDEX = ("episode_idx", "ep_idx", "step_idx")


def tell(label, path):
    data = swm.data.load_dataset(path)
    listed, read = [name for name in INDEX if name in data.column_names], []
    for name in INDEX:
        try:
            data.get_col_data(name)
            read.append(name)
        except (KeyError, ValueError):
            pass
    print(f"{label} lists {' '.join(listed) or 'none'}, reads {' '.join(read) or 'none'}")


world = swm.World("Pendulum-v1", 1, add_pixels=False, max_episode_steps=3)
world.set_policy(swm.policy.RandomPolicy(seed=0))
hdf5, lance, converted = (f"{sys.argv[1]}/{name}" for name in ("recorded.h5", "recorded.lance", "converted.h5"))
world.collect(hdf5, episodes=2, seed=0, format="hdf5", progress=False)
world.collect(lance, episodes=2, seed=0, format="lance", progress=False)
swm.data.convert(lance, converted, dest_format="hdf5", progress=False)
for label, path in (("hdf5", hdf5), ("lance", lance), ("lance converted to hdf5", converted)):
    tell(label, path)
PY
diff "$place/seen" - <<'SEEN'
hdf5 lists step_idx, reads step_idx
lance lists none, reads episode_idx step_idx
lance converted to hdf5 lists none, reads none
SEEN
