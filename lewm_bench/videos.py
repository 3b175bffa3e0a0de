"""Rollout videos as animated GIFs: they play in any browser, offline and on GitHub, and need Pillow alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lewm_bench.files import write_bytes

PANEL = 180  # pixels at least, by whole factors so that every pixel of a small frame stays a square
MARGIN = 8
LINE = 20
BACKGROUND, INK, FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
REACHED, LEFT = (0, 158, 115), (150, 200, 180)
FRAME_MS, LAST_FRAME_MS = 100, 1500


def video_name(env: str, agent: str, seed: int, goal_offset: int, pair: int) -> str:
    """The file, relative to a results folder, of one episode's video; the report finds the episode by it."""
    words = f"{env.split('/')[-1]}__{agent}"
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in words)
    return f"videos/{safe}__seed{seed}__offset{goal_offset}__pair{pair}.gif"


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
    pictures = []
    for step, frame in enumerate(frames):
        reached = inside[: step + 1]
        border = None if not reached.any() else REACHED if reached[-1] else LEFT
        status = f"step {step}/{len(frames) - 1}   distance {distances[step]:.2f}{unit and ' ' + unit}"
        status += f" (goal below {threshold:g})" if not reached.any() else f"   reached at step {reached.argmax()}"
        pictures.append(_compose((goal, frames[0], frame), border, title, status))
    return _gif(pictures)


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


def _compose(images: Sequence[np.ndarray], border: tuple[int, int, int] | None, title: str, status: str) -> Image.Image:
    """The panels side by side with their names, the title above and the status below."""
    height, width = images[0].shape[:2]
    scale = max(1, -(-PANEL // max(height, width)))
    height, width = height * scale, width * scale
    font = ImageFont.load_default(14)
    sheet = Image.new("RGB", (3 * width + 4 * MARGIN, height + 3 * LINE + 3 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN // 2), _fit(draw, title, font, sheet.width - 2 * MARGIN), INK, font)
    top = 2 * LINE + MARGIN
    for i, (name, image) in enumerate(zip(("goal", "start", "now"), images, strict=True)):
        left = MARGIN + i * (width + MARGIN)
        draw.text((left, top - LINE), name, FAINT, font)
        if name == "now" and border:
            draw.rectangle((left - 5, top - 5, left + width + 4, top + height + 4), fill=border)
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
    draw.text((MARGIN, top + height + MARGIN), _fit(draw, status, font, sheet.width - 2 * MARGIN), INK, font)
    return sheet


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text``, cut with dots where the picture ends."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _gif(pictures: Sequence[Image.Image]) -> bytes:
    """One palette for all frames and no dithering: only what moves is stored again."""
    chosen = [pictures[i] for i in sorted({0, len(pictures) // 2, len(pictures) - 1})]
    sample = Image.new("RGB", (chosen[0].width, chosen[0].height * len(chosen)))
    for i, picture in enumerate(chosen):
        sample.paste(picture, (0, i * picture.height))
    palette = sample.quantize(128, method=Image.Quantize.MEDIANCUT)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(indexed) - 1) + [LAST_FRAME_MS]
    indexed[0].save(
        buffer, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True, disposal=1
    )
    return buffer.getvalue()
