"""What is examined, and how thoroughly. The settings of each examination are defined beside it."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from lewm_bench.core.config import Config
from lewm_bench.understand.collapse import CollapseConfig
from lewm_bench.understand.decoder import DecoderConfig
from lewm_bench.understand.maps import MapsConfig
from lewm_bench.understand.open_loop import OpenLoopConfig
from lewm_bench.understand.paths import PathsConfig
from lewm_bench.understand.probes import ProbeConfig
from lewm_bench.understand.surprise import SurpriseConfig

Name = Literal["collapse", "paths", "probe", "surprise", "open_loop", "maps", "decoder"]
"""The examinations, in the order in which they are made; each has its settings under its name."""


class UnderstandingConfig(Config):
    """Settings of a suite with ``kind: understand``."""

    examinations: tuple[Name, ...] = Field(get_args(Name), min_length=1)
    collapse: CollapseConfig = CollapseConfig()
    paths: PathsConfig = PathsConfig()
    probe: ProbeConfig = ProbeConfig()
    surprise: SurpriseConfig = SurpriseConfig()
    open_loop: OpenLoopConfig = OpenLoopConfig()
    maps: MapsConfig = MapsConfig()
    decoder: DecoderConfig = DecoderConfig()
