"""What determines each stage of a run: the specifications that its cache entries are addressed by.

Two runs share a stage if and only if these say the same. What changes nothing (progress, workers, how often a training
is saved) stays out of them.

Code belongs to what determines a stage. Of other people's environments and agents it is the source itself and the
versions of the packages that it imports (``lewm_bench.core.source``). Of ours it is a number that is raised by hand
when a change of the code changes results, or else every commit would empty every cache: ``DATA_SCHEMA`` and the
environment's ``schema``, ``MODEL_SCHEMA`` and the family's, ``PAIRS_SCHEMA``, ``EVALUATION_SCHEMA``, ``SHIFT_SCHEMA``. A test tells when one is due.

What is measured beside the episodes (``stages.measures_of``) is in no key: a new measure, as ``flops_per_step`` was,
leaves the evaluations in a cache valid, which read as None there until ``--fresh evaluate``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lewm_bench.agent import Family, Setting
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.names import parse_agent, stratum_of
from lewm_bench.core.shift import Factor
from lewm_bench.core.source import made_of
from lewm_bench.data import sac_exploration as sac_policy
from lewm_bench.data.collect import LEARNED, CollectConfig
from lewm_bench.evaluation import strata, task_sorting
from lewm_bench.evaluation.episodes import EvalConfig
from lewm_bench.evaluation.protocol import PROTOCOLS, Protocol
from lewm_bench.evaluation.shift import PAIRS, SHIFT_1
from lewm_bench.evaluation.shift_record import Condition
from lewm_bench.run.bases import base_agent
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.names import agent_path
from lewm_bench.run.resolve import Job, Suite
from lewm_bench.system.device import sized
from lewm_bench.train.loop import FREE

DATA_SCHEMA, MODEL_SCHEMA, PAIRS_SCHEMA, EVALUATION_SCHEMA, SHIFT_SCHEMA = 2, 2, 2, 3, 1
DATA_SEED = 0  # all training seeds share one dataset


KINDS = {
    "collect": ("dataset", "policy"),
    "train": ("encoder", "tokens", "pace", "model", "latents", "checkpoints", "failure"),
    "evaluate": ("pairs", "evaluation", "understanding", "shift"),
}
"""The kinds of cache entries that each stage of a run makes, in order."""


def fresh_kinds(stages: Iterable[str]) -> set[str]:
    """The kinds that are built again if these stages are: theirs and those of all later ones.

    Raises:
        UserError: there is no such stage.
    """
    order, first = list(KINDS), len(KINDS)
    for stage in stages:
        if stage not in KINDS:
            raise unknown("stage", stage, KINDS)
        first = min(first, order.index(stage))
    return {kind for stage in order[first:] for kind in KINDS[stage]}


def dataset_spec(spec: EnvSpec, env: GoalEnv, config: CollectConfig) -> dict[str, Any]:
    """What determines the data of an environment, collected as ``config`` says."""
    made = env.made_of()
    learned = made_of([sac_policy]).packages if LEARNED in config.policies else {}
    key = {
        "schema": [DATA_SCHEMA, env.schema],
        "env": spec.id,
        "kwargs": spec.kwargs,
        "source": made.digest,
        "packages": {**made.packages, **learned},
        "image_size": env.observation_space.shape[0],
        "collect": config.recipe(),
        "seed": DATA_SEED,
    }
    if spec.adapt is not None:
        key["adapt"] = spec.adapt.model_dump(mode="json")
    return key


def policy_spec(config: CollectConfig, dataset: dict[str, Any]) -> dict[str, Any]:
    """What determines the policy that is trained before it collects the data of ``dataset_spec``."""
    same = {"schema", "env", "kwargs", "source", "packages", "adapt", "seed"}
    return {k: v for k, v in dataset.items() if k in same} | {"config": config.sac.model_dump(mode="json")}


def code_of(agent: str, family: Family) -> dict[str, Any]:
    """What stands for the code of an agent."""
    made = made_of([family, family.Config, agent_path(agent).partition(":")[0]])
    return {"schema": [MODEL_SCHEMA, family.schema], "source": made.digest, "packages": dict(made.packages)}


def model_spec(setting: Setting, family: Family) -> dict[str, Any]:
    """What determines the weights. How often training is logged and saved, and what collapse means, does not."""
    config = setting.config.model_dump(mode="json")
    for name in FREE:
        config["train"].pop(name)
    for name in family.planning_only:
        config.pop(name)
    if config["data"] == 1:  # all of them, as before there was a share
        config.pop("data")
    return {
        **code_of(setting.agent, family),
        "agent": parse_agent(setting.agent).base,
        "config": config,
        "dataset": [setting.dataset_key, setting.dataset.fingerprint],
        "seed": setting.seed,
        "device": setting.device.type,
        "outside": setting.outside or outside_of(setting, family),
        **({} if setting.base is None else {"base": model_spec(setting.base.setting, setting.base.family)}),
        # Until Fabric's mixed precision was found to reach no ``loss``, these were trained in float32.
        **({} if config["train"].get("precision", "32-true") == "32-true" else {"autocast": 1}),
    }


def checkpoints_spec(setting: Setting, family: Family, number: int) -> dict[str, Any]:
    """What determines the checkpoints on the way of a training, ``number`` with the last; the weights know nothing of them."""
    return {"model": model_spec(setting, family), "number": number}


def outside_of(setting: Setting, family: Family) -> str:
    """What a family says of weights from elsewhere.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(outside := family.outside(setting), str):
        raise UserError(f"{setting.agent}: outside must return text, got {short_repr(outside)}; mend its family")
    return outside


def failure_spec(suite: Suite, job: Job, family: Family, dataset: str, device: str) -> dict[str, Any]:
    """What determines that a training fails; unlike for weights, what counts as collapse belongs to it."""
    resolved = suite.of(job.env)
    config = resolved.agent_config(job.agent)
    name = base_agent(config) if family.on_base else None
    base = {} if name is None else {"base": resolved.agent_config(name).model_dump(mode="json")}
    return {
        **code_of(job.agent, family),
        **base,
        "agent": parse_agent(job.agent).trained,
        "config": config.model_dump(mode="json"),
        "training": resolved.settings.training.model_dump(mode="json"),
        "dataset": dataset,
        "seed": job.seed,
        "device": device,
    }


def pairs_spec(suite: Suite, job: Job, setting: Setting, offset: int) -> dict[str, Any]:
    """What determines which of the first pairs, or tasks, need a plan."""
    config, rules = suite.of(job.env).settings.evaluate, PROTOCOLS[job.protocol]
    if rules.from_tasks:
        return tasks_spec(suite, job, setting, offset, config.split)
    return {
        "schema": PAIRS_SCHEMA,
        "protocol": rules.model_copy(update={"stratum": None}).id,
        "dataset": [setting.dataset_key, setting.dataset.fingerprint],
        "env": setting.env_id,
        "evaluate": config.model_dump(mode="json", include={"split", "budget", "candidates", "num_pairs"}),
        "goal_offset": offset,
        **({} if (longest := longest_of(rules, config)) is None else {"longest": longest}),
        "planners": {name: planner.model_dump(mode="json") for name, planner in strata.PLANNERS.items()},
    }


def longest_of(rules: Protocol, config: EvalConfig) -> int | None:
    """The goal offset that decides which starts all offsets share; None where each has its own."""
    return max(config.goal_offset) if rules.one_set_of_starts else None


def tasks_spec(suite: Suite, job: Job, setting: Setting, offset: int, split: str) -> dict[str, Any]:
    """What determines the first tasks of an environment at one distance; recordings, seeds and pictures do not."""
    config, rules = suite.of(job.env).settings.evaluate, PROTOCOLS[job.protocol]
    return {
        "schema": PAIRS_SCHEMA,
        "protocol": rules.model_copy(update={"stratum": None}).id,
        "world": [setting.env.identity(), dict(setting.env.made_of().packages)],
        **({"tasks": setting.env.tasks_schema} if setting.env.tasks_schema else {}),
        "adapt": None if job.env.adapt is None else job.env.adapt.model_dump(mode="json"),
        "env": setting.env_id,
        "evaluate": config.model_dump(mode="json", include={"budget", "candidates", "num_pairs"}) | {"split": split},
        "goal_offset": offset,
        "planners": {name: planner.model_dump(mode="json") for name, planner in task_sorting.JUDGES.items()},
    }


def evaluation_spec(suite: Suite, job: Job, setting: Setting, family: Family, offset: int) -> dict[str, Any]:
    """What determines the episodes of one goal offset."""
    config = suite.of(job.env).settings.evaluate
    common = {"split", "budget", "batch", "correlation_frames"}
    return {
        **acting_spec(suite, job, setting, family, offset),
        "protocol": job.protocol,
        "evaluate": config.model_dump(mode="json", include=common) | {"num_pairs": job.num_pairs},
        "latent_oracle_pairs": latent_oracle_pairs(suite, job, offset) if family.kind == "world model" else 0,
        **({"pairs": pairs_spec(suite, job, setting, offset)} if stratum_of(job.protocol) else {}),
    }


def acting_spec(suite: Suite, job: Job, setting: Setting, family: Family, offset: int) -> dict[str, Any]:
    """What of an agent determines its episodes, whatever their pairs."""
    config = suite.of(job.env).settings.evaluate
    planning = setting.config.model_dump(mode="json", include=set(family.planning_only))
    return {
        "schema": EVALUATION_SCHEMA,
        "model": model_spec(setting, family),
        "name": setting.agent,
        "env": setting.env_id,
        "planner": setting.planner.model_dump(mode="json") if family.plans else None,
        "goal_offset": offset,
        **({"filled": True} if config.batch > 1 and sized(setting.device) else {}),
        **({"planning": planning} if planning else {}),
    }


def shift_spec(
    suite: Suite, job: Job, setting: Setting, family: Family, condition: Condition, factor: Factor | None
) -> dict[str, Any]:
    """What determines the episodes of an agent in a changed world; without a ``factor`` in the one it was trained in."""
    config, offset = suite.of(job.env).settings.evaluate, one_offset(job)
    return {
        **acting_spec(suite, job, setting, family, offset),
        "shift": SHIFT_SCHEMA,
        "protocol": SHIFT_1.id,
        "pairs": pairs_spec(suite, for_pairs(job), setting, offset),
        "evaluate": config.model_dump(mode="json", include={"budget", "batch"}) | {"num_pairs": job.num_pairs},
        "condition": condition.model_dump(mode="json"),
        "factor": factor and {"group": factor.group, "values": factor.values},  # its code is the environment's
    }


def for_pairs(job: Job) -> Job:
    """The job whose pairs are those of one that changes the world."""
    return job.model_copy(update={"protocol": PAIRS.id})


def one_offset(job: Job) -> int:
    """The goal offset of a job that changes the world, which has one (``resolve``)."""
    (offset,) = job.goal_offset
    return offset


def during_spec(
    suite: Suite, job: Job, setting: Setting, family: Family, offset: int, rules: Protocol, steps: int, split: str
) -> dict[str, Any]:
    """What determines the episodes on validation pairs of an agent that has trained so many ``steps`` of its training."""
    config = suite.of(job.env).settings.evaluate
    return {
        **acting_spec(suite, job, setting, family, offset),
        "protocol": rules.id,
        "evaluate": config.model_dump(mode="json", include={"budget", "batch", "during_pairs"}),
        "steps": steps,
        **({"pairs": tasks_spec(suite, job, setting, offset, split)} if rules.from_tasks else {}),
    }


def latent_oracle_pairs(suite: Suite, job: Job, offset: int) -> int:
    """Pairs for the latent oracle. It renders every candidate: only one offset and the lowest seed have any.

    That is the first offset; of pairs that need a plan the last, where most of them are.
    """
    config = suite.of(job.env).settings.evaluate
    which = -1 if PROTOCOLS[job.protocol].stratum == "planning" else 0
    first = offset == config.goal_offset[which] and job.seed == min(job.seed for job in suite.jobs)
    return min(config.latent_oracle_pairs, job.num_pairs) if first else 0
