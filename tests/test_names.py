"""Names of agents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.names import AgentName, parse_agent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lewm", ("lewm", None, ())),
        ("dino-wm:mae", ("dino-wm", "mae", ())),
        ("their_pkg.agents:MINE", ("their_pkg.agents:MINE", None, ())),
        ("their_pkg.agents:MINE:small", ("their_pkg.agents:MINE", "small", ())),
        ("lewm:sigreg_weight=0", ("lewm", None, (("sigreg_weight", "0"),))),
        ("dino-wm:mae:cem.solver=icem", ("dino-wm", "mae", (("cem.solver", "icem"),))),
        ("lewm:dropout=0:train.steps=5", ("lewm", None, (("dropout", "0"), ("train.steps", "5")))),
        ("a.b:C:x=1", ("a.b:C", None, (("x", "1"),))),
        ("lewm:x=a=b", ("lewm", None, (("x", "a=b"),))),
    ],
)
def test_parts(name: str, expected: tuple) -> None:
    assert parse_agent(name) == AgentName(*expected)


word = st.text("abcdefghij-_", min_size=1, max_size=8)


@given(word, st.none() | word, st.lists(st.tuples(word, word), max_size=3))
def test_a_name_is_its_parts_put_together(base: str, variant: str | None, settings: list[tuple[str, str]]) -> None:
    words = [base, *([variant] if variant else []), *(f"{path}={value}" for path, value in settings)]
    name = parse_agent(":".join(words))
    assert name == AgentName(base, variant, tuple(settings))
    assert name.trained == ":".join(words[: 2 if variant else 1])
    assert parse_agent(name.trained) == AgentName(base, variant, ())
