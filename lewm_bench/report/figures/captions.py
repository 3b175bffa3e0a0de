"""What stands beneath each figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

CAPTIONS = {
    "horizon.png": "Success by how far ahead the goal is, all distances from the same starts. Lines are 95 % intervals; the "
    "numbers below are steps, and pairs of start and goal. Within the lower shade lies what the best floor may reach by the upper "
    "end of its interval, above the upper one what the oracle does not. Dashed: agents with settings in their names.",
    "pareto.png": "Success against what planning costs per executed environment step: the time (a bar from quartile to quartile) and "
    "the operations that torch counts. Up and to the left is better. The line is the frontier, the most that is reached within a cost: "
    "its planners are numbered and named (samples x iterations), all others, fainter, are beaten in both by one of them. Hollow: plans again before its plan is "
    "over. Vertical lines are 95 % intervals, so which of several close ones is on the frontier is chance.",
    "success.png": "Success of every agent. Filled: the goal was reached at some step; hollow: the agent was still "
    "there at the last step. Lines are 95 % intervals; the dashed line is what random actions reach.",
    "plan_time.png": "Time to decide once, on the machine named on this page: every plan (dots), the quartiles (bar) "
    "and the median (tick).",
    "success_vs_time.png": "Success against the time for one plan: up and to the left is better. Policies answer at "
    "once because they do not plan.",
    "paths.png": "The task, and how agents went about it. A panel is one start (circle) and one goal (star), a line the way "
    "of an agent, its places at every fifth step joined: it ends in a dot near enough to the goal, or in a cross where its time was "
    "up. Planning pairs are those where always doing what looks best next does not get there. Shown are the pairs whose "
    "shortest way is longest for the distance.",
    "failures.png": "Goals that the best world model (where there is none, the best policy) did not reach, the longest "
    "detours first: its way from the circle towards the star ends in a cross. The faint lines are what the true simulator "
    "makes of the same pair: greedy looks one block of actions ahead, the oracle plans.",
    "by_distance.png": "Where agents fail: the share of goals reached, by how far it is to the goal by the shortest way "
    "(left: four groups of about equally many pairs), and by how much longer that way is than the straight line (right: "
    "1 is straight ahead, more means walls in between). Lines are 95 % intervals, the numbers below are pairs of start and goal.",
    "ablation.png": "Ablations: one setting of an agent changed at a time, everything else as in the agent itself (grey "
    "band: its default). Lines are 95 % intervals. Beneath, how training ended, a dot per seed: a latent standard "
    "deviation near 0 is a representation that has collapsed.",
    "over_steps.png": "Success while agents train: checkpoints on the way of each training, sent on validation pairs, which no "
    "number of the tables is from. Faint lines are training seeds, thick ones their mean, with 95 % intervals.",
    "over_data.png": "Success by how many episodes an agent has learned from, the first ones of the same data, on the same pairs. "
    "Lines are 95 % intervals. The number of training steps is the same for all, unless it was given as passes over the data.",
    "losses.png": "The loss terms of every objective, as logged and before weighting, a line per training run.",
    "training.png": "The training logs: a row (or two) per agent, a panel per logged quantity, a line per training run. A latent standard deviation "
    "that falls to nothing would mean that the representation has collapsed. The effective rank does not show it: what is left in "
    "a collapsed latent is noise in all directions, whose rank is high.",
}  # fmt: skip

STABILITY = (
    "Spread between training runs: the same method trained again with other initial weights and another order of the "
    "data, success measured on the same pairs (dots; mean and range). {pairs} pairs stand behind each dot, so dots differ "
    "by chance too: the grey band holds 95 % of the seeds of a method whose training always gave the same mean. Dots "
    "outside it are differences between trainings; dots inside it are no evidence that training is stable, with few "
    "pairs or seeds even less so. The band is a little wide, since all seeds share the hard pairs."
)


def captions(summary: Summary) -> dict[str, str]:
    """What stands beneath each figure."""
    pairs = sorted({int(n) for n in summary.seeds["n_pairs"].dropna()})
    counted = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else "".join(map(str, pairs))
    return {**CAPTIONS, "stability.png": STABILITY.format(pairs=counted)}
