"""From cell records to the numbers of the tables, and from those to the files of a results folder.

The records may come from several machines and in any order; the same records give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lewm_bench.core.names import reading_order
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import (
    METHOD_RUNS,
    NO_DIFFERENCE,
    Difference,
    Estimate,
    floor_normalised,
    holm,
    interquartile_mean_interval,
    quartiles,
    success_rate,
)
from lewm_bench.report import curves, stability
from lewm_bench.report.ablation import ablations, flatten
from lewm_bench.report.agents import HARMLESS, Agents, is_ablation, parts_of
from lewm_bench.report.caption import shares_budget
from lewm_bench.report.diagnosis import diagnoses, with_verdicts
from lewm_bench.report.groups import Group, Key
from lewm_bench.report.horizon import plannable_ranges
from lewm_bench.report.pareto import fronts
from lewm_bench.report.rankings import REFERENCE, contests
from lewm_bench.report.summary import Summary
from lewm_bench.report.verdict import verdict
from lewm_bench.run.records import CellRecord

FLOOR = "random"
SPEED_REFERENCE = "dino-wm"
TOLERANCE = 0.1  # of an equal wall-clock budget; beyond it a row says so

COLUMNS = (
    "env", "agent", "goal_offset", "profile", "protocol", "status", "n_pairs", "n_seeds",
    "latent_oracle_hit", "distance_rank_correlation", "hit", "hit_low", "hit_high", "held", "held_low", "held_high",
    "normalised_hit", "diff_to_lewm", "diff_low", "diff_high", "diff_p", "diff_runs", "diff_p_holm",
    "distance_end_median",
    "steps_to_hit_median", "plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75", "plan_ms_per_step",
    "flops_per_step",
    "speedup_vs_dino_wm",
    "parameters", "tokens_per_frame", "base", "train_seconds", "base_seconds", "train_steps", "train_epochs", "solved_at_start", "stratum_share", "verdict", "verdict_text",
    "note",
)  # fmt: skip
INTEGERS = ("goal_offset", "n_pairs", "n_seeds", "diff_runs", "parameters", "tokens_per_frame", "train_steps")

SEED = ", seed "  # between the name and the seed of what an agent is built on
NOT_ASKED = "not run (not in the suite's list; --agents/--seeds/--set run it)"


def build_tables(cells: Iterable[CellRecord]) -> pd.DataFrame:
    """One row per environment, agent and goal offset, with the columns of ``table.csv``; fractions from 0 to 1."""
    cells = _distinct(cells)
    kinds = {c.agent: c.kind for c in cells}
    groups = _groups(cells)
    rows = [_row(key, group, groups) for key, group in groups.items()]
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(INTEGERS, "Int64"))
    place = Agents.of(cells).order
    order = [(reading_order(p), q, e, -1 if o is None else o, *place(a, kinds[a])) for p, q, e, o, a in groups]
    table = table.iloc[sorted(range(len(order)), key=order.__getitem__)].reset_index(drop=True)
    return table.assign(diff_p_holm=_holm(table))


def _holm(table: pd.DataFrame) -> pd.Series:
    """Holm's p values of the differences to LeWM: one family per table, and one for the ablations of each agent in it.

    NaN, and no member of a family, where a side has too few training runs to stand for its method: how many there are
    is known before any result is.
    """
    few = (table["diff_runs"] < METHOD_RUNS).fillna(False).astype(bool)
    family = table["agent"].map(lambda agent: parts_of(agent).trained if is_ablation(agent) else "")
    place = ["protocol", "profile", "env", "goal_offset"]
    known = table.assign(family=family, diff_p=table["diff_p"].mask(few))
    grouped = known.groupby([*place, "family"], dropna=False)["diff_p"]
    return grouped.transform(lambda p: holm(p.to_numpy(float)))


def summarise(cells: Iterable[CellRecord], title: str) -> Summary:
    """All numbers of a report."""
    cells = _distinct(cells)
    table = build_tables(cells)
    newest = sorted(cells, key=lambda c: (c.status == "done", bool(c.label)))
    kinds = {c.agent: c.kind for c in cells}
    agents = Agents.of(newest)
    varied, groups = ablations(table, cells), _groups(cells)
    found = contests(table, kinds, groups, agents)
    told = tuple(diagnoses(found, table, kinds, groups, agents))
    summary = Summary(
        title=title,
        cells=tuple(cells),
        table=with_verdicts(table, told),
        across=_across(cells),
        ratios=_ratios(table),
        plan_seconds=_plan_seconds(cells),
        training=_training(cells),
        seeds=stability.seed_scores(cells),
        over_steps=curves.success_over_steps(cells),
        over_data=curves.success_over_data(varied),
        ranges=plannable_ranges(table, kinds),
        ablations=varied,
        fronts=fronts(table, groups, kinds, agents),
        loss_terms=stability.loss_terms(cells),
        agents=agents,
        labels={c.agent: agents.label(c.agent, c.label) for c in newest},
        kinds=kinds,
        contests=found,
        diagnoses=told,
    )
    return replace(summary, verdict=verdict(summary))


def _distinct(cells: Iterable[CellRecord]) -> list[CellRecord]:
    """The newest record of each cell, sorted, so that the order of arrival cannot matter."""
    same: dict[tuple[str, str, str, str, int], list[CellRecord]] = {}
    for cell in cells:
        same.setdefault((cell.protocol, cell.profile, cell.env, cell.agent, cell.seed), []).append(cell)
    return [same[key][0] if len(same[key]) == 1 else max(same[key], key=_age) for key in sorted(same)]


def _age(cell: CellRecord) -> tuple[object, ...]:
    return cell.created, cell.key, cell.status == "done", cell.model_dump_json()


def _groups(cells: Sequence[CellRecord]) -> dict[Key, Group]:
    """Every agent at every offset of every environment, also where nothing was run: a gap must be seen."""
    families = sorted({(c.protocol, c.profile) for c in cells})
    groups: dict[Key, Group] = {}
    for family in families:
        members = [c for c in cells if (c.protocol, c.profile) == family]
        for env in sorted({c.env for c in members}):
            here = [c for c in members if c.env == env]
            offsets = sorted({o.goal_offset for c in here if c.status == "done" for o in c.offsets}) or [None]
            for offset in offsets:
                for agent in sorted({c.agent for c in members}):
                    group = Group(tuple(c for c in here if c.agent == agent), offset)
                    if not (is_ablation(agent) and group.unasked):
                        groups[(*family, env, offset, agent)] = group
    return groups


def _row(key: Key, group: Group, groups: Mapping[Key, Group]) -> dict[str, object]:
    protocol, profile, env, offset, agent = key
    row: dict[str, object] = dict.fromkeys(COLUMNS, np.nan)
    row |= {"env": env, "agent": agent, "goal_offset": offset, "profile": profile, "protocol": protocol}
    if not group.done:
        return row | {"status": _missing_status(group), "note": _missing_note(group)}
    notes = _notes(group)
    row |= _success(key, group, groups, notes) | _latents(group) | _cost(key, group, groups, notes)
    return row | {"status": _status(group), "note": "; ".join(dict.fromkeys(notes))}


def _success(key: Key, group: Group, groups: Mapping[Key, Group], notes: list[str]) -> dict[str, object]:
    """The columns that come from episodes."""
    *place, _ = key
    pairs = group.pairs
    row: dict[str, object] = {"n_pairs": len(pairs), "n_seeds": len(group.done)}
    looked_at = sum(o.pairs_candidates for _, o in group.done)
    if looked_at:
        row["solved_at_start"] = sum(o.pairs_solved_at_start for _, o in group.done) / looked_at
    if tried := sum(o.pairs_sorted for _, o in group.done):
        row["stratum_share"] = sum(o.pairs_of_stratum for _, o in group.done) / tried
    if not pairs:
        notes.append("no episodes")
        return row
    for column in ("hit", "held"):
        rate = success_rate(group.matrix(column, pairs), _rng(key, column))
        row |= {column: rate.value, f"{column}_low": rate.low, f"{column}_high": rate.high}
    floor = groups.get((*place, FLOOR))
    if floor is not None and floor.pairs:
        row["normalised_hit"] = float(floor_normalised(row["hit"], float(np.nanmean(floor.matrix("hit", floor.pairs)))))
    reference = groups.get((*place, REFERENCE))
    difference = _difference(key, group, reference, notes)
    row |= {"diff_to_lewm": difference.value, "diff_low": difference.low, "diff_high": difference.high}
    row["diff_p"] = difference.p
    if difference is not NO_DIFFERENCE and reference is not None:
        row["diff_runs"] = min((runs for side in (group, reference) if (runs := side.runs)), default=None)
    row["distance_end_median"] = quartiles(group.values("distance_end")).value
    row["steps_to_hit_median"] = quartiles([n for n in group.values("steps_to_hit") if n is not None]).value
    return row


def _difference(key: Key, group: Group, reference: Group | None, notes: list[str]) -> Difference:
    if key[-1] == REFERENCE or reference is None or not reference.pairs:
        return NO_DIFFERENCE
    shared = sorted(set(group.pairs) & set(reference.pairs))
    if not shared:
        notes.append("its pairs are not LeWM's: no paired difference")
        return NO_DIFFERENCE
    if len(shared) < max(len(group.pairs), len(reference.pairs)):
        notes.append(f"difference to LeWM on the {len(shared)} shared pairs")
    return group.minus(reference, _rng(key, "difference"))


def _latents(group: Group) -> dict[str, object]:
    """The columns that judge a world model's latent space: means over seeds."""
    oracle = [(o.latent_oracle_hit, o.latent_oracle_pairs) for _, o in group.done if o.latent_oracle_hit is not None]
    pairs = sum(n for _, n in oracle)
    correlation = [o.distance_rank_correlation for _, o in group.done if o.distance_rank_correlation is not None]
    return {
        "latent_oracle_hit": sum(hit * n for hit, n in oracle) / pairs if pairs else np.nan,
        "distance_rank_correlation": float(np.mean(correlation)) if correlation else np.nan,
    }


def _average(values: Iterable[float]) -> float:
    """The mean, in an order-proof sum so that equal numbers give equal bytes."""
    values = sorted(values)
    return sum(values) / len(values)


def _cost(key: Key, group: Group, groups: Mapping[Key, Group], notes: list[str]) -> dict[str, object]:
    """The columns of time and size."""
    time = quartiles(group.plan_seconds)
    if len(group.machines) > 1:
        notes.append("plans timed on different machines, pooled")
    if group.beside:
        notes.append(f"plans timed on a shared device, beside {group.beside}: no speed-up")
    row: dict[str, object] = {
        "plan_seconds_median": time.value,
        "plan_seconds_q25": time.low,
        "plan_seconds_q75": time.high,
        "plan_ms_per_step": 1000 * quartiles(group.step_seconds).value,
        "flops_per_step": _average(group.flops_per_step) if group.flops_per_step else np.nan,
        "speedup_vs_dino_wm": _speedup(key, group, groups, notes),
    }
    cells = [c for c, _ in group.done]
    for column in ("parameters", "tokens_per_frame"):
        sizes = sorted({size for c in cells if (size := getattr(c, column)) is not None})
        row[column] = sizes[0] if sizes else None
        if len(sizes) > 1:
            notes.append(f"{column} differ between seeds: {', '.join(map(str, sizes))}")
    steps = sorted({n for c in cells if (n := stability.training_steps(c)) is not None})
    row["train_steps"] = max(steps) if steps else None
    if len(steps) > 1:
        notes.append(f"training steps differ between seeds: {', '.join(map(str, steps))}")
    epochs = [n for c in cells if (n := stability.training_epochs(c)) is not None]
    row["train_epochs"] = _average(epochs) if epochs else np.nan
    trained = [c.train_seconds for c in cells if c.train_seconds is not None]
    row["train_seconds"] = _average(trained) if trained else np.nan
    below = [c.base_seconds for c in cells if c.base_seconds is not None]
    row["base_seconds"] = _average(below) if below else np.nan
    row["base"] = _bases(cells)
    return row


def _bases(cells: Sequence[CellRecord]) -> str:
    """What the agents of cells are built on, each with its seeds: ``LeWM, seeds 0, 1``; empty for most."""
    seeds: dict[str, list[str]] = {}
    for name, _, seed in (c.base.partition(SEED) for c in cells if c.base):
        seeds.setdefault(name, []).extend([seed] if seed else [])
    return "; ".join(
        f"{name}{SEED if len(own) == 1 else ', seeds '}{', '.join(own)}" if own else name for name, own in seeds.items()
    )


def _speedup(key: Key, group: Group, groups: Mapping[Key, Group], notes: list[str]) -> float:
    """Median plan time of DINO-WM over this agent's, in the same environment, offset and on the same machine."""
    place = key[:-1]
    if group.cells[0].kind != "world model" or not group.plan_seconds:
        return np.nan
    timed = {k[-1]: g for k, g in groups.items() if k[:-1] == place and g.plan_seconds}
    variants = sorted(a for a in timed if parts_of(a).base == SPEED_REFERENCE and not is_ablation(a))
    if not variants:
        return np.nan
    name = variants[0]  # the plain name sorts before its variants
    if group.beside:  # which its note says
        return np.nan
    if timed[name].beside:
        notes.append(f"no speed-up: {name} was timed on a shared device")
        return np.nan
    if timed[name].machines != group.machines:
        notes.append(f"no speed-up: {name} was timed on another machine")
        return np.nan
    if name != SPEED_REFERENCE:
        notes.append(f"speed-up over {name}, since {SPEED_REFERENCE} itself was not timed")
    return quartiles(timed[name].plan_seconds).value / quartiles(group.plan_seconds).value


def _notes(group: Group) -> list[str]:
    """What a reader must know about a measured row, in a fixed order."""
    cells = [c for c, _ in group.done]
    notes = [c.note for c in cells if c.note]
    if bases := _bases(cells):
        notes.append(f"on the frozen weights of {bases}")
    if any(c.weights == "random" for c in cells):
        notes.append("untrained weights")
    collapsed = [c.seed for c in cells if stability.has_collapsed(c)]
    if collapsed:
        notes.append(f"the latents collapsed in the training of seed {', '.join(map(str, collapsed))}")
    idle = [c.seed for c in cells if "mean_action" in c.training and stability.never_left_mean_action(c)]
    if idle:
        notes.append(f"the policy of seed {', '.join(map(str, idle))} never left the mean action")
    if _settings_differ(cells):
        notes.append("settings differ between seeds: not one method")
    notes += [line for c in cells if (line := _missed(c))]
    partial = [c.seed for c in cells if not c.evaluation_complete]
    if partial:
        notes.append(f"partial: evaluation of seed {', '.join(map(str, partial))} is not complete")
    notes += [_reason(c, seed=True) for c in group.cells if c.status != "done"]
    elsewhere = [c.seed for c in group.cells if c.status == "done" and c not in cells]
    if elsewhere:
        notes.append(f"seed {', '.join(map(str, elsewhere))} not run at this offset")
    return notes


def _missed(cell: CellRecord) -> str:
    """How far a training was from the time that all share, where that is more than ``TOLERANCE``; else empty."""
    promised = (cell.config.get("training") or {}).get("seconds") if shares_budget(cell) else None
    if promised is None or cell.train_seconds is None or abs(cell.train_seconds / promised - 1) <= TOLERANCE:
        return ""
    return f"seed {cell.seed} trained for {cell.train_seconds:.0f} s of the {promised:g} s that all were to have"


def _settings_differ(cells: Sequence[CellRecord]) -> bool:
    """Whether a setting that can change results has two values; what one record lacks is another version's."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for path, value in _settings(cell).items():
            found.setdefault(path, set()).add(json.dumps(value))
    return any(len(values) > 1 for values in found.values())


def _settings(cell: CellRecord) -> dict[str, object]:
    """Path to value of everything that makes a cell's method what it is."""
    sections = {"agent", "collect", "image_size"}
    if cell.kind in ("world model", "privileged"):
        sections.add("planner")  # others do not plan
    if shares_budget(cell):
        sections.add("training")
    flat = flatten({name: value for name, value in cell.config.items() if name in sections})
    harmless = {f"agent.{path}" for path in HARMLESS}
    if (cell.config.get("training") or {}).get("seconds") is not None:
        harmless.add("agent.train.steps")  # follow from the pace of a machine
    return {path: value for path, value in flat.items() if path not in harmless}


def _reason(cell: CellRecord, seed: bool) -> str:
    which = f"seed {cell.seed} " if seed else ""
    return f"{which}{cell.status}: {cell.reason or 'no reason recorded'}"


def _missing_note(group: Group) -> str:
    reasons = dict.fromkeys(_reason(c, seed=False) for c in group.cells if c.status != "done")
    return "; ".join(reasons) or NOT_ASKED


def _missing_status(group: Group) -> str:
    return "failed" if any(c.status == "failed" for c in group.cells) else "not run"


def _status(group: Group) -> str:
    whole = len(group.done) == len(group.cells) and all(c.evaluation_complete for c, _ in group.done)
    return "done" if whole else "partial"


def _rng(key: Key, purpose: str) -> np.random.Generator:
    return stream(0, "report", *(str(part) for part in key), purpose)


def _across(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """Interquartile means over environments, where an agent has an offset in at least two of them."""
    groups = {key: group for key, group in _groups(cells).items() if group.pairs and not is_ablation(key[-1])}
    kinds = {c.agent: c.kind for c in cells}
    rows = []
    for protocol, profile, offset, agent in sorted({(k[0], k[1], k[3], k[4]) for k in groups}):
        members = {k[2]: g for k, g in groups.items() if (k[0], k[1], k[3], k[4]) == (protocol, profile, offset, agent)}
        if len(members) < 2:
            continue
        hits = {env: group.matrix("hit", group.pairs) for env, group in members.items()}
        floors = {env: groups.get((protocol, profile, env, offset, FLOOR)) for env in members}
        row = {"protocol": protocol, "profile": profile, "goal_offset": offset, "agent": agent}
        row |= {
            "n_envs": len(members),
            "n_seeds": max(len(m) for m in hits.values()),
            "envs": " ".join(sorted(members)),
        }
        key = (protocol, profile, "*", offset, agent)
        row |= _named("hit", interquartile_mean_interval(list(hits.values()), _rng(key, "iqm hit")))
        if all(g is not None for g in floors.values()):
            row |= _named("normalised", _above_floor(agent, members, floors, _rng(key, "iqm normalised")))
        rows.append(row)
    place = Agents.of(cells).order
    rows.sort(key=lambda r: (r["protocol"], r["profile"], r["goal_offset"], *place(r["agent"], kinds[r["agent"]])))
    columns = ("protocol", "profile", "goal_offset", "agent", "n_envs", "n_seeds", "envs")
    means = [f"{name}{end}" for name in ("hit", "normalised") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*columns, *means])


def _above_floor(
    agent: str, groups: Mapping[str, Group], floors: Mapping[str, Group], rng: np.random.Generator
) -> Estimate:
    """The interquartile mean of an agent's scores above the floor, which is 0 for the floor itself."""
    if agent == FLOOR:
        return Estimate(0.0, np.nan, np.nan)
    pairs = {env: sorted({*groups[env].pairs, *floors[env].pairs}) for env in groups}
    ours, below = ([side[env].matrix("hit", pairs[env]) for env in groups] for side in (groups, floors))
    return interquartile_mean_interval(ours, rng, floors=below)


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    """LeWM beside DINO-WM wherever both were timed on one machine; the ratio is computed here and typed nowhere."""
    place = ["protocol", "profile", "env", "goal_offset"]
    rows = []
    for values, part in table.groupby(place, dropna=False, sort=True):
        ours = part[(part["agent"] == REFERENCE) & part["speedup_vs_dino_wm"].notna()]
        same = part["agent"].map(lambda agent: parts_of(agent).base == SPEED_REFERENCE and not is_ablation(agent))
        theirs = part[same & part["speedup_vs_dino_wm"].notna()]
        for _, other in theirs.iterrows():
            for _, own in ours.iterrows():
                rows.append(
                    dict(zip(place, values, strict=True))
                    | {"agent": other["agent"], "ratio": other["plan_seconds_median"] / own["plan_seconds_median"]}
                    | {"lewm_seconds": own["plan_seconds_median"], "other_seconds": other["plan_seconds_median"]}
                    | {"lewm_tokens": own["tokens_per_frame"], "other_tokens": other["tokens_per_frame"]}
                )
    columns = [*place, "agent", "lewm_seconds", "other_seconds", "ratio", "lewm_tokens", "other_tokens"]
    return pd.DataFrame(rows, columns=columns)


def _plan_seconds(cells: Sequence[CellRecord]) -> pd.DataFrame:
    timed = [(c, o) for c in cells if c.status == "done" for o in c.offsets]
    counts = [len(o.plan_seconds) for _, o in timed]
    of_each = {
        **{name: [getattr(c, name) for c, _ in timed] for name in ("protocol", "profile", "env")},
        "goal_offset": [o.goal_offset for _, o in timed],
        **{name: [getattr(c, name) for c, _ in timed] for name in ("agent", "seed")},
    }
    rows = pd.DataFrame(of_each).loc[np.repeat(np.arange(len(timed)), counts)].reset_index(drop=True)
    return rows.assign(plan_seconds=np.concatenate([np.empty(0), *(np.asarray(o.plan_seconds) for _, o in timed)]))


def _training(cells: Sequence[CellRecord]) -> pd.DataFrame:
    rows = [
        (c.protocol, c.profile, c.env, c.agent, c.seed, step, quantity, np.nan if value is None else value)
        for c in cells
        for quantity, values in c.training.items()
        if quantity != "step" and "step" in c.training
        for step, value in zip(c.training["step"], values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["protocol", "profile", "env", "agent", "seed", "step", "quantity", "value"])
