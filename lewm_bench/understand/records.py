"""What the examinations return, as JSON: numbers with intervals and what is needed to draw them again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lewm_bench.core.card import Card
from lewm_bench.core.config import Record
from lewm_bench.core.names import AgentText
from lewm_bench.core.renamed import renamed
from lewm_bench.core.statistics import Estimate
from lewm_bench.system.filenames import file_stem
from lewm_bench.system.files import write_text
from lewm_bench.system.packed import cell_kinds, cell_texts
from lewm_bench.system.record_files import read_record, record_of

SCHEMA = 1
KIND = "understanding"
PICTURES = "decoded"  # folder of a decoder's pictures and videos below the results
FAILED = "failed"

Features = Literal["model", "random encoder", "pixels", "pixels, reduced"]
"""Whose features: the trained model's latents, those of the same networks untrained, raw downsampled frames, and as many
of the frames' principal components as a latent has numbers."""

Condition = Literal["untouched", "camera noise", "recoloured", "teleported"]


class Interval(Record):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Interval:
        """The record of an estimate."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class ProbeRow(Record):
    """How well one physical quantity can be read from features, on episodes that the probe has not seen."""

    quantity: str
    kind: Literal["ridge", "mlp"]
    features: Features
    mse: Interval  # of standardised targets, mean over components: 1 is no information
    r: Interval  # Pearson's, mean over components
    components: int
    n_train: int
    n_test: int
    n_test_episodes: int  # what the intervals resample


class SurpriseCurve(Record):
    """Surprise per step around the event, mean over triples."""

    condition: Condition
    steps: tuple[int, ...]  # blocks after the event, negative before it
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class SurpriseTest(Record):
    """A condition against the untouched member of the same triples, at the event."""

    condition: Condition
    n: int  # triples
    difference: Interval  # mean of paired differences
    effect_size: float  # of paired differences: mean over deviation (Cohen's d_z)
    p: float  # paired t-test, two-sided, on the means of episodes
    p_sign_flip: float  # permutation test of the same, without a normal assumption
    p_holm: float  # corrected for the number of conditions
    auc: Interval  # chance that a member of this condition surprises more than an untouched one


class Surprise(Record):
    """Violation of expectation (LeWM paper, appendix F.3)."""

    n: int  # triples
    n_episodes: int  # what intervals resample and tests count: triples of one episode are not independent
    context: int  # frames that the model sees
    unit: str = "mean squared error of the next latent"
    curves: tuple[SurpriseCurve, ...]
    tests: tuple[SurpriseTest, ...]
    recolour_to_teleport: Interval | None  # ratio of the two mean differences
    teleport_against_recolour: Interval | None  # AUC
    detection: dict[str, tuple[tuple[float, float], ...]]  # condition to (false alarm rate, detection rate) points


class Straightness(Record):
    """Mean cosine of consecutive velocities along held-out paths."""

    features: Features
    value: Interval
    n_paths: int
    n_episodes: int


class Collapse(Record):
    """Whether the latents use their space, on held-out frames."""

    collapsed: bool
    reason: str  # one sentence, also where it did not collapse
    n: int
    size: int  # numbers of a latent
    latent_std: float  # mean over dimensions
    effective_rank: float
    spectrum: tuple[float, ...]  # eigenvalues of the covariance, largest first, sum 1
    sigreg: float  # the statistic, mean over directions
    sigreg_quantiles: tuple[float, ...]  # 5, 25, 50, 75, 95 % over directions
    sigreg_gaussian: float  # the same statistic of as many samples of a standard normal


class OpenLoop(Record):
    """Error of imagined latents against the encoded future, by horizon, beside predicting that nothing changes."""

    horizons: tuple[int, ...]  # blocks
    model: tuple[Interval, ...]  # mean squared error over the variance of held-out latents: 1 is the mean latent's
    copy_last: tuple[Interval, ...]
    n: int
    n_episodes: int


class FrameRetrieval(Record):
    """How often the frame nearest to a goal that is left out is at most a block away from it in its episode."""

    features: Features
    near: Interval


class Retrieval(Record):
    """Which held-out frame lies nearest to a goal frame, and to what was imagined for it."""

    frames: tuple[FrameRetrieval, ...]
    frames_chance: float
    horizons: tuple[int, ...]  # blocks
    exact: tuple[Interval, ...]  # share of goals whose own frame is nearest to the latent imagined for it
    near: tuple[Interval, ...]  # at most ``within`` steps away from it in its episode
    exact_chance: float
    near_chance: float
    within: int  # environment steps
    candidates: int
    n: int  # clips
    n_episodes: int


class LatentMap(Record):
    """Latents of held-out frames in two dimensions, and what they are coloured by."""

    method: Literal["PCA", "t-SNE"]
    points: tuple[tuple[float, float], ...]
    quantity: str
    values: tuple[tuple[float, ...], ...]  # (n, k) of the quantity
    explained: tuple[float, float] | None = None  # shares of variance of the two components (PCA)


class Decoded(Record):
    """A decoder trained on frozen latents, and what it drew; file names are relative to the results folder."""

    train_steps: int
    mse: Interval  # of held-out pixels in [0, 1]
    mean_frame_mse: float  # of always drawing the mean training frame
    pictures: str  # PNG: real frames above decoded ones
    videos: tuple[str, ...]  # real beside imagined
    n: int
    n_episodes: int


class UnderstandingRecord(Record):
    """One examined cell."""

    kind: Literal["understanding"] = KIND
    schema_version: int = SCHEMA
    status: Literal["done", "not run", "failed"]
    reason: str = ""
    suite: str
    profile: str
    env: str
    agent: AgentText
    checkpoint: str = ""  # the folder that was looked into, where one was named
    label: str = ""
    card: Card = Card()  # of the agent
    note: str = ""
    seed: int
    key: str = ""
    config: Annotated[dict[str, Any], AfterValidator(partial(renamed, tell=False))] = Field(default_factory=dict)
    dataset: str = ""
    weights: str = "none"
    parameters: int | None = None
    train_seconds: float | None = None
    training: dict[str, list[float | None]] = Field(default_factory=dict)
    probes: tuple[ProbeRow, ...] = ()
    surprise: Surprise | None = None
    straightness: tuple[Straightness, ...] = ()
    collapse: Collapse | None = None
    open_loop: OpenLoop | None = None
    retrieval: Retrieval | None = None
    maps: tuple[LatentMap, ...] = ()
    decoded: Decoded | None = None
    skipped: dict[str, str] = Field(default_factory=dict)  # examination to why it was not made
    seconds: dict[str, float] = Field(default_factory=dict)  # examination to what it took
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    commit: str = ""
    created: str = ""

    @property
    def failures(self) -> list[str]:
        """What went wrong; what cannot run here did not."""
        if self.status == FAILED:
            return [self.reason]
        return [f"{name} {why}" for name, why in self.skipped.items() if why.startswith(FAILED)]

    @property
    def file_name(self) -> str:
        """The name of this cell's JSON file."""
        return f"{file_stem(self.env, self.agent)}__seed{self.seed}.json"

    def save(self, folder: Path) -> Path:
        """Write the record into ``folder``, atomically."""
        path = folder / self.file_name
        write_text(path, json.dumps(strict(self.model_dump(mode="json")), indent=1, allow_nan=False))
        return path


def strict(value: Any) -> Any:
    """``value`` for JSON, which has no NaN and no infinity: a correlation with a constant becomes the text ``nan``."""
    if isinstance(value, Mapping):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def holds_understanding(folder: Path) -> bool:
    """Whether the cells of a results folder are of this kind; unreadable ones do not tell."""
    return KIND in cell_kinds(folder)


def load_record(path: Path) -> UnderstandingRecord:
    """The record in a file; raises what ``read_record`` does."""
    return read_record(path, UnderstandingRecord, *_KIND, strict=False)


_KIND = SCHEMA, "a record of an examination"


def load_records(folders: Iterable[Path]) -> list[UnderstandingRecord]:
    """All records of result folders, sorted; a later folder wins over an earlier one for the same cell.

    Raises:
        UserError: a folder has no cells, or a file is not a record of this kind and schema.
    """
    found: dict[tuple[str, str, int, str], UnderstandingRecord] = {}
    for folder in folders:
        for path, text in cell_texts(folder):
            each = record_of(text, path, UnderstandingRecord, *_KIND, strict=False)
            found[each.env, each.agent, each.seed, each.profile] = each
    return [found[key] for key in sorted(found)]
