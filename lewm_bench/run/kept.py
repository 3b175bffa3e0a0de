"""The stage of checkpoints on the way of a training: kept by the same training that makes the weights, or made after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lewm_bench.agent import Family, Setting
from lewm_bench.core.reading import is_file
from lewm_bench.run.keys import checkpoints_spec
from lewm_bench.system.checkpoint import CARD, WEIGHTS
from lewm_bench.system.files import checksum
from lewm_bench.train.keeping import Keeping, shares_of

AGAIN = ".again"  # scratch: a training whose weights exist without what is missing


def keep_checkpoints(
    setting: Setting,
    family: Family,
    number: int,
    model: Callable[[Keeping], Path],
    again: Callable[[Keeping, Path], object],
    say: Callable[[str], None],
) -> Path:
    """The folder with the checkpoints after all shares of a training but the last, whose weights are the model's.

    Weights that are in the cache are used: only where they were trained without being asked for these checkpoints does
    the agent train again, which is said.

    Args:
        number: shares of the training.
        model: the folder of the trained weights; trained, where they are not there, while checkpoints are kept.
        again: trains once more in a folder.
    """
    steps = shares_of(setting.config.train.steps, number)[:-1]

    def build(work: Path) -> None:
        weights = model(Keeping(steps, work)) / WEIGHTS
        missing = tuple(each for each in steps if not is_file(Keeping(steps, work).of(each) / CARD))
        if not missing:
            return
        who = f"{setting.env_id}: {setting.agent}, seed {setting.seed}"
        say(f"{who}, was trained before checkpoints on its way were asked for; trained again for them")
        (work / AGAIN).mkdir(exist_ok=True)
        again(Keeping(missing, work), work / AGAIN)
        if checksum(work / AGAIN / WEIGHTS) != checksum(weights):
            say(f"{who}, did not train to the same weights again: its checkpoints are those of a training like its own")

    return setting.store.stage("checkpoints", checkpoints_spec(setting, family, number), build)
