"""What is said of an id that Gymnasium does not know: which package has it."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.data.adapt import Adapt
from lewm_bench.run.environments import make_env
from lewm_bench.system import known_packages as module
from lewm_bench.system.known_packages import package_hint

PACKAGE = """
import gymnasium as gym
print("a banner")
gym.register("PlantedReach-v4", "planted_field:Reach")
gym.register("PlantedPush-v1", "planted_field:Push")
"""


@pytest.fixture()
def planted(tmp_path: Path, monkeypatch) -> None:
    """A field of two packages, one of which is installed."""
    (tmp_path / "planted_field.py").write_text(PACKAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "PACKAGES", {"planted_absent": ("Absent-",), "planted_field": ("Planted",)})
    yield
    sys.modules.pop("planted_field", None)
    for env_id in ("PlantedReach-v4", "PlantedPush-v1"):
        gym.registry.pop(env_id, None)


@pytest.mark.parametrize(
    ("env_id", "says"),
    [
        ("PlantedReach-v4", "planted_field has it: planted_field:PlantedReach-v4"),
        ("PlantedReach-v9", "did you mean planted_field:PlantedReach-v4?"),
        ("Absent-Maze-v0", "pip install planted-absent, then write planted_absent:Absent-Maze-v0"),
    ],
)
@pytest.mark.parametrize("adapt", [None, Adapt(threshold=1)])
def test_an_id_without_its_package_is_answered_with_it(planted, env_id: str, says: str, adapt, capfd) -> None:
    with pytest.raises(UserError) as raised:
        make_env(env_id, 32, adapt=adapt)
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")  # the package's banner is none of the answer


def test_others_are_nobodys(planted) -> None:
    assert package_hint("Nowhere-v0") is None and package_hint("planted_field:Other-v0") is None
    with pytest.raises(UserError, match="no environment named 'Nowhere-v0'; known: "):
        make_env("Nowhere-v0", 32)
