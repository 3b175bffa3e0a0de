"""The factors that any environment has: other looks, and a worse line between the agent and the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lewm_bench.core import controls, looks
from lewm_bench.core.shift import Change, Group, World


@dataclass(frozen=True)
class Generic:
    """A factor whose levels are changes of frames and actions."""

    group: Group
    about: str
    values: tuple[str, str, str, str]
    changes: tuple[Callable[[World], Change], ...]  # at levels 1, 2 and 3


def _generic(group: Group, about: str, change: Callable[..., Change], usual: str, unit: str, *levels: float) -> Generic:
    """A factor of one number; ``unit`` shows it, as in ``x {}``."""
    changes = tuple(partial(_made, change, level) for level in levels)
    first, second, third = (unit.format(f"{level:g}") for level in levels)
    return Generic(group, about, (usual, first, second, third), changes)


def _made(change: Callable[..., Change], level: float, world: World) -> Change:
    return change(world, level)


GENERIC: Mapping[str, Generic] = {
    "colour": Generic(
        "looks",
        "colour of what moves, share of the way to another one",
        ("0", "1/3", "2/3", "1"),
        tuple(partial(_made, looks.Colour, share) for share in (1 / 3, 2 / 3, 1)),
    ),
    "background": _generic(
        "looks", "a picture behind what moves, its share of the background", looks.Textured, "0", "{}", 0.25, 0.5, 0.85
    ),
    "background_colour": _generic(
        "looks", "another colour of the background, its share", looks.Tinted, "0", "{}", 0.3, 0.6, 1.0
    ),
    "brightness": _generic("looks", "brightness of the picture", looks.Brightness, "x 1", "x {}", 0.75, 0.5, 0.25),
    "contrast": _generic("looks", "contrast of the picture", looks.Contrast, "x 1", "x {}", 0.7, 0.4, 0.2),
    "camera": _generic("looks", "camera moved, share of the picture's width", looks.Moved, "0", "{}", 0.03, 0.07, 0.12),
    "zoom": _generic("looks", "camera further away, size of things", looks.Zoomed, "x 1", "x {}", 0.95, 0.85, 0.7),
    "noise": _generic("looks", "noise on every pixel, std of 255", looks.Grain, "0", "{}", 8, 24, 64),
    "blur": _generic(
        "looks", "blur, times that pixels are mixed with their neighbours", looks.Blurred, "0", "{}", 1, 3, 10
    ),
    "patch": _generic(
        "looks", "a grey square before the picture, share of its width", looks.Occluded, "0", "{}", 0.12, 0.22, 0.35
    ),
    "distractors": _generic("looks", "more of what moves, wandering about", looks.Distracted, "0", "{}", 1, 2, 5),
    "lost_actions": _generic(
        "control", "actions that are not carried out, probability", controls.Lost, "0", "{}", 0.1, 0.3, 0.6
    ),
    "delay": _generic("control", "steps until an action is carried out", controls.Delayed, "0", "{}", 1, 2, 4),
    "action_noise": _generic(
        "control", "noise on actions, std in half ranges", controls.Noisy, "0", "{}", 0.1, 0.3, 0.8
    ),
    "action_scale": _generic("control", "what an action does", controls.Scaled, "x 1", "x {}", 0.75, 0.5, 0.25),
    "stale_frames": _generic(
        "control", "old frames shown in place of new ones, probability", controls.Stale, "0", "{}", 0.1, 0.3, 0.6
    ),
}


def generic_factors(world: World) -> Mapping[str, Generic]:
    """Those that make a difference in a world: where nothing can be at rest, a scale means nothing."""
    return {name: generic for name, generic in GENERIC.items() if name != "action_scale" or world.can_rest}
