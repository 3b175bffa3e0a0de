"""The numbers of examinations as tables: for programs as CSV, for people as cells of text. Formats, computes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import is_ablation, order, settings_text, title
from lewm_bench.report.text import number
from lewm_bench.understand.records import Interval, ProbeRow, Straightness, SurpriseTest, UnderstandingRecord

PLACE = ("env", "agent", "seed", "profile")
PROBE_COLUMNS = (
    *PLACE, "quantity", "kind", "features", "r", "r_low", "r_high", "mse", "mse_low", "mse_high", "components",
    "n_train", "n_test", "n_test_episodes",
)  # fmt: skip
SURPRISE_COLUMNS = (
    *PLACE, "condition", "n", "n_episodes", "context", "unit", "difference", "difference_low", "difference_high",
    "effect_size", "p", "p_sign_flip", "p_holm", "auc", "auc_low", "auc_high",
)  # fmt: skip
COLUMNS = (
    *PLACE, "status", "label", "quantity", "ridge_r", "ridge_r_low", "ridge_r_high", "ridge_mse", "mlp_r", "mlp_mse",
    "random_encoder_ridge_r", "pixels_ridge_r", "pixels_reduced_ridge_r", "triples", "episodes", "teleport_difference", "teleport_effect_size",
    "teleport_p_holm", "teleport_auc", "teleport_auc_low", "teleport_auc_high", "recolour_difference",
    "recolour_effect_size", "recolour_p_holm", "recolour_to_teleport", "recolour_to_teleport_low",
    "recolour_to_teleport_high", "straightness", "straightness_low", "straightness_high",
    "straightness_random_encoder", "straightness_pixels", "straightness_first_logged", "straightness_last_logged",
    "collapsed", "latent_size", "latent_std", "effective_rank", "sigreg", "sigreg_gaussian", "horizon_first",
    "open_loop_first", "copy_last_first", "horizon_last", "open_loop_last", "copy_last_last", "retrieval_frames",
    "retrieval_frames_random_encoder", "retrieval_frames_pixels", "retrieval_first", "retrieval_last", "retrieval_exact_first",
    "retrieval_exact_last", "retrieval_chance", "decoder_mse", "mean_frame_mse", "weights", "parameters", "train_seconds", "examined_seconds", "note",
)  # fmt: skip


def ordered(cells: Iterable[UnderstandingRecord]) -> list[UnderstandingRecord]:
    """The newest record of each cell: by environment, then models as in every report, then seeds."""
    newest: dict[tuple[str, str, str, int], UnderstandingRecord] = {}
    for cell in sorted(cells, key=lambda c: (c.created, c.key, c.status == "done", c.model_dump_json())):
        newest[cell.profile, cell.env, cell.agent, cell.seed] = cell
    return sorted(newest.values(), key=lambda c: (c.profile, c.env, order(c.agent, "world model", c.card), c.seed))


def place(cell: UnderstandingRecord) -> dict[str, Any]:
    """Which cell it is."""
    return {name: getattr(cell, name) for name in PLACE}


def spread(name: str, interval: Interval | None) -> dict[str, float]:
    """An interval as three columns."""
    if interval is None:
        return {}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns))


def probe_table(cells: Iterable[UnderstandingRecord]) -> pd.DataFrame:
    """``probes.csv``: a row per cell, quantity, probe and features."""
    rows = [
        place(cell) | probe.model_dump() | spread("r", probe.r) | spread("mse", probe.mse)
        for cell in cells
        for probe in cell.probes
    ]
    return _frame(rows, PROBE_COLUMNS)


def surprise_table(cells: Iterable[UnderstandingRecord]) -> pd.DataFrame:
    """``surprise.csv``: a row per cell and condition."""
    rows = [
        place(cell)
        | {"n_episodes": found.n_episodes, "context": found.context, "unit": found.unit}
        | test.model_dump()
        | spread("difference", test.difference)
        | spread("auc", test.auc)
        for cell in cells
        if (found := cell.surprise) is not None
        for test in found.tests
    ]
    return _frame(rows, SURPRISE_COLUMNS)


def main_table(cells: Iterable[UnderstandingRecord]) -> pd.DataFrame:
    """``understanding.csv``: a row per cell with its main numbers; all probes and tests are in the other two files."""
    return _frame([main_row(cell) for cell in cells], COLUMNS)


def main_row(cell: UnderstandingRecord) -> dict[str, Any]:
    """The main numbers of a cell, as far as they were found."""
    row = {name: getattr(cell, name) for name in COLUMNS if name in UnderstandingRecord.model_fields}
    del row["straightness"]
    row["note"] = "; ".join(filter(None, [cell.reason, cell.note, *(f"{k} {v}" for k, v in cell.skipped.items())]))
    row["examined_seconds"] = sum(cell.seconds.values()) if cell.seconds else None
    for part in (_probed, _surprised, _straight, _collapsed, _imagined, _retrieved):
        row |= part(cell)
    if cell.decoded is not None:
        row |= {"decoder_mse": cell.decoded.mse.value, "mean_frame_mse": cell.decoded.mean_frame_mse}
    return row


def _probed(cell: UnderstandingRecord) -> dict[str, Any]:
    if not cell.probes:
        return {}
    quantity = cell.probes[0].quantity
    row: dict[str, Any] = {"quantity": quantity}
    if ridge := probe_of(cell, quantity, "ridge", "model"):
        row |= spread("ridge_r", ridge.r) | {"ridge_mse": ridge.mse.value}
    if mlp := probe_of(cell, quantity, "mlp", "model"):
        row |= {"mlp_r": mlp.r.value, "mlp_mse": mlp.mse.value}
    for features in ("random encoder", "pixels", "pixels, reduced"):
        if floor := probe_of(cell, quantity, "ridge", features):
            row[f"{features.replace(',', '').replace(' ', '_')}_ridge_r"] = floor.r.value
    return row


def _surprised(cell: UnderstandingRecord) -> dict[str, Any]:
    if cell.surprise is None:
        return {}
    row: dict[str, Any] = {"triples": cell.surprise.n, "episodes": cell.surprise.n_episodes}
    for name, condition in (("teleport", "teleported"), ("recolour", "recoloured")):
        if test := tested(cell, condition):
            row |= {f"{name}_difference": test.difference.value, f"{name}_effect_size": test.effect_size}
            row |= {f"{name}_p_holm": test.p_holm} | spread(f"{name}_auc", test.auc)
    return row | spread("recolour_to_teleport", cell.surprise.recolour_to_teleport)


def _straight(cell: UnderstandingRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if own := straightness_of(cell, "model"):
        row |= spread("straightness", own.value)
    for features in ("random encoder", "pixels"):
        if floor := straightness_of(cell, features):
            row[f"straightness_{features.replace(' ', '_')}"] = floor.value.value
    if curve := logged(cell, "straightness"):
        row |= {"straightness_first_logged": curve[0][1], "straightness_last_logged": curve[-1][1]}
    return row


def _collapsed(cell: UnderstandingRecord) -> dict[str, Any]:
    if cell.collapse is None:
        return {}
    names = ("collapsed", "latent_std", "effective_rank", "sigreg", "sigreg_gaussian")
    return {name: getattr(cell.collapse, name) for name in names} | {"latent_size": cell.collapse.size}


def _imagined(cell: UnderstandingRecord) -> dict[str, Any]:
    found, row = cell.open_loop, {}
    for end, name in ((0, "first"), (-1, "last")) if found else ():
        row |= {f"horizon_{name}": found.horizons[end], f"open_loop_{name}": found.model[end].value}
        row[f"copy_last_{name}"] = found.copy_last[end].value
    return row


def _retrieved(cell: UnderstandingRecord) -> dict[str, Any]:
    found = cell.retrieval
    if found is None:
        return {}
    row: dict[str, Any] = {"retrieval_chance": found.near_chance}
    for each in found.frames:
        suffix = "" if each.features == "model" else f"_{each.features.replace(' ', '_')}"
        row[f"retrieval_frames{suffix}"] = each.near.value
    for end, name in ((0, "first"), (-1, "last")):
        row |= {f"retrieval_{name}": found.near[end].value, f"retrieval_exact_{name}": found.exact[end].value}
    return row


def probe_of(cell: UnderstandingRecord, quantity: str, kind: str, features: str) -> ProbeRow | None:
    """A row of the probes."""
    wanted = (quantity, kind, features)
    return next((p for p in cell.probes if (p.quantity, p.kind, p.features) == wanted), None)


def tested(cell: UnderstandingRecord, condition: str) -> SurpriseTest | None:
    """The test of a condition."""
    tests = cell.surprise.tests if cell.surprise else ()
    return next((t for t in tests if t.condition == condition), None)


def straightness_of(cell: UnderstandingRecord, features: str) -> Straightness | None:
    """The straightness of paths in some features."""
    return next((s for s in cell.straightness if s.features == features), None)


def logged(cell: UnderstandingRecord, quantity: str) -> list[tuple[float, float]]:
    """(step, value) of a quantity in the training log, without gaps."""
    steps, values = cell.training.get("step", []), cell.training.get(quantity, [])
    return [(s, v) for s, v in zip(steps, values, strict=False) if s is not None and v is not None]


# Text.


def name_of(cell: UnderstandingRecord) -> str:
    """A cell in a table: ``LeWM, seed 0``."""
    settings = f" with {settings_text(cell.agent)}" if is_ablation(cell.agent) else ""
    return f"{title(cell.agent, cell.card)}{settings}, seed {cell.seed}"


def places(cells: Iterable[UnderstandingRecord]) -> Iterator[tuple[str, list[UnderstandingRecord]]]:
    """The cells of each environment and profile, with a heading."""
    cells = list(cells)
    many = len({c.profile for c in cells}) > 1
    for env, profile in dict.fromkeys((c.env, c.profile) for c in cells):
        heading = short(env) + (f", {profile}" if many else "")
        yield heading, [c for c in cells if (c.env, c.profile) == (env, profile)]


def known(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and not math.isnan(value)


def bracket(interval: Interval | None, form: str = ".3f") -> str:
    """``0.998 [0.997, 0.999]``."""
    if interval is None or not known(interval.value):
        return ""
    value, low, high = (f"{each:{form}}" for each in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def p_value(p: float) -> str:
    """``p < 0.001`` or ``p = 0.012``."""
    return "p unknown" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


HEADER = (
    "model", "{quantity}: ridge r", "random encoder, pixels, reduced pixels", "teleport AUC", "d_z: teleport, recolour",
    "recolour / teleport", "straightness", "collapsed", "1 block ahead: error, copying",
    "goal found 1 block ahead, chance",
)  # fmt: skip


def reader_table(cells: Sequence[UnderstandingRecord]) -> tuple[tuple[str, ...], ...]:
    """The main numbers of one environment, the header first."""
    quantity = next((c.probes[0].quantity for c in cells if c.probes), "position")
    header = tuple(name.format(quantity=quantity.replace("_", " ")) for name in HEADER)
    return header, *(_reader_row(cell) for cell in cells)


def _reader_row(cell: UnderstandingRecord) -> tuple[str, ...]:
    if cell.status != "done":
        return name_of(cell), cell.status, *[""] * (len(HEADER) - 2)
    row = main_row(cell)

    def pair(*names: str) -> str:
        return ", ".join(filter(None, (number(row.get(name), ".3f") for name in names)))

    teleported = tested(cell, "teleported")
    ridge = probe_of(cell, row.get("quantity", ""), "ridge", "model")
    straight = straightness_of(cell, "model")
    return (
        name_of(cell),
        bracket(ridge.r if ridge else None),
        pair("random_encoder_ridge_r", "pixels_ridge_r", "pixels_reduced_ridge_r"),
        bracket(teleported.auc if teleported else None),
        ", ".join(filter(None, (_starred(row, name) for name in ("teleport", "recolour")))),
        bracket(cell.surprise.recolour_to_teleport, ".2f") if cell.surprise else "",
        bracket(straight.value if straight else None, ".2f"),
        _verdict(cell),
        pair("open_loop_first", "copy_last_first"),
        pair("retrieval_first", "retrieval_chance"),
    )


LEVEL = 0.05


def _verdict(cell: UnderstandingRecord) -> str:
    if cell.collapse is None:
        return ""
    rank = f"rank {cell.collapse.effective_rank:.1f} of {cell.collapse.size}"
    return f"{'COLLAPSED' if cell.collapse.collapsed else 'no'} ({rank})"


def _starred(row: dict[str, Any], name: str) -> str:
    effect, p = row.get(f"{name}_effect_size"), row.get(f"{name}_p_holm")
    return "" if effect is None else f"{effect:.2f}" + ("*" if p < LEVEL else "")


def reader_tests(cells: Sequence[UnderstandingRecord]) -> tuple[tuple[str, ...], ...]:
    """The tests of one environment, the header first."""
    header = ("model", "condition", "mean difference", "d_z", "p, corrected", "p, sign flips", "AUC", "n")
    rows = [
        (
            name_of(cell), test.condition, bracket(test.difference, ".3g"), f"{test.effect_size:.2f}",
            p_value(test.p_holm), p_value(test.p_sign_flip), bracket(test.auc),
            f"{test.n} in {cell.surprise.n_episodes} episodes",
        )
        for cell in cells
        if cell.surprise
        for test in cell.surprise.tests
    ]  # fmt: skip
    return (header, *rows) if rows else ()


def reader_probes(cells: Sequence[UnderstandingRecord]) -> tuple[tuple[str, ...], ...]:
    """The probes of one environment, the header first."""
    header = ("model", "quantity", "features", "ridge r", "ridge MSE", "MLP r", "MLP MSE", "n")
    rows = []
    for cell in cells:
        for quantity, features in dict.fromkeys((p.quantity, p.features) for p in cell.probes):
            both = [probe_of(cell, quantity, kind, features) for kind in ("ridge", "mlp")]
            shown = [text for p in both for text in ((bracket(p.r), bracket(p.mse)) if p else ("", ""))]
            first = next(p for p in both if p)
            count = f"{first.n_test} frames in {first.n_test_episodes} episodes"
            rows.append((name_of(cell), quantity.replace("_", " "), features, *shown, count))
    return (header, *rows) if rows else ()
