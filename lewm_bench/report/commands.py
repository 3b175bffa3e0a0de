"""What to paste into a terminal to run what a table lacks, told from the records alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lewm_bench.system.filenames import file_stem

if TYPE_CHECKING:
    from lewm_bench.run.records import CellRecord


def run_command(cells: Sequence[CellRecord], protocol: str, profile: str, env: str, agent: str) -> str:
    """The command that runs an agent in an environment, as the other cells there were run.

    Everything is chosen by name, which wins over what the suite lists (``run.resolve``), and all
    goal offsets at once, since a cell holds all of its own. The results get a folder of their own: a run sets aside
    what another one left in its folder (``run.results_folder``).
    """
    alike = [c for c in cells if (c.protocol, c.profile) == (protocol, profile)]
    here = [c for c in alike if c.env == env]
    own = [c for c in here if c.agent == agent] or [c for c in alike if c.agent == agent] or here
    suite = min(c.suite for c in here)
    offsets = sorted({o.goal_offset for c in here for o in c.offsets})
    settings = [f"evaluate.protocol={protocol.partition('/')[0]}", *_budget(here)]  # with all of its strata
    settings += [f"evaluate.goal_offset=[{','.join(map(str, offsets))}]"] if offsets else []
    chosen = {
        "suite": [suite],
        "profile": [profile],
        "envs": [env],
        "agents": [agent],
        "seeds": [",".join(map(str, sorted({c.seed for c in own})))],
        "set": settings,
        "out": [f"{more(suite)}/{file_stem(env, agent)}"],
    }
    options = (f"--{name} {shlex.quote(value)}" for name, values in chosen.items() for value in values)
    return " ".join(["lewm-bench run", *options])


OPTIONS = (
    "Options that were given beside the suite and the profile (--agents, --envs, --seeds, --set, --config) are no part of "
    "this line: the resolved configurations below say what they were."
)


def join_command(suite: str) -> str:
    """The command that reports a suite together with everything that was run later by ``run_command``."""
    return f"lewm-bench report {shlex.quote(f'results/{suite}')} {shlex.quote(more(suite))}/*"


def more(suite: str) -> str:
    """Where results go that were run later."""
    return f"results/{suite}-more"


def _budget(cells: Sequence[CellRecord]) -> list[str]:
    """The common training budget as a setting, if there was one."""
    given = [c.config.get("training") or {} for c in cells if c.status == "done"]
    found = {f"training.{unit}={amount:g}" for each in given for unit, amount in each.items() if amount is not None}
    return list(found) if len(found) == 1 else []
