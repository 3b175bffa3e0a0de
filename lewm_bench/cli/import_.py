"""The verbs that take in what others have made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import decimals, require_new
from lewm_bench.cli.verb import Verb, group_of

app = group_of(
    "import",
    "Take in what others have made.\n\nExample: lewm-bench import lewm-weights hf:quentinll/lewm-pusht --out pusht-lewm",
)


@app.command(name="lewm-weights", cls=Verb)
def lewm_weights(
    source: Annotated[Path, typer.Argument(help="A folder with weights.pt and config.json, or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint folder to make.")],
    env: Annotated[str, typer.Option("--env", help="The environment it was trained in (`lewm-bench list envs`); known of the authors' own releases.")] = "",
    action_mean: Annotated[str, typer.Option("--action-mean", help="Mean of the actions that it was trained on, comma-separated.")] = "",
    action_std: Annotated[str, typer.Option("--action-std", help="Their standard deviation.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="A data set of ours to take them from instead.")] = None,
    frame_skip: Annotated[int, typer.Option("--frame-skip", min=1, help="Actions per block.")] = 5,
) -> None:  # fmt: skip
    """Make a checkpoint folder of LeWM's released weights, and print it.

    Example: lewm-bench import lewm-weights their-pusht --env lewm_bench/PushT-v0 --out pusht-lewm
    """
    from lewm_bench.run.checkpoints import located
    from lewm_bench.run.released import environment_of, import_lewm, statistics_of

    require_new(out)
    env_id = environment_of(source.as_posix(), env)
    mean, std = decimals("--action-mean", action_mean), decimals("--action-std", action_std)
    statistics = statistics_of(env_id, mean, std, data)
    import_lewm(located(source), out, env_id, statistics, frame_skip)
    typer.echo(str(out))
