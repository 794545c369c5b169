"""`retmask bench ...`: our speed against the plain way, in one process; `analyses.bench` measures and prints it."""

from dataclasses import dataclass

import typer

from retmask.cli.options import takes
from retmask.detect.job import DEFAULT_MODEL, DetectSettings
from retmask.runs.settings import setting, shared

app = typer.Typer(help="Measure our speed against the plain way, in one process.", no_args_is_help=True)


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Which two answers are timed."""

    model: str = shared("model", DEFAULT_MODEL)
    scores: str = setting("", "a score file, a folder of detect, or a built-in model's name")
    share: float = setting(0.05, "the share of heads that is masked")
    prompt_tokens: int = setting(1000, "of the prompt")
    new_tokens: int = setting(64, "of the answers")
    rounds: int = setting(5, "how often each is timed, in turn", min=1, max=1000)
    device: str = shared("device")
    dtype: str = shared("dtype")


def _detect(settings: DetectSettings) -> None:
    """Run a detection and a plain loop on the same prompts; print both times, the ratio and the difference."""
    from analyses.bench import print_detect

    print_detect(settings)


def _pair(settings: PairSettings) -> None:
    """Time an unmasked and a masked answer in one batch against an unmasked one alone; print the ratio."""
    from analyses.bench import print_pair

    print_pair(settings)


ALIKE = "counting detector keep_prompts until_stable revision adapter"  # of a detection: the plain loop has none of it
app.command("detect")(takes(DetectSettings, _detect, without=ALIKE))
app.command("pair")(takes(PairSettings, _pair))
