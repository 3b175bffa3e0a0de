"""The inputs: for every kind of thing that people hand over, valid ones and what becomes of them when damaged."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unittest import mock

import damage
from sandbox import Case

ENV = "theirs_plain:Toy-v0"
PLAIN = """
import gymnasium as gym
from toy_env import ToyEnv


class Env(ToyEnv):
    def __init__(self, image_size=16, speed=0.1):
        super().__init__(image_size, speed)


if "Toy-v0" not in gym.registry:
    gym.register("Toy-v0", entry_point=Env)
"""
TINY = f"""
profiles:
  quick: {{}}
environments:
  "{ENV}": {{settings: {{image_size: 16}}}}
suites:
  tiny:
    title: Tiny
    envs: [{{id: "{ENV}", name: Toy}}]
    agents: [noop, random, lewm, "lewm:dropout=0"]
    seeds: [0]
    profiles: {{quick: {{agents: {{lewm: {{seeds: [0]}}}}}}}}
    settings: &tiny
      training: {{steps: 2}}
      understanding: {{examinations: [collapse]}}
      collect: {{episodes: 12, steps: 20, policies: {{jitter: 0.5, drift: 0.5}}}}
      planner: {{num_samples: 6, num_iterations: 1, num_elites: 3, horizon: 2, receding: 1}}
      evaluate: {{num_pairs: 2, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 8}}
      gcbc: &small {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 2, batch_size: 4, save_every: 2}}}}
      lewm:
        encoder: cnn
        latent: 8
        projector_hidden: 16
        width: 16
        depth: 1
        heads: 2
        head_size: 8
        mlp_hidden: 16
        num_directions: 8
        train: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3}}
  other: {{title: Other, envs: ["{ENV}"], agents: [noop], settings: {{<<: *tiny, image_size: 32}}}}
  timing: {{title: Timing, kind: speed, settings: {{image_size: 16}}}}
"""
TEMPLATE = "template"


def cli(*arguments: str) -> Callable[[], object]:
    """A call of the command line."""

    def call() -> None:
        from lewm_bench.cli import app as cli

        with mock.patch.object(sys, "argv", ["lewm-bench", *arguments]):
            cli.main()

    return call


def reported(*arguments: str) -> Callable[[], object]:
    """A call of the command line that leaves out the figures, which take seconds and read nothing."""

    def call() -> None:
        with mock.patch("lewm_bench.report.figures.files.draw_all", lambda *_: {}):
            cli(*arguments)()

    return call


def judged(action: Callable[[], object]) -> Callable[[], object]:
    """A call of our functions that answers as the command line does."""

    def call() -> None:
        from lewm_bench.core.errors import NotRun, UserError

        try:
            action()
        except (UserError, NotRun) as error:
            print(f"lewm-bench: {error}", file=sys.stderr)
            sys.exit(2)

    return call


def plant(folder: Path, name: str, text: str) -> None:
    """A module of somebody's, which can be imported."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    sys.path[:0] = [str(folder), str(Path(__file__).parents[1])]


def template(root: Path) -> Path:
    """A configuration, a cache with a data set and models, a checkpoint and a results folder, all valid."""
    folder = root / TEMPLATE
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    plant(folder, "theirs_plain", PLAIN)
    common = (
        "--suite",
        "tiny",
        "--config",
        str(folder / "tiny.yaml"),
        "--cache",
        str(folder / "cache"),
        "--device",
        "cpu",
    )
    calls = (
        reported("run", *common, "--out", str(folder / "results")),
        cli("train", "lewm", *common, "--out", str(folder / "lewm")),
        cli("train", "gcbc", *common, "--out", str(folder / "gcbc")),
    )
    for call in calls:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                call()
        except SystemExit as stopped:
            if stopped.code:
                raise RuntimeError(f"the template cannot be made: {said.getvalue()}") from stopped
    return folder


def with_template(root: Path, folder: Path, *names: str) -> tuple[str, ...]:
    """Copies of the template's parts, and the options that name them."""
    plant(folder, "theirs_plain", PLAIN)
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    for name in names:
        shutil.copytree(root / TEMPLATE / name, folder / name)
    return ("--suite", "tiny", "--config", "tiny.yaml", "--cache", "cache", "--device", "cpu")


# YAML.

SNIPPETS = [
    "2020-02-30", "2020-13-01 25:61:61", "9" * 5000, "0x" + "f" * 5000, ".inf", ".nan", "1e999", "&x [*x]", "*nowhere",
    "!!python/object:os.system x", "!!binary aGk", "!!set {a, b}", "!!timestamp 2020-02-30", "!!int abc", "!mine 1", "1:60:60",
    "[" * 2000, "{a: " * 300 + "1" + "}" * 300, '"\\ud800"', '"\\0"', "? {a: 1}", "<<: 5", "<<: *tiny", "yes", "~", "-1", "[]",
    "{}", "''", "5", "- a", "%TAG ! x", "--- 1", "{1: 2}", "{[1]: 2}", "1e-3", "@x", "`", "a: b: c", "x" * 5000, "|\n  a\n  b",
    "[&a [1, 1], &b [*a, *a], &c [*b, *b], &d [*c, *c], &e [*d, *d]]", "\t", "\x07", "\ufeff", "=", "!!float x", "1_0", "010",
]  # fmt: skip


def yaml_text(rng: Random) -> bytes:
    """The tiny configuration with damages."""
    lines = TINY.split("\n")
    how = rng.randrange(5)
    if how == 0:
        return damage.bytes_of(TINY.encode(), rng)
    if how == 1:
        return rng.choice(SNIPPETS).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([1, 1, 2])):
        place = rng.randrange(len(lines))
        before, colon, after = lines[place].partition(": ")
        if how == 2 and colon:
            lines[place] = f"{before}: {rng.choice(SNIPPETS)}"
        elif how == 3 and after:
            words = after.replace("{", "{ ").split(" ")
            words[rng.randrange(len(words))] = rng.choice(SNIPPETS)
            lines[place] = f"{before}: {' '.join(words)}"
        else:
            moved = lines.pop(place)
            lines.insert(
                rng.randrange(len(lines) + 1), rng.choice([moved, " " + moved, moved.strip(), rng.choice(SNIPPETS)])
            )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def yaml_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    state = rng.getrandbits(64)

    def prepare(folder: Path) -> Callable[[], object]:
        own = Random(state)
        options = with_template(root, folder, "cache")
        if own.random() < 0.15:
            damage.replaced(folder / "tiny.yaml", own)
        else:
            (folder / "tiny.yaml").write_bytes(yaml_text(own))
        verbs = (
            cli("list", "suites", "--config", "tiny.yaml"),
            reported("run", *options, "--agents", "noop", "--out", "out"),
            judged(lambda: every_suite(Path("tiny.yaml"))),
        )
        return own.choice(verbs)

    return prepare


def every_suite(path: Path) -> None:
    """Resolve every suite of a configuration, which reads all of it."""
    from lewm_bench.run.benchmarks import load
    from lewm_bench.run.resolve import resolve

    bench = load(path)
    for suite in bench.suites:
        resolve(bench, suite, "quick")


# The command line.

VERBS = {
    "run": [
        ["--agents", "noop"],
        ["--seeds", "0"],
        ["--envs", "Toy"],
        ["--set", "evaluate.num_pairs=1"],
        ["--out", "out"],
    ],
    "evaluate": [
        ["noop"],
        ["--seed", "0"],
        ["--env", "Toy"],
        ["--out", "out"],
        ["--solver", "cem"],
        ["--planner", "quick"],
        ["--checkpoint", "lewm"],
    ],
    "train": [["lewm"], ["--seed", "0"], ["--env", "Toy"], ["--out", "out"], ["--set", "lewm.train.steps=1"]],
    "tune": [["noop"], ["--trials", "1"], ["--search", "auto"], ["--out", "out"]],
    "collect": [["Toy"], ["--set", "collect.episodes=12"]],
    "understand": [["lewm"], ["--env", "Toy"], ["--out", "out"]],
    "act": [["lewm"], ["--goal", "goal.png"], ["--start", "0,0"], ["--steps", "2"], ["--out", "out"]],
    "report": [["results"], ["--out", "out"], ["--title", "T"]],
    "check": [[ENV], ["--sheet", "sheet.png"], ["--image-size", "16"]],
    "list": [["suites"], ["--config", "tiny.yaml"]],
    "speed": [["--methods", "lewm"], ["--samples", "6"], ["--horizon", "2"], ["--batch", "1"], ["--dtype", "float32"]],
    "doctor": [["--cache", "cache"]],
    "cache": [
        ["prune"],
        ["--cache", "cache"],
        ["--older-than", "1d"],
        ["--kind", "model"],
        ["--corrupt"],
        ["--dry-run"],
    ],
}
WORDS = [
    "", " ", ",", ",,", "a,b", "--", "-x", "--nope", "-1", "0", "9" * 5000, "1e3", "nan", "inf", "None", "0,0", "1,-1", "é", "\udcff",
    "\x00", "a\nb", "x" * 5000, "/", "/dev/null", "/dev/zero", ".", "..", "~", "nowhere", "tiny.yaml", "cache", "lewm", "results",
    "all", "noop,noop", "noop:a=1", "lewm:=", "lewm:train.steps=[", "lewm:planner.solver=nope", "dino-wm:mae", "their.module:MINE",
    "os.path:join", ":", "::", "=", "a=", "=b", "a.b=c", "lewm.train.steps=1e400", "evaluate.num_pairs=0x" + "f" * 4000, "planner=5",
    "evaluate={num_pairs: 1}", "evaluate.goal_offset=2020-02-30", "planner.num_samples=!!python/object:a b", "evaluate.num_pairs=.nan",
    "collect.steps=-5", "image_size=1", "--set", "--help", "--version", "--config", "--quiet", "--device", "cuda", "mps", "cpu:7",
    "*", "[0-9]", "{0}", "%s", "$HOME", "\\", "C:/weights", "\u2028", "fifo",
]  # fmt: skip


def line_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    state = rng.getrandbits(64)

    def prepare(folder: Path) -> Callable[[], object]:
        own = Random(state)
        options = list(with_template(root, folder, "cache", "lewm", "results"))
        damage.replaced(folder / "fifo", Random(1))
        verb = own.choice([verb for verb in VERBS for _ in range(1 if verb == "doctor" else 4)])  # doctor takes seconds
        pieces = [list(piece) for piece in VERBS[verb]]
        if verb not in ("act", "report", "check", "list", "doctor", "cache"):
            pieces.append(options[:2] if verb != "speed" else [])
            pieces += [options[2:4]]
            pieces += [options[4:6], options[6:]] if verb in ("run", "evaluate", "train", "tune", "understand") else []
        words = [verb, *damaged_words(pieces, own)]
        return reported(*words) if verb in ("run", "report", "evaluate") else cli(*words)

    return prepare


def damaged_words(pieces: list[list[str]], rng: Random) -> list[str]:
    """The words of a command, at least one of them damaged."""
    for _ in range(rng.choice([1, 1, 2])):
        piece = rng.choice([piece for piece in pieces if piece] or [["report"]])
        how = rng.randrange(5)
        if how == 0:
            piece[-1] = rng.choice(WORDS)
        elif how == 1:
            piece.append(rng.choice(WORDS))
        elif how == 2:
            piece[-1] = piece[-1][: rng.randrange(len(piece[-1]) + 1)] + rng.choice(WORDS)
        elif how == 3:
            piece.pop(rng.randrange(len(piece)))
        else:
            piece[:0] = [rng.choice(WORDS)]
        pieces.append([])
    return [word for piece in pieces for word in piece]


# Data sets.


def data_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    state = rng.getrandbits(64)

    def prepare(folder: Path) -> Callable[[], object]:
        own = Random(state)
        options = with_template(root, folder, "cache")
        data = next((folder / "cache" / "dataset").glob("*/meta.json")).parent
        path = own.choice(sorted(path for path in data.rglob("*") if path.is_file() and path.name != "done.json"))
        if own.random() < 0.15:
            path = data / "done.json"
        damage_file(path, own)
        if path.name == "done.json" or own.random() < 0.15:
            return reported("evaluate", "noop", *options, "--out", "out")
        return judged(lambda: read_whole(data))

    return prepare


def damage_file(path: Path, rng: Random) -> None:
    """A damaged file, or something else in its place."""
    if rng.random() < 0.15:
        damage.replaced(path, rng)
    elif path.suffix == ".json":
        path.write_bytes(damage.json_text(json.loads(path.read_text(encoding="utf-8")), rng))
    elif rng.random() < 0.6:  # the header, where most of the meaning is
        content = path.read_bytes()
        path.write_bytes(damage.bytes_of(content[:200], rng) + content[200:])
    else:
        path.write_bytes(damage.bytes_of(path.read_bytes(), rng))


def read_whole(folder: Path) -> None:
    """Use everything of a data set."""
    from lewm_bench.data.format import Dataset

    dataset = Dataset.open(folder)
    dataset.verify()
    for episode in dataset:
        assert len(episode.frames) == len(episode.actions) + 1
    dataset.action_statistics()
    dataset.clips("train", 2, 5).batch([0])


# Checkpoints.


def checkpoint_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    state = rng.getrandbits(64)

    def prepare(folder: Path) -> Callable[[], object]:
        own = Random(state)
        agent = own.choice(["lewm", "lewm", "gcbc"])
        options = with_template(root, folder, "cache", agent)
        damage_file(own.choice(sorted((folder / agent).iterdir())), own)
        return reported("evaluate", agent, "--checkpoint", agent, *options, "--out", "out")

    return prepare


# Records.


def record_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    state = rng.getrandbits(64)

    def prepare(folder: Path) -> Callable[[], object]:
        own = Random(state)
        with_template(root, folder, "results")
        for path in own.sample(sorted((folder / "results" / "cells").iterdir()), own.choice([1, 1, 2])):
            damage_file(path, own)
        if own.random() < 0.1:
            (folder / "results" / "cells" / "extra.json").write_bytes(
                damage.json_text({"schema_version": 1, "rows": []}, own)
            )
        if own.random() < 0.1:
            shutil.move(folder / "results" / "cells", folder / "elsewhere")
            damage.replaced(folder / "results" / "cells", own)
        call = cli if own.random() < 0.05 else reported
        return call("report", "results", *own.choice([(), ("--out", "out"), ("--out", "results/cells"), ("results",)]))

    return prepare


# Names of agents.

BASES = [
    "noop",
    "lewm",
    "gcbc",
    "dino-wm",
    "dino-wm:mae",
    "sac-her",
    "nope",
    "theirs_plain:MINE",
    "os.path:join",
    "a.b",
    "",
    "all",
]
PATHS = [
    "train.steps",
    "dropout",
    "hidden",
    "planner.solver",
    "planner",
    "train",
    "nope",
    "",
    ".",
    "a..b",
    "train.",
    "planner.adam.optimizer",
]
TEXTS = [
    "1", "0", "-1", "1e-3", "0x10", "[64,64]", "[64, 64", "{steps: 3, batch_size: 4}", "C:/weights", "'a:b=c'", '"', "'", "null",
    "icem", "2020-02-30", "9" * 5000, "0x" + "f" * 5000, ".nan", "&x [*x]", "[" * 2000, "!!python/object:a b", "é", "\x00", "\ud800",
    "", " ", "=", ":", "::", ",", "a\nb", "}", "yes", "x" * 4000, "*", "{1: 2}",
]  # fmt: skip


def agent_name(rng: Random) -> str:
    """A name with settings, mostly bad."""
    pairs = (
        f"{rng.choice(PATHS)}{rng.choice(['=', '=', '=', '', '=='])}{rng.choice(TEXTS)}"
        for _ in range(rng.randrange(4))
    )
    return rng.choice([":", ":", ":", ",", "::"]).join([rng.choice(BASES), *pairs])


def name_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    name, spoken, in_yaml = agent_name(rng), rng.random() < 0.2, rng.random() < 0.2

    def prepare(folder: Path) -> Callable[[], object]:
        options = with_template(root, folder)
        if in_yaml:
            text = TINY.replace("agents: [noop,", f"agents: [{json.dumps(name)}, noop,", 1)
            (folder / "tiny.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
            return judged(lambda: every_suite(Path("tiny.yaml")))
        if spoken:
            return cli("tune", name, *options, "--search", "nope")
        return judged(lambda: named(name))

    return prepare


def named(name: str) -> None:
    """Resolve the tiny suite with an agent of that name, and use what its name is used for."""
    from lewm_bench.cli.options import Choices
    from lewm_bench.report.agents import settings_text
    from lewm_bench.run.resolve import Suite

    run = Choices("tiny", agents=name, config=Path("tiny.yaml"), cache=Path("cache"), device="cpu").run()
    suite: Suite = run.suite
    for job in suite.jobs:
        suite.of(job.env).agent_config(job.agent)
        suite.of(job.env).planner(job.agent)
        settings_text(job.agent)


# Other people's environments and agents.

WRONG = [
    "raise ValueError('their\\nmistake')", "raise KeyError('x')", "raise RuntimeError", "raise SystemExit(0)", "raise SystemExit('bye')",
    "raise OSError(5, 'I/O')", "raise MemoryError", "raise RecursionError", "raise AssertionError", "raise NotImplementedError",
    "raise StopIteration", "raise ImportError('their\\nlibrary')", "raise TypeError('x' * 9999)", "return None", "return 5", "return 'x'",
    "return np.nan", "return np.zeros(0)", "return np.zeros((3, 3, 3, 3))", "return np.full(2, np.nan)", "return np.full(2, np.inf)",
    "return np.zeros(2, object)", "return np.array('text')", "return [1, [2]]", "return {}", "return np.zeros(2, complex)", "return (1, 2)",
]  # fmt: skip
ENV_PARTS = [
    "sample_state(self, rng)", "get_state(self)", "set_state(self, state)", "advance(self, action)", "distance(self, states, goals)",
    "render(self)", "simulate(self, states, actions)", "render_states(self, states)", "policies(self)", "quantities(self, states)",
    "reset(self, *, seed=None, options=None)", "__init__(self, image_size=16)",
]  # fmt: skip
ATTRIBUTES = [
    "threshold",
    "distance_unit",
    "exploration",
    "action_space",
    "observation_space",
    "proprioception",
    "metadata",
]
ATTRIBUTE_VALUES = [
    "None",
    "'x'",
    "-1.0",
    "float('nan')",
    "{}",
    "{'nope': 1.0}",
    "5",
    "gym.spaces.Discrete(3)",
    "gym.spaces.Box(-np.inf, np.inf, (2,))",
]

THEIR_ENV = """
import gymnasium as gym
import numpy as np
from toy_env import ToyEnv


class Env(ToyEnv):
    def __init__(self, image_size=16):
        super().__init__(image_size)

{body}

gym.register("{name}-v0", entry_point=Env)
"""


def env_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    if rng.random() < 0.2:
        wrong = rng.choice(ATTRIBUTE_VALUES)
        body = f"    {rng.choice(ATTRIBUTES)} = property(lambda self: {wrong}, lambda self, value: None)"
    else:
        late = f"if np.random.default_rng().random() < {rng.choice([1.0, 1.0, 0.1])}: "
        body = f"    def {rng.choice(ENV_PARTS)}:\n        {late}{rng.choice(WRONG)}"
    text, number, verb = THEIR_ENV, rng.getrandbits(40), rng.choice(["check", "check", "collect", "run"])
    if rng.random() < 0.1:
        body, text = (
            "",
            rng.choice(
                ["syntax error(", "raise ValueError('a\\nb')", "import nowhere", "x = 1", "import sys; sys.exit(0)"]
            ),
        )

    def prepare(folder: Path) -> Callable[[], object]:
        name = f"theirs_{number}"
        (folder / "mine.yaml").write_text(TINY.replace(ENV, f"{name}:{name}-v0"), encoding="utf-8")
        plant(folder, name, text.replace("{body}", body).replace("{name}", name))
        options = ("--suite", "tiny", "--config", "mine.yaml", "--cache", "cache")
        if verb == "check":
            return cli("check", f"{name}:{name}-v0", "--image-size", "16", "--sheet", "sheet.png")
        if verb == "collect":
            return cli("collect", *options)
        return reported("run", *options, "--agents", "noop,random", "--device", "cpu", "--out", "out")

    return prepare


THEIR_AGENT = """
import sys

import numpy as np

from lewm_bench.agent import AgentConfig, Family, Loaded
from lewm_bench.train.loop import TrainingLog


class Controller:
    def __init__(self, count):
        self.count = count

    def encode(self, past):
        return None

    def search(self, encoded):
        return np.zeros((self.count, 5, 2), np.float32)


class Agent:
    history, frame_skip = 1, 5

    def start(self, goals, rngs):
        return Controller(len(rngs))


class Mine(Family):
    kind = "floor"
    trainable = False

    def load(self, setting, checkpoint):
        return Loaded(Agent(), "Mine")


{body}
MINE = Mine()
"""
AGENT_PARTS = [
    "Mine.load(self, setting, checkpoint)", "Mine.requirements(self, setting)", "Mine.configure(self, overrides, variant)",
    "Mine.train(self, setting, folder)", "Mine.outside(self, setting)", "Agent.start(self, goals, rngs)", "Controller.encode(self, past)",
    "Controller.search(self, encoded)", "Controller.search(self, encoded)", "Controller.search(self, encoded)",
]  # fmt: skip
ACTIONS = [
    "return np.zeros((self.count, 0, 2))", "return np.zeros((self.count, 5, 3))", "return np.zeros((0, 5, 2))",
    "return np.full((self.count, 5, 2), np.nan)", "return np.full((self.count, 5, 2), np.inf)", "return np.zeros((self.count, 5))",
    "return np.full((self.count, 1, 2), 10**6)", "return [[['x', 'y']]] * self.count", "return np.zeros((self.count, 5, 2), object)",
    "return np.zeros((self.count, 10**4, 2))",
]  # fmt: skip
AGENT_ATTRIBUTES = [
    "Mine.kind = 'nope'", "Mine.kind = None", "Mine.trainable = True", "Mine.Config = None", "Mine.Config = dict", "Mine.planning_only = 5",
    "Agent.history = 0", "Agent.history = None", "Agent.frame_skip = 0", "Agent.frame_skip = 'x'", "Mine = Agent", "Mine = dict",
    "Mine.plans = True", "Mine.schema = None", "Mine.load = lambda self, setting, checkpoint: Loaded(Agent(), None)",
    "Mine.load = lambda self, setting, checkpoint: Loaded(None, 'x')", "sys.exit(0)", "raise ValueError('a\\nb')", "import nowhere",
    "Mine.load = lambda self, setting, checkpoint: Loaded(Agent(), 'x', weights='nope')", "Mine.search_space = (5,)", "syntax error(",
]  # fmt: skip


def agent_case(root: Path, rng: Random) -> Callable[[Path], Callable[[], object]]:
    if rng.random() < 0.3:
        body = rng.choice(AGENT_ATTRIBUTES)
    else:
        part = rng.choice(AGENT_PARTS)
        owner, _, head = part.partition(".")
        wrong = (
            rng.choice(ACTIONS) if part.startswith("Controller.search") and rng.random() < 0.7 else rng.choice(WRONG)
        )
        body = f"def their_part({head.partition('(')[2]}:\n    {wrong}\n{owner}.{head.partition('(')[0]} = their_part"
    number, verb = rng.getrandbits(40), rng.choice(["run", "run", "evaluate", "train"])

    def prepare(folder: Path) -> Callable[[], object]:
        options = with_template(root, folder, "cache")
        name = f"theirs_{number}"
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
        plant(folder / name, "agents", THEIR_AGENT.replace("{body}", body))
        sys.path[:0] = [str(folder)]
        agent = f"{name}.agents:MINE"
        if verb == "run":
            return reported("run", *options, "--agents", f"{agent},noop", "--out", "out")
        return reported(verb, agent, *options, "--out", "out")

    return prepare


KINDS = {
    "YAML": (yaml_case, 220),
    "command line": (line_case, 240),
    "data sets": (data_case, 130),
    "checkpoints": (checkpoint_case, 130),
    "records": (record_case, 150),
    "agent names": (name_case, 160),
    "environments": (env_case, 100),
    "agents": (agent_case, 100),
}


def cases(root: Path, seed: int, share: float = 1.0) -> Iterator[Case]:
    """Inputs of every kind, the same for the same seed; with ``share`` the first of each kind."""
    for kind, (make, count) in KINDS.items():
        for number in range(round(count * share)):
            yield Case(kind, f"{kind} {number}", make(root, Random(f"{seed} {kind} {number}")))
