"""YAML is merged by the rule of its page, the same under every PyYAML, and drops nothing without a word."""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lewm_bench.core.config import Record
from lewm_bench.core.errors import NotRun, TrainingFailed, UserError
from lewm_bench.core.reading import (
    UniqueKeys,
    is_file,
    parse_yaml,
    read_bytes,
    read_json,
    read_model,
    read_tensors,
    read_text,
    read_yaml,
    require_tensors,
)
from lewm_bench.system.arrays import read_array


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


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001), ("1E-3", 0.001), (".001", 0.001), ("5.", 5.0), ("-.5e1", -5.0), ("1_000", 1000),
        ("010", 10), ("0x1f", 31), ("0o17", 15), ("0b11", 3), ("+7", 7), ("'1e-3'", "1e-3"), ("1e", "1e"),
        ("1:30", "1:30"), ("2020-02-30", "2020-02-30"), ("2020-02-28", "2020-02-28"), ("e5", "e5"), (".", "."),
        ("yes", True), ("~", None), ("", None), ("!!str 5", "5"), ("!!float 5", 5.0), ("\ufeffa: 1", {"a": 1}),
    ],
)  # fmt: skip
def test_a_plain_text_is_what_people_mean(text, value):
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["repr", ".17e", ".17E", "+.17e"]))
def test_every_way_to_write_a_number_is_that_number(number, how):
    text = repr(number) if how == "repr" else format(number, how)
    assert parse_yaml(text) == parse_yaml(f"[{text}]")[0] == float(text)


BAD_YAML = {
    "a cycle": "a: &a [*a]",
    "deep": "[" * 3000 + "]" * 3000,
    "deep mappings": "{a: " * 500 + "1" + "}" * 500,
    "a bomb": "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
    "digits": "9" * 5000,
    "hexadecimal digits": "0x" + "f" * 5000,
    "infinity": "a: .inf",
    "too large a float": "1e999",
    "not a number": "{a: [.nan]}",
    "python": "!!python/object/apply:os.system [ls]",
    "binary": "!!binary aGk=",
    "a set": "!!set {a}",
    "a wrong tag": "!!int abc",
    "an own tag": "!mine 5",
    "a date by tag": "!!timestamp 2020-02-30",
    "a list as a key": "{[1]: 2}",
    "a number as a key": "{1: 2}",
    "a surrogate": '"\\ud800"',
    "a zero": '"\\0"',
    "a control character": "a: \x07",
    "two documents": "a: 1\n---\nb: 2",
    "half": "{a: [1",
    "tabs": "a:\n\t- 1",
}


@pytest.mark.parametrize("text", BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml_is_one_short_line(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_yaml(path, "mend it")
    assert_one_line(caught, path)


def assert_one_line(caught, path):
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000 and str(path) in message and message.endswith("mend it")


BAD_JSON = [
    "",
    "{",
    "[" * 10**5,
    "NaN",
    "[1e999]",
    "[-Infinity]",
    "9" * 5000,
    str(2**63),
    '"\\ud800"',
    '"\\u0000"',
    "{} {}",
]


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json_is_one_short_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path, "mend it")
    assert_one_line(caught, path)


def test_what_we_write_can_be_read(tmp_path):
    path = tmp_path / "x.json"
    value = {"a": [1, 2.5, None, True, "é\n"], "b": {"c": -(2**63)}}
    path.write_text(json.dumps(value), encoding="utf-8-sig")
    assert read_json(path, "mend it") == value
    path.write_text("[NaN, Infinity]")
    assert read_json(path, "mend it", finite=False)[1] == float("inf")


class Numbers(Record):
    """A record for the tests below."""

    number: float
    whole: int
    flag: bool = False


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"number": "1", "whole": 1}', '{"number": "nan", "whole": 1}', '{"number": 1, "whole": 1.5}',
     '{"number": true, "whole": 1}', '{"number": 1, "whole": true}', '{"number": 1, "whole": 1, "flag": 1}',
     '{"number": 1, "whole": 1, "other": 1}', '{"number": null, "whole": 1}'],
)  # fmt: skip
def test_a_record_is_held_to_its_types(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_model(path, Numbers, "mend it")
    assert_one_line(caught, path)
    path.write_text('{"number": 1, "whole": 2}')
    assert read_model(path, Numbers, "mend it") == Numbers(number=1, whole=2)


READERS = {
    "bytes": read_bytes,
    "text": read_text,
    "json": read_json,
    "yaml": read_yaml,
    "model": lambda path, mend: read_model(path, Numbers, mend),
    "array": lambda path, mend: read_array(path, np.float64, 2, mend),
    "tensors": read_tensors,
}


def planted(folder):
    """Things that are no regular file."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "file").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    names = ("folder", "pipe", "loop", "dangling", "socket", "file/below", "x" * 300, "zero\0byte")
    return [*(folder / name for name in names), Path("/dev/zero")]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, read):
    """Opening a pipe would wait for ever, and /dev/zero never ends. Names are short: a socket's has 107 bytes at most."""
    monkeypatch.chdir(tmp_path)
    faulthandler.dump_traceback_later(20, exit=True)
    try:
        for path in planted(Path()):
            with pytest.raises(UserError) as caught:
                read(path, "mend it")
            assert str(caught.value).isprintable() and str(caught.value).endswith("mend it"), path
            assert not is_file(path)
    finally:
        faulthandler.cancel_dump_traceback_later()


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    for read in (read_yaml, read_json):
        with pytest.raises(UserError, match="more than") as caught:
            read(path, "mend it")
        assert_one_line(caught, path)


@pytest.mark.parametrize("data", [b"\xff\xfea\x00", b"caf\xe9", b"a: \xed\xa0\x80"])
def test_what_is_not_utf8(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(UserError, match="UTF-8") as caught:
        read_yaml(path, "mend it")
    assert_one_line(caught, path)


def test_every_flipped_bit_of_an_array_s_header_is_found_or_harmless(tmp_path):
    path = tmp_path / "x.npy"
    numbers = np.arange(12.0).reshape(4, 3)
    np.save(path, numbers)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data) - numbers.nbytes):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert np.array_equal(read_array(path, np.float64, 2, "mend it"), numbers)
            except UserError as error:
                refused += 1
                assert str(error).isprintable() and str(path) in str(error)
    assert refused > 500


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3) | st.text() | st.binary(max_size=40))
def test_any_text_as_an_array_s_header(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "header.npy"
    body = header if isinstance(header, bytes) else str(header).encode("utf-8", "replace")
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body)
    with pytest.raises(UserError):
        read_array(path, np.float64, 2, "mend it")


def test_arrays_are_mapped_read_only(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    found = read_array(tmp_path / "x.npy", np.int64, 2, "mend it")
    assert type(found) is np.ndarray and not found.flags.writeable and found.tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "x.npy", np.empty((0, 3)))
    assert read_array(tmp_path / "x.npy", np.float64, 2, "mend it").shape == (0, 3)


@pytest.mark.parametrize("text", ["a\nb", "a\r\x1b[2Jb", "a\u2028b", "a\ud800b", "x" * 10**6])
def test_every_message_is_one_line(text):
    for kind in (UserError, NotRun, TrainingFailed):
        message = str(kind(text))
        assert message.isprintable() and len(message) <= 2000 and message[0] == text[0] and message[-1] == text[-1]


def test_weights_are_sized_without_reading_them(tmp_path):
    """A checksum of a file of a terabyte would take an hour."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    require_tensors(path, "mend it")
    assert read_tensors(path, "mend it")["a"].tolist() == [0, 0, 0]
    os.truncate(path, 2**40)
    for read in (require_tensors, read_tensors):
        with pytest.raises(UserError, match="is damaged") as caught:
            read(path, "mend it")
        assert_one_line(caught, path)
