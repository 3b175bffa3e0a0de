"""Profiles that begin with another one: ``extends`` names a profile of the same file, else one that lewm-bench brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lewm_bench.core.config import deep_merge
from lewm_bench.core.errors import UserError, short_repr, unknown

EXTENDS = "extends"


def completed(profiles: Mapping[str, Any], shipped: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The profiles of a file with what they extend put in, their own settings winning; ``shipped`` are ours.

    A profile that extends its own name extends ours. What is no mapping stays as it is, for the check of the file.

    Raises:
        UserError: an unknown name, or a circle.
    """
    return {name: _completed(name, profiles, shipped) for name in profiles}


def _completed(name: str, profiles: Mapping[str, Any], shipped: Callable[[], Mapping[str, Any]]) -> Any:
    path, block = [name], profiles[name]
    layers = [block]  # what wins first
    while isinstance(block, Mapping) and EXTENDS in block:
        wanted, place = block[EXTENDS], f"profiles.{path[-1]}.{EXTENDS}"
        if not isinstance(wanted, str):
            raise UserError(f"{place}: must be the name of a profile, got {short_repr(wanted)}")
        if wanted != path[-1] and wanted in profiles:
            if wanted in path:
                circle = " extends ".join(map(repr, [*path[path.index(wanted) :], wanted]))
                raise UserError(f"{place}: a circle, {circle}; let one of them begin with nothing")
            block = profiles[wanted]
            path.append(wanted)
        elif wanted in (ours := shipped()):
            block = ours[wanted]
        else:
            others = ({*profiles} - {path[-1]}) | {*ours}
            raise UserError(f"{place}: {unknown('profile', wanted, others)}")
        layers.append(block)
    if not all(isinstance(layer, Mapping) for layer in layers):
        return layers[-1]
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        whole = deep_merge(whole, {key: value for key, value in layer.items() if key != EXTENDS})
    return whole
