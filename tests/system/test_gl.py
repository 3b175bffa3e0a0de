"""Which OpenGL MuJoCo draws with: what the user says, else the first that works, else what to install."""

from __future__ import annotations

import os
import subprocess

import pytest

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.system import gl
from lewm_bench.system.subprocesses import Fault

FAILURE = Fault("it does not draw")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    """No choice made yet, and none left behind."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl.sys, "platform", "linux")
    gl.backend.cache_clear()
    yield
    gl.backend.cache_clear()


@pytest.fixture()
def works(monkeypatch: pytest.MonkeyPatch):
    """A function that says which backends draw; it returns the list of those that are then asked, in order."""

    def only(*names: str) -> list[str]:
        asked: list[str] = []

        def probe(name: str, seconds: float) -> Fault | None:
            asked.append(name)
            return None if name in names else FAILURE

        monkeypatch.setattr(gl, "probe", probe)
        return asked

    return only


@pytest.mark.parametrize(
    "working, chosen, asked",
    [
        (("egl", "osmesa", "glfw"), "egl", ["egl"]),
        (("osmesa", "glfw"), "osmesa", ["egl", "osmesa"]),
        (("glfw",), "glfw", ["egl", "osmesa", "glfw"]),
    ],
)
def test_the_first_that_draws_is_taken_and_no_other_is_asked(works, working, chosen, asked) -> None:
    probed = works(*working)
    assert gl.backend() == chosen and probed == asked
    assert gl.backend() == chosen and probed == asked  # asked once in a process, each costs seconds


def test_where_nothing_draws_the_command_that_mends_it_is_said(works) -> None:
    asked = works()
    with pytest.raises(NotRun, match=r"no OpenGL.*sudo apt-get install libegl1 libgl1-mesa-dri") as raised:
        gl.backend()
    assert asked == ["egl", "osmesa", "glfw"] and "\n" not in str(raised.value)


@pytest.mark.parametrize("platform, chosen", [("darwin", "cgl"), ("win32", "glfw")])
def test_elsewhere_there_is_one_way_and_nothing_to_ask(works, monkeypatch, platform, chosen) -> None:
    monkeypatch.setattr(gl.sys, "platform", platform)
    assert (works(), gl.backend()) == ([], chosen)


@pytest.mark.parametrize("said, chosen", [("osmesa", "osmesa"), ("GLFW", "glfw"), (" egl ", "egl"), ("wgl", "glfw")])
def test_what_the_user_says_wins_and_is_not_asked(works, monkeypatch, said, chosen) -> None:
    asked = works("egl")
    monkeypatch.setenv("MUJOCO_GL", said)
    assert gl.backend() == chosen and asked == []
    assert os.environ["MUJOCO_GL"] == said


def test_an_empty_value_says_nothing(works, monkeypatch) -> None:
    works("osmesa")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert gl.backend() == "osmesa"


@pytest.mark.parametrize("said", ["disabled", "disable", "off", "False", "0"])
def test_drawing_that_is_switched_off_is_not_run_and_how_to_switch_it_on(works, monkeypatch, said) -> None:
    works("egl")
    monkeypatch.setenv("MUJOCO_GL", said)
    with pytest.raises(NotRun, match=f"MUJOCO_GL={said.lower()} turns MuJoCo's renderer off; unset it"):
        gl.backend()


def test_a_misspelt_backend_is_the_users_mistake(works, monkeypatch) -> None:
    works("egl")
    monkeypatch.setenv("MUJOCO_GL", "osmeza")
    with pytest.raises(UserError, match=r"MUJOCO_GL: no backend named 'osmeza'.*did you mean 'osmesa'\?.*unset"):
        gl.backend()


# MUJOCO_GL for libraries that read it themselves.


def test_the_choice_is_in_the_environment_inside_the_context_only(works) -> None:
    works("osmesa")
    with gl.chosen_backend():
        assert os.environ["MUJOCO_GL"] == "osmesa"
    assert "MUJOCO_GL" not in os.environ
    with pytest.raises(ZeroDivisionError), gl.chosen_backend():
        raise ZeroDivisionError
    assert "MUJOCO_GL" not in os.environ


def test_a_choice_of_the_user_stays_in_the_environment(works, monkeypatch) -> None:
    asked = works("egl")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with gl.chosen_backend():
        assert os.environ["MUJOCO_GL"] == "glfw"
    assert os.environ["MUJOCO_GL"] == "glfw" and asked == []


def test_where_nothing_draws_the_context_leaves_nothing_behind(works) -> None:
    works()
    with pytest.raises(NotRun), gl.chosen_backend():
        raise AssertionError("entered")
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.parametrize("said, error", [("disabled", NotRun), ("osmeza", UserError)])
def test_the_context_refuses_what_backend_refuses(works, monkeypatch, said, error) -> None:
    works("egl")
    monkeypatch.setenv("MUJOCO_GL", said)
    with pytest.raises(error), gl.chosen_backend():
        raise AssertionError("entered")


@pytest.mark.parametrize("said, read", [("", "egl"), ("EGL", "egl"), ("wgl", "glfw")])
def test_the_context_spells_the_choice_as_libraries_read_it(works, monkeypatch, said, read) -> None:
    works("egl")
    monkeypatch.setenv("MUJOCO_GL", said)
    with gl.chosen_backend():
        assert os.environ["MUJOCO_GL"] == read
    assert os.environ["MUJOCO_GL"] == said


# The question itself.


def answer(monkeypatch, status: int, err: bytes = b"") -> list[dict]:
    """Let the process that draws end like this; the environments that it is given."""
    given: list[dict] = []

    def run(command, *, env, **_):
        given.append(env)
        return subprocess.CompletedProcess(command, status, b"", err)

    monkeypatch.setattr(gl.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    monkeypatch.setattr(subprocess, "run", run)
    return given


def test_a_probe_asks_for_its_backend_and_nothing_else(monkeypatch) -> None:
    given = answer(monkeypatch, 0)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")  # left by another library, it would decide in MUJOCO_GL's place
    assert gl.probe("egl") is None
    assert given[0]["MUJOCO_GL"] == "egl" and "PYOPENGL_PLATFORM" not in given[0] and "PATH" in given[0]


@pytest.mark.parametrize(
    "status, err, reason",
    [
        (1, b"Traceback\n\nRuntimeError: no EGL display\n\n", "RuntimeError: no EGL display"),
        (-11, b"", "exit status -11"),
        (1, b"\xff\xfe broken", "broken"),
    ],
)
def test_a_probe_that_fails_says_the_last_word_of_its_process(monkeypatch, status, err, reason) -> None:
    answer(monkeypatch, status, err)
    fault = gl.probe("egl")
    assert fault.reason.endswith(reason) and not fault.slow


def test_a_probe_without_an_answer_says_that_it_was_slow(monkeypatch) -> None:
    answer(monkeypatch, 0)

    def hang(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert gl.probe("egl") == Fault("no answer in 20 s", slow=True)


@pytest.mark.parametrize("working, chosen", [((), None), (("osmesa",), "osmesa")])
def test_a_busy_machine_is_not_told_to_install(monkeypatch, caplog, working, chosen) -> None:
    """Another backend may draw other pixels: it is waited for long, and that it was passed over is said."""
    patience = []

    def probe(name: str, seconds: float) -> Fault | None:
        patience.append(seconds)
        return None if name in working else Fault("no answer", slow=name == "egl")

    monkeypatch.setattr(gl, "probe", probe)
    if chosen is None:
        with pytest.raises(NotRun, match=r"\(egl\) gave no answer in 120 s: try again") as raised:
            gl.backend()
        assert "install" not in str(raised.value)
    else:
        assert gl.backend() == chosen
    assert set(patience) == {120.0} and [r.getMessage() for r in caplog.records] == [
        "MUJOCO_GL=egl: no answer, so another one is tried; set MUJOCO_GL to choose"
    ]


def test_what_cannot_work_is_not_started(monkeypatch) -> None:
    given = answer(monkeypatch, 0)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert gl.probe("glfw") == Fault("there is no display")
    monkeypatch.setattr(gl.ctypes.util, "find_library", lambda name: None)
    assert gl.probe("egl") == Fault("libEGL is not installed")
    assert gl.probe("osmesa") == Fault("libOSMesa is not installed")
    assert given == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert gl.probe("glfw") is None and len(given) == 1


def test_what_is_chosen_here_draws() -> None:
    """With the real probe: a backend that is chosen gives a picture that is not black."""
    try:
        gl.backend()
    except NotRun as error:
        pytest.skip(str(error))
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frame = gl.Camera(model, 32).frame(data)
    assert frame.shape == (32, 32, 3) and frame.max() > 60
