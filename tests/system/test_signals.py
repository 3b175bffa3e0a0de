"""TERM, INT, HUP and USR2 stop every stage so that the same command goes on; nothing that was started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lewm_bench.system import signals
from lewm_bench.system.signals import Stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals and looks into /proc")

SIGNALS = [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "ended by SIGTERM"), ("SIGHUP", 129, "ended by SIGHUP")]
SIGNALS += [("SIGUSR2", 140, "ended by SIGUSR2")]
GOES_ON = "; the same command goes on where it stopped\n"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}

# Whoever runs the tests may ignore signals (nohup, a shell's background), which a program inherits.
MAIN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from lewm_bench.cli import app as cli
from lewm_bench.system import signals

def app(*_, **__):
    ready, work = lambda: print("ready", flush=True), time.sleep
    {work}

cli.app = app
{before}
cli.main()
"""


def started(work: str, before: str = "", **options) -> subprocess.Popen:
    """The command line with something else than its commands, in a session of its own, once it has said "ready"."""
    program = MAIN.format(work=work.replace("\n", "\n    "), before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        start_new_session=True, **options,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def until(ask: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, "never true"
        time.sleep(0.02)


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just gone
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize(("name", "status", "how"), SIGNALS)
def test_a_signal_unwinds_and_says_in_one_line_how_to_go_on(name: str, status: int, how: str) -> None:
    process = started("try:\n    ready()\n    work(60)\nfinally:\n    print('unwound')")
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (status, "unwound\n", f"lewm-bench: {how}{GOES_ON}")


def test_what_the_signal_has_become_on_its_way_does_not_matter() -> None:
    """Someone's code may turn everything that is raised in it into an error of its own."""
    process = started("ready()\ntry:\n    work(60)\nexcept BaseException:\n    raise ImportError('half imported')")
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, f"lewm-bench: ended by SIGTERM{GOES_ON}")


def test_the_same_signal_to_the_program_and_its_group_is_one() -> None:
    """As timeout(1) sends it."""
    process = started("try:\n    ready()\n    work(60)\nfinally:\n    work(0.5)\n    print('unwound')")
    process.terminate()
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "unwound\n")


# Ready inside of try: a signal between the two would not be swallowed.
SWALLOWS = "while True:\n    try:\n        ready()\n        work(60)\n    except BaseException:\n        pass"


def test_a_second_signal_ends_at_once() -> None:
    process = started(SWALLOWS, "signals.TOGETHER = 0.1")
    process.terminate()
    assert process.stdout.readline() == "ready\n"  # swallowed
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, f"lewm-bench: ended by SIGTERM{GOES_ON}")


NEVER_RETURNS = "import ctypes\nready()\nctypes.CDLL(None).sleep(60)"


@pytest.mark.parametrize("work", [SWALLOWS, NEVER_RETURNS])
def test_what_does_not_stop_is_ended_in_time(work: str) -> None:
    process = started(work, "signals.GRACE = 0.3")
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, f"lewm-bench: ended by SIGTERM{GOES_ON}")


# A step is finished and the work says so; what it does then is its own business.
STEPS = """
from lewm_bench.system.signals import finishing
try:
    with finishing() as steps:
        for step in range(1000):
            if step == 2: ready()
            work({seconds})
            if steps.asked():
                print("saved", step)
                steps.stop()
finally:
    print("unwound")
"""


def test_work_in_steps_stops_between_them() -> None:
    process = started(STEPS.format(seconds=0.5).strip())
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "saved 2\nunwound\n", f"lewm-bench: ended by SIGTERM{GOES_ON}")


LONG = {
    "as the last one did": ("0.6 if step < 2 else 60", 1.0, "unwound\n"),
    "as nobody knew": ("60 if step == 2 else 0", 0.3, ""),
}


@pytest.mark.parametrize(("seconds", "grace", "printed"), LONG.values(), ids=LONG)
def test_a_step_that_takes_too_long_is_not_waited_for(seconds: str, grace: float, printed: str) -> None:
    process, began = started(STEPS.format(seconds=seconds).strip(), f"signals.GRACE = {grace}"), time.monotonic()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, printed, f"lewm-bench: ended by SIGTERM{GOES_ON}")
    assert time.monotonic() - began < 5


def test_a_second_signal_does_not_wait_for_the_step() -> None:
    process = started(STEPS.format(seconds="0 if step < 2 else 60").strip(), "signals.TOGETHER = 0.1")
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "", f"lewm-bench: ended by SIGTERM{GOES_ON}")


def test_a_signal_after_the_last_step_stops_the_program_all_the_same() -> None:
    work = "from lewm_bench.system.signals import finishing\nwith finishing():\n    ready()\n    work(0.5)\nprint('on')"
    process = started(work)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "", f"lewm-bench: ended by SIGTERM{GOES_ON}")


def test_an_error_at_the_same_time_does_not_hide_the_signal() -> None:
    """Whoever deals with errors would go on with the next cell."""
    work = "from lewm_bench.system.signals import finishing\ntry:\n    with finishing():\n        ready()\n        work(0.5)\n"
    process = started(work + "        raise ValueError\nexcept ValueError:\n    print('on')")
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "", f"lewm-bench: ended by SIGTERM{GOES_ON}")


def test_what_is_ignored_stays_ignored() -> None:
    """nohup."""
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = started("ready()\nsys.stdin.readline()\nprint('done')", before, stdin=subprocess.PIPE)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate("go on\n", timeout=30)
    assert (process.returncode, out, err) == (0, "done\n", "")


def test_a_terminal_that_is_gone_costs_nothing() -> None:
    process = started("ready()\nwork(60)")
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 129


def test_without_a_signal_everything_is_as_before() -> None:
    before = [signal.getsignal(number) for number in signals.ENDING]
    with signals.stopping():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in signals.ENDING] == before
    with pytest.raises(KeyError), signals.stopping():
        raise KeyError
    assert [signal.getsignal(number) for number in signals.ENDING] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not issubclass(Stopped, (Exception, KeyboardInterrupt))  # click prints an empty line for the latter


DRAWS = {
    "pygame.init": "import pygame\npygame.display.init()\npygame.display.quit()\npygame.display.init()",
    "CartPole": "import gymnasium\nenv = gymnasium.make('CartPole-v1', render_mode='rgb_array')\nenv.reset()\nenv.render()",
    "handlers first": "del os.environ['SDL_NO_SIGNAL_HANDLERS']\nimport pygame\npygame.display.init()",
}


@pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS)
def test_pygame_swallows_nothing(draws: str) -> None:
    """SDL takes SIGTERM where nobody has it, and makes an event of it that nobody reads."""
    pytest.importorskip("pygame", reason="the extra pusht is not installed")
    process = started(f"{draws}\nready()\nwork(60)")
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and err.splitlines()[-1] == f"lewm-bench: ended by SIGTERM{GOES_ON[:-1]}"


SLOW = """
import time
from lewm_bench.envs.tworoom import TwoRoom

class Slow(TwoRoom):
    def simulate(self, states, actions):
        time.sleep(0.1)
        return super().simulate(states, actions)
"""

COLLECTS = """
from pathlib import Path
import gymnasium as gym
from lewm_bench.data import collect as c
gym.register("tests/Slow-v0", entry_point="slow:Slow")
c._WORTH_PROCESSES = 0.0
env = gym.make("tests/Slow-v0", image_size=16).unwrapped
done = lambda number, _: ready() if number == 8 else None
c.collect(env, c.CollectConfig(episodes=200, steps=8, chunk=2), 0, Path({folder!r}), done, {workers})
"""


def collecting(folder: Path, workers: int) -> subprocess.Popen:
    """A collection of minutes, once its processes have delivered something."""
    (folder / "slow.py").write_text(SLOW)
    before = f"sys.path.insert(0, {str(folder)!r}); os.environ['PYTHONPATH'] = {str(folder)!r}"
    return started(COLLECTS.format(folder=str(folder / "data"), workers=workers).strip(), before)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["program", "group"])
def test_a_collection_stops_with_its_processes_and_can_go_on(tmp_path: Path, send, workers: int) -> None:
    process = collecting(tmp_path, workers)
    assert (len(members(process.pid)) > 2) == (workers > 1)  # and the tracker of multiprocessing
    send(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, f"lewm-bench: ended by SIGTERM{GOES_ON}")
    until(lambda: not members(process.pid), 10)  # the tracker ends a moment after the program whose pipe it reads
    left = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert left == [".progress.json", "actions.npy", "frames.zarr", "states.npy"]


@pytest.mark.slow
def test_a_collection_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    process = collecting(tmp_path, 2)
    assert len(members(process.pid)) > 2
    process.kill()
    process.wait()
    until(lambda: not members(process.pid))
    process.communicate()
    assert (tmp_path / "data" / ".parts").is_dir()  # the next one removes it


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["collecting", "training", "evaluating", "reporting"])
def test_every_stage_of_a_run_stops_and_goes_on(tmp_path: Path, stage: str) -> None:
    moments = {
        "collecting": "from lewm_bench.data import writer as data; place, name = data.DatasetWriter, 'add'",
        "training": "from lewm_bench.train import loop as train; place, name = train, 'learning_rate'",
        "evaluating": "from lewm_bench.run import stages; place, name = stages, 'measures_of'",
        "reporting": "from lewm_bench.report.figures import files; place, name = files, 'draw_all'",
    }
    settings = [
        *("collect.episodes=20", "collect.steps=30", "image_size=32", "lewm.train.steps=3", "lewm.train.batch_size=4"),
        *("evaluate.goal_offset=[5]", "evaluate.num_pairs=2", "evaluate.latent_oracle_pairs=0"),
        *("planner.num_samples=8", "planner.num_elites=2", "planner.num_iterations=1"),
    ]
    command = [
        "run",
        "--suite",
        "pointmaze",
        "--envs",
        "lewm_bench/PointMaze-UMaze-v0",
        "--agents",
        "lewm",
        "--seeds",
        "0",
    ]
    command += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    command += [word for setting in settings for word in ("--set", setting)]
    hook = f"""
sys.argv = ["lewm-bench", *{command!r}]
{moments[stage]}
real = getattr(place, name)
def slow(*arguments, **options):
    print("ready", flush=True); time.sleep({60 if stage != "training" else 0.5}); return real(*arguments, **options)
setattr(place, name, slow)
"""
    program = f"import sys, time\nfrom lewm_bench.cli import app as cli\n{hook}\ncli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.splitlines()[-1] == f"lewm-bench: ended by SIGTERM{GOES_ON[:-1]}"
    assert "Traceback" not in err
    until(lambda: not members(process.pid), 10)
    assert [p for p in tmp_path.rglob(".*.*") if p.suffix not in (".lock", ".json")] == []  # no half file
    done = subprocess.run(
        [sys.executable, "-m", "lewm_bench", *command], check=False, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
