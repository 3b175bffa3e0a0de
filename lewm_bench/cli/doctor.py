"""The verb that says what works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import CacheOption, Choices, ConfigOption, EnvsOption, ProfileOption, SetOption

if TYPE_CHECKING:
    from lewm_bench.system.doctor import Check

DEFAULT = "pointmaze"

SuiteOption = Annotated[
    str, typer.Option("--suite", "-s", help=f"What would the data of this suite take? {DEFAULT} if left out.")
]
GivenOption = Annotated[Path | None, typer.Option("--data", help="Look at this dataset in place of a suite's.")]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Also read every byte of the cache (and of --data) and compare it.")
]


def doctor(
    suite: SuiteOption = "",
    profile: ProfileOption = "quick",
    envs: EnvsOption = "",
    overrides: SetOption = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: GivenOption = None,
    verify: VerifyOption = False,
) -> None:
    """Say what works on this machine and what a suite's data will take, and the command that mends the rest.

    Exit status 1 if something does not work.

    Example: lewm-bench doctor --suite tworoom --profile paper
    """
    from lewm_bench.run.forecast import check_data, check_given
    from lewm_bench.system.doctor import diagnose, verify_cache

    statuses = [_show(item) for item in diagnose(cache)]
    if verify:
        statuses.append(_show(verify_cache(cache)))
    if data is not None:
        statuses.append(_show(check_given(data, verify)))
    else:
        of_suite = Choices.of(locals(), suite=suite or _default_suite(config), data=None, device="cpu").run()
        statuses += map(_show, check_data(of_suite))
    if "fail" in statuses:
        raise typer.Exit(1)


def _show(item: Check) -> str:
    remedy = f"\n        -> {item.remedy}" if item.remedy and item.status != "ok" else ""
    typer.echo(f"{item.status:<4}  {item.name}: {item.detail}{remedy}")
    return item.status


def _default_suite(config: Path | None) -> str:
    """The suite that other verbs have by default, or where the file does not have that its first one with environments."""
    from lewm_bench.run.benchmarks import find_file, load

    suites = load(find_file(config)).suites
    return DEFAULT if DEFAULT in suites else next((name for name, s in suites.items() if s.kind != "speed"), DEFAULT)
