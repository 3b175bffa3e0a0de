"""LeRobot's side of the proof that its data sets are imported as what they are (tests/data/test_peer_lerobot.py).

    python3.12 -m venv FOLDER && FOLDER/bin/pip install 'lerobot[dataset]'     # some gigabytes; the writer of v3.0
    FOLDER/bin/python tests/benchmarks/peer_lerobot.py WALK.npz OUT image      # or video

``WALK.npz`` holds pixels, actions, proprio and episode_ends. Nothing of lewm-bench is imported.
"""

from __future__ import annotations

import sys


def write(source: str, out: str, kind: str) -> None:
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    walk, vector = np.load(source), {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": kind, "shape": walk["pixels"].shape[1:], "names": ["height", "width", "channels"]}
    features = {"observation.images.top": picture, "observation.state": vector, "action": vector}
    data = LeRobotDataset.create("tests/walk", 10, features, root=out, use_videos=kind == "video")
    begin = 0
    for end in walk["episode_ends"].tolist():
        for row in range(begin, end):
            columns = {"observation.state": walk["proprio"][row], "action": np.nan_to_num(walk["actions"][row])}
            vectors = {name: values.astype(np.float32) for name, values in columns.items()}
            data.add_frame({"observation.images.top": walk["pixels"][row], **vectors, "task": "walk"})
        data.save_episode()
        begin = end
    data.finalize()


if __name__ == "__main__":
    write(*sys.argv[1:])
