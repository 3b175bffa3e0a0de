#!/usr/bin/env bash
# pyjepa 0.3.0: CEM over a batch of goals returns one plan, fitted to the elites of all of them together.
#
# CEMPlanner takes a batch of observations and goals, samples candidates per entry and picks elites per entry, but then
# averages the elites over the batch too, so entries that want opposite actions get the plan in between, which serves
# neither. The model here knows the answer: a plan of one action costs its squared distance to the goal.
# Success rates of batched planning with it are those of planning toward the mean of the goals. Plan one at a time.
# Seen with torch 2.13.0: "goal 0.8: +0.80; goal -0.8: -0.80; both: 1 plan of +0.0".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pyjepa==0.3.0" "numpy==2.4.6"
"$place/env/bin/python" -W ignore - <<'PY' | tee "$place/seen"
import torch
from pyjepa.planning.cem import CEMConfig, CEMPlanner


class KnownAnswer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def get_cost(self, info, plans):
        return (plans[..., 0, 0] - info["goal"][..., 0]).square()


torch.manual_seed(0)
plan = CEMPlanner(CEMConfig(horizon=1, action_dim=1, num_samples=256, num_elites=32, num_iters=10))
one, other, both = (plan(KnownAnswer(), {"goal": torch.tensor(goals)}) for goals in ([[0.8]], [[-0.8]], [[0.8], [-0.8]]))
print(f"goal 0.8: {one.item():+.2f}; goal -0.8: {other.item():+.2f}; both: {len(both)} plan of {abs(both.item()):+.1f}")
PY
echo "goal 0.8: +0.80; goal -0.8: -0.80; both: 1 plan of +0.0" | diff "$place/seen" -
