"""The map that is looked at, the heads that are selected on it, and the way back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.shared import address, session
from app.shared.address import from_url, to_url
from app.shared.maps import HeadMap, opened_files, shipped_maps
from app.shared.readers import open_map
from app.shared.text import sentence
from retmask.detect.job import DEFAULT_MODEL
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.rules import retrieval_heads
from retmask.heads.scores import HeadScores
from retmask.runs.run import Run


def sources() -> list[str]:
    """What the picker offers: shipped maps, runs and opened files (newest first), and what was open in this session."""
    looked_at = session.LOOKED_AT.keep()
    looked_at[source()] = None
    return list(dict.fromkeys([*shipped_maps(), *(run.id for run in Run.all("detect")), *opened_files(), *looked_at]))


def forget(folder: Path) -> None:
    """Offer no map of that folder any more: it is deleted."""
    looked_at = session.LOOKED_AT.get()
    for name in [name for name in looked_at if name == folder.name or folder in (Path(name), *Path(name).parents)]:
        del looked_at[name]


def source() -> str:
    """The name, run or path of the map that is looked at."""
    return session.SOURCE.keep(_source_at_start)


def _source_at_start() -> str:
    """The map that the address named when the session began, or the default model's."""
    return address.at_start().get("map") or next(iter(shipped_maps()), DEFAULT_MODEL)


def choose(name: str, kv_heads: int | None = None) -> None:
    """Look at another map from now on, and at what is selected on it."""
    session.SOURCE.put(name)
    address.write("map", name)
    address.write("kv", str(kv_heads) if kv_heads else None)
    _selected()


def current_map() -> HeadMap:
    """The map that is looked at. ValueError, one sentence, where there is none."""
    return open_map(source(), _kv_heads())


def _kv_heads() -> int | None:
    text = address.place("kv")
    return int(text) if re.fullmatch(r"[1-9]\d{0,2}", text) else None


@dataclass(frozen=True)
class Step:
    """A selection, and the options of `retmask heads` that it was made by; none for one made by hand."""

    mask: HeadMask
    options: tuple[str, ...] = ()


def mask(grid: Grid) -> HeadMask:
    """The heads that are selected on the map that is looked at; each map has its own."""
    return _steps(grid)[-1].mask


def select(
    heads: Iterable[HeadId], grid: Grid, options: Sequence[str] = (), at: Mapping[HeadId, float] | None = None
) -> None:
    """Select exactly these heads, some of them `at` scales; `options` of `retmask heads` do the same. One `undo`.

    Else heads that stay keep their scale, and new ones get the scale that all selected heads have, or are masked.
    """
    before = mask(grid).scales
    scale = next(iter(before.values())) if len(set(before.values())) == 1 else 0.0
    scales = {**before, **(at or {})}
    set_mask(HeadMask({head: scales.get(head, scale) for head in sorted(set(heads))}), grid, options)


def set_mask(chosen: HeadMask, grid: Grid, options: Sequence[str] = ()) -> None:
    """Select these heads at these scales; the same heads at other scales are still those of the rule that made them."""
    steps = _steps(grid)
    last = steps[-1]
    step = Step(chosen, tuple(options) or (last.options if last.mask.heads == chosen.heads else ()))
    steps[-1:] = [step] if chosen == last.mask else [last, step]
    _selected()


def rescale(scale: float | None, grid: Grid) -> None:
    """Put all selected heads at one scale, to four decimals."""
    if scale is not None:
        set_mask(mask(grid).scaled(round(scale, 4)), grid)


def undo(grid: Grid) -> None:
    """Take back the last change of the selection."""
    if can_undo(grid):
        _steps(grid).pop()
        _selected()


def can_undo(grid: Grid) -> bool:
    """Whether there is a change to take back."""
    return len(_steps(grid)) > 1


def rule(grid: Grid) -> tuple[str, ...]:
    """Options of `retmask heads` that give the selection: the rule that made it, else the list of its heads."""
    step = _steps(grid)[-1]
    return step.options or (("--heads", ",".join(map(str, step.mask.heads))) if len(step.mask) else ())


def focus(grid: Grid) -> HeadId | None:
    """The head that is looked at closely, None where none has been chosen."""
    try:
        head = HeadId.parse(session.FOCUS.keep(lambda: address.place("head")))
    except ValueError:
        return None
    return head if grid.has(head) else None


def look_at(head: HeadId) -> None:
    """Look closely at a head."""
    session.FOCUS.put(str(head))
    session.draw_anew()
    address.write("head", str(head))


def _steps(grid: Grid) -> list[Step]:
    """The selections on the map that is looked at, oldest first; at least one. Its owner: the address only shows it."""
    selections = session.SELECTIONS.keep()
    key = (source(), grid.n_layers, grid.n_heads)
    if key not in selections:
        selections[key] = [Step(_named(grid))]
    return selections[key]


def _named(grid: Grid) -> HeadMask:
    """The heads that the address named when the session began, for the map that it named and for no other."""
    if session.SELECTIONS.keep() or source() != _source_at_start():
        return HeadMask()
    try:
        return from_url(address.at_start().get("heads", ""), grid)
    except ValueError as error:
        session.say(sentence(f"the selection in the address was left out: {error}"))
        address.write("heads", None)
        return HeadMask()


def _selected() -> None:
    """Draw a new selection, and show it in the address."""
    session.draw_anew()
    address.write("heads", _selection_text())


def _selection_text() -> str | None:
    """The selection on the map that is looked at, for the address; None for none."""
    here = [(key, steps) for key, steps in session.SELECTIONS.keep().items() if key[0] == source()]
    if not here:
        return None
    (_, n_layers, n_heads), steps = here[-1]
    return to_url(steps[-1].mask, Grid(n_layers, n_heads))


def condition(selected: HeadMask) -> str:
    """What is done to the selected heads: masked, or at which scale they are."""
    scales = set(selected.scales.values())
    if scales <= {0.0}:
        return "masked"
    return f"at scale {scales.pop():g}" if len(scales) == 1 else "at mixed scales"


def named(options: Sequence[str], scores: HeadScores) -> HeadMask:
    """The heads that options of `retmask heads` name on a map. ValueError where they can name none."""
    grid = scores.grid
    match options:
        case ("--threshold", least):
            return HeadMask.of(scores.above(float(least)))
        case ("--top", k):
            return HeadMask.of(scores.top(int(k)))
        case ("--random", k, "--seed", seed, *exclude):
            left_out = retrieval_heads(scores, "".join(exclude[1:]))
            return HeadMask.random(grid, int(k), int(seed), excluding=left_out)
        case ("--heads", listed):
            return HeadMask.parse(listed, grid)
    return HeadMask()


def options(scores: HeadScores) -> tuple[str, ...]:
    """Options of `retmask heads` that name the selected heads: the rule that made them for as long as it does.

    A map that is still being made may rank its heads otherwise by now; then they are listed.
    """
    heads, made_by = mask(scores.grid).heads, rule(scores.grid)
    with suppress(ValueError):  # no longer enough heads to draw from
        if named(made_by, scores).heads == heads:
            return made_by
    return "--heads", ",".join(map(str, heads))
