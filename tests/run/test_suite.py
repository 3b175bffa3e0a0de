"""Suites: where a setting comes from, what limits leave out, and what is said about a mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.agents import AGENTS
from lewm_bench.core.config import deep_merge
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import canonical
from lewm_bench.data.adapt import Adapt
from lewm_bench.run import benchmarks as suites
from lewm_bench.run.benchmarks import load
from lewm_bench.run.environments import environment_ids
from lewm_bench.run.names import agent_names
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import parse_overrides, resolve
from lewm_bench.run.settings import Settings

REPOSITORY = Path(__file__).parents[2]
UMAZE, MEDIUM = "lewm_bench/PointMaze-UMaze-v0", "lewm_bench/PointMaze-Medium-v0"

LAYERS = f"""
profiles:
  small:
    planner: {{num_samples: 41, num_elites: 21, std: 0.1, horizon: 11}}
    lewm: {{depth: 1, train: {{steps: 101, batch_size: 11}}}}
  plain: {{}}
suites:
  layers:
    title: Layers
    envs: [{UMAZE}]
    agents: [lewm]
    seeds: [5, 6]
    settings:
      planner: {{num_elites: 22, std: 0.2, horizon: 12}}
      lewm: {{depth: 2, train: {{batch_size: 12}}}}
    profiles:
      small:
        seeds: [7]
        settings: {{planner: {{std: 0.3, horizon: 13}}, lewm: {{train: {{warmup: 0.3}}}}}}
"""


def benchmarks(tmp_path: Path, text: str) -> suites.Benchmarks:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def suite_yaml(block: str, profiles: str = "profiles: {quick: {}}") -> str:
    """A file with one suite ``s`` whose block is given."""
    lines = "\n".join(f"    {line}" for line in block.strip().splitlines())
    return f"{profiles}\nsuites:\n  s:\n    title: S\n{lines}\n"


# Precedence.


def test_every_layer_wins_over_the_one_before_it(tmp_path):
    found = resolve(benchmarks(tmp_path, LAYERS), "layers", "small", overrides=["planner.horizon=14", "lewm.width=48"])
    planner, lewm = found.settings.planner, found.agent_config("lewm")
    assert planner.num_iterations == 30  # the class, as the paper says
    assert planner.num_samples == 41  # the profile
    assert planner.num_elites == 22  # the suite
    assert planner.std == 0.3  # the suite's part for the profile
    assert planner.horizon == 14  # --set
    assert (lewm.heads, lewm.train.steps, lewm.train.batch_size) == (16, 101, 12)
    assert (lewm.train.warmup, lewm.depth, lewm.width) == (0.3, 2, 48)


# All eight layers of docs/configuration.md. Field n of eight is given by layer n and by all layers before it, so that each
# field tells whether its layer wins over those before it and loses against none of those after it.
LADDER = ("lewm.heads", "planner.num_samples", "planner.num_iterations", "planner.std", "image_size", "evaluate.num_pairs",
          "lewm.depth", "lewm.width")  # fmt: skip


def rung(layer: int) -> dict:
    """What a layer from 2 to 8 says: its own field and those of all later layers; 10 times the layer, in nested keys."""
    block: dict = {}
    for number, path in enumerate(LADDER, 1):
        if number >= layer:
            *heads, last = path.split(".")
            node = block
            for head in heads:
                node = node.setdefault(head, {})
            node[last] = 40 + layer
    return block


def ladder(*left_out: int) -> dict:
    """A file with all layers but some, as YAML gives it."""
    say = {layer: {} if layer in left_out else rung(layer) for layer in range(2, 8)}
    env = {"id": UMAZE, "name": "Mine", "settings": say[7]}
    suite = {"title": "S", "envs": [env, MEDIUM], "agents": ["lewm"], "settings": say[5]}
    return {
        "profiles": {"small": say[2], "plain": {}},
        "environments": {UMAZE: {"settings": say[3], "profiles": {"small": say[4]}}},
        "suites": {"s": suite | {"profiles": {"small": {"settings": say[6]}}}},
    }


def ladder_values(found: suites.Resolved) -> list:
    tree = found.settings.model_dump() | {"lewm": found.agent_config("lewm").model_dump()}
    values = []
    for path in LADDER:
        node = tree
        for key in path.split("."):
            node = node[key]
        values.append(node)
    return values


def resolve_ladder(tmp_path, *left_out: int, profile: str = "small"):
    overrides = [] if 8 in left_out else ["lewm.width=48"]
    return resolve(benchmarks(tmp_path, yaml.safe_dump(ladder(*left_out))), "s", profile, overrides=overrides)


def test_each_of_the_eight_layers_wins_over_all_before_it_and_loses_to_all_after_it(tmp_path):
    found = resolve_ladder(tmp_path)
    mine, medium = found.envs
    assert ladder_values(found.of(mine)) == [16, 42, 43, 44, 45, 46, 47, 48]
    # The other environment has neither a recipe (3, 4) nor words of its own (7): there the layer before stands.
    assert ladder_values(found.of(medium)) == [16, 42, 42, 42, 45, 46, 46, 48]
    assert ladder_values(found) == ladder_values(found.of(mine))  # what has no environment is the first one's


@pytest.mark.parametrize("layer", range(2, 9))
def test_without_a_layer_the_one_before_it_stands(tmp_path, layer):
    found = resolve_ladder(tmp_path, layer)
    expected = [16, 42, 43, 44, 45, 46, 47, 48]
    class_default = {2: 300}  # of what only the profile says
    expected[layer - 1] = class_default.get(layer, 40 + layer - 1)
    assert ladder_values(found.of(found.envs[0])) == expected


def test_two_layers_of_another_profile_are_not_read(tmp_path):
    found = resolve_ladder(tmp_path, profile="plain")
    assert ladder_values(found.of(found.envs[0])) == [16, 300, 43, 43, 45, 45, 47, 48]


def test_another_profile_does_not_get_the_part_that_is_not_its_own(tmp_path):
    bench = benchmarks(tmp_path, LAYERS)
    plain = resolve(bench, "layers", "plain")
    assert (plain.settings.planner.std, plain.settings.planner.num_samples) == (0.2, 300)
    assert [job.seed for job in plain.jobs] == [5, 6]
    assert [job.seed for job in resolve(bench, "layers", "small").jobs] == [7]
    assert [job.seed for job in resolve(bench, "layers", "small", seeds=[3, 1, 3]).jobs] == [3, 1]


def test_the_last_of_two_equal_overrides_wins(tmp_path):
    found = resolve(benchmarks(tmp_path, LAYERS), "layers", "plain", overrides=["planner.std=1", "planner.std=2"])
    assert found.settings.planner.std == 2


def test_a_variant_has_the_settings_of_its_agent_and_its_own_encoder():
    found = resolve(load(REPOSITORY / "benchmarks.yaml"), "smoke", "quick", overrides=["dino-wm.depth=3"])
    base, variant = found.agent_config("dino-wm"), found.agent_config("dino-wm:mae")
    assert (base.encoder, variant.encoder, base.depth, variant.depth) == ("lowpass", "mae", 3, 3)
    assert base.model_copy(update={"encoder": "mae"}) == variant


def leaves(tree, path=()):
    """(path, value) of everything in nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def default_at(path):
    """What the class says, as JSON; ``collect`` and so on are fields of Settings, other heads are agents."""
    head, *rest = path
    value = Settings() if head in Settings.model_fields else agent_family(head).Config()
    for part in rest if head not in Settings.model_fields else path:
        value = value.get(part) if isinstance(value, dict) else getattr(value, part)
    return value


def test_the_shipped_file_restates_no_default():
    data = yaml.safe_load((REPOSITORY / "benchmarks.yaml").read_text(encoding="utf-8"))
    blocks = list(data["profiles"].items())
    for name, recipe in data["environments"].items():
        blocks.append((name, recipe.get("settings", {})))
        blocks += [(f"{name}/{profile}", block) for profile, block in recipe.get("profiles", {}).items()]
    for name, suite in data["suites"].items():
        blocks.append((name, suite.get("settings", {})))
        with_settings = [env for env in suite.get("envs", ()) if isinstance(env, dict)]
        blocks += [(f"{name}/{env['id']}", env.get("settings", {})) for env in with_settings]
        blocks += [
            (f"{name}/{profile}", part.get("settings", {})) for profile, part in suite.get("profiles", {}).items()
        ]
    checked = [(where, path, value) for where, block in blocks for path, value in leaves(block)]
    assert len(checked) > 30
    set_by_profiles = {path for block in data["profiles"].values() for path, _ in leaves(block)}
    for where, path, value in checked:
        default = default_at(path)
        value = tuple(value) if isinstance(value, list) else value
        if value is None and path in set_by_profiles:  # takes a profile's deviation back
            continue
        assert type(default)(value) != default if default is not None else value is not None, (where, path)


DESCRIBED = ("paper", "pointmaze", "fourrooms", "antmaze", "scene")  # the suites of environments that name quantities


@pytest.mark.slow
def test_every_environment_that_names_quantities_can_be_understood():
    shipped = load(suites.find_file(None)).suites
    worlds = {env.id for name, suite in shipped.items() if name in DESCRIBED for env in suite.envs}
    assert {env.id for env in shipped["understanding-all"].envs} == worlds and len(worlds) == 12


def test_every_shipped_suite_resolves_in_every_profile_and_names_what_exists():
    bench = load(REPOSITORY / "benchmarks.yaml")
    assert {"pointmaze", "smoke"} <= set(bench.suites) and {"quick", "paper"} <= set(bench.profiles)
    for name, spec in bench.suites.items():
        for profile in bench.profiles:
            found = resolve(bench, name, profile)
            timed = spec.kind == "speed"
            assert bool(found.jobs) != timed and found.kind == spec.kind, (name, profile)
            if timed:
                continue
            assert {job.env.id for job in found.jobs} <= set(environment_ids())
            assert set(found.by_env) == {env.label for env in found.envs} == {env.label for env in spec.envs}
            for job in found.jobs:
                settings = found.of(job.env).settings
                assert 1 <= job.num_pairs <= settings.evaluate.num_pairs
                assert set(job.goal_offset) <= set(settings.evaluate.goal_offset)
                assert found.of(job.env).agent_config(job.agent)
            if spec.kind == "understand":
                assert all(agent_family(agent).kind == "world model" for agent in spec.agents), name
            else:
                assert {"random", "oracle"} <= set(spec.agents), f"{name} lacks its floor or its ceiling"


# Limits.

LIMITED = f"""
envs: [{UMAZE}, {MEDIUM}]
agents: [noop, lewm, dino-wm]
seeds: [0, 1]
profiles:
  quick:
    agents: {{noop: {{seeds: [0]}}, dino-wm: {{goal_offset: [25]}}}}
    envs: {{{MEDIUM}: {{only: [noop, lewm], seeds: [1]}}}}
"""


def cells(found) -> dict[tuple[str, str], dict[int, tuple[int, ...]]]:
    out: dict = {}
    for job in found.jobs:
        out.setdefault((job.env.id.split("-")[1], job.agent), {})[job.seed] = job.goal_offset
    return out


BOTH, NEAR, FAR = (25, 50), (25,), (50,)
WHOLE = {
    ("UMaze", "noop"): {0: BOTH},
    ("UMaze", "lewm"): {0: BOTH, 1: BOTH},
    ("UMaze", "dino-wm"): {0: NEAR, 1: NEAR},
    ("Medium", "lewm"): {1: BOTH},  # noop has seed 0 only and Medium seed 1 only
}


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, WHOLE),
        ({"envs": [UMAZE]}, {k: v for k, v in WHOLE.items() if k[0] == "UMaze"}),
        ({"envs": [MEDIUM]}, {("Medium", "lewm"): {1: BOTH}}),
        # Naming an agent brings it back where it is left out, and changes neither its seeds nor its offsets.
        ({"agents": ["dino-wm"]}, {("UMaze", "dino-wm"): {0: NEAR, 1: NEAR}, ("Medium", "dino-wm"): {1: NEAR}}),
        (
            {"agents": ["dino-wm:mae"]},
            {("UMaze", "dino-wm:mae"): {0: NEAR, 1: NEAR}, ("Medium", "dino-wm:mae"): {1: NEAR}},
        ),
        ({"agents": ["noop"]}, {("UMaze", "noop"): {0: BOTH}}),
        # Naming seeds lifts the limits on seeds and no limit on offsets.
        (
            {"seeds": [4]},
            {
                (env, agent): {4: NEAR if agent == "dino-wm" else BOTH}
                for env in ("UMaze", "Medium")
                for agent in ("noop", "lewm", "dino-wm")
            },
        ),
        # Naming offsets lifts the limits on offsets and no limit on seeds.
        (
            {"overrides": ["evaluate.goal_offset=[50]"]},
            {
                ("UMaze", "noop"): {0: FAR},
                ("UMaze", "lewm"): {0: FAR, 1: FAR},
                ("UMaze", "dino-wm"): {0: FAR, 1: FAR},
                ("Medium", "lewm"): {1: FAR},
            },
        ),
        ({"overrides": ["evaluate.num_pairs=7"]}, WHOLE),
        (
            {"agents": ["dino-wm"], "seeds": [9], "overrides": ["evaluate.goal_offset=50"]},
            {("UMaze", "dino-wm"): {9: FAR}, ("Medium", "dino-wm"): {9: FAR}},
        ),
    ],
)
def test_an_explicit_choice_lifts_the_limits_that_it_is_about(tmp_path, asked, expected):
    assert cells(resolve(benchmarks(tmp_path, suite_yaml(LIMITED)), "s", "quick", **asked)) == expected


def test_limits_are_those_of_the_profile_alone(tmp_path):
    bench = benchmarks(tmp_path, suite_yaml(LIMITED, "profiles: {quick: {}, paper: {}}"))
    assert len(resolve(bench, "s", "paper").jobs) == 2 * 3 * 2


def test_offsets_that_a_limit_names_but_the_settings_do_not_are_not_run(tmp_path):
    block = (
        f"envs: [{UMAZE}]\nagents: [noop]\nseeds: [0]\nprofiles: {{quick: {{agents: {{noop: {{goal_offset: [75]}}}}}}}}"
    )
    assert resolve(benchmarks(tmp_path, suite_yaml(block)), "s", "quick").jobs == ()


PAIRS = f"""
envs: [{UMAZE}, {{id: {MEDIUM}, settings: {{evaluate: {{num_pairs: 6}}}}}}]
agents: [noop, oracle, dino-wm]
seeds: [0]
settings: {{evaluate: {{num_pairs: 40}}}}
profiles:
  quick:
    agents: {{oracle: {{num_pairs: 20}}, dino-wm: {{num_pairs: 90}}}}
    envs: {{{UMAZE}: {{agents: {{oracle: {{num_pairs: 10, goal_offset: [25]}}}}}}}}
"""


@pytest.mark.parametrize(
    "asked, expected",
    [
        # The smallest limit holds, and one that is larger than the number of pairs limits nothing.
        ({}, {"UMaze": {"noop": 40, "oracle": 10, "dino-wm": 40}, "Medium": {"noop": 6, "oracle": 6, "dino-wm": 6}}),
        ({"overrides": ["evaluate.num_pairs=70"]}, dict.fromkeys(["UMaze", "Medium"], dict.fromkeys(
            ["noop", "oracle", "dino-wm"], 70))),
        ({"overrides": ["evaluate={num_pairs: 3}"]}, dict.fromkeys(["UMaze", "Medium"], dict.fromkeys(
            ["noop", "oracle", "dino-wm"], 3))),
        ({"agents": ["oracle"], "seeds": [4]}, {"UMaze": {"oracle": 10}, "Medium": {"oracle": 6}}),
        ({"agents": ["dino-wm:mae"]}, {"UMaze": {"dino-wm:mae": 40}, "Medium": {"dino-wm:mae": 6}}),
        ({"overrides": ["evaluate.goal_offset=[25]"], "agents": ["oracle"]}, {"UMaze": {"oracle": 10},
            "Medium": {"oracle": 6}}),
    ],
)  # fmt: skip
def test_a_limit_on_pairs_leaves_the_first_of_them_unless_pairs_are_asked_for(tmp_path, asked, expected):
    found: dict = {}
    for job in resolve(benchmarks(tmp_path, suite_yaml(PAIRS)), "s", "quick", **asked).jobs:
        found.setdefault(job.env.id.split("-")[1], {})[job.agent] = job.num_pairs
    assert found == expected


MORE_SPECIFIC = f"""
envs: [{UMAZE}]
agents: [dino-wm, "dino-wm:mae", "dino-wm:mae:proprio_weight=0"]
seeds: [0, 1]
profiles:
  quick: {{agents: {{dino-wm: {{seeds: [0]}}, "dino-wm:mae": {{goal_offset: [25]}}}}}}
"""


def test_a_more_specific_name_wins(tmp_path):
    assert cells(resolve(benchmarks(tmp_path, suite_yaml(MORE_SPECIFIC)), "s", "quick")) == {
        ("UMaze", "dino-wm"): {0: BOTH},
        ("UMaze", "dino-wm:mae"): {0: NEAR, 1: NEAR},
        ("UMaze", "dino-wm:mae:proprio_weight=0"): {0: BOTH},
    }


ONLY = f"""
envs: [{UMAZE}, {MEDIUM}]
agents: [noop, lewm, gcbc]
seeds: [0]
profiles:
  quick: {{envs: {{{MEDIUM}: {{only: [lewm]}}}}}}
"""


@pytest.mark.parametrize(
    ("asked", "medium"),
    [
        ({}, {"lewm"}),
        ({"agents": ["lewm:dropout=0", "gcbc"]}, {"lewm:dropout=0", "gcbc"}),
        ({"agents": ["+pldm"]}, {"lewm", "pldm"}),
        ({"agents": ["all"]}, {"lewm"}),
        (
            {"agents": ["all", "+gcbc", "+lewm_bench.agents.scripted:RANDOM"]},
            {"lewm", "lewm_bench.agents.scripted:RANDOM"},
        ),
        ({"seeds": [1]}, {"noop", "lewm", "gcbc"}),
    ],
)
def test_only_leaves_out_whom_the_command_line_does_not_name(asked, medium, tmp_path):
    jobs = resolve(benchmarks(tmp_path, suite_yaml(ONLY)), "s", "quick", **asked).jobs
    assert {job.agent for job in jobs if job.env.id == MEDIUM} == medium
    assert {job.agent for job in jobs if job.env.id == UMAZE} >= medium


LIGHT = """
import sys
from lewm_bench.run.benchmarks import find_file, load
load(find_file(None))
heavy = {"torch", "gymnasium", "mujoco", "pandas", "transformers"} & {*sys.modules}
assert not heavy, heavy
"""


def test_the_file_is_read_without_what_is_heavy(tmp_path):
    subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, check=True)


def test_asking_for_pairs_lifts_no_other_limit(tmp_path):
    found = resolve(benchmarks(tmp_path, suite_yaml(PAIRS)), "s", "quick", overrides=["evaluate.num_pairs=70"])
    assert {(j.env.id, j.agent): j.goal_offset for j in found.jobs}[UMAZE, "oracle"] == (25,)
    found = resolve(benchmarks(tmp_path, suite_yaml(LIMITED)), "s", "quick", overrides=["evaluate.num_pairs=70"])
    assert cells(found) == WHOLE


# Environments with settings of their own.

OWN = f"""
profiles: {{quick: {{}}}}
environments:
  {UMAZE}: {{settings: {{evaluate: {{goal_offset: [10, 20]}}, collect: {{steps: 30}}, planner: {{num_iterations: 10}}}}}}
suites:
  s:
    title: S
    envs:
      - {UMAZE}
      - {{id: {UMAZE}, name: Far, settings: {{evaluate: {{goal_offset: [30]}}, planner: {{num_samples: 50}}}}}}
      - {MEDIUM}
    agents: [noop, lewm]
    seeds: [0]
    profiles: {{quick: {{agents: {{noop: {{goal_offset: [10, 25, 30]}}}}}}}}
"""


def test_the_offsets_of_a_job_are_those_of_its_environment(tmp_path):
    found = resolve(benchmarks(tmp_path, OWN), "s", "quick")
    offsets = {(job.env.label, job.agent): job.goal_offset for job in found.jobs}
    assert offsets == {
        (UMAZE, "noop"): (10,),
        (UMAZE, "lewm"): (10, 20),
        ("Far", "noop"): (30,),
        ("Far", "lewm"): (30,),
        (MEDIUM, "noop"): (25,),
        (MEDIUM, "lewm"): (25, 50),
    }
    asked = resolve(benchmarks(tmp_path, OWN), "s", "quick", overrides=["evaluate.goal_offset=[5]"])
    assert {job.goal_offset for job in asked.jobs} == {(5,)}


def test_a_recipe_is_that_of_an_id_under_whatever_name_in_every_suite(tmp_path):
    found = resolve(benchmarks(tmp_path, OWN), "s", "quick")
    plain, far, medium = (found.of(env).settings for env in found.envs)
    assert (plain.collect.steps, far.collect.steps, medium.collect.steps) == (30, 30, 100)
    assert (plain.planner.num_iterations, far.planner.num_iterations, medium.planner.num_iterations) == (10, 10, 30)
    assert (plain.planner.num_samples, far.planner.num_samples) == (300, 50)


def test_offsets_are_held_against_the_episodes_of_their_environment(tmp_path):
    with pytest.raises(UserError, match=r"from 1 to collect.steps \(30\)"):  # Medium's 100 would allow it
        resolve(benchmarks(tmp_path, OWN), "s", "quick", overrides=["evaluate.goal_offset=[50]"])
    found = resolve(
        benchmarks(tmp_path, OWN), "s", "quick", envs=[MEDIUM], overrides=["evaluate.goal_offset=[60]"]
    )  # only environments that are run are asked
    assert {job.goal_offset for job in found.jobs} == {(60,)}


@pytest.mark.parametrize("suite, offset", [("reacher", 150), ("pusht", 110)])
def test_longer_episodes_of_every_environment_allow_farther_goals(suite, offset):
    bench = load(REPOSITORY / "benchmarks.yaml")
    found = resolve(bench, suite, "paper", overrides=[f"evaluate.goal_offset=[{offset}]"])
    assert {job.goal_offset for job in found.jobs} == {(offset,)}


ADAPTED = """
envs:
  - id: Pendulum-v1
    name: Upright
    kwargs: {g: 9.0}
    adapt: {threshold: 0.3, compare: [0, 1], unit: radii, exploration: {uniform: 1}, warmup: 5, max_steps: 150}
  - {id: "their_pkg:Maze-v0", adapt: {threshold: 2, distance: "their_pkg:apart", state: qpos}}
  - lewm_bench/PointMaze-UMaze-v0
agents: [noop]
seeds: [0]
"""


def test_a_foreign_environment_is_adapted_in_the_file(tmp_path):
    upright, theirs, ours = resolve(benchmarks(tmp_path, suite_yaml(ADAPTED)), "s", "quick").envs
    assert (upright.label, upright.id, upright.kwargs) == ("Upright", "Pendulum-v1", {"g": 9.0})
    assert upright.adapt == Adapt(
        threshold=0.3, compare=(0, 1), unit="radii", exploration={"uniform": 1.0}, warmup=5, max_steps=150
    )
    assert theirs.adapt == Adapt(threshold=2.0, distance="their_pkg:apart", state="qpos")
    assert (theirs.adapt.warmup, theirs.adapt.max_steps, theirs.adapt.compare) == (20, 300, ())
    assert ours.adapt is None


@pytest.mark.parametrize(
    "adapt, says",
    [
        ("{}", ["suites.s.envs.0.adapt.threshold is missing"]),
        ("{treshold: 1}", ["'suites.s.envs.0.adapt.treshold'", "did you mean 'suites.s.envs.0.adapt.threshold'?"]),
        ("{threshold: 0}", ["suites.s.envs.0.adapt.threshold", "greater than 0"]),
        ("{threshold: 1, state: qpso}", ["suites.s.envs.0.adapt.state", "did you mean 'qpos'?"]),
        (
            "{threshold: 1, compare: [0], angles: [2]}",
            ["suites.s.envs.0.adapt", "angles [2] must be among compare [0]"],
        ),
        ("{threshold: 1, compare: [0], distance: 'm:f'}", ["either a distance or the entries to compare"]),
    ],
)
def test_a_wrong_adapt_is_named_with_the_place(tmp_path, adapt, says):
    block = f"envs: [{{id: Pendulum-v1, adapt: {adapt}}}]\nagents: [noop]"
    with pytest.raises(UserError) as raised:
        benchmarks(tmp_path, suite_yaml(block))
    assert "\n" not in str(raised.value)
    for words in says:
        assert words in str(raised.value)


@pytest.mark.parametrize(
    "block, says",
    [
        ("lewm_bench/PointMaze-UMase-v0: {}", ["environments: no environment named", f"did you mean '{UMAZE}'?"]),
        ("Pendulum-v2: {}", ["no environment named 'Pendulum-v2'", "did you mean 'Pendulum-v1'?"]),
        (f"{UMAZE}: {{profiles: {{quik: {{}}}}}}", [f"environments.{UMAZE}.profiles", "did you mean 'quick'?"]),
        (f"{UMAZE}: {{setings: {{}}}}", [f"'environments.{UMAZE}.setings'", ".settings'?"]),
        (
            f"{UMAZE}: {{settings: {{planner: {{samples: 3}}}}}}",
            ["'planner.samples'", "did you mean 'planner.num_samples'?"],
        ),
        (
            f"{UMAZE}: {{profiles: {{quick: {{lewm: {{trian: {{}}}}}}}}}}",
            ["'lewm.trian'", "did you mean 'lewm.train'?"],
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(tmp_path, block, says):
    text = suite_yaml(f"envs: [{UMAZE}, {{id: Pendulum-v1, adapt: {{threshold: 1}}}}]\nagents: [lewm]")
    with pytest.raises(UserError) as raised:
        resolve(benchmarks(tmp_path, f"environments:\n  {block}\n{text}"), "s", "quick")
    assert "\n" not in str(raised.value)
    for words in says:
        assert words in str(raised.value), raised.value


@pytest.mark.parametrize("env_id", [MEDIUM, "Pendulum-v1", "their_pkg:Maze-v0"])
def test_a_recipe_may_be_of_any_environment_that_there_is(tmp_path, env_id):
    """Registered, in another suite, or of a package that is not imported before it is used."""
    text = suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nseeds: [0]")
    other = "  t: {title: T, envs: [{id: Pendulum-v1, adapt: {threshold: 1}}], agents: [noop]}\n"
    found = resolve(
        benchmarks(tmp_path, f"environments: {{'{env_id}': {{settings: {{image_size: 99}}}}}}\n{text}{other}"),
        "s",
        "quick",
    )
    assert found.of(found.envs[0]).settings.image_size == 224  # and is not that of another one


def test_what_a_suite_says_of_an_environment_is_checked(tmp_path):
    block = f"envs: [{{id: {UMAZE}, settings: {{collect: {{epsiodes: 3}}}}}}]\nagents: [noop]"
    with pytest.raises(UserError, match=r"'collect\.epsiodes'.*did you mean 'collect\.episodes'"):
        resolve(benchmarks(tmp_path, suite_yaml(block)), "s", "quick")


# Mistakes. Each is one line, says where, and offers the nearest name.


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("layer", "small", {}), ["no suite named 'layer'", "did you mean 'layers'?"]),
        (("layers", "smal", {}), ["no profile named 'smal'", "did you mean 'small'?"]),
        (("layers", "small", {"agents": ["lewn"]}), ["no agent named 'lewn'", "did you mean 'lewm'?"]),
        (("layers", "small", {"agents": ["dino-wm:mea"]}), ["'mea'", "did you mean 'mae'?"]),
        (("layers", "small", {"agents": ["lewm:big"]}), ["no variants", "'big'"]),
        (
            ("layers", "small", {"envs": ["PointMaze-UMaze-v1"]}),
            ["no environment of this suite", f"did you mean '{UMAZE}'?"],
        ),
        (("layers", "small", {"overrides": ["imag_size=64"]}), ["imag_size", "did you mean 'image_size'?"]),
        (("layers", "small", {"overrides": ["lewn.depth=2"]}), ["lewn", "did you mean 'lewm'?"]),
        (
            ("layers", "small", {"overrides": ["planner.samples=3"]}),
            ["'planner.samples'", "did you mean 'planner.num_samples'?"],
        ),
        (("layers", "small", {"overrides": ["lewm.trian.steps=3"]}), ["'lewm.trian'", "did you mean 'lewm.train'?"]),
        (
            ("layers", "small", {"overrides": ["lewm.train.stpes=3"]}),
            ["'lewm.train.stpes'", "did you mean 'lewm.train.steps'?"],
        ),
        (("layers", "small", {"overrides": ["dino-wm.local.wdith=3"]}), ["did you mean 'dino-wm.local.width'?"]),
        (("layers", "small", {"overrides": ["lewm.encoder=stem-vti"]}), ["lewm.encoder", "did you mean 'stem-vit'?"]),
        (
            ("layers", "small", {"overrides": ["planner.objective=finale"]}),
            ["planner.objective", "did you mean 'final'?"],
        ),
        (
            ("layers", "small", {"overrides": ["evaluate.protocol=cleen-1"]}),
            ["evaluate.protocol", "did you mean 'clean-1'?"],
        ),
        (("layers", "small", {"overrides": ["evaluate.split=tset"]}), ["evaluate.split", "did you mean 'test'?"]),
        (
            ("layers", "small", {"overrides": ["planner.num_samples=many"]}),
            ["planner.num_samples", "integer", "'many'"],
        ),
        (("layers", "small", {"overrides": ["lewm.train.steps=1.5"]}), ["lewm.train.steps", "integer", "1.5"]),
        (
            ("layers", "small", {"overrides": ["lewm.train.steps=0"]}),
            ["lewm.train.steps", "greater than or equal to 1"],
        ),
        (("layers", "small", {"overrides": ["planner=5"]}), ["planner has settings of its own"]),
        (("layers", "small", {"overrides": ["lewm=5"]}), ["lewm has settings of its own"]),
        (("layers", "small", {"overrides": ["lewm.train="]}), ["lewm.train has settings of its own"]),
        (("layers", "small", {"overrides": ["lewm={5: 1}"]}), ["lewm: ", "keys of a mapping must be text, got 5"]),
        (("layers", "small", {"overrides": ["planner.num_elites=500"]}), ["500 elites of 41 samples"]),
        (("layers", "small", {"overrides": ["collect.train=0.9"]}), ["collect", "1.15"]),
        (
            ("layers", "small", {"overrides": ["evaluate.goal_offset=25,50"]}),
            ["evaluate.goal_offset: must be a list, written in brackets", "25,50"],
        ),
        (("layers", "small", {"overrides": ["evaluate.goal_offset=[]"]}), ["evaluate.goal_offset", "at least one"]),
        (
            ("layers", "small", {"overrides": ["evaluate.goal_offset=0"]}),
            ["evaluate.goal_offset", "from 1 to collect.steps"],
        ),
        (("layers", "small", {"overrides": ["evaluate.goal_offset=101"]}), ["collect.steps (100)"]),
        (
            ("layers", "small", {"overrides": ["collect.val=0", "collect.train=0.85", "evaluate.split=val"]}),
            ["collect.val is 0"],
        ),
        (("layers", "small", {"overrides": ["planner.num_samples"]}), ["KEY=VALUE"]),
        (("layers", "small", {"overrides": ["=3"]}), ["KEY=VALUE"]),
        (("layers", "small", {"overrides": ["planner..std=3"]}), ["KEY=VALUE"]),
        (("layers", "small", {"overrides": ["planner.std=["]}), ["planner.std", "'['"]),
    ],
    ids=lambda value: str(value[2]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_with_the_nearest_name(tmp_path, arguments, says):
    name, profile, asked = arguments
    with pytest.raises(UserError) as raised:
        resolve(benchmarks(tmp_path, LAYERS), name, profile, **asked)
    message = str(raised.value)
    assert "\n" not in message and "pydantic" not in message
    for words in says:
        assert words in message, message


@pytest.mark.parametrize(
    "text, says",
    [
        ("a: [1\nb: 2", ["not valid YAML", "line 2"]),
        ("- 1", ["'profiles' and 'suites'"]),
        ("", ["'profiles' and 'suites'"]),
        ("suites: {}", ["profiles is missing"]),
        ("profiles: {}\nsuites: {}\nsuits: {}", ["'suits'", "did you mean 'suites'?"]),
        (
            suite_yaml(f"titel: x\nenvs: [{UMAZE}]\nagents: [noop]"),
            ["'suites.s.titel'", "did you mean 'suites.s.title'?"],
        ),
        (suite_yaml(f"envs: [{UMAZE}]\nagents: []"), ["suites.s: agents: needs at least one"]),
        (
            suite_yaml("envs: [{idd: x}]\nagents: [noop]"),
            ["'suites.s.envs.0.idd'", "did you mean 'suites.s.envs.0.id'?"],
        ),
        (suite_yaml("envs: [5]\nagents: [noop]"), ["suites.s.envs.0 has settings of its own", "got 5"]),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: noop"),
            ["suites.s.agents: must be a list, written in brackets", "'noop'"],
        ),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nseeds: [-1]"),
            ["suites.s.seeds.0", "greater than or equal to 0"],
        ),
        (suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nseeds: []"), ["suites.s.seeds", "at least 1"]),
        (suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nprofiles: {{quik: {{}}}}"), ["'quik'", "did you mean 'quick'?"]),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nprofiles: {{quick: {{agent: {{}}}}}}"),
            ["'suites.s.profiles.quick.agent'", "did you mean 'suites.s.profiles.quick.agents'?"],
        ),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [lewm]\nprofiles: {{quick: {{agents: {{lewn: {{seeds: [0]}}}}}}}}"),
            ["'lewn'", "did you mean 'lewm'?"],
        ),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [lewm]\nprofiles: {{quick: {{envs: {{{MEDIUM}: {{seeds: [0]}}}}}}}}"),
            [f"'{MEDIUM}'", f"did you mean '{UMAZE}'?"],
        ),
        (
            suite_yaml(
                f"envs: [{UMAZE}]\nagents: [lewm]\nprofiles: {{quick: {{envs: {{{UMAZE}: {{only: [lewn]}}}}}}}}"
            ),
            ["'lewn'", "did you mean 'lewm'?"],
        ),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [lewm]\nprofiles: {{quick: {{limits: [{{seeds: [0]}}]}}}}"),
            [
                "suites.s.profiles.quick: limits: a suite's part for a profile lists what runs instead: agents: {NAME:",
                "envs: {NAME: {only:",
            ],
        ),
        (
            suite_yaml(f"envs: [{UMAZE}]\nagents: [lewm]\nprofiles: {{quick: {{agents: {{lewm: {{seed: [0]}}}}}}}}"),
            ["'suites.s.profiles.quick.agents.lewm.seed'", "did you mean 'suites.s.profiles.quick.agents.lewm.seeds'?"],
        ),
        (suite_yaml(f"envs: [{UMAZE}, {UMAZE}]\nagents: [noop]"), ["share their result files", "name"]),
        (suite_yaml("envs: [a/Maze-v0, b/Maze-v0]\nagents: [noop]"), ["share their result files"]),
        (suite_yaml(f"envs: [{UMAZE}]\nagents: [noop]\nagents: [lewm]"), ["'agents' is given twice", "line 7"]),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_place(tmp_path, text, says):
    with pytest.raises(UserError) as raised:
        benchmarks(tmp_path, text)
    message = str(raised.value)
    assert message.count("\n") == 0 and "mine.yaml" in message
    for words in says:
        assert words in message, message


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--config"):
        suites.find_file(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks.yaml").write_text("here: 1")
    assert suites.find_file(None) == tmp_path / "benchmarks.yaml"


def test_without_a_file_in_the_working_folder_the_shipped_one_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"pointmaze", "smoke"} <= set(load(suites.find_file(None)).suites)


def test_two_environments_of_one_id_are_told_apart_by_name(tmp_path):
    block = f"envs: [{UMAZE}, {{id: {UMAZE}, name: Wide, kwargs: {{threshold: 0.9}}}}]\nagents: [noop]\nseeds: [0]"
    found = resolve(benchmarks(tmp_path, suite_yaml(block)), "s", "quick")
    assert [(e.id, e.label, e.kwargs) for e in found.envs] == [(UMAZE, UMAZE, {}), (UMAZE, "Wide", {"threshold": 0.9})]
    assert [e.label for e in resolve(benchmarks(tmp_path, suite_yaml(block)), "s", "quick", envs=["Wide"]).envs] == [
        "Wide"
    ]


# The two functions that everything above is made of.

KEYS = st.text("abcdefghij_", min_size=1, max_size=6)
VALUES = st.one_of(
    st.integers(-1000, 1000),
    st.booleans(),
    st.none(),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)),
    st.lists(st.integers(0, 99), max_size=3),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
)


@given(st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=4), VALUES), max_size=6))
def test_overrides_say_what_a_naive_walk_says(pairs):
    expected: dict = {}
    for path, value in pairs:  # a leaf where a branch was, or the other way round: the later one stands
        node = expected
        for key in path[:-1]:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        node[path[-1]] = value
    assert parse_overrides([f"{'.'.join(path)}={json.dumps(value)}" for path, value in pairs]) == expected


def test_values_are_yaml_and_a_module_in_front_keeps_its_dots():
    text = ["a.b=1e-3", "a.c=[1, 2]", "a.d=null", "a.e=x=y", "pkg.agents:MINE.train.steps=5", " f = true"]
    assert parse_overrides(text) == {
        "a": {"b": 0.001, "c": [1, 2], "d": None, "e": "x=y"},
        "pkg.agents:MINE": {"train": {"steps": 5}},
        "f": True,
    }


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    bench = benchmarks(tmp_path, LAYERS)  # YAML 1.1 reads 1e-3 as text
    found = resolve(bench, "layers", "plain", overrides=["lewm.train.learning_rate=1e-3"])
    assert found.agent_config("lewm").train.learning_rate == 0.001


TREES = st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=10).filter(
    lambda tree: isinstance(tree, dict)
)


@given(TREES, TREES, TREES)
def test_deep_merge(a, b, c):
    frozen = json.dumps([a, b])
    merged = deep_merge(a, b)
    assert json.dumps([a, b]) == frozen  # neither argument is written into
    assert deep_merge(a, {}) == a == deep_merge({}, a) == deep_merge(a, a)
    assert list(merged) == [*a, *(key for key in b if key not in a)]
    for key, value in merged.items():
        if key in a and key in b and isinstance(a[key], dict) and isinstance(b[key], dict):
            assert value == deep_merge(a[key], b[key])
        else:
            assert value == (b[key] if key in b else a[key])
    assert deep_merge(MappingProxyType(a), b) == merged


def test_settings_of_agents_that_are_not_run_are_checked_too(tmp_path):
    for name in agent_names():
        with pytest.raises(UserError, match=f"{name}.trian"):
            resolve(benchmarks(tmp_path, LAYERS), "layers", "plain", overrides=[f"{name}.trian=1"])


# The page that lists the keys of the file; settings describe themselves (tests/cli/test_settings.py).


def documented(heading: str) -> dict[str, str]:
    """Setting to default of the table under a heading of docs/configuration.md."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE).group(1)
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| `"), heading
    return {name: default for name, default, _ in rows}


@pytest.mark.parametrize(
    "heading, model", [("Suites", suites.SuiteSpec), ("An environment of a suite", suites.EnvSpec)]
)
def test_every_key_of_the_file_is_documented_with_its_default(heading, model):
    listed = documented(heading)
    own = {n: f.get_default(call_default_factory=True) for n, f in model.model_fields.items()}
    assert set(listed) == set(own)
    for name, default in own.items():
        if listed[name]:
            written = yaml.safe_load(listed[name])
            assert (tuple(written) if isinstance(default, tuple) else written) == default, (name, default)
        else:
            assert model.model_fields[name].is_required(), name


# Settings in names, one training budget, all agents.


def test_settings_in_a_name_are_the_agents_own_or_the_planners(tmp_path):
    arm = "lewm:sigreg_weight=0.5:train.steps=7:planner.std=0.7"
    found = resolve(benchmarks(tmp_path, LAYERS), "layers", "small", agents=["lewm", arm])
    assert [job.agent for job in found.jobs] == ["lewm", canonical(arm)]
    plain, own = found.agent_config("lewm"), found.agent_config(arm)
    assert (own.sigreg_weight, own.train.steps) == (0.5, 7)
    assert own.model_dump(exclude={"sigreg_weight": True, "train": {"steps"}}) == plain.model_dump(
        exclude={"sigreg_weight": True, "train": {"steps"}}
    )
    assert found.planner("lewm") == found.settings.planner
    assert found.planner(arm) == found.settings.planner.model_copy(update={"std": 0.7})


def test_settings_in_a_name_win_over_set(tmp_path):
    found = resolve(
        benchmarks(tmp_path, LAYERS), "layers", "small", agents=["lewm:depth=5"], overrides=["lewm.depth=4"]
    )
    assert found.agent_config("lewm:depth=5").depth == 5


def test_a_setting_in_a_name_wins_over_the_variant_beside_it(tmp_path):
    names = ["fast-lewm:consistent", "fast-lewm:consistent:self_consistency=0.5"]
    found = resolve(benchmarks(tmp_path, LAYERS), "layers", "small", agents=names)
    assert [found.agent_config(name).self_consistency for name in names] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        ("lewm:sigreg_wieght=1", ["lewm.sigreg_wieght", "sigreg_weight"]),
        ("lewm:dropout=2", ["lewm.dropout", "less than 1"]),
        ("lewm:=2", ["PATH=VALUE"]),
        ("lewm:dropout=", ["PATH=VALUE"]),
        ("lewm:planner.num_smaples=2", ["planner.num_smaples", "num_samples"]),
        ("gcbc:planner.std=2", ["gcbc does not plan"]),
        ("lewm:dropout=[", ["dropout", "'['"]),
        ("lewm:small", ["no variants"]),
        ("lewm:train.clip_norm=0", ["clip_norm", "greater than 0"]),
        ("gcbc:history=2", ["gcbc.history"]),
        ("gcbc:heads=5", ["multiple of heads (5)"]),
        ("dino-wm:depth=0", ["dino-wm.depth"]),
        ("dino-wm:local.channels=65", ["width (64) channels", "65"]),
    ],
)
def test_a_mistake_in_a_name_is_one_line(tmp_path, agent, says):
    with pytest.raises(UserError) as raised:
        resolve(benchmarks(tmp_path, LAYERS), "layers", "small", agents=[agent])
    assert "\n" not in str(raised.value)
    for words in says:
        assert words in str(raised.value)


def test_equal_steps_are_for_those_who_learn_from_the_data_and_name_none(tmp_path):
    agents = ["lewm", "lewm:train.steps=9", "lewm:dropout=0", "gcbc", "sac-her"]
    found = resolve(benchmarks(tmp_path, LAYERS), "layers", "small", agents=agents, overrides=["training.steps=33"])
    steps = [found.agent_config(agent).train.steps for agent in agents]
    assert steps[:4] == [33, 9, 33, 33] and steps[4] != 33


def test_a_budget_is_in_seconds_or_in_steps(tmp_path):
    overrides = ["training={seconds: 3, steps: 4}"]
    with pytest.raises(UserError, match="training: seconds or steps, not both"):
        resolve(benchmarks(tmp_path, LAYERS), "layers", "small", overrides=overrides)


def test_all_agents_are_the_suites_own_and_then_the_others_within_the_limits(tmp_path):
    block = f"""
    envs: [{UMAZE}]
    agents: ["dino-wm:mae", lewm, noop]
    seeds: [0, 1]
    profiles:
      quick: {{agents: {{noop: {{seeds: []}}, gcbc: {{seeds: [1]}}}}}}
    """
    found = resolve(benchmarks(tmp_path, suite_yaml(textwrap.dedent(block))), "s", "quick", agents=["all"])
    names = list(dict.fromkeys(job.agent for job in found.jobs))
    assert names[:2] == ["dino-wm:mae", "lewm"] and set(names) == {"dino-wm:mae", *AGENTS} - {"noop"}
    assert [job.seed for job in found.jobs if job.agent == "gcbc"] == [1]


ADDING = f"""
envs: [{UMAZE}]
agents: [noop, lewm, gcbc]
seeds: [0, 1]
profiles:
  quick: {{agents: {{noop: {{seeds: []}}, gcbc: {{seeds: []}}}}}}
"""


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([], ["lewm"]),
        (["pldm"], ["pldm"]),
        (["+pldm", "+lewm:dropout=1e-1"], ["lewm", "pldm", "lewm:dropout=0.1"]),
        (["+lewm"], ["lewm"]),
        (["+gcbc"], ["lewm", "gcbc"]),  # asked for by name, so not left out; noop still is
        (["noop"], ["noop"]),
        (["+lewm_bench.agents.scripted:RANDOM"], ["lewm", "lewm_bench.agents.scripted:RANDOM"]),
    ],
)
def test_a_plus_adds_an_agent_to_those_of_the_suite(wanted: list[str], found: list[str], tmp_path) -> None:
    bench = benchmarks(tmp_path, suite_yaml(ADDING))
    jobs = resolve(bench, "s", "quick", agents=wanted).jobs
    assert list(dict.fromkeys(job.agent for job in jobs)) == found and {job.seed for job in jobs} == {0, 1}


def test_all_and_one_more(tmp_path) -> None:
    bench = benchmarks(tmp_path, suite_yaml(ADDING))
    agents = [job.agent for job in resolve(bench, "s", "quick", agents=["all", "+lewm:dropout=0.5"]).jobs]
    assert agents[0] == "lewm" and agents[-1] == "lewm:dropout=0.5" and "pldm" in agents


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (["pldm", "+gcbc"], ["--agents: pldm replaces the suite's agents and +gcbc adds to them", "before none"]),
        (["+lewn"], ["no agent named 'lewn'", "did you mean 'lewm'?"]),
        (["+"], ["no agent named ''"]),
    ],
)
def test_what_cannot_be_added_is_refused_in_a_line(wanted: list[str], says: list[str], tmp_path) -> None:
    with pytest.raises(UserError) as raised:
        resolve(benchmarks(tmp_path, suite_yaml(ADDING)), "s", "quick", agents=wanted)
    assert "\n" not in str(raised.value)
    for words in says:
        assert words in str(raised.value)
