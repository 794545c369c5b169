"""What the commands share: flags that are made from the fields of settings, and how a run's progress is shown."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from retmask.runs.job import Progress
from retmask.runs.overview import behind, duration, stopping_words
from retmask.runs.run import Run
from retmask.runs.settings import USUAL, Flag, flags, from_preset, inner, limits, typed

_PIPED = 10_000  # columns: whoever reads what is piped has every line whole
# Names may hold brackets: no markup.
out = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else _PIPED)
OutDir = Annotated[Path | None, typer.Option("--out", help="folder for the results; the same continues it")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run code from the model's repository: only if you trust it")
]


def print_table(headings: Sequence[str], rows: Iterable[Iterable[str]], whole: str = "") -> None:
    """Print a table: whole where it is piped; on a terminal that is too narrow its cells go on in further lines.

    `whole` names, by headings, the columns that do so last. A table whose headings are all empty has none.
    """
    kept = whole.split() if out.width >= 80 else []
    columns = (Column(heading, overflow="fold", no_wrap=heading in kept) for heading in headings)
    table = Table(*columns, box=None, pad_edge=False, show_header=any(headings))
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)


def takes(cls: Any, fun: Callable[..., None], without: str = "") -> Callable[..., None]:
    """A command with the flags of those settings before its own: it is called with `settings` made from them.

    Where the settings have presets there is `--preset` too, and a flag that is left out keeps the preset's value.
    `without` names the settings that mean nothing to the command: they keep their defaults, and have no flag.
    """

    def command(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name in parameters}
        fun(settings=made(cls, given), **own)

    parameters = dict(inspect.signature(fun).parameters)
    parameters.pop("settings")
    signature = [
        *_options(cls, without.split()),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters.values()),
    ]
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in signature}
    command.__name__, command.__doc__ = fun.__name__, fun.__doc__
    return command


def made(cls: Any, given: Mapping[str, Any]) -> Any:
    """The settings that flags give, by parameter name. ValueError for what cannot be."""
    values: dict[str, Any] = {}
    for flag in flags(cls):
        value = given.get("_".join(flag.path))
        if value is not None:
            *outer, name = flag.path
            where = values
            for part in outer:
                where = where.setdefault(part, {})
            where[name] = typed(flag.field, value, f"--{flag.name}")
    for each in fields(cls):
        if (inside := inner(each)) and each.name in values:
            values[each.name] = inside(**values[each.name])
    return from_preset(cls, given["preset"], **values) if hasattr(cls, "presets") else cls(**values)


def _options(cls: Any, without: Sequence[str]) -> list[inspect.Parameter]:
    """A parameter for each flag, as typer reads them."""
    presets = getattr(cls, "presets", {})
    out = [_option(flag, bool(presets)) for flag in flags(cls) if flag.path[0] not in without]
    if presets:
        help = ", ".join(f"{name} ({each.says})" for name, each in presets.items())
        out.insert(1, _parameter("preset", Annotated[str, typer.Option(help=help)], USUAL))
    return sorted(out, key=lambda each: each.default is not inspect.Parameter.empty)


def _option(flag: Flag, by_preset: bool) -> inspect.Parameter:
    """The parameter of a flag; None is what is left out, unless its default is shown."""
    each, marks = flag.field, flag.field.metadata
    choices = marks.get("choices", ())
    means = "; ".join(f"{name}: {choices[name]}" for name in choices if name) if isinstance(choices, Mapping) else ""
    range_ = means or " or ".join(filter(None, choices)) or limits(marks)
    help = marks["help"] + f" ({range_})" * bool(range_)
    kind: Any = _kind(flag)
    help += ", with commas" * (get_origin(each.type) is tuple and kind is str)
    shown = not by_preset and each.default not in (MISSING, None, False, "", 0, 0.0, ()) and not inner(each)
    usual = inspect.Parameter.empty if each.default is MISSING else each.default
    if marks.get("argument"):
        return _parameter("_".join(flag.path), Annotated[kind, typer.Argument(help=help)], usual)
    usual = ",".join(map(str, usual)) if isinstance(usual, tuple) else usual
    default = usual if shown or each.default is MISSING else None
    hint = kind if each.default is MISSING else kind | None
    names = f"--{flag.name}" + (f"/--no-{flag.name}" if kind is bool and (by_preset or each.default is True) else "")
    option = typer.Option(names, help=help, show_default=shown)
    return _parameter("_".join(flag.path), Annotated[hint, option], default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _kind(flag: Flag) -> Any:
    """The type that typer is to read: lists with commas are texts, and so are closed sets, whose values we check."""
    kind = flag.field.type
    if get_origin(kind) is tuple:
        return list[str] if flag.field.metadata.get("repeated") else str
    if kind in (bool, int, float, str):
        return kind
    return next((part for part in get_args(kind) if part in (int, float)), str)


def progress(steps: Iterator[Progress], run: Run, words: Callable[..., str]) -> None:
    """Show how far a run is: a bar on a terminal, lines elsewhere. `words` says what a step's facts, `done`, are."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    begun, over = threading.Event(), threading.Event()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(f"loading {run.record['config']['model']}", total=None)
        threading.Thread(target=_say_state, args=(run, begun, over, bar, line), daemon=True).start()
        try:
            for done, total, eta, facts in steps:
                begun.set()
                says = words(**{"done": done, **facts}) + ("" if eta is None else f", {duration(eta)} left")
                bar.update(line, completed=done, total=total, description=says)
                if not sys.stderr.isatty():
                    typer.echo(f"{done}/{total}: {says}", err=True)
        finally:
            begun.set()
            over.set()


def _say_state(run: Run, begun: threading.Event, over: threading.Event, bar: Bar, line: TaskID) -> None:
    """Say which run has the device, as long as this one waits for it, and that it is stopping, when it is."""
    shown = "loading"
    while not over.wait(1):
        holder = "" if begun.is_set() else behind(run)
        says = f"waiting for {holder}, which has the device" if holder else "loading"
        if run.asked:
            says = f"{stopping_words(run)} Ctrl-C once more ends it at once"
        elif begun.is_set():
            continue
        if says != shown:
            bar.update(line, description=says)
            if not sys.stderr.isatty():
                typer.echo(says, err=True)
        shown = says
