"""The documentation: as a site without a broken link, and its notebook from its first cell to its last."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
NOTEBOOKS = sorted((DOCS / "notebook").glob("*.py"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(out: Path, config: Path = DOCS / "mkdocs.yml") -> subprocess.CompletedProcess:
    """The site, strictly: whatever mkdocs warns of is an error."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed; pip install -e ".[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )


@pytest.mark.slow
def test_the_site_has_every_page_and_no_broken_link(tmp_path):
    done = built(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("index.html")}
    assert {"."} | {f"docs/{path.stem}" for path in DOCS.glob("*.md")} <= pages
    assert {f"docs/notebook/{path.stem}" for path in NOTEBOOKS} <= pages
    interface = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="lewm_bench.api.Result.figure"' in interface and "seeds" in interface
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "One command benchmarks latent world models" in front
    assert "fonts.googleapis" not in front
    for image in re.findall(r'<img[^>]+src="([^"]+)"', front):
        assert image.startswith(("http", "data:")) or (tmp_path / image).is_file(), image


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path):
    """So the test above looks for the right thing."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "api.md").write_text("[gone](nothing.md), [no heading](docs/report.md#nothing)\n")
    text = (
        (DOCS / "mkdocs.yml").read_text(encoding="utf-8").replace("hooks: [hooks.py]", f"hooks: [{DOCS / 'hooks.py'}]")
    )
    (tmp_path / "mkdocs.yml").write_text(text)
    done = built(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode == 1
    assert "'nothing.md'" in done.stderr and "'docs/report.md#nothing'" in done.stderr


def test_the_navigation_names_every_page():
    text = (DOCS / "mkdocs.yml").read_text(encoding="utf-8").split("plugins:")[0]
    named = set(re.findall(r"- (\S+\.md)$", text, re.MULTILINE))
    pages = {f"docs/{path.name}" for path in DOCS.glob("*.md")} | {f"docs/notebook/{p.stem}.md" for p in NOTEBOOKS}
    assert named == pages | {"README.md", "CONTRIBUTING.md", "api.md"}


def test_the_page_of_the_interface_names_all_of_it():
    import lewm_bench.api

    shown = set(re.findall(r"^::: lewm_bench\.api\.(\w+)$", (DOCS / "pages" / "api.md").read_text(), re.MULTILINE))
    assert shown == set(lewm_bench.api.__all__) - {"NotRun", "TrainingFailed", "UserError"}


def test_a_script_in_cells_becomes_a_page(hooks):
    script = "# ---\n# jupyter:\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1  # %% kept\n\n# %%\nx\n"
    page = hooks.notebook_page(script, "it.py")
    assert page.split("\n\n") == [
        "# Title", "Text.", "```python\nx = 1  # %% kept\n```", "```python\nx\n```", "This page is a script: [it.py](it.py).",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_text_between_code(path, hooks):
    script = path.read_text(encoding="utf-8")
    ast.parse(script)
    kinds, texts = [m["kind"] for m in hooks.CELL.finditer(script)], hooks.CELL.split(script)[2::2]
    for kind, text in zip(kinds, texts, strict=True):
        if "markdown" in kind:
            assert all(line.startswith("#") for line in text.strip().splitlines()), text


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_an_empty_folder(path, tmp_path):
    empty, temporary = tmp_path / "empty", tmp_path / "tmp"
    empty.mkdir()
    temporary.mkdir()
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)], check=False, capture_output=True, text=True, cwd=empty, env=env
    )
    assert done.returncode == 0, done.stderr
    report = Path(done.stdout.split()[-1])
    assert report.name == "report.html" and report.is_relative_to(temporary)
    assert "A ball in a room with a wall" in report.read_text(encoding="utf-8")
    assert not any(empty.iterdir())  # data, weights and results are where the script says
