"""The settings that make a goal environment of any Gymnasium environment; what they do is in ``lewm_bench.data.adapt``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lewm_bench.core.config import Config
from lewm_bench.core.errors import unknown
from lewm_bench.core.exploration import GENERIC, LEARNED, check_shares


class WrapperConfig(Config):
    """A ``gymnasium.Wrapper`` and its arguments."""

    name: str  # "module:Class"
    kwargs: dict[str, Any] = Field(default_factory=dict)


def _wrapper(value: Any) -> Any:
    """A class, or its name alone, as a ``WrapperConfig``."""
    return {"name": _path(value)} if isinstance(value, str) or callable(value) else value


def _path(value: object) -> object:
    """``module:attribute`` of a function or class; a path as it is."""
    return f"{value.__module__}:{value.__qualname__}" if callable(value) else value


class Adapt(Config):
    """What Gymnasium does not say about an environment: when a goal is reached, and what a state is."""

    threshold: float = Field(gt=0, allow_inf_nan=False)  # a state closer to the goal than this is a success
    compare: tuple[int, ...] = ()  # entries of the vector whose Euclidean distance counts; all of them if empty
    angles: tuple[int, ...] = ()  # those of them that are angles in radians, compared around the circle
    distance: str = ""  # "module:function" of (..., K) vectors and goals, in place of compare
    unit: str = "units of the state"
    state: Literal["auto", "qpos", "replay"] = "auto"  # the vector: (qpos, qvel), or the observation if replayed
    wrappers: tuple[Annotated[WrapperConfig, BeforeValidator(_wrapper)], ...] = ()  # around it, the first innermost
    frame: str = ""  # "module:function" of the environment to an (h, w, 3) uint8 picture; render() if empty
    frame_key: str = ""  # or the key of its observation that is such a picture, which then is no part of the vector
    terminates: bool = True  # the environment's own termination ends an episode; if not, it is ignored
    exploration: dict[str, float] = Field(default={"ornstein_uhlenbeck": 1.0})
    warmup: int = Field(20, ge=0)  # a sampled state is up to this many random actions after a reset
    max_steps: int = Field(300, ge=1)  # of a replayed episode: warm-up, data and budget; its state holds all actions

    @field_validator("distance", "frame", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return _path(value)

    @field_validator("exploration")
    @classmethod
    def _explores(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in (*GENERIC, LEARNED):
                raise ValueError(str(unknown("policy", name, (*GENERIC, LEARNED))))
        check_shares(value)
        return value

    @model_validator(mode="after")
    def _one_distance(self) -> Adapt:
        if self.distance and (self.compare or self.angles):
            raise ValueError("give either a distance or the entries to compare")
        if self.compare and not set(self.angles) <= set(self.compare):
            raise ValueError(f"angles {list(self.angles)} must be among compare {list(self.compare)}")
        return self

    @model_validator(mode="after")
    def _all_of_the_state(self) -> Adapt:
        if self.state == "qpos" and (self.wrappers or self.frame_key):
            raise ValueError("(qpos, qvel) leaves out wrappers and observations; with those use state: replay")
        if self.frame and self.frame_key:
            raise ValueError("give either a frame or a frame_key")
        return self
