"""Names of agents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.core.errors import UserError
from lewm_bench.core.names import AgentName, canonical, known_as, parse_agent, settings_of, split, written
from lewm_bench.core.renamed import _tell, renamed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lewm", ("lewm", None, ())),
        ("dino-wm:mae", ("dino-wm", "mae", ())),
        ("their_pkg.agents:MINE", ("their_pkg.agents:MINE", None, ())),
        ("their_pkg.agents:MINE:small", ("their_pkg.agents:MINE", "small", ())),
        ("lewm:sigreg_weight=0", ("lewm", None, (("sigreg_weight", "0"),))),
        ("dino-wm:mae:planner.solver=icem", ("dino-wm", "mae", (("planner.solver", "icem"),))),
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sac-her:hidden=[64,64]", (("hidden", "[64,64]"),)),
        ("dino-wm:weights=C:/weights", (("weights", "C:/weights"),)),
        ("lewm:train={steps: 3, batch_size: 8}:dropout=0", (("train", "{steps: 3, batch_size: 8}"), ("dropout", "0"))),
        ("lewm:x='a:b=1':y=2", (("x", "'a:b=1'"), ("y", "2"))),
        ('lewm:x="]:\\":":y=2', (("x", '"]:\\":"'), ("y", "2"))),
        ("lewm:x=it's:y=don't", (("x", "it's"), ("y", "don't"))),
        ("lewm:x=[1:y=2", (("x", "[1"), ("y", "2"))),
        ("lewm:weights=http://host/?a=b: dropout = 0", (("weights", "http://host/?a=b"), ("dropout", "0"))),
    ],
)
def test_values_may_hold_colons(name: str, settings: tuple) -> None:
    assert parse_agent(name).settings == settings


def test_only_outer_commas_separate() -> None:
    agents = ["sac-her:hidden=[64,64]", "lewm:train={steps: 3, batch_size: 8}", "lewm:x='a,b'", " lewm:x=it's", "y=["]
    assert split(",".join(agents), ",") == agents
    assert split("a,,b,", ",") == ["a", "", "b", ""]


@pytest.mark.parametrize(
    "same",
    [
        [
            "lewm:sigreg_weight=0.001",
            *(f"lewm:sigreg_weight={v}" for v in ("1e-3", "1E-3", ".001", "1.0e-03", " 0.001")),
        ],
        ["lewm:dropout=0", "lewm:dropout=0.0", "lewm:dropout=-0.", "lewm:dropout=1:dropout=0", "lewm: dropout = 0"],
        [
            "lewm:planner.solver=icem",
            "lewm:planner.solver='icem'",
            'lewm:planner.solver="icem"',
            "lewm:planner={solver: icem}",
        ],
        ["lewm:dropout=0.5:train.steps=3", "lewm:train={steps: 3}:dropout=0.5", "lewm:train.steps=3:dropout=5e-1"],
        ["sac-her:hidden=[64,64]", "sac-her:hidden=[ 64, 64 ]", "sac-her:hidden=[64.0, 6.4e1]"],
        ["x:a=null", "x:a=~", "x:a=Null"],
        ["x:a='1'", 'x:a="1"'],
    ],
)
def test_equal_settings_are_one_arm(same: list[str]) -> None:
    first = set(map(canonical, same))
    assert len(first) == 1, first


def test_what_is_not_equal_stays_apart() -> None:
    names = ["x:a=1", "x:a='1'", "x:a=true", "x:a=null", "x:a='null'", "x:a=[1]", "x:a=1.5", "x:b=1", "x:v:a=1", "x"]
    assert len(set(map(canonical, names))) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "lewm",
        "dino-wm:mae",
        "a.b:C:small",
        "lewm:sigreg_weight=0.001",
        "lewm:planner.solver=icem",
        "dino-wm:weights=C:/w",
    ],
)
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert canonical(name) == name


@pytest.mark.parametrize(
    "name", ["lewm:=1", "lewm:a=", "lewm:a..b=1", "lewm:a=[1", "lewm:a=.nan", f"lewm:a={'9' * 5000}"]
)
def test_what_has_no_value_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert known_as(name) == name


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
keys = st.text("abcXYZ_-09", min_size=1, max_size=4)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys | st.text("a:,=.'"), v, max_size=3)
)
settings = st.dictionaries(st.lists(keys, min_size=1, max_size=2).map(".".join), values, max_size=3)


@given(settings)
def test_a_written_name_is_read_as_it_was_meant(chosen: dict) -> None:
    """Round trip of any values, and idempotence; colons and commas inside of values separate nothing."""
    name = ":".join(["lewm", *(f"{path}={written(value)}" for path, value in chosen.items())])
    known = canonical(name)
    assert canonical(known) == known and known.isprintable()
    assert settings_of(known) == settings_of(name)
    assert split(f"{known},{known}", ",") == [known, known]
    if not any(path.startswith(f"{other}.") for path in chosen for other in chosen):
        wanted: dict = {}
        for path, value in chosen.items():
            *above, last = path.split(".")
            inner = wanted
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = value
        assert settings_of(name) == wanted


@given(settings, st.randoms())
def test_the_order_of_settings_does_not_matter(chosen: dict, random) -> None:
    pairs = [f"{path}={written(value)}" for path, value in chosen.items()]
    paths = list(chosen)
    if any(a != b and b.startswith(f"{a}.") for a in paths for b in paths):
        return
    shuffled = random.sample(pairs, len(pairs))
    assert canonical(":".join(["lewm", *pairs])) == canonical(":".join(["lewm", *shuffled]))


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    """Nothing is lost and nothing hangs."""
    assert ":".join(split(text, ":")) == text
    name = parse_agent(text)
    assert isinstance(name.base, str)
    assert isinstance(known_as(text), str)


def test_the_old_name_of_the_planners_settings_works_and_warns_once(caplog) -> None:
    _tell.cache_clear()
    canonical.cache_clear()
    with caplog.at_level("WARNING", logger="lewm_bench"):
        assert canonical("lewm:cem.horizon=3:dropout=0") == "lewm:dropout=0:planner.horizon=3"
        assert canonical("dino-wm:mae:cem.solver=icem") == "dino-wm:mae:planner.solver=icem"
        assert renamed({"cem": {"std": 1, "horizon": 2}, "planner": {"horizon": 3}, "lewm": {}}) == {
            "lewm": {},
            "planner": {"std": 1, "horizon": 3},
        }
        assert renamed({"cem": 5}) == {"planner": 5}
    assert [r.getMessage() for r in caplog.records] == [
        "settings under cem. are called planner. now; the old name still works"
    ]


def test_records_of_the_old_name_are_read_in_silence(caplog) -> None:
    _tell.cache_clear()
    canonical.cache_clear()
    with caplog.at_level("WARNING", logger="lewm_bench"):
        assert known_as("lewm:cem.solver=mppi") == "lewm:planner.solver=mppi"
        assert renamed({"cem": {"std": 1}}, tell=False) == {"planner": {"std": 1}}
    assert not caplog.records
