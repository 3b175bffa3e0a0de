"""What mkdocs is told beside mkdocs.yml: which files of the repository the site is made of.

They keep their places, so that a link which works on a page of the repository works on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
SHOWN = (
    "README.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "docs/*.md", "docs/*.png", "docs/notebook/*.py", "findings/*",
    "results/reference/**/*.md", "results/reference/**/*.png", "results/reference/**/*.gif", "results/reference/**/*.csv",
    "results/reference/**/*.yaml",
)  # fmt: skip
CELL = re.compile(r"^# %%(?P<kind>.*)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, what they link to, and notebooks as pages."""
    from mkdocs.structure.files import File

    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
            if path.suffix == ".py":
                page = notebook_page(path.read_text(encoding="utf-8"), path.name)
                files.append(File.generated(config, str(Path(name).with_suffix(".md")), content=page))
    return files


def notebook_page(script: str, name: str) -> str:
    """A script in cells (jupytext's percent format) as Markdown: its text as text, its code as code."""
    kinds, texts = [match["kind"] for match in CELL.finditer(script)], CELL.split(script)[2::2]
    shown = [markdown(text) if "[markdown]" in kind else code(text) for kind, text in zip(kinds, texts, strict=True)]
    return "\n\n".join([*shown, f"This page is a script: [{name}]({name})."])


def markdown(cell: str) -> str:
    """The text of a cell of comments."""
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in cell.strip().splitlines())


def code(cell: str) -> str:
    """A cell of code."""
    return f"```python\n{cell.strip()}\n```"
