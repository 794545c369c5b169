"""Tables on the command line: nothing in them is cut, on a terminal of any width or where they are piped."""

import io

import pytest
from rich.console import Console

from retmask.cli import options
from retmask.cli.options import print_table

HEADINGS = ("run", "which", "mean")
ROWS = [
    ("detect-smollm2-135m-20260101", "the memory ran out: choose a shorter context, or [fewer] trials", "0.537"),
    ("train", "a", "-0.5"),
]


def printed(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    file = io.StringIO()
    monkeypatch.setattr(options, "out", Console(file=file, width=width, soft_wrap=True, markup=False))
    print_table(HEADINGS, ROWS, whole="run")
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [36, 60, 80, 200, options._PIPED])
def test_nothing_is_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's characters are all there, in order within their column, and no line is wider than the terminal."""
    lines = printed(width, monkeypatch)
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    for cells in (HEADINGS, *ROWS):
        for cell in cells:
            letters = iter(text)
            assert all(letter in letters for letter in cell if letter != " "), cell


def test_what_is_piped_is_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _, *lines = printed(options._PIPED, monkeypatch)
    assert [tuple(line.split("  ")[0] for line in lines)] == [tuple(run for run, *_ in ROWS)]
    assert all(cell in line for line, cells in zip(lines, ROWS, strict=True) for cell in cells)


def test_names_stay_whole_where_there_is_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(80, monkeypatch)[1].startswith(ROWS[0][0])
