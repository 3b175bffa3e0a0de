"""Settings that once had another name: the old one still works, and whoever writes it is told once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from lewm_bench.core.config import deep_merge

logger = logging.getLogger(__name__)

RENAMED: Mapping[str, str] = {"cem": "planner"}
"""Old to new names at the top of nested settings."""


def renamed(settings: Mapping[str, Any], tell: bool = True) -> dict[str, Any]:
    """``settings`` under their names of today; where both names are given their values are merged, the new one's win.

    Args:
        tell: warn, once per process and name; not for what was recorded before the name changed.
    """
    old = {name: RENAMED[name] for name in settings if name in RENAMED}
    if not old:
        return dict(settings)
    today = {name: value for name, value in settings.items() if name not in old}
    for name, new in old.items():
        if tell:
            _tell(name, new)
        both = isinstance(settings[name], Mapping) and isinstance(today.get(new, {}), Mapping)
        today[new] = deep_merge(settings[name], today.get(new, {})) if both else today.get(new, settings[name])
    return today


@cache
def _tell(old: str, new: str) -> None:
    logger.warning("settings under %s. are called %s. now; the old name still works", old, new)
