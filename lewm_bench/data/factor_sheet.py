"""How an environment looks in its changed worlds: a picture with a row per factor and a column per level."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.shift import LEVELS, Factor

SEEN = ("looks", "layout")  # groups whose changes are seen in a single frame
LATER = 8  # steps after which a frame is shown, so that what wanders about is not all at the beginning
LABEL, LINE, GAP = 190, 14, 6  # pixels: the column of names, a line of text, between tiles
LETTERS = 30  # of a line of the label


def factor_sheet(env: GoalEnv, states: np.ndarray, pixels: int = 112) -> bytes:
    """A PNG of one of ``states`` (N, X) per row, drawn at each level of a factor that can be seen.

    A state that cannot be where a layout has a wall is passed over for the next one that can.
    """
    factors = {name: factor for name, factor in env.factors().items() if factor.group in SEEN}
    row = pixels + LINE + GAP
    size = LABEL + len(LEVELS) * (pixels + GAP), GAP + max(1, len(factors)) * row
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for n, (name, factor) in enumerate(factors.items()):
        top = GAP + n * row
        draw.multiline_text((GAP, top + LINE), _label(name, factor), fill="black")
        for level, frame in zip(LEVELS, _row(env, name, states), strict=True):
            left = LABEL + level * (pixels + GAP)
            draw.text((left, top), f"{level if level else 'trained'}: {factor.values[level]}", fill="black")
            tile = Image.fromarray(frame).resize((pixels, pixels), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top + LINE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _row(env: GoalEnv, name: str, states: np.ndarray) -> list[np.ndarray]:
    """The frames (h, w, 3) uint8 of a factor's levels, of the same state where there is one that all of them have."""
    worlds = [env.shifted(name, level) for level in LEVELS]
    everywhere = np.all([world.possible(world.lift(states)) for world in worlds], axis=0)
    state = states[int(everywhere.argmax())]
    frames = [_frame(world, state) for world in worlds]
    for world in worlds[1:]:
        world.close()
    return frames


def _frame(world: GoalEnv, state: np.ndarray) -> np.ndarray:
    """The frame of a state of the trained world after a few steps without an action."""
    start = world.lift(state)[None]
    rest = np.clip(np.zeros((1, LATER, *world.action_space.shape)), world.action_space.low, world.action_space.high)
    if np.array_equal(world.lift(state), state):  # nothing that changes with time
        return world.render_states(start)[0]
    return world.render_states(world.simulate(start, rest)[:, -1])[0]


def _label(name: str, factor: Factor) -> str:
    """The name of a factor, and below it what it is, in short lines."""
    lines, line = [name.replace("_", " ")], ""
    for word in factor.about.split():
        if line and len(line) + 1 + len(word) > LETTERS:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
