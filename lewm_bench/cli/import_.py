"""The verbs that take in what others have made."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lewm_bench.cli.options import QuietOption, decimals, require_new
from lewm_bench.cli.verb import Verb, group_of

NO_SIMULATOR = "none"

app = group_of(
    "import",
    "Take in what others have made.\n\nExample: lewm-bench import lewm-weights hf:quentinll/lewm-pusht --out pusht-lewm",
)


RELEASES = {"lewm": "LeWM", "pldm": "PLDM as stable-worldmodel saves it", "fast-lewm": "Fast-LeWM"}
"""Agents of ours that have the networks of others' weights, and whose those are."""


def _weights_verb(agent: str, of: str) -> None:
    """Register ``lewm-bench import AGENT-weights``."""

    def weights(
        source: Annotated[Path, typer.Argument(help="A folder with weights.pt and, but for Fast-LeWM, config.json; or hf:OWNER/NAME.")],
        out: Annotated[Path, typer.Option("--out", help="The checkpoint folder to make.")],
        env: Annotated[str, typer.Option("--env", help="The environment it was trained in (`lewm-bench list envs`); known of the releases of LeWM's authors.")] = "",
        action_mean: Annotated[str, typer.Option("--action-mean", help="Mean of the actions that it was trained on, comma-separated.")] = "",
        action_std: Annotated[str, typer.Option("--action-std", help="Their standard deviation.")] = "",
        data: Annotated[Path | None, typer.Option("--data", help="A data set of ours to take them from instead.")] = None,
        frame_skip: Annotated[int, typer.Option("--frame-skip", min=1, help="Actions per block.")] = 5,
    ) -> None:  # fmt: skip
        from lewm_bench.run.checkpoints import located
        from lewm_bench.run.released import environment_of, import_release, statistics_of

        require_new(out)
        env_id = environment_of(agent, source.as_posix(), env)
        mean, std = decimals("--action-mean", action_mean), decimals("--action-std", action_std)
        statistics = statistics_of(agent, env_id, mean, std, data)
        import_release(agent, located(source), out, env_id, statistics, frame_skip)
        typer.echo(str(out))

    weights.__doc__ = f"""Make a checkpoint folder of the weights of {of}, and print it.

    Example: lewm-bench import {agent}-weights their-pusht --env lewm_bench/PushT-v0 --out pusht-{agent}
    """
    app.command(name=f"{agent}-weights", cls=Verb)(weights)


for _agent, _of in RELEASES.items():
    _weights_verb(_agent, _of)


@app.command(name="dino-wm-weights", cls=Verb)
def dino_wm_weights(
    source: Annotated[Path, typer.Argument(help="A folder with weights.pt and config.json of stable-worldmodel, hf:OWNER/NAME, or a file NAME.pth.tar of jepa-wms.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint folder to make.")],
    env: Annotated[str, typer.Option("--env", help="The environment it was trained in (`lewm-bench list envs`).")],
    dinov2: Annotated[Path | None, typer.Option("--dinov2", help="Folder with DINOv2's config.json and model.safetensors (dino-wm.weights); else the cache of Hugging Face.")] = None,
    action_mean: Annotated[str, typer.Option("--action-mean", help="Mean of the actions that it was trained on, comma-separated.")] = "",
    action_std: Annotated[str, typer.Option("--action-std", help="Their standard deviation.")] = "",
    proprio_mean: Annotated[str, typer.Option("--proprio-mean", help="Mean of the proprioception that it was trained on, comma-separated.")] = "",
    proprio_std: Annotated[str, typer.Option("--proprio-std", help="Its standard deviation.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="A data set of ours to take them all from instead.")] = None,
    frame_skip: Annotated[int, typer.Option("--frame-skip", min=1, help="Actions per block.")] = 5,
) -> None:  # fmt: skip
    """Make a checkpoint folder of the weights of a DINO-WM of stable-worldmodel (PreJEPA) or jepa-wms, and print it.

    Example: lewm-bench import dino-wm-weights dino_wm_pusht.pth.tar --env lewm_bench/PushT-v0 --out pusht-dino-wm
    """
    from lewm_bench.run.checkpoints import located
    from lewm_bench.run.released import statistics_of
    from lewm_bench.run.released_dino_wm import import_dino_wm, proprio_statistics_of

    require_new(out)
    actions = [decimals(*given) for given in (("--action-mean", action_mean), ("--action-std", action_std))]
    felt = [decimals(*given) for given in (("--proprio-mean", proprio_mean), ("--proprio-std", proprio_std))]
    statistics = statistics_of("dino-wm", env, *actions, data)
    proprio = proprio_statistics_of(env, *felt, data)
    weights = None if dinov2 is None else str(dinov2)
    import_dino_wm(located(source), out, env, statistics, proprio, weights, frame_skip)
    typer.echo(str(out))


@app.command(name="data", cls=Verb)
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
    split: Annotated[str, typer.Option("--split", help="Per cent of the episodes for train, val, test; 75,10,15 if left out.")] = "",
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

    wish = Wish(source, out, Names(pixels, actions, states, episodes), image_size, kind, decimals("--split", split))
    progress = not quiet and sys.stderr.isatty()
    found = import_data(wish, None if env == NO_SIMULATOR else make, progress)
    for line in found.lines:
        typer.echo(line)
    typer.echo(f"{out}: {len(found.dataset)} episodes, {len(found.dataset.frames)} frames, {found.dataset.fingerprint}")
