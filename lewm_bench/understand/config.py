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
from lewm_bench.understand.retrieval import RetrievalConfig
from lewm_bench.understand.surprise import SurpriseConfig

Name = Literal["collapse", "paths", "probe", "surprise", "open_loop", "retrieval", "maps", "decoder"]
"""The examinations, in the order in which they are made; each has its settings under its name."""


class UnderstandingConfig(Config):
    """Settings of a suite with ``kind: understand``."""

    examinations: tuple[Name, ...] = Field(get_args(Name), min_length=1, description="what is examined, in this order")
    collapse: CollapseConfig = Field(CollapseConfig(), description="whether latents have collapsed")
    paths: PathsConfig = Field(PathsConfig(), description="how straight latent paths are")
    probe: ProbeConfig = Field(ProbeConfig(), description="what of the true state latents tell")
    surprise: SurpriseConfig = Field(SurpriseConfig(), description="whether violated expectations surprise the model")
    open_loop: OpenLoopConfig = Field(OpenLoopConfig(), description="how long imagined latents stay true")
    retrieval: RetrievalConfig = Field(RetrievalConfig(), description="whether goals are found by latent distance")
    maps: MapsConfig = Field(MapsConfig(), description="latents drawn in the plane")
    decoder: DecoderConfig = Field(DecoderConfig(), description="pictures of latents, by a decoder of their own")
