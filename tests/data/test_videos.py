"""Rollout videos, read back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lewm_bench.core.errors import UserError
from lewm_bench.data import videos


def maze(x: float, y: float) -> np.ndarray:
    """A 64 px maze with a soft-edged ball, as the environments draw it."""
    frame = np.full((64, 64, 3), 240, np.uint8)
    frame[:6] = frame[-6:] = frame[:, :6] = frame[:, -6:] = frame[26:38, 6:44] = 60
    rows, columns = np.mgrid[:64, :64]
    cover = np.clip(4.5 - np.hypot(columns - x, rows - y), 0, 1)[..., None]
    return (frame * (1 - cover) + np.array([210, 40, 30]) * cover).astype(np.uint8)


def rollout(steps: int = 100, end: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, goal and distances of a ball that goes a share ``end`` of the way to its goal."""
    path = np.linspace([14.0, 14.0], [50.0, 20.0], steps + 1)
    path = path[0] + end * (path - path[0])
    goal = np.array([50.0, 20.0])
    return np.stack([maze(*p) for p in path]), maze(*goal), np.linalg.norm(path - goal, axis=1) / 16


def read(data: bytes) -> tuple[Image.Image, list[np.ndarray]]:
    image = Image.open(io.BytesIO(data))
    frames = []
    for i in range(image.n_frames):
        image.seek(i)
        frames.append(np.asarray(image.convert("RGB")))
    return image, frames


def is_green(frame: np.ndarray) -> bool:
    return bool((np.abs(frame.astype(int) - videos.REACHED).max(-1) < 12).sum() > 500)


def test_video_has_one_frame_per_step_and_stays_small():
    data = videos.rollout_video(*rollout(), 0.45, "LeWM, PointMaze-UMaze-v0, pair 3", unit="cells")
    image, frames = read(data)
    assert image.format == "GIF" and len(frames) == 101
    assert len(data) < 150_000
    assert image.info.get("loop") == 0
    width, height = image.size
    assert width >= 3 * 180 and height >= 180


def test_panels_show_goal_start_and_now_in_enlarged_pixels():
    frames, goal, distances = rollout(steps=20, end=0.5)
    _, shown = read(videos.rollout_video(frames, goal, distances, 0.45, "title"))
    scale, top = 3, 2 * videos.LINE + videos.MARGIN
    size = 64 * scale
    for column, expected in enumerate((goal, frames[0], frames[12])):
        left = videos.MARGIN + column * (size + videos.MARGIN)
        panel = shown[12][top : top + size, left : left + size].astype(int)
        blocks = panel.reshape(64, scale, 64, scale, 3)
        assert (blocks == blocks[:, :1, :, :1]).all()  # nearest neighbour: squares, not blur
        assert np.abs(blocks[:, 0, :, 0] - expected).mean() < 2


def test_border_turns_green_at_the_goal_and_not_before():
    frames, goal, distances = rollout()
    _, shown = read(videos.rollout_video(frames, goal, distances, 0.45, "title"))
    first = int((distances < 0.45).argmax())
    assert [is_green(f) for f in shown] == [i >= first for i in range(len(shown))]
    _, failed = read(videos.rollout_video(*rollout(end=0.5), 0.45, "title"))
    assert not any(is_green(f) for f in failed)


def test_border_fades_when_the_agent_leaves_the_goal():
    frames, goal, distances = rollout(steps=10)
    there_and_back = [*range(11), *range(9, -1, -1)]
    data = videos.rollout_video(frames[there_and_back], goal, distances[there_and_back], 0.45, "title")
    _, shown = read(data)
    assert is_green(shown[10]) and not is_green(shown[20])
    assert (np.abs(shown[20].astype(int) - videos.LEFT).max(-1) < 12).sum() > 500


def test_status_line_changes_at_every_step_so_that_still_frames_are_kept():
    frames, goal, distances = rollout(steps=1)
    still = np.repeat(frames[:1], 30, axis=0)
    _, shown = read(videos.rollout_video(still, goal, np.full(30, distances[0]), 0.45, "title"))
    assert len(shown) == 30


def test_large_frames_are_not_enlarged_beyond_need_and_long_titles_are_cut():
    frames = np.zeros((2, 224, 224, 3), np.uint8)
    image, _ = read(videos.rollout_video(frames, frames[0], [2.0, 1.0], 0.5, "a long title " * 40))
    assert image.size[0] == 3 * 224 + 4 * videos.MARGIN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "T > 0"),
        ({"frames": np.zeros((3, 8, 8, 3), np.float32)}, "uint8"),
        ({"goal": np.zeros((9, 8, 3), np.uint8)}, "do not fit"),
        ({"distances": [1.0]}, "do not fit"),
    ],
)
def test_wrong_shapes_are_refused(change, message):
    given = {"frames": np.zeros((3, 8, 8, 3), np.uint8), "goal": np.zeros((8, 8, 3), np.uint8), "distances": [1, 1, 1]}
    with pytest.raises(ValueError, match=message):
        videos.rollout_video(**{**given, **change}, threshold=0.5, title="")


def test_write_video_is_deterministic_and_names_are_safe(tmp_path):
    frames, goal, distances = rollout(steps=5)
    name = videos.video_name("pkg/Maze-v0", "dino-wm:my/enc oder", 1, 25, 3)
    assert name == "videos/Maze-v0__dino-wm_my_enc_oder-e73c1f41ff__seed1__offset25__pair3.gif"
    for folder in ("a", "b"):
        videos.write_video(tmp_path / folder / name, frames, goal, distances, 0.45, "title")
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_write_video_says_where_it_cannot_write(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lewm_bench.system.files.tempfile.mkstemp", denied)
    frames, goal, distances = rollout(steps=1)
    with pytest.raises(UserError, match="cannot write"):
        videos.write_video(tmp_path / "x.gif", frames, goal, distances, 0.45, "title")
