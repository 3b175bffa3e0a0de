"""YAML is merged by the rule of its page, the same under every PyYAML, and drops nothing without a word."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.system.reading import UniqueKeys


def read(text: str):
    return yaml.load(text, UniqueKeys)


@pytest.mark.parametrize("a, b, c", [("a", "b", "c"), ("alpha", "beta", "gamma"), ("1", "2", "3"), ("é", "ü", "ö")])
def test_an_anchor_may_be_merged_where_its_own_merge_is_overridden(a, b, c):
    """Whoever of the two blocks is read first, with keys of one character and of several."""
    base, deep = f"base: &base {{{a}: 1, {b}: 2}}", f"deep: {{inner: &inner {{<<: *base, {b}: 3}}}}"
    a, b, c = (yaml.safe_load(key) for key in (a, b, c))
    for text, inner in (
        (f"{base}\n{deep}\nflat: {{<<: *inner, {c}: 4}}", lambda found: found["deep"]["inner"]),
        (f"{base}\nx: [{{{deep}}}]\nflat: {{<<: *inner, {c}: 4}}", lambda found: found["x"][0]["deep"]["inner"]),
    ):
        found = read(text)
        assert (inner(found), found["flat"]) == ({a: 1, b: 3}, {a: 1, b: 3, c: 4})


@pytest.mark.parametrize(
    "text, line",
    [
        ("base: &base {a: 1, b: 2}\nx: &x {<<: *base, b: 1, b: 2}\ny: {<<: *x}", 2),
        ("x: {y: {a: 1, a: 2}}", 1),
        ("a: 1\nb: 2\na: 3", 3),
        ("m: &m {a: 1}\nx: {<<: *m, <<: *m}", 2),
    ],
)
def test_a_key_that_is_given_twice(text, line):
    with pytest.raises(yaml.MarkedYAMLError, match="is given twice") as caught:
        read(text)
    assert caught.value.problem_mark.line + 1 == line


@pytest.mark.parametrize("text", ["x: {<<: 1}", "x: {<<: [1]}", "x: {<<: [[{a: 1}]]}"])
def test_only_mappings_can_be_merged(text):
    with pytest.raises(yaml.MarkedYAMLError, match="takes a mapping or a list of mappings"):
        read(text)


@pytest.mark.parametrize("text", ["x: &x {<<: *x}", "x: &x {<<: [{a: 1}, {<<: *x}]}"])
def test_a_mapping_that_merges_itself(text):
    with pytest.raises(yaml.MarkedYAMLError, match="a mapping merges itself"):
        read(text)


def test_a_mapping_may_hold_itself_without_merging():
    found = read("x: &x {a: *x}")
    assert found["x"]["a"] is found["x"]


def test_an_equals_sign_is_text():
    assert read("{=: 1, a: =}") == {"=": 1, "a": "="}


def test_own_keys_stand_behind_merged_ones():
    """Orders of agents and policies are read from it."""
    assert list(read("m: &m {a: 1, b: 2}\nx: {c: 3, <<: *m, b: 4}")["x"]) == ["a", "c", "b"]


KEYS = st.text("abcd", min_size=1, max_size=2)
MAPPINGS = st.dictionaries(KEYS, st.integers(0, 9), max_size=4)


@given(st.lists(st.tuples(MAPPINGS, st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=6))
def test_merging_is_what_the_page_says(blocks):
    """Held against the rule written out with dictionaries, over chains and lists of merges."""
    lines, truth = [], []
    for number, (own, merges) in enumerate(blocks):
        sources = [index % number for index in merges] if number else []
        merge = [f"<<: [{', '.join(f'*b{s}' for s in sources)}]"] if sources else []
        pairs = [*merge, *(f"{key}: {value}" for key, value in own.items())]
        lines.append(f"k{number}: &b{number} {{{', '.join(pairs)}}}")
        whole: dict[str, int] = {}
        for source in [own, *(truth[s] for s in sources)]:
            whole = {**source, **whole}
        truth.append(whole)
    assert list(read("\n".join(lines)).values()) == truth


@pytest.mark.parametrize(
    "text, number",
    [("1e-1", 0.1), ("1e3", 1000.0), ("-2E5", -2e5), ("+1.5e2", 150.0), (".5e1", 5.0), ("1.e0", 1.0), ("3e+2", 300.0)],
)
def test_a_number_with_an_exponent_is_a_number(text, number):
    """In YAML 1.1 all but the last are text, and an environment would be given text for its gravity."""
    found = read(f"kwargs: {{gravity: {text}, others: [{text}], name: '{text}'}}")["kwargs"]
    assert found == {"gravity": number, "others": [number], "name": text} and type(found["gravity"]) is float


@pytest.mark.parametrize("text", ["e1", "1e", "1e1e1", "1e-", "1e5x", "--1e1", "1-e1", ".e1"])
def test_what_only_resembles_a_number_stays_text(text):
    assert read(f"a: {text}") == {"a": text}
