"""`retmask runs ...`: the long jobs that there are, and what can be done with them."""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from retmask.cli.options import out, print_table
from retmask.compare.ablate import ABLATE
from retmask.compare.dose import DOSE
from retmask.detect.job import DETECT
from retmask.evaluate.job import EVALUATE, contacted, sends
from retmask.files import home, unknown
from retmask.heads.scores import printable
from retmask.pairs.addresses import address
from retmask.pairs.job import PAIR
from retmask.runs import engine, overview
from retmask.runs.job import Job
from retmask.runs.overview import Summary, summary
from retmask.runs.processes import confirmed
from retmask.runs.run import ACTIVE, STATUSES, Run
from retmask.runs.worker import fail
from retmask.train.job import TRAIN

app = typer.Typer(help="List, follow, compare, resume, cancel and delete the long jobs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="RUN", help="its name, the beginning of its name, or its folder")]


@app.command("list")
def list_runs(
    kind: Annotated[str, typer.Option(help="only detect, dose, ablate, pairs, train or evaluate")] = "",
    status: Annotated[str, typer.Option(help=f"only {', '.join(STATUSES)}")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """The runs, newest first."""
    if status and status not in STATUSES:
        raise unknown("status", status, STATUSES)
    if kind and kind not in JOBS:
        raise unknown("kind", kind, JOBS)
    rows = [row for run in Run.all(kind or None) if (row := summary(run)).status == status or not status]
    if as_json:
        return typer.echo(json.dumps([asdict(row) for row in rows]))
    if not rows:
        which = f" of kind {kind}" * bool(kind) + f" with status {status}" * bool(status)
        return out.print(f"there are no runs{which}: `retmask detect` makes one, in {home() / 'runs'}")
    cells = (map(printable, (row.run, row.kind, row.status, _took(row), row.why or row.words)) for row in rows)
    print_table(("run", "kind", "status", "took", "progress"), cells, whole="run kind status took")


def _took(row: Summary) -> str:
    return "" if row.seconds is None else overview.duration(row.seconds)


@app.command()
def show(name: Name, as_json: Annotated[bool, typer.Option("--json", help="print run.json")] = False) -> None:
    """One run: how it stands, what it was made from, what it wrote, the command that does the same."""
    run = Run.find(name)
    if as_json:
        return typer.echo(json.dumps(run.record, ensure_ascii=False))
    print_table(("", ""), ((key, printable(value)) for key, value in _facts(run)))
    if run.status == "error":
        out.print("\nlast words:", *map(printable, run.last_words.splitlines()), sep="\n")


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    row = summary(run)
    yield from (("run", row.run), ("kind", row.kind), ("model", row.model), ("status", row.status))
    yield "progress", row.words
    for what in ("created", "started", "ended"):
        yield what, overview.when(getattr(row, what)) or "–"
    yield "took", _took(row) or "–"
    yield "made from", ", ".join(row.parents) or "–"
    yield "made from it", ", ".join(child.id for child in run.children) or "–"
    yield "command", run.command or "–"
    yield "folder", row.path
    for output in overview.outputs(run):
        files = "" if not output.name.endswith("/") else f", {output.files} file{'s' * (output.files != 1)}"
        yield "wrote", f"{output.name} ({overview.size(output.size)}{files})"


@app.command()
def compare(names: Annotated[list[str], typer.Argument(metavar="RUN...", help="two runs or more")]) -> None:
    """The settings in which runs differ, and the figures that they have come to, side by side."""
    runs = [Run.find(name) for name in names]
    if len(runs) < 2:
        raise ValueError("one run cannot be compared: name two or more")
    for rows in (overview.differences(runs), overview.results(runs)):
        if rows:
            print_table([*map(printable, rows[0])], (map(printable, row.values()) for row in rows))
            out.print()


@app.command()
def log(
    name: Name,
    lines: Annotated[int, typer.Option(min=0, help="how many, from the end")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", help="go on as long as the run does; Ctrl-C stops looking")
    ] = False,
) -> None:
    """The end of a run's log; with --follow also how far it is, as it goes."""
    run = Run.find(name)
    tail = run.log_tail(lines) if lines else ""
    if tail:
        typer.echo(tail)
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(run)


def _follow(run: Run) -> None:
    """Print what comes, until the run is over: what its log says, and how far it is whenever that changes."""
    shown, at = "", run.log_size
    while True:
        status = run.status  # before the rest is read: what a run wrote last is printed too
        with suppress(FileNotFoundError), (run.path / "log.txt").open("rb") as file:
            file.seek(at)
            new = file.read()
            at += len(new)
            typer.echo(new.decode(errors="replace"), nl=False)
        words = f"{status}: {overview.progress(run, status)[1]}"
        if words != shown:
            shown = words
            typer.echo(words)
        if status not in ACTIVE:
            return
        time.sleep(0.5)


@app.command()
def cancel(name: Name) -> None:
    """Stop a run; what it has finished is kept. A training finishes its step first; once more ends it at once."""
    run = Run.find(name)
    status = run.status
    if status == "started" and run.record.get("kind") == "train" and not run.asked:
        typer.echo(f"{run.id} stops after its present step; the same command once more ends it at once", err=True)
    engine.cancel(run)  # also where it is over: it may have left processes behind
    if status not in ACTIVE:
        raise ValueError(f"{run.id} is over: its status is {status}")
    if run.asked:
        where = f"it runs on {run.elsewhere}, and stops when it sees the request in its folder"
        return typer.echo(f"{run.id} is asked to stop: {where}")
    typer.echo(f"{run.id}: {run.status}")


@app.command()
def resume(
    name: Name,
    server: Annotated[
        list[str] | None, typer.Option(help="a server that it may send its prompts to; each of those that it asks")
    ] = None,
) -> None:
    """Let a run that was cancelled or failed go on where it was, in the background."""
    run = Run.find(name)
    if run.status == "success":
        raise ValueError(f"{run.id} is finished: there is nothing left to do")
    servers = contacted(run)
    if {address(url) for url in servers} - {address(url) for url in server or ()}:
        if not sys.stdin.isatty():
            named = " ".join(f"--server {url}" for url in dict.fromkeys(servers))
            raise ValueError(f"{sends(run)}: if that is what you want, name them: {named}")
        if not typer.confirm(f"{sends(run)}. Go on?"):
            return typer.echo("nothing was sent")
    engine.spawn(run, servers)
    return typer.echo(f"{run.id} goes on in the background; to follow it: retmask runs log {run.reference} --follow")


@app.command()
def rm(name: Name, yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False) -> None:
    """Delete a run with all that it wrote."""
    run = Run.find(name)
    children = ", ".join(child.id for child in run.children)
    made = f" What was made from it is kept: {children}." if children else ""
    size = overview.size(sum(output.size for output in overview.outputs(run)))
    if run.is_active:
        raise ValueError(f"{run.id} is not over, it is {run.status}: cancel it first")
    if not yes and not typer.confirm(f"Delete {run.id} ({size})?{made}"):
        return typer.echo("nothing was deleted")
    engine.remove(run)
    typer.echo(f"{run.id} is deleted.{made}")


JOBS: dict[str, Job[Any]] = {job.kind: job for job in (DETECT, DOSE, ABLATE, PAIR, TRAIN, EVALUATE)}


def work(run: Run) -> None:
    """Do a run's job to its end: what the worker process calls. ValueError for a run of no kind that is known."""
    kind = run.record.get("kind")
    if kind not in JOBS:
        raise ValueError(f"{run.path} is a run of kind {kind!r}: known are {', '.join(JOBS)}")
    for _ in JOBS[kind].work(run, servers=confirmed()):
        pass


def worker(folder: Path) -> None:
    """Do a queued run: what the page starts. The page goes first where both want the processor."""
    os.nice(19)  # measured: beside it the page answers at nearly full speed, at 5 it took half as long again
    with suppress(OSError):  # Linux may share time among sessions first: niceness alone then counts within one
        Path("/proc/self/autogroup").write_text("19")
    with suppress(OSError):  # where memory runs out, the kernel ends this and not the app
        Path("/proc/self/oom_score_adj").write_text("1000")
    run = Run.open(folder)
    try:
        work(run)
    except Exception as error:
        traceback.print_exc()  # into the run's log: whoever reports a fault finds it there
        fail(run, error)
        raise
