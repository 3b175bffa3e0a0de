"""From surprises to what may be said of them: curves, paired tests, detection.

Several clips of one episode are not independent. So tests count episodes (the mean over an episode's clips is one
observation), intervals resample episodes, and only effect sizes, AUCs and ROC curves describe single clips.

Shapes: N clips, C episodes, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import (
    Estimate,
    bootstrap_mean,
    cluster_means,
    clustered_auc,
    cohens_dz,
    holm,
    paired_t,
    ratio_of_means,
    sign_flip_p,
)
from lewm_bench.understand.records import Condition, Interval, Surprise, SurpriseCurve, SurpriseTest

BASELINE: Condition = "untouched"


def summarise(found: Mapping[Condition, np.ndarray], episodes: np.ndarray, before: int, context: int) -> Surprise:
    """The record of surprises (N, S) by condition, whose step ``before`` is the event, of clips of episodes (N,)."""
    event = {name: values[:, before] for name, values in found.items()}
    moved = {name: cluster_means(v - event[BASELINE], episodes) for name, v in event.items() if name != BASELINE}
    ratio = ratio_of_means(moved["recoloured"], moved["teleported"], _rng("ratio"))
    apart = clustered_auc(event["teleported"], event["recoloured"], episodes, _rng("teleport against recolour"))
    detection = {name: roc(values, event[BASELINE]) for name, values in event.items() if name != BASELINE}
    return Surprise(
        n=len(episodes),
        n_episodes=len(np.unique(episodes)),
        context=context,
        curves=tuple(curve(name, values, episodes, before) for name, values in found.items()),
        tests=comparisons(event, episodes),
        recolour_to_teleport=None if ratio is None else Interval.of(ratio),
        teleport_against_recolour=Interval.of(apart),
        detection=detection | {"teleported against recoloured": roc(event["teleported"], event["recoloured"])},
    )


def curve(condition: Condition, values: np.ndarray, episodes: np.ndarray, before: int) -> SurpriseCurve:
    """Mean surprise (N, S) per step; an episode counts once, however many clips it gave."""
    steps = cluster_means(values, episodes).T  # (S, C)
    # One stream for all: conditions are compared, so they are drawn with the same episodes.
    means = [bootstrap_mean(own[None], _rng("curve")) for own in steps]
    return SurpriseCurve(
        condition=condition,
        steps=tuple(range(-before, len(steps) - before)),
        mean=tuple(m.value for m in means),
        low=tuple(m.low for m in means),
        high=tuple(m.high for m in means),
    )


def comparisons(event: Mapping[Condition, np.ndarray], episodes: np.ndarray) -> tuple[SurpriseTest, ...]:
    """Every other condition's surprise (N,) at the event against the baseline's; p values corrected for all of them."""
    names = [name for name in event if name != BASELINE]
    units = {name: cluster_means(event[name] - event[BASELINE], episodes) for name in names}
    students = {name: paired_t(units[name]) for name in names}
    corrected = holm([students[name].p for name in names]).tolist()
    return tuple(
        SurpriseTest(
            condition=name,
            n=len(episodes),
            difference=Interval.of(Estimate(*students[name][:3])),
            effect_size=cohens_dz(event[name] - event[BASELINE]),
            p=students[name].p,
            p_sign_flip=sign_flip_p(units[name], _rng("sign flip", name)),
            p_holm=p_holm,
            auc=Interval.of(clustered_auc(event[name], event[BASELINE], episodes, _rng("auc", name))),
        )
        for name, p_holm in zip(names, corrected, strict=True)
    )


def roc(positive: np.ndarray, negative: np.ndarray) -> tuple[tuple[float, float], ...]:
    """(false alarm rate, detection rate) at every threshold on surprise that matters, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve

    labels = np.repeat([1, 0], [len(positive), len(negative)])
    false, true, _ = roc_curve(labels, np.concatenate([positive, negative]))
    return tuple(zip(false.tolist(), true.tolist(), strict=True))


def _rng(*address: str) -> np.random.Generator:
    return stream(0, "understanding", "surprise statistics", *address)
