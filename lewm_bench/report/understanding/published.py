"""Published numbers beside which a report shows its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lewm_bench.understand.probes import PublishedProbe


def published_probes(env: str, quantity: str) -> list[PublishedProbe]:
    """The published rows of a quantity of an environment."""
    # Inside: most of what reads records does not need what probes.
    from lewm_bench.understand.probes import PUBLISHED_PROBES

    return [row for row in PUBLISHED_PROBES if (row.env, row.quantity) == (env, quantity)]
