"""What an agent is called: ``BASE``, ``BASE:VARIANT`` or either with settings, ``BASE[:VARIANT][:PATH=VALUE]...``.

Settings in a name are how one table holds several ablations of one agent: ``lewm``, ``lewm:sigreg_weight=0``,
``lewm:planner.solver=mppi``. Paths under ``planner.`` are the planner's, all others the agent's own. Values are YAML; lists,
mappings and quoted text may hold colons and commas. Names that mean the same have one canonical form, by which an
agent is known in records, tables and files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from lewm_bench.core.config import deep_merge
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.reading import parse_yaml
from lewm_bench.core.renamed import renamed

PATH = re.compile(r"\s*[\w.-]*\s*=")  # what a setting begins with
KEY = re.compile(r"[\w-]+")  # of a mapping that can be written as a path
PLAIN = re.compile(r"[\w./~+-][\w./~+:-]*")  # text that may need no quotes
EXACT = 2**53  # whole numbers up to here are the same as floats


class AgentName(NamedTuple):
    """The parts of a name."""

    base: str  # as registered, or ``module:attribute`` of another package
    variant: str | None
    settings: tuple[tuple[str, str], ...]  # (path, value as YAML)

    @property
    def trained(self) -> str:
        """The name without its settings; what random streams are addressed by, so that ablations draw the same numbers."""
        return self.base if self.variant is None else f"{self.base}:{self.variant}"


def names_steps(agent: str) -> bool:
    """Whether an agent's name sets its training steps, so that no common budget does."""
    return any(path in ("train.steps", "train.epochs") for path, _ in parse_agent(known_as(agent)).settings)


def parse_agent(name: str) -> AgentName:
    """``dino-wm:mae:planner.solver=icem`` to ("dino-wm", "mae", (("planner.solver", "icem"),)).

    Behind the first setting a colon begins another only where a path and ``=`` follow, so that ``weights=C:/weights``
    is one.
    """
    parts = split(name, ":")
    whole = 2 if "." in parts[0] else 1  # a path of another package has a colon of its own
    base, variants, settings = ":".join(parts[:whole]), [], []
    for part in parts[whole:]:
        if PATH.match(part):
            settings.append(part)
        elif settings:
            settings[-1] += f":{part}"
        else:
            variants.append(part)
    pairs = (setting.partition("=") for setting in settings)
    found = tuple((path.strip(), value.strip()) for path, _, value in pairs)
    return AgentName(base, ":".join(variants) if variants else None, found)


def split(text: str, separator: str) -> list[str]:
    """``text`` at every separator outside of brackets and quotes; brackets or quotes that never close are text."""
    parts, begin = [], 0
    for place in _outside(text):
        if text[place] == separator:
            parts.append(text[begin:place])
            begin = place + 1
    return [*parts, text[begin:]]


def _outside(text: str) -> Iterator[int]:
    """The places of the characters outside of brackets and quotes."""
    place = 0
    while place < len(text):
        end = _closing(text, place) if text[place] in "[{" or _opens_quote(text, place) else None
        if end is None:
            yield place
            place += 1
        else:
            place = end + 1


def _opens_quote(text: str, place: int) -> bool:
    """Whether a quote stands where a value begins; elsewhere it is an apostrophe."""
    before = text[:place].rstrip()[-1:]
    return text[place] in "\"'" and before in ("", *"=,:[{")


def _closing(text: str, begin: int) -> int | None:
    """Where the bracket or quote at ``begin`` is closed, or None."""
    place, waiting = begin, []
    while place < len(text):
        letter = text[place]
        if waiting and waiting[-1] in "\"'":
            if letter == "\\" and waiting[-1] == '"':
                place += 1
            elif letter == waiting[-1]:
                waiting.pop()
        elif letter in "[{":
            waiting.append("]" if letter == "[" else "}")
        elif _opens_quote(text, place):
            waiting.append(letter)
        elif waiting and letter == waiting[-1]:
            waiting.pop()
        if not waiting:
            return place
        place += 1
    return None


def settings_of(agent: str, tell: bool = False) -> dict[str, Any]:
    """The settings in an agent's name, nested; the last wins.

    Args:
        tell: warn of names of settings that are not today's.

    Raises:
        UserError: they are not PATH=VALUE.
    """
    merged: dict[str, Any] = {}
    for path, text in parse_agent(agent).settings:
        keys = path.split(".")
        if not all(keys) or not text:
            raise UserError(
                f"agent {short_repr(agent)}: settings in a name are PATH=VALUE, for example lewm:sigreg_weight=0.01"
            )
        value = value_of(text, path)
        for key in reversed(keys):
            value = {key: value}
        merged = deep_merge(merged, value)
    return renamed(merged, tell)


def value_of(text: str, path: str = "a setting") -> Any:
    """The value of a YAML text.

    Raises:
        UserError: it is none.
    """
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: cannot read the value {short_repr(text)}{error}")


@lru_cache(maxsize=4096)
def canonical(agent: str, tell: bool = True) -> str:
    """The one name of an agent: settings by path in alphabetical order, numbers and text in their shortest form.

    ``lewm:train={steps: 3}:dropout=1e-1`` is ``lewm:dropout=0.1:train.steps=3``.

    Args:
        tell: warn of names of settings that are not today's.

    Raises:
        UserError: its settings are not PATH=VALUE.
    """
    settings = sorted(_flat(settings_of(agent, tell)))
    return ":".join([parse_agent(agent).trained.strip(), *(f"{path}={written(value)}" for path, value in settings)])


def known_as(agent: str, tell: bool = False) -> str:
    """The canonical name, or one that has none as it is; for names out of files, which need not be ours."""
    try:
        return canonical(agent, tell)
    except UserError:
        return agent


AgentText = Annotated[str, AfterValidator(known_as)]
"""An agent's name in a record."""

AskedAgent = Annotated[str, AfterValidator(partial(known_as, tell=True))]
"""An agent's name in YAML."""


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of nested settings; a mapping whose keys make no path is a value."""
    for key, value in settings.items():
        if isinstance(value, dict) and value and all(KEY.fullmatch(name) for name in value):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def written(value: Any) -> str:
    """A value as the shortest YAML on one line that stands in a name: ``0.001``, ``null``, ``[64,64]``, ``mppi``."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < EXACT else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{written(key)}: {written(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, str) and _needs_no_quotes(value):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def _needs_no_quotes(text: str) -> bool:
    """Whether text stands for itself: it is read as itself, and no part of it as another setting."""
    if not PLAIN.fullmatch(text) or text.endswith(":") or any(map(PATH.match, text.split(":")[1:])):
        return False
    try:
        return parse_yaml(f"[{text}]") == [text]
    except ValueError:
        return False


def stratum_of(protocol: str) -> str:
    """The stratum in a protocol's id, "" where it has none: ``clean-2/planning`` to ``planning``."""
    return protocol.partition("/")[2]


def reading_order(protocol: str) -> tuple[str, bool, str]:
    """Sorts ids of protocols: the pairs that need a plan before those that do not."""
    name, _, stratum = protocol.partition("/")
    return name, stratum != "planning", stratum
