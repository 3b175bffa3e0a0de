"""The base of every configuration: frozen, typed, and unforgiving of misspelt keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Immutable settings. A default stands in the class that reads it and nowhere else; YAML holds deviations."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
