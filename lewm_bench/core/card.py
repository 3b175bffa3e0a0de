"""What people are told of an agent and how figures draw it."""

from __future__ import annotations

from pydantic import Field

from lewm_bench.core.config import Config


class Card(Config):
    """The introduction of an agent. It is part of every record, so that a report knows agents that it never imports."""

    name: str = ""  # for people; as registered if left out
    about: str = ""  # a sentence behind "NAME: ", without its full stop: what it is, or what is special about it
    colour: str = Field("", pattern=r"^(#[0-9a-fA-F]{6})?$")  # in figures; one of the spare colours if left out
    marker: str = Field(
        "", max_length=1, pattern=r"^[os^v<>pPXDd*hH8]?$"
    )  # of Matplotlib, the second cue beside colour
    loss_terms: tuple[str, ...] = ()  # of the objective, as they are logged
    papers: dict[str, str] = Field(default_factory=dict)  # a name for a link, and the number at arXiv
    variants: dict[str, str] = Field(default_factory=dict)  # names for people of variants that are methods of their own
    learns_from: str = ""  # where it learns, if that is not the dataset of all
    rank: int = 100  # its place among agents of its kind in tables and figures, small numbers first
