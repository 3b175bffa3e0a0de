"""Run the inputs and count what came of them; also as a program: ``python tests/fuzz/fuzzer.py --share 0.1``."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from cases import cases, template
from sandbox import FAULTS, Outcome, Sandbox


def fuzz(root: Path, seed: int, share: float = 1.0, kind: str = "", only: str = "") -> list[Outcome]:
    """The outcomes of the inputs in folders below ``root``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path, modules = list(sys.path), set(sys.modules)
    try:
        for name in ("home", "temporary"):
            (root / name).mkdir()
        template(root)
        sandbox = Sandbox(root)
        chosen = [case for case in cases(root, seed, share) if kind in case.kind and only in ("", case.name)]
        return [sandbox.run(case, number) for number, case in enumerate(chosen)]
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
        for name in [name for name in sys.modules if name not in modules and name.startswith("theirs")]:
            del sys.modules[name]


def table(outcomes: list[Outcome]) -> str:
    """A line per kind of input: how many, their exit statuses, and the faults."""
    lines = [f"| inputs | count | exit 0 | exit 1 | exit 2 | {' | '.join(FAULTS)} |", "|---" * (5 + len(FAULTS)) + "|"]
    kinds = [*dict.fromkeys(outcome.case.kind for outcome in outcomes), ""]
    for kind in kinds:
        own = [outcome for outcome in outcomes if kind in ("", outcome.case.kind)]
        statuses = collections.Counter(outcome.status for outcome in own)
        faults = collections.Counter(fault for outcome in own for fault in outcome.faults)
        numbers = [len(own), *(statuses[status] for status in (0, 1, 2)), *(faults[fault] for fault in FAULTS)]
        lines.append(f"| {kind or 'all'} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--kind", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--faults", type=Path, help="Where to write what went wrong, as JSON.")
    asked = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        outcomes = fuzz(Path(root).resolve(), asked.seed, asked.share, asked.kind, asked.only)
        print(table(outcomes), f"{time.perf_counter() - begin:.0f} s", sep="\n", flush=True)
    wrong = [outcome for outcome in outcomes if outcome.faults or asked.only]
    for outcome in wrong[:20] if asked.faults is None else wrong:
        if asked.faults is None:
            print(
                f"--- {outcome.case.name}: {outcome.status} {outcome.faults}\n{outcome.err[-600:]}\n{outcome.detail[-1500:]}"
            )
    if asked.faults is not None:
        rows = [(o.case.name, o.status, o.faults, o.err[-3000:], o.detail) for o in wrong]
        asked.faults.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
