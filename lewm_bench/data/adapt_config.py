"""The settings that make a goal environment of any Gymnasium environment; what they do is in ``lewm_bench.data.adapt``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lewm_bench.core.config import Config
from lewm_bench.core.errors import unknown
from lewm_bench.core.exploration import GENERIC, LEARNED, check_shares


class WrapperConfig(Config):
    """A ``gymnasium.Wrapper`` and its arguments."""

    name: str = Field(description="the gymnasium.Wrapper, module:Class")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of its constructor")


def _wrapper(value: Any) -> Any:
    """A class, or its name alone, as a ``WrapperConfig``."""
    return {"name": _path(value)} if isinstance(value, str) or callable(value) else value


def _path(value: object) -> object:
    """``module:attribute`` of a function or class; a path as it is."""
    return f"{value.__module__}:{value.__qualname__}" if callable(value) else value


class Adapt(Config):
    """What Gymnasium does not say about an environment: when a goal is reached, and what a state is."""

    threshold: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="a state closer to the goal than this is a success, in units of the distance",
    )
    compare: tuple[int, ...] = Field(
        (),
        description="entries of the vector whose distance counts; empty: all positions, or all of it",
    )
    angles: tuple[int, ...] = Field(
        (), description="those of them that are angles in radians, compared around the circle"
    )
    distance: str = Field("", description="module:function of (..., K) vectors and goals, in place of compare")
    unit: str = Field("units of the state", description="of the distance, for tables")
    state: Literal["auto", "qpos", "replay"] = Field(
        "auto",
        description="MuJoCo's (qpos, qvel), or the observation, restored by its actions; auto: qpos where it can",
    )
    wrappers: tuple[Annotated[WrapperConfig, BeforeValidator(_wrapper)], ...] = Field(
        (),
        description="module:Class or {name: ..., kwargs: ...}, the first innermost; the state is then replayed",
    )
    frame: str = Field(
        "", description="module:function of the environment to an (h, w, 3) uint8 picture; empty: its render()"
    )
    frame_key: str = Field(
        "",
        description="key of the observation that is such a picture, in place of frame; the state is then replayed",
    )
    terminates: bool = Field(True, description="whether the environment's own termination ends an episode")
    exploration: dict[str, float] = Field(
        default={"ornstein_uhlenbeck": 1.0},
        description="shares of the policies that collect its data (uniform, ornstein_uhlenbeck, sac), together 1",
    )
    warmup: int = Field(
        20, ge=0, description="a sampled state is up to this many steps of one held random action after a reset"
    )
    max_steps: int = Field(
        300, ge=1, description="environment steps of the longest replayed episode: warm-up, data and budget together"
    )

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
