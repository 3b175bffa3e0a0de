"""Rollout videos as animated GIFs: they play in any browser, offline and on GitHub, and need Pillow alone.

Also frames in rows, as a PNG.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lewm_bench.system.filenames import file_stem
from lewm_bench.system.files import write_bytes

PANEL = 180  # pixels at least, by whole factors so that every pixel of a small frame stays a square
THUMBNAIL = 120  # the same where many frames share a picture
MARGIN = 8
LINE = 20
BACKGROUND, INK, FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
REACHED, LEFT = (0, 158, 115), (150, 200, 180)
FRAME_MS, LAST_FRAME_MS = 100, 1500
SLOW_MS = 400  # of a frame that is to be compared with those beside it


def video_name(env: str, agent: str, seed: int, goal_offset: int, pair: int, stratum: str = "") -> str:
    """The file, relative to a results folder, of one episode's video; the report finds the episode by its end."""
    kind = f"__{stratum}" if stratum else ""
    return f"videos/{file_stem(env, agent)}__seed{seed}{kind}{episode_ending(goal_offset, pair)}"


def episode_ending(goal_offset: int, pair: int) -> str:
    """What the names of an episode's videos end with."""
    return f"__offset{goal_offset}__pair{pair}.gif"


def rollout_video(
    frames: np.ndarray,
    goal: np.ndarray,
    distances: Sequence[float] | np.ndarray,
    threshold: float,
    title: str,
    *,
    unit: str = "",
) -> bytes:
    """An animated GIF of one episode: the goal image, the start image, and what the agent saw at each step.

    Args:
        frames: (T, h, w, 3) uint8; frame 0 is the start, one frame per environment step.
        goal: (h, w, 3) uint8.
        distances: (T,) true distance to the goal at each frame.
        threshold: a distance below it is a success; the border turns green from the first one on, pale where the
            agent has left the goal again.
        title: the line on top.
        unit: what the distance is measured in.
    """
    frames, goal, distances = np.asarray(frames), np.asarray(goal), np.asarray(distances, np.float64)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames must be (T, h, w, 3) with T > 0, got {frames.shape}")
    if goal.shape != frames.shape[1:] or distances.shape != frames.shape[:1]:
        raise ValueError(f"goal {goal.shape} and distances {distances.shape} do not fit frames {frames.shape}")
    if frames.dtype != np.uint8 or goal.dtype != np.uint8:
        raise ValueError(f"frames and goal must be uint8, got {frames.dtype} and {goal.dtype}")
    inside = distances < threshold
    board = _Board({"goal": goal, "start": frames[0], "now": frames[0]}, title)
    pictures = []
    for step, frame in enumerate(frames):
        reached = inside[: step + 1]
        border = None if not reached.any() else REACHED if reached[-1] else LEFT
        status = f"step {step}/{len(frames) - 1}   distance {distances[step]:.2f}{unit and ' ' + unit}"
        status += f" (goal below {threshold:g})" if not reached.any() else f"   reached at step {reached.argmax()}"
        pictures.append(board.shown({"now": frame}, status, border))
    return _gif(pictures)


def still(film: bytes) -> bytes | None:
    """The first frame of an animation as a PNG; None if it is no image, or does not move."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(film)) as image:
            image.seek(1)
            image.seek(0)
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    except (EOFError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no second frame, or damaged
        return None
    return buffer.getvalue()


def comparison_video(
    panels: Mapping[str, np.ndarray], title: str, lines: Sequence[str], frame_ms: int = SLOW_MS
) -> bytes:
    """An animated GIF of several sequences of frames side by side.

    Args:
        panels: name to (T, h, w, 3) uint8, all of one shape.
        title: the line on top.
        lines: (T,) the line below each frame.
        frame_ms: how long each is shown.
    """
    _checked(panels.values())
    board = _Board({name: frames[0] for name, frames in panels.items()}, title)
    moments = zip(zip(*panels.values(), strict=True), lines, strict=True)
    pictures = [board.shown(dict(zip(panels, now, strict=True)), line) for now, line in moments]
    return _gif(pictures, frame_ms)


def picture_rows(rows: Mapping[str, np.ndarray], title: str) -> bytes:
    """A PNG of rows of frames, name to (N, h, w, 3) uint8, all of one shape, each under its name."""
    count, height, width = _checked(rows.values())
    scale = _factor(height, width, THUMBNAIL)
    height, width = height * scale, width * scale
    font = ImageFont.load_default(14)
    size = count * (width + MARGIN) + MARGIN, LINE + MARGIN + len(rows) * (height + LINE + MARGIN)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN // 2), _fit(draw, title, font, sheet.width - 2 * MARGIN), INK, font)
    for r, (name, frames) in enumerate(rows.items()):
        top = 2 * LINE + MARGIN + r * (height + LINE + MARGIN)
        draw.text((MARGIN, top - LINE), name, FAINT, font)
        for i, frame in enumerate(frames):
            sheet.paste(_enlarged(frame, scale), (MARGIN + i * (width + MARGIN), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_video(
    path: Path,
    frames: np.ndarray,
    goal: np.ndarray,
    distances: Sequence[float] | np.ndarray,
    threshold: float,
    title: str,
    *,
    unit: str = "",
) -> None:
    """Write ``rollout_video`` to ``path``, atomically."""
    write_bytes(path, rollout_video(frames, goal, distances, threshold, title, unit=unit))


def _checked(sequences: Iterable[np.ndarray]) -> tuple[int, int, int]:
    """Number, height and width of frames in sequences (T, h, w, 3) uint8 of one shape."""
    sequences = list(sequences)
    shapes = {frames.shape for frames in sequences}
    if len(shapes) != 1 or {frames.dtype for frames in sequences} != {np.dtype(np.uint8)}:
        raise ValueError(f"need uint8 frames of one shape, got {[(f.dtype.name, f.shape) for f in sequences]}")
    count, height, width, channels = sequences[0].shape
    if not count or channels != 3:
        raise ValueError(f"frames must be (T, h, w, 3) with T > 0, got {sequences[0].shape}")
    return count, height, width


def _factor(height: int, width: int, least: int) -> int:
    """By how much frames are enlarged to be ``least`` pixels long."""
    return max(1, -(-least // max(height, width)))


def _enlarged(frame: np.ndarray, scale: int) -> Image.Image:
    """Every pixel as a square."""
    image = Image.fromarray(frame)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


class _Board:
    """Panels side by side with their names and a title above. What stays from frame to frame is drawn once."""

    def __init__(self, images: Mapping[str, np.ndarray], title: str) -> None:
        """The first ``images``, by the names of the panels, (h, w, 3) uint8 of one shape."""
        height, width = next(iter(images.values())).shape[:2]
        self._scale = _factor(height, width, PANEL)
        self._height, self._width = height * self._scale, width * self._scale
        self._top, self._font = 2 * LINE + MARGIN, ImageFont.load_default(14)
        self._left = {name: MARGIN + i * (self._width + MARGIN) for i, name in enumerate(images)}
        size = len(images) * (self._width + MARGIN) + MARGIN, self._height + 3 * LINE + 3 * MARGIN
        self._sheet = Image.new("RGB", size, BACKGROUND)
        draw = ImageDraw.Draw(self._sheet)
        draw.text((MARGIN, MARGIN // 2), _fit(draw, title, self._font, size[0] - 2 * MARGIN), INK, self._font)
        for name, image in images.items():
            draw.text((self._left[name], self._top - LINE), name, FAINT, self._font)
            self._paste(self._sheet, name, image)

    def shown(
        self, images: Mapping[str, np.ndarray], status: str, border: tuple[int, int, int] | None = None
    ) -> Image.Image:
        """A picture with other ``images`` in some panels and the status below; the border is the last panel's."""
        sheet = self._sheet.copy()
        draw = ImageDraw.Draw(sheet)
        if border:
            left, top = list(self._left.values())[-1], self._top
            draw.rectangle((left - 5, top - 5, left + self._width + 4, top + self._height + 4), fill=border)
        for name, image in images.items():
            self._paste(sheet, name, image)
        below = self._top + self._height + MARGIN
        draw.text((MARGIN, below), _fit(draw, status, self._font, sheet.width - 2 * MARGIN), INK, self._font)
        return sheet

    def _paste(self, sheet: Image.Image, name: str, image: np.ndarray) -> None:
        sheet.paste(_enlarged(image, self._scale), (self._left[name], self._top))


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text``, cut with dots where the picture ends."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _gif(pictures: Sequence[Image.Image], frame_ms: int = FRAME_MS) -> bytes:
    """One palette for all frames and no dithering: only what moves is stored again."""
    chosen = [pictures[i] for i in sorted({0, len(pictures) // 2, len(pictures) - 1})]
    sample = Image.new("RGB", (chosen[0].width, chosen[0].height * len(chosen)))
    for i, picture in enumerate(chosen):
        sample.paste(picture, (0, i * picture.height))
    # By coverage of the colours and not by how many pixels have them: what moves is small.
    palette = sample.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    durations = [frame_ms] * (len(indexed) - 1) + [LAST_FRAME_MS]
    indexed[0].save(
        buffer, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True, disposal=1
    )
    return buffer.getvalue()
