"""Profiles of one's own that extend the shipped ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lewm_bench.core.errors import UserError
from lewm_bench.run.benchmarks import load
from lewm_bench.run.resolve import resolve

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "benchmarks.yaml").read_text(encoding="utf-8"))["profiles"]
SUITE = "\nsuites: {s: {title: S, envs: [lewm_bench/PointMaze-UMaze-v0], agents: [lewm, gcbc], seeds: [0]}}\n"


def profiles_of(tmp_path: Path, text: str) -> dict[str, dict]:
    path = tmp_path / "mine.yaml"
    path.write_text(f"profiles: {text}{SUITE}", encoding="utf-8")
    return load(path).profiles


def test_a_profile_of_the_same_name_begins_with_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"profiles: {{quick: {{extends: quick, gcbc: {{train: {{steps: 77}}}}, image_size: 48}}}}{SUITE}",
        encoding="utf-8",
    )
    found = resolve(load(path), "s", "quick")
    gcbc, lewm, shipped = found.agent_config("gcbc"), found.agent_config("lewm"), SHIPPED["quick"]
    assert (gcbc.train.steps, found.settings.image_size) == (77, 48)  # said in the file
    assert (gcbc.width, gcbc.train.learning_rate) == (
        shipped["gcbc"]["width"],
        shipped["gcbc"]["train"]["learning_rate"],
    )
    assert (lewm.latent, lewm.train.steps) == (shipped["lewm"]["latent"], shipped["lewm"]["train"]["steps"])


def test_without_extends_a_file_says_all(tmp_path: Path) -> None:
    assert profiles_of(tmp_path, "{quick: {image_size: 48}}") == {"quick": {"image_size": 48}}


def test_the_files_own_profile_goes_before_a_shipped_one_of_the_name(tmp_path: Path) -> None:
    found = profiles_of(
        tmp_path, "{mine: {extends: quick}, quick: {extends: paper, image_size: 48}, tiny: {extends: mine}}"
    )
    assert found["mine"] == found["quick"] == found["tiny"] == {**SHIPPED["paper"], "image_size": 48}
    assert profiles_of(tmp_path, "{mine: {extends: quick}}") == {"mine": SHIPPED["quick"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{quick: {extends: quik}}",
            ["profiles.quick.extends", "'quik'", "known: gpu, paper", "did you mean 'quick'?"],
        ),
        ("{mine: {extends: mine}}", ["profiles.mine.extends", "no profile named 'mine'", "known: gpu, paper, quick"]),
        ("{a: {extends: b}, b: {extends: c}, c: {extends: b}}", ["'b' extends 'c' extends 'b'", "circle"]),
        ("{quick: {extends: paper}, paper: {extends: quick}}", ["'quick' extends 'paper' extends 'quick'"]),
        ("{a: {extends: [quick]}}", ["profiles.a.extends", "the name of a profile", "['quick']"]),
        ("{a: {extends: null}}", ["profiles.a.extends", "the name of a profile", "None"]),
        ("{a: {extends: b}, b: 5}", ["profiles.a", "5"]),
    ],
)
def test_a_profile_that_extends_nothing_known_is_refused_in_a_line(text: str, says: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        profiles_of(tmp_path, text)
    message = str(raised.value)
    assert "\n" not in message and "mine.yaml: " in message
    for words in says:
        assert words in message, message
