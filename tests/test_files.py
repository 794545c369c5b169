"""Files that may be damaged, or come from anybody: what is read of them, and that none is half written."""

import math
from pathlib import Path
from typing import Any

import pytest

from retmask.files import (
    append_line,
    line_at,
    mapping,
    mappings,
    number,
    placed_lines,
    read_lines,
    read_object,
    write_atomic,
    write_json,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), (-0.5, -0.5), (True, None), ("3", None), (None, None), ([3], None), (10**400, None)],
)
def test_a_number_of_a_record(value: object, expected: float | None) -> None:
    assert number(value, None) == expected
    assert number(value) == (0.0 if expected is None else expected)
    assert number(value, 7.0) == (7.0 if expected is None else expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_none(value: float, tmp_path: Path) -> None:
    assert number(value, None) is None
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "part", "parts"),
    [({"a": 1}, {"a": 1}, []), ([{"a": 1}, 2, {}], {}, [{"a": 1}, {}]), ("a", {}, []), (None, {}, [])],
)
def test_parts_of_a_record(value: object, part: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    assert (mapping(value), mappings(value)) == (part, parts)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": ', "\x00", "[" * 100_000, "1" * 5000])
def test_a_file_without_an_object_holds_an_empty_one(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert read_object(file) == read_object(tmp_path / "none.json") == read_object(tmp_path) == {}


def test_a_line_cut_short_is_passed_over_and_ended(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 1}\n{"a": 2')
    append_line(file, {"a": 3})
    assert list(read_lines(file)) == [{"a": 1}, {"a": 3}]


def test_every_line_is_found_again_where_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes('{"a": "\u00e4\u2028"}\n\n{"a": 2}\r\n{cut\n{"a": "'.encode() + b'\xff"}\n{"a": 4}')
    places = list(placed_lines(file))
    assert [value["a"] for _, value in places] == ["\u00e4\u2028", 2, "\ufffd", 4]
    assert [line_at(file, place) for place, _ in places] == [value for _, value in places] == list(read_lines(file))
    assert line_at(file, 10**6) == line_at(tmp_path / "none", 0) == {}


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(file, "new \ud800")
    assert (file.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["a.txt"])
