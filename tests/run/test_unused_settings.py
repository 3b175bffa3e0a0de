"""Settings that nothing reads are refused where somebody asked for them by name, and nowhere else."""

from __future__ import annotations

import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.run.benchmarks import load
from lewm_bench.run.resolve import resolve
from lewm_bench.run.unused_settings import check_read

SUITE = """
profiles: {quick: {}}
suites:
  s:
    title: S
    envs: [lewm_bench/TwoRoom-v0]
    agents: [noop, gcbc, dino-wm, lewm]
    settings:
      dino-wm: {encoder: lowpass, weights: /of/others}
      pldm: {train: {steps: 7}}
      planner: {mppi: {temperature: 2}}
"""


@pytest.fixture()
def check(tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE)

    def check(*overrides: str, agents: tuple[str, ...] = ()) -> None:
        check_read(resolve(load(tmp_path / "s.yaml"), "s", "quick", agents=agents, overrides=overrides), overrides)

    return check


READ = [
    ["collect.episodes=30", "evaluate.num_pairs=3", "image_size=32"],
    ["dino-wm.encoder=dinov2-small", "dino-wm.weights=/nowhere"],
    ["dino-wm.local.width=32"],
    ["dino-wm.proprio=true", "dino-wm.proprio_size=3"],
    ["lewm.sigreg_decay=0.5", "lewm.sigreg_initial_weight=1"],
    ["planner.solver=icem", "planner.icem={beta: 1}"],
    ["gcbc.train.steps=4"],
    ["training.steps=4"],
]
UNREAD = [
    (["dino-wm.weights=/nowhere"], "dino-wm.weights"),
    (["dino-wm={weights: /nowhere}"], "dino-wm.weights"),
    (["dino-wm.encoder=dinov2-small", "dino-wm.local.train.steps=9"], "dino-wm.local.train.steps"),
    (["dino-wm.proprio_weight=3"], "dino-wm.proprio_weight"),
    (["dino-wm.conditioning=adaln", "dino-wm.action_size=3"], "dino-wm.action_size"),
    (["lewm.sigreg_decay=0.5"], "lewm.sigreg_decay"),
    (["planner.icem.beta=1"], "planner.icem.beta"),
    (["planner.solver=icem", "planner.adam.optimizer=sgd"], "planner.adam.optimizer"),
    (["pldm.train.steps=4"], "pldm.train.steps"),
    (["noop.train.steps=4"], "noop.train.steps"),
    (["training.steps=4", "gcbc.train.steps=9"], "gcbc.train.steps"),
]


@pytest.mark.parametrize("overrides", READ)
def test_what_some_cell_reads_is_taken(check, overrides):
    check(*overrides)


@pytest.mark.parametrize(("overrides", "named"), UNREAD)
def test_what_no_cell_reads_is_refused(check, overrides, named):
    with pytest.raises(UserError, match=f"no cell of this run reads {named}; leave it out") as error:
        check(*overrides)
    assert "\n" not in str(error.value)


def test_a_setting_of_the_planner_wants_somebody_who_plans(check):
    check("planner.num_samples=64", agents=("noop", "lewm"))
    with pytest.raises(UserError, match=r"no cell of this run reads planner\.num_samples"):
        check("planner.num_samples=64", agents=("noop", "gcbc"))


def test_one_arm_that_reads_it_is_enough(check):
    check("dino-wm.weights=/nowhere", agents=("dino-wm", "dino-wm:encoder=dinov2-small"))


@pytest.mark.parametrize(
    ("agent", "named"),
    [
        ("dino-wm:weights=/nowhere", "weights"),
        ("lewm:planner.mppi.temperature=1", r"planner\.mppi\.temperature"),
        ("lewm:sigreg_decay=0.5", "sigreg_decay"),
    ],
)
def test_names_are_held_to_the_same(check, agent, named):
    with pytest.raises(UserError, match=f"nothing reads {named} of '{agent}'"):
        check(agents=(agent,))


def test_names_may_say_what_counts_for_them_alone(check):
    arms = ("lewm:planner.solver=mppi:planner.mppi.temperature=1", "dino-wm:encoder=dinov2-small:weights=/nowhere")
    check("training.steps=9", agents=(*arms, "gcbc:train.steps=4"))
