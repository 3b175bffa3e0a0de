"""The verb that publishes a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it for yourself alone.")] = False,
) -> None:
    """Put a checkpoint folder on the Hugging Face hub, with a README made from its card.

    Example: lewm-bench push my-lewm me/lewm-pointmaze
    """
    from lewm_bench.run.publishing import push_checkpoint

    push_checkpoint(checkpoint, repository, private)
    typer.echo(f"hf:{repository}")
