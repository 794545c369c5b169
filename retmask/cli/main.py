"""The command line: `retmask ...`. Each command is the twin of something on the page."""

import errno
import io
import logging
import os
import re
import shlex
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from retmask import __version__
from retmask.cli import bench, compare, evaluate, families, heads, pairs, runs, train
from retmask.runs import faults
from retmask.runs.worker import Cancelled

app = typer.Typer(
    help="Find the attention heads that copy from the context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "detect": heads.detect,
    "heads": heads.heads,
    "compare": compare.compare,
    "dose": compare.dose,
    "ablate": compare.ablate,
    "pairs": pairs.pairs,
    "join": pairs.join_shards,
    "train": train.train,
    "merge": train.merge,
    "evaluate": evaluate.evaluate,
    "families": families.families,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.command("worker", hidden=True)(runs.worker)
app.add_typer(runs.app, name="runs")
app.add_typer(bench.app, name="bench")


@app.command("app")
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="by default 8501", show_default=False)] = None,
) -> None:
    """Serve the pages to a browser on this machine, until Ctrl-C."""
    root = Path(__file__).parents[2]  # its settings lie beside it in app/.streamlit: Streamlit looks there first
    if not (root / "app" / "main.py").is_file():
        raise ValueError(f"the app is not there: {root} holds no app/main.py, install retmask anew")
    if port or "STREAMLIT_SERVER_PORT" not in os.environ:
        _check_free(port or 8501)
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(root / "app" / "main.py")]
    os.execv(sys.executable, command + (["--server.port", str(port)] if port else []))


def _check_free(port: int) -> None:
    """ValueError where something on this machine listens on that port already, or it may not be listened on."""
    with socket.socket() as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: one that ended is no matter
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            why = (
                "is taken, maybe by this app"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used ({error.strerror})"
            )
            raise ValueError(f"port {port} {why}: choose another, such as --port {port % 60000 + 1000}") from None


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"retmask {__version__}")
        raise typer.Exit


@app.callback()
def everything(
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error; before or after a command")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="say which version this is", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What holds for every command: `main` reads `--debug` wherever it stands."""


def main() -> None:
    """Run the command of this process's arguments, and end with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Whatever goes wrong is one sentence on stderr, with `--debug` after its traceback.

    2: an input is wrong. 1: a command's own no, or something that nobody has foreseen. 130: stopped by the person.
    """
    for library, variable in (("transformers", "TRANSFORMERS_VERBOSITY"), ("huggingface_hub", "HF_HUB_VERBOSITY")):
        logging.getLogger(library).setLevel(logging.ERROR)  # their warnings are for programmers; where not imported yet
        os.environ.setdefault(variable, "error")  # importing one sets its level anew, by this
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    if "--debug" in arguments:
        os.environ["RETMASK_DEBUG"] = "1"
    try:
        words = [_text(word) for word in arguments if word != "--debug"]
        _check_name(words)
        code = _command()(words, "retmask", standalone_mode=False)
        code = code if isinstance(code, int) else 0
        if code == 130:  # Ctrl-C outside a run
            typer.echo("retmask: stopped", err=True)
        return code
    except Cancelled:
        typer.echo(
            "stopped; what was finished is kept, and the same command with the same --out continues it", err=True
        )
        return 130
    except typer.Abort:
        typer.echo("retmask: stopped, nothing was done", err=True)
        return 130
    except Exception as error:
        return _refused(error)


@cache
def _command() -> Any:
    """The commands as typer has them: putting them together takes as long as many a command."""
    return typer.main.get_command(app)


def _check_name(words: Sequence[str]) -> None:
    """ValueError for a command by the name it had before: what it is called today."""
    first, *rest = words or [""]
    if first == "ask":
        raise ValueError(f"`ask` is `compare` now: {shlex.join(['retmask', 'compare', *rest])}")
    asks = any(word.startswith(("--prompt", "--needle", "--help")) for word in rest)
    if first == "compare" and not asks:
        ways = "--prompt TEXT, --prompt-file FILE, or --needle NAME"
        raise ValueError(f"say what to ask in one way: {ways}; `retmask families` compares score sets")


def _text(word: str) -> str:
    """An argument. ValueError for bytes that are no text: no record could hold them."""
    if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
        raise ValueError(f"the argument {word[:80]!a} is no text in UTF-8: write it so, or rename the file")
    return word


def _refused(error: Exception) -> int:
    """Say in a sentence why a command could not be run; the exit code."""
    usage, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context:
        typer.echo(context.get_help())
        return 2
    if faults.debugging() and not usage:
        traceback.print_exc()
    if usage:
        where = f": `{context.command_path} --help` shows what can be given" if context else ""
        words = re.sub(r"\. Did you mean '(.*)'\?$", r" (did you mean \1?)", " ".join(usage().split()))
        words = words.rstrip(".") + where
    else:
        words = faults.sentence(error) if faults.is_expected(error) else faults.unexpected(error)
    typer.echo(f"retmask: {words}", err=True)
    return 2 if usage or faults.is_expected(error) else 1
