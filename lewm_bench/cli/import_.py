"""The verb that takes in what others have recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lewm_bench.cli.options import QuietOption

NO_SIMULATOR = "none"


def data(
    source: Annotated[Path, typer.Argument(help="A file, folder or archive (.zst, .tar.zst) of any known format.")],
    env: Annotated[str, typer.Option("--env", help="The environment it was recorded in; none if there is no simulator.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the dataset; must not be there yet.")],
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels of a side; as stored if left out.")] = None,
    pixels: Annotated[str, typer.Option("--pixels", help="The column of the frames.")] = "",
    actions: Annotated[str, typer.Option("--actions", help="The column of the actions.")] = "",
    states: Annotated[str, typer.Option("--states", help="The columns of the state, with commas.")] = "",
    episodes: Annotated[str, typer.Option("--episodes", help="The column that says where episodes end.")] = "",
    kind: Annotated[str, typer.Option("--format", help="npz, hdf5, lance, minari, ogbench, lerobot, dino-wm; else recognised.")] = "",
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Import recorded data and prove that the simulator does what they say; `--data FOLDER` then uses them.

    Example: lewm-bench import data tworoom.tar.zst --env lewm_bench/TwoRoom-v0 --image-size 64 --out my-data
    """
    from lewm_bench.core.env import GoalEnv
    from lewm_bench.data.importers import Names, Wish, import_data
    from lewm_bench.run.environments import make_env

    def make(size: int, kwargs: Mapping[str, Any]) -> GoalEnv:
        return make_env(env, size, kwargs)

    wish = Wish(source, out, Names(pixels, actions, states, episodes), image_size, kind)
    progress = not quiet and sys.stderr.isatty()
    found = import_data(wish, None if env == NO_SIMULATOR else make, progress)
    for line in found.lines:
        typer.echo(line)
    typer.echo(f"{out}: {len(found.dataset)} episodes, {len(found.dataset.frames)} frames, {found.dataset.fingerprint}")
