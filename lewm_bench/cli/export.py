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


@app.command(name="lewm-weights", cls=Verb)
def lewm_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A LeWM of the paper's size: a checkpoint folder, or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
) -> None:  # fmt: skip
    """Write a LeWM as its authors release weights, weights.pt and config.json, and print the folder.

    Example: lewm-bench export lewm-weights my-lewm --out released
    """
    from lewm_bench.run.checkpoints import located
    from lewm_bench.run.released import export_lewm

    require_new(out)
    scale = export_lewm(located(checkpoint).folder, out)
    mean, std = (",".join(f"{value:.6g}" for value in values) for values in (scale.mean, scale.std))
    say(f"the layout has no action statistics; to import it again: --action-mean {mean} --action-std {std}")
    typer.echo(str(out))
