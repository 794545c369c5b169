"""What the commands share: their options, how a job's progress is shown, and the numbers in a list."""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from retmask.detect.job import PRESETS
from retmask.heads.rules import MaskRule
from retmask.runs.job import Progress
from retmask.runs.overview import behind, duration, stopping_words
from retmask.runs.run import Run

out = Console(highlight=False, soft_wrap=True)

Model = Annotated[str, typer.Argument(help="built-in name, Hub id, folder with safetensors, or .gguf file")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; by default cuda where there is one")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16; by default bfloat16 on cuda, else float32")]
PresetName = Annotated[str, typer.Option(help=f"the grid: {', '.join(PRESETS)}")]
Lengths = Annotated[str, typer.Option(help="context lengths in tokens, prompt and answer: 512,1024")]
Revision = Annotated[str, typer.Option(help="branch, tag or commit of a Hub model")]
Adapter = Annotated[str, typer.Option(help="a PEFT adapter folder, merged into the model")]
OutDir = Annotated[Path | None, typer.Option("--out", help="folder for the results; the same continues it")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run code from the model's repository: only if you trust it")
]
Depths = Annotated[str, typer.Option(help="needle depths, 0 = beginning, 1 = end: 0,0.5,1")]
MaskFile = Annotated[str, typer.Option("--mask", help="a saved mask: its name or file")]
MaskHeads = Annotated[str, typer.Option("--heads", help="these heads, each with a scale if you like: L17H3,L18H6:0.5")]
TopK = Annotated[int, typer.Option(show_default=False, help="the best so many heads of --scores")]
Above = Annotated[
    float, typer.Option("--threshold", show_default=False, help="the heads of --scores with at least this mean score")
]
Share = Annotated[float, typer.Option(show_default=False, help="the best share of all heads of --scores, such as 0.05")]
Draw = Annotated[
    int,
    typer.Option("--random", show_default=False, help="so many random heads, no retrieval head of --scores"),
]
Exclude = Annotated[
    str,
    typer.Option(
        show_default=False,
        help="what random heads never are, the retrieval heads of the scores: those with this mean score (0.05) or the "
        "best share (5%); by default 0.1 where copies are counted, else 5%",
    ),
]
ScoreFile = Annotated[str, typer.Option(help="a score file, a folder of detect, or a built-in model's name")]
Scale = Annotated[
    float, typer.Option(help="0 masks, below 1 weakens, up to 2 emphasises; by default the mask's own, or 0")
]


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
    said = "loading"
    while not over.wait(1):
        holder = "" if begun.is_set() else behind(run)
        says = f"waiting for {holder}, which has the device" if holder else "loading"
        if run.asked:
            says = f"{stopping_words(run)} Ctrl-C once more ends it at once"
        elif begun.is_set():
            continue
        if says != said:
            bar.update(line, description=says)
            if not sys.stderr.isatty():
                typer.echo(says, err=True)
        said = says


def given(scale: float) -> float | None:
    """The scale, None where none was given."""
    return None if math.isnan(scale) else scale


def numbers(text: str, kind: Callable[[str], Any], flag: str, example: str) -> tuple[Any, ...]:
    """The numbers in a list with commas. ValueError, with an example of what the flag takes, where one is none."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{flag} {text!r} is not a list of numbers: write them with commas, such as {example}"
        ) from None


def mask_rule(
    mask: str, heads: str, top_k: int, threshold: float, share: float, random: int, seed: int, scores: str,
    scale: float, exclude: str,
) -> MaskRule:  # fmt: skip
    return MaskRule(mask, heads, top_k, threshold, share, random, seed, scores, given(scale), exclude)
