"""What code is taken to be made of, against edits whose meaning is known."""

from __future__ import annotations

import importlib
import importlib.metadata
import linecache
import sys
from pathlib import Path

import numpy as np
import pytest

from lewm_bench.core import source
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.source import digest_of, made_of
from lewm_bench.run.environments import make_env

FILES = {
    "planted_pkg/__init__.py": "",
    "planted_pkg/world.py": """
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
from .physics import push
if TYPE_CHECKING:
    from planted_pkg.hints import Hint
class World:
    def step(self):
        from planted_pkg import late
        return push() + late.LATE
""",
    "planted_pkg/physics.py": "import planted_beside\ndef push():\n    return planted_beside.FORCE\n",
    "planted_pkg/late.py": "LATE = 1\n",
    "planted_pkg/hints.py": "class Hint: pass\n",
    "planted_pkg/unused.py": "UNUSED = 1\n",
    "planted_beside.py": "FORCE = 2\n",
}


@pytest.fixture()
def planted(tmp_path, monkeypatch):
    """A function that writes files (path to text) beside ``FILES`` and imports World as a new process would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def world(**changes: str) -> type:
        for path, text in {**FILES, **changes}.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        for name in [name for name in sys.modules if name.startswith("planted_")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        return importlib.import_module("planted_pkg.world").World

    yield world
    for name in [name for name in sys.modules if name.startswith("planted_")]:
        del sys.modules[name]


@pytest.mark.parametrize("file", ["planted_pkg/world.py", "planted_pkg/physics.py", "planted_pkg/late.py"])
def test_an_edit_of_what_is_imported_changes_the_digest_and_words_about_it_do_not(planted, file):
    before = made_of([planted()]).digest
    words = f'"""What this is."""\n# why\n{FILES[file]}\n\n'
    assert made_of([planted(**{file: words})]).digest == before
    assert made_of([planted(**{file: FILES[file] + "MORE = 1\n"})]).digest != before


def test_files_beside_the_package_count_and_what_is_not_imported_does_not(planted):
    before = made_of([planted()])
    assert made_of([planted(**{"planted_beside.py": "FORCE = 3\n"})]).digest != before.digest
    for file in ("planted_pkg/hints.py", "planted_pkg/unused.py"):
        assert made_of([planted(**{file: "OTHER = 2\n"})]) == before
    assert before.packages == {"numpy": np.__version__}


def test_an_edit_after_the_import_is_of_the_next_process(planted, tmp_path):
    world = planted()
    before = made_of([world])
    (tmp_path / "planted_pkg" / "world.py").write_text("class World: pass\n")
    assert made_of([world]) == before
    assert made_of([planted(**{"planted_pkg/world.py": "class World: pass\n"})]) != before


def test_layout_and_words_do_not_count_but_values_do():
    text = "def f(x, y=1):\n    return x + y\n"
    assert digest_of(text) == digest_of('# a\ndef f(x,\n      y=1):\n    """Sum."""\n    return (x + y)\n')
    others = ["def f(x, y=2):\n    return x + y\n", "def f(x, y=1.0):\n    return x + y\n", text.replace("+", "-")]
    assert len({digest_of(other) for other in [text, *others]}) == 4
    # Written out: the digest must not depend on the version of Python.
    assert digest_of(text) == "34a491c1c4f47c1a"


def test_ours_are_known_by_the_packages_they_use(monkeypatch):
    made = make_env("lewm_bench/PointMaze-UMaze-v0", 32).made_of()
    assert made.digest == "" and {"mujoco", "numpy", "gymnasium-robotics"} <= set(made.packages)
    assert made.packages["mujoco"] == importlib.metadata.version("mujoco")
    assert not {"torch", "pydantic"} & set(made.packages)
    assert "mujoco" not in make_env("lewm_bench/TwoRoom-v0", 32).made_of().packages


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("pusht", {"gym-pusht", "pymunk", "pygame"}),  # imported by name, where they are needed
        ("cube", {"ogbench", "mujoco"}),
        ("reacher", {"dm-control", "mujoco"}),
    ],
)
def test_packages_that_are_imported_by_their_name_count(monkeypatch, module, wanted):
    monkeypatch.setattr(source, "_versions", lambda top: {top.replace("_", "-"): "1"})
    monkeypatch.setattr(source, "_exists", lambda name: True)
    monkeypatch.setattr(source, "_read", {})  # what is read meanwhile must not be known to the tests that follow
    assert wanted <= set(made_of([f"lewm_bench.envs.{module}"]).packages)


def test_a_class_that_stands_nowhere_is_refused():
    loose = type("Loose", (GoalEnv,), {"__module__": "nowhere"})
    with pytest.raises(UserError, match=r"the source of Loose cannot be read.*put it into a module") as error:
        made_of([loose])
    assert "\n" not in str(error.value)


def test_a_class_of_a_notebook_is_known_by_its_text(monkeypatch):
    def cell(number: int) -> str:
        text = f"    class Cell:\n        step = {number}\n"
        monkeypatch.setattr(source.inspect, "getsource", lambda part: text)  # as IPython's does
        return made_of([type("Cell", (), {"__module__": "nowhere"})]).digest

    assert cell(1) == cell(1) != cell(2)


def test_a_class_of_a_cell_is_found_by_its_functions():
    """Python before 3.13 does not know where such a class stands; a notebook keeps the text of its cells in linecache."""
    text = """
import functools

class Other:
    def step(self):
        return {number}

def decorated(kind):
    return kind

@decorated
class Cell:
    size = {number}

    @functools.cache
    def size_of(self):
        return 3

    def step(self):
        class Cell:
            pass
        return 1
"""

    def cell(size: int, comment: str = "") -> object:
        written, name = text.replace("size = {number}", f"size = {size}{comment}").format(number=0), f"<cell {size}>"
        linecache.cache[name] = len(written), None, written.splitlines(keepends=True), name
        space = {"__name__": "nowhere"}
        exec(compile(written, name, "exec"), space)  # noqa: S102
        return space["Cell"]

    assert source._class_of_notebook(cell(1)).startswith("@decorated\nclass Cell:\n    size = 1\n")
    digests = [made_of([cell(*given)]).digest for given in ((1,), (1, "  # the same"), (2,))]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(OSError, match="no function of Empty has a source"):
        source._class_of_notebook(type("Empty", (), {}))


def test_a_compiled_module_is_known_by_its_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (Path(source.__file__).parent / "__init__.py").read_text()
    (tmp_path / "planted_user.py").write_text(f"{text}\nimport planted_so\n")
    found = set()
    for content in (b"one", b"two"):
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        (tmp_path / f"planted_so{suffix}").write_bytes(content)
        importlib.invalidate_caches()
        found.add(made_of(["planted_user"]).digest)
    assert len(found) == 2
