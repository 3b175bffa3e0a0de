"""The verbs that hand out what is ours in the layouts of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import require_new, say
from lewm_bench.cli.verb import Verb, group_of

app = group_of(
    "export",
    "Hand out what is ours in the layouts of others.\n\nExample: lewm-bench export lewm-weights my-lewm --out released",
)


RELEASED = {"lewm": "LeWM", "pldm": "PLDM"}
"""Agents of ours whose weights stable-worldmodel loads."""


def _weights_verb(agent: str, of: str) -> None:
    """Register ``lewm-bench export AGENT-weights``."""

    def weights(
        checkpoint: Annotated[Path, typer.Argument(help="One of the paper's size: a checkpoint folder, or hf:OWNER/NAME.")],
        out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    ) -> None:  # fmt: skip
        from lewm_bench.run.checkpoints import located
        from lewm_bench.run.released import export_release

        require_new(out)
        scale = export_release(agent, located(checkpoint).folder, out)
        mean, std = (",".join(f"{value:.6g}" for value in values) for values in (scale.mean, scale.std))
        say(f"the layout has no action statistics; to import it again: --action-mean {mean} --action-std {std}")
        typer.echo(str(out))

    weights.__doc__ = f"""Write a {of} as LeWM's authors release weights, weights.pt and config.json, and print the folder.

    Example: lewm-bench export {agent}-weights my-{agent} --out released
    """
    app.command(name=f"{agent}-weights", cls=Verb)(weights)


for _agent, _of in RELEASED.items():
    _weights_verb(_agent, _of)
