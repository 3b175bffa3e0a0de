"""`lewm-bench list settings`: every setting describes itself, and what is printed is what the code does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from commands import outcome
from pydantic import Field

from lewm_bench.agent import AgentConfig
from lewm_bench.agents import AGENTS
from lewm_bench.cli import settings
from lewm_bench.cli.settings import REQUIRED, Part, common_settings, laid_out, settings_at, values_of
from lewm_bench.core.card import Card
from lewm_bench.core.config import Config, deep_merge
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.adapt import Adapt
from lewm_bench.run.benchmarks import load
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import override
from lewm_bench.run.settings import Settings

BENCH = load(Path(__file__).parents[2] / "benchmarks.yaml")


def everything() -> dict[str, list[Part]]:
    """All parts that can be listed, by what stands in front of their paths."""
    found = {"": common_settings(BENCH), "adapt": settings_at("adapt", BENCH)}
    for name in AGENTS:
        try:
            found[name] = settings_at(name, BENCH)
        except NotRun:  # a package that it needs is not here
            continue
    return found


EVERYTHING = everything()


def defaults_in(text: str, parts: list[Part], root: str) -> dict[str, Any]:
    """The printed defaults as nested settings, read back from the text."""
    nested: dict[str, Any] = {}
    for part in parts:
        for row in part.settings:
            assert any(line.split()[:1] == [row.path] and f"  {row.default}" in line for line in text.splitlines())
            if row.default != REQUIRED:
                nested = deep_merge(nested, override(row.path.removeprefix(f"{root}."), row.default))
    return nested


@pytest.mark.parametrize("root", EVERYTHING)
def test_every_setting_has_a_description(root: str) -> None:
    for part in EVERYTHING[root]:
        assert part.description, part.path
        for row in part.settings:
            assert row.description and row.values, row.path
            assert not row.description.endswith(".") and len(row.description) <= 120, row.path


@pytest.mark.parametrize("root", EVERYTHING)
def test_what_is_printed_gives_the_defaults_again(root: str) -> None:
    read = defaults_in(laid_out(EVERYTHING[root]), EVERYTHING[root], root)
    if root == "adapt":
        assert Adapt(threshold=1, **read) == Adapt(threshold=1)
        return
    model: type[Config] = agent_family(root).Config if root else Settings
    assert model(**read) == model() and model(**read).model_fields_set == set(model.model_fields)


def test_a_profile_stands_before_the_default() -> None:
    (part,) = settings_at("lewm.train.steps", BENCH, "quick")
    steps = BENCH.profiles["quick"]["lewm"]["train"]["steps"]
    assert part.settings[0].default == f"{steps} (default 100000)"
    (part,) = settings_at("lewm.train.steps", BENCH)
    assert part.settings[0].default == "100000"


def test_a_variant_stands_before_the_default() -> None:
    (part,) = settings_at("dino-wm:mae.encoder", BENCH)
    assert part.settings[0].default == "mae (default dinov2-small)"


@pytest.mark.parametrize(
    "annotation, metadata, words",
    [
        (int, {"ge": 1}, "integer from 1"),
        (int, {"ge": 1, "le": 1}, "integer, only 1"),
        (int, {"ge": 16, "le": 512}, "integer from 16 to 512"),
        (int, {"ge": 4, "multiple_of": 4}, "integer from 4, a multiple of 4"),
        (float, {"ge": 0, "lt": 1}, "number from 0, below 1"),
        (float | None, {"gt": 0}, "number above 0 or null"),
        (bool, {}, "true or false"),
        (str | None, {}, "text or null"),
        (Literal["cem", "icem", "mppi"], {}, "cem, icem or mppi"),
        (tuple[Annotated[int, Field(ge=2)], ...], {}, "list of integers from 2"),
        (tuple[float, ...], {"min_length": 1}, "list of numbers, at least one"),
        (dict[str, float], {}, "names with numbers"),
        (list[str], {}, "list of text"),
        (Path, {}, "Path"),
        (int | str | None, {}, "int | str | None"),
        (tuple[int, str], {}, "tuple[int, str]"),
    ],
)
def test_what_a_setting_can_be_in_words(annotation: Any, metadata: dict[str, int], words: str) -> None:
    assert values_of(annotation, Field(**metadata).metadata) == words


class TheirConfig(AgentConfig):
    """Of an agent that is not ours: without descriptions, with a setting that has no default."""

    size: int
    folder: Path = Path("there")
    parts: list[str] = Field(["a"], max_length=3)


def test_somebodys_agent_need_not_describe_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    family = SimpleNamespace(Config=TheirConfig, card=Card(about="theirs"))
    monkeypatch.setattr(settings, "agent_family", lambda name: family)
    first, train = settings_at("their_pkg.agents:MINE", BENCH)
    rows = {row.path.removeprefix("their_pkg.agents:MINE."): row[1:] for row in first.settings}
    assert rows["size"] == ("integer", REQUIRED, "") and rows["parts"] == ("list of text", "[a]", "")
    assert rows["folder"] == ("Path", "there", "") and train.path == "their_pkg.agents:MINE.train"
    assert "theirs" in laid_out([first, train], 80)


@pytest.mark.parametrize("width", [72, 80, 120, 160])
def test_it_fits_the_terminal(width: int) -> None:
    text = laid_out(EVERYTHING["lewm"], width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(row.description for part in EVERYTHING["lewm"] for row in part.settings).split()
    assert set(words) <= set(text.split())


@pytest.mark.parametrize(
    "path, said",
    [
        ("planer", ["no setting or agent named 'planer'", "did you mean 'planner'?"]),
        ("lewm.sigreg_wieght", ["no setting named 'lewm.sigreg_wieght'", "did you mean 'lewm.sigreg_weight'?"]),
        ("planner.icem.bta", ["did you mean 'planner.icem.beta'?"]),
        ("evaluate.goal_offset.x", ["evaluate.goal_offset has no settings of its own"]),
    ],
)
def test_an_unknown_path_is_told_with_the_nearest(path: str, said: list[str]) -> None:
    with pytest.raises(UserError) as error:
        settings_at(path, BENCH)
    assert all(text in str(error.value) for text in said), error.value


def test_the_command_prints_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = outcome(monkeypatch, capsys, "list", "settings", "evaluate.goal_offset")
    assert (status, err) == (0, "") and out.startswith("  evaluate.goal_offset  list of integers  [25,50]  environment")
    status, out, _ = outcome(monkeypatch, capsys, "list", "settings")
    assert status == 0 and all(name in out.splitlines()[-1] for name in AGENTS) and "\nplanner.icem: " in out
    status, _, err = outcome(monkeypatch, capsys, "list", "settings", "planner", "--profile", "quik")
    assert status == 2 and "did you mean 'quick'?" in err
    status, _, err = outcome(monkeypatch, capsys, "list", "agents", "planner")
    assert (status, err) == (2, "lewm-bench: a path and --profile are for `lewm-bench list settings`\n")
