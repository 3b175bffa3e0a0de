"""What was found, in words: one sentence per model with n, effect size, interval and corrected p. From records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import title
from lewm_bench.report.understanding.published import published_probes
from lewm_bench.report.understanding.tables import (
    LEVEL,
    bracket,
    logged,
    name_of,
    p_value,
    probe_of,
    straightness_of,
)
from lewm_bench.understand.records import SurpriseTest, UnderstandingRecord


def model_and_env(cell: UnderstandingRecord) -> str:
    """``LeWM, seed 0, TwoRoom-v0``."""
    return f"{name_of(cell)}, {short(cell.env)}"


def per_model(
    cells: Iterable[UnderstandingRecord], sentence_of: Callable[[UnderstandingRecord], str]
) -> tuple[str, ...]:
    """The sentences of all cells that have one."""
    return tuple(sentence for cell in cells if (sentence := sentence_of(cell)))


def probes(cell: UnderstandingRecord) -> str:
    """How well each quantity is read, and whether that is above the floors."""
    parts = []
    for quantity in dict.fromkeys(p.quantity for p in cell.probes):
        best = [p for kind in ("ridge", "mlp") if (p := probe_of(cell, quantity, kind, "model"))]
        read = " and ".join(f"{p.kind.replace('mlp', 'an MLP')} r {bracket(p.r)}" for p in best)
        parts.append(f"{quantity.replace('_', ' ')} by {read}{_above(cell, quantity)}")
    return f"{model_and_env(cell)}: {'; '.join(parts)}." if parts else ""


def _above(cell: UnderstandingRecord, quantity: str) -> str:
    """Whether ridge's interval lies above those of the floors."""
    own = probe_of(cell, quantity, "ridge", "model")
    floors = {name: probe_of(cell, quantity, "ridge", name) for name in FLOORS}
    floors = {name: floor for name, floor in floors.items() if floor}
    if own is None or not floors:
        return ""
    beaten = [name for name, floor in floors.items() if own.r.low > floor.r.high]
    told = ", ".join(f"{FLOORS[name]} {floor.r.value:.3f}" for name, floor in floors.items())
    rest = [FLOORS[name] for name in floors if name not in beaten]
    verdict = "is above all floors" if not rest else "is above no floor"
    if beaten and rest:
        verdict = f"is above {' and '.join(FLOORS[name] for name in beaten)}, not above {' and '.join(rest)}"
    return f" (ridge {verdict}: {told})"


FLOORS = {"random encoder": "a random encoder", "pixels": "raw pixels", "pixels, reduced": "reduced pixels"}


def surprise(cell: UnderstandingRecord) -> str:
    """Every condition against the untouched one, and the recolouring beside the teleport."""
    found = cell.surprise
    if found is None:
        return ""
    parts = [f"{_condition(test)}" for test in found.tests]
    if found.recolour_to_teleport is not None:
        share = found.recolour_to_teleport
        parts.append(f"a recolouring has {bracket(share, '.2g')} times the effect of a teleport")
    if found.teleport_against_recolour is not None:
        parts.append(f"teleports are told from recolourings with AUC {bracket(found.teleport_against_recolour)}")
    return f"{model_and_env(cell)} ({found.n} triples from {found.n_episodes} held-out episodes): {'; '.join(parts)}."


def _condition(test: SurpriseTest) -> str:
    verdict = "no difference shown"
    if test.p_holm < LEVEL:
        verdict = "surprises more" if test.difference.value > 0 else "surprises less"
    numbers = f"{bracket(test.difference, '.3g')}, d_z {test.effect_size:.2f}, {p_value(test.p_holm)} corrected"
    return f"{test.condition} {verdict} than untouched ({numbers}, AUC {bracket(test.auc)})"


STILL = 0.05  # cosine; less than single batches differ by


def straightness(cell: UnderstandingRecord) -> str:
    """How straight paths are at the end, beside the floors, and how that came about."""
    own = straightness_of(cell, "model")
    if own is None:
        return ""
    floors = [
        f"{name} {floor.value.value:.2f}"
        for name in ("random encoder", "pixels")
        if (floor := straightness_of(cell, name))
    ]
    words = f"{model_and_env(cell)}: {bracket(own.value, '.2f')} on {own.n_paths} paths of {own.n_episodes} held-out episodes"
    words += f" ({', '.join(floors)})" if floors else ""
    if len(curve := logged(cell, "straightness")) > 1:
        first, late = curve[0][1], [value for _, value in curve[-(len(curve) // 5 or 1) :]]
        last = sum(late) / len(late)
        moved = "stayed" if abs(last - first) < STILL else "rose" if last > first else "fell"
        words += f"; during training it {moved} (first logged {first:.2f}, mean of the last fifth {last:.2f})"
    return f"{words}."


def collapse(cell: UnderstandingRecord) -> str:
    """The monitor's verdict."""
    found = cell.collapse
    if found is None:
        return ""
    verdict = "COLLAPSED" if found.collapsed else "not collapsed"
    reason = found.reason.rstrip(".")
    return f"{model_and_env(cell)}: {verdict}: {reason} (n {found.n} frames)."


def open_loop(cell: UnderstandingRecord) -> str:
    """How far ahead imagining beats copying."""
    found = cell.open_loop
    if found is None:
        return ""
    pairs = zip(found.horizons, found.model, found.copy_last, strict=True)
    better = [horizon for horizon, own, copied in pairs if own.high < min(copied.low, 1.0)]
    ends = ", ".join(
        f"{bracket(found.model[i], '.3f')} at {found.horizons[i]} (copying {found.copy_last[i].value:.3f})"
        for i in dict.fromkeys((0, len(found.horizons) - 1))
    )
    told = f"at {_listed(better)} blocks ahead" if better else "nowhere"
    return (
        f"{model_and_env(cell)}: error over variance {ends}; better than both copying and the mean latent {told} "
        f"(n {found.n} clips, {found.n_episodes} episodes)."
    )


def retrieval(cell: UnderstandingRecord) -> str:
    """How often a goal is found by latent distance, from itself and from what was imagined for it."""
    found = cell.retrieval
    if found is None:
        return ""
    own, *floors = found.frames
    beside = ", ".join(
        [f"{each.features} {each.near.value:.3f}" for each in floors] + [f"chance {found.frames_chance:.3f}"]
    )
    ends = ", ".join(
        f"{bracket(found.near[i], '.3f')} at {found.horizons[i]} (exactly it: {found.exact[i].value:.3f})"
        for i in dict.fromkeys((0, len(found.horizons) - 1))
    )
    return (
        f"{model_and_env(cell)}: the frame nearest to a goal that is left out is of its moment (within {found.within} steps) in "
        f"{bracket(own.near, '.3f')} ({beside}); the frame nearest to the latent imagined for it, so many blocks ahead, in {ends}, "
        f"by chance {found.near_chance:.3f} ({found.exact_chance:.3f}; {found.candidates} frames, n {found.n} clips, "
        f"{found.n_episodes} episodes)."
    )


def _listed(numbers: Sequence[int]) -> str:
    whole = list(numbers) == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))


def decoded(cell: UnderstandingRecord) -> str:
    """How much of a frame is in its latent."""
    found = cell.decoded
    if found is None:
        return ""
    return (
        f"{model_and_env(cell)}: squared error per pixel {bracket(found.mse, '.2g')} on {found.n} frames of {found.n_episodes} "
        f"held-out episodes; always drawing the mean frame has {found.mean_frame_mse:.2g} "
        f"({found.train_steps} training steps)."
    )


def notes(cells: Sequence[UnderstandingRecord]) -> tuple[str, ...]:
    """What must be kept in mind with these numbers."""
    done = [c for c in cells if c.status == "done"]
    said = [_seeds(done), INTERVALS, _tests(done), UNITS, SMALL if any(c.profile == "quick" for c in done) else ""]
    said.append(COLLAPSED if any(c.collapse and c.collapse.collapsed for c in done) else "")
    names = {title(c.agent, c.card): c.label for c in done if c.label}
    meant = "; ".join(f"{a} = {b}" for a, b in names.items() if a != b)
    said.append(f"What the names stand for: {meant}." if meant else "")
    said += [
        f"{name}: {about}." for name, about in {title(c.agent, c.card): c.card.about for c in done}.items() if about
    ]
    said += [f"{model_and_env(c)}: {c.note}." for c in done if c.note]
    return tuple(filter(None, said))


INTERVALS = (
    "Brackets hold 95 % intervals that resample whole held-out episodes, or count them: they speak about other episodes "
    "of the same kind, and about this one training run, not about what another training would give."
)
UNITS = (
    "Surprise is measured in each model's own latent space: compare AUC and d_z between models, not raw differences."
)
SMALL = "Profile quick: small networks, little data and short training; the published models are larger."
COLLAPSED = (
    "Numbers of a collapsed model mean little: where latents hardly vary, straightness, probes and surprise are about "
    "rounding."
)


def _seeds(cells: Sequence[UnderstandingRecord]) -> str:
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for cell in cells:
        seeds.setdefault((cell.profile, cell.env, cell.agent), set()).add(cell.seed)
    single = sorted({f"{agent} on {short(env)}" for (_, env, agent), found in seeds.items() if len(found) == 1})
    if not single:
        return ""
    return f"One training run only, so nothing is known of how trainings differ: {', '.join(single)}."


def _tests(cells: Sequence[UnderstandingRecord]) -> str:
    counts = sorted({len(c.surprise.tests) for c in cells if c.surprise})
    models = sum(1 for c in cells if c.surprise)
    if not counts:
        return ""
    many = " or ".join(map(str, counts))
    return (
        f"The p values of violated expectations are corrected (Holm) for the {many} conditions of one model, not for the "
        f"{models} models on this page. d_z is the mean of the paired differences over their standard deviation; AUC is "
        "the chance that a changed clip surprises more than an untouched one (0.5 is chance)."
    )


def published(cells: Sequence[UnderstandingRecord]) -> str:
    """What published probes are, if the figure shows any."""
    there = any(published_probes(c.env, p.quantity) for c in cells for p in c.probes)
    return PUBLISHED if there else ""


PUBLISHED = (
    "Diamonds are quoted from the LeWM paper and were not measured here: other data, other sizes, a linear probe and "
    "an MLP whose details the paper does not give, and no intervals."
)
