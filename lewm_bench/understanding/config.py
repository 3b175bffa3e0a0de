"""What is examined, and how thoroughly. The settings of each examination are defined beside it."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from lewm_bench.config import Config
from lewm_bench.understanding.collapse import CollapseConfig
from lewm_bench.understanding.decoder import DecoderConfig
from lewm_bench.understanding.maps import MapsConfig
from lewm_bench.understanding.open_loop import OpenLoopConfig
from lewm_bench.understanding.paths import PathsConfig
from lewm_bench.understanding.probes import ProbeConfig
from lewm_bench.understanding.surprise import SurpriseConfig

Name = Literal["collapse", "paths", "probe", "surprise", "open_loop", "maps", "decoder"]
"""The examinations, in the order in which they are made; each has its settings under its name."""


class UnderstandingConfig(Config):
    """Settings of a suite with ``understand: true``."""

    examinations: tuple[Name, ...] = Field(get_args(Name), min_length=1)
    collapse: CollapseConfig = CollapseConfig()
    paths: PathsConfig = PathsConfig()
    probe: ProbeConfig = ProbeConfig()
    surprise: SurpriseConfig = SurpriseConfig()
    open_loop: OpenLoopConfig = OpenLoopConfig()
    maps: MapsConfig = MapsConfig()
    decoder: DecoderConfig = DecoderConfig()
