"""The base of every configuration: frozen, typed, and unforgiving of misspelt keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Immutable settings. A default stands in the class that reads it and nowhere else; YAML holds deviations."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def unread(self) -> Collection[str]:
        """The settings that play no part beside the values of the others."""
        return ()


class Record(Config):
    """What was found or measured, which may be infinite or no number at all."""

    model_config = ConfigDict(allow_inf_nan=True)


EITHER: Mapping[str, str] = {"steps": "epochs", "epochs": "steps"}
"""Keys of which the later one is meant, since each says how long a training is."""


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``over`` put in; mappings merge, everything else replaces.

    Of two keys that say the same in different ways (``EITHER``) the one in ``over`` takes the place of the other.
    """
    merged = {key: value for key, value in base.items() if key in over or over.get(EITHER.get(key, key)) is None}
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
