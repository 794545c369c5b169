"""`retmask bench ...`: our speed against the plain way, in one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from retmask.cli.options import out, takes
from retmask.detect.job import DEFAULT_MODEL, DetectSettings
from retmask.heads.grid import heads_words
from retmask.heads.rules import MaskRule
from retmask.runs.settings import check, setting, shared

app = typer.Typer(help="Measure our speed against the plain way, in one process.", no_args_is_help=True)


def bench_detect(settings: DetectSettings) -> None:
    """Run a detection and a plain loop on the same prompts; print both times, the ratio and the difference."""
    from analyses.bench import bench_detect as measure
    from retmask.model.loading import load

    device, dtype = settings.device or None, settings.dtype or None
    loaded = load(settings.model, device=device, dtype=dtype, context_tokens=max(settings.lengths))
    times = measure(loaded, settings)
    out.print(f"{loaded.name} on {loaded.device}, {loaded.dtype_name}, {loaded.attention}: {times.trials} trials")
    out.print(f"ours {times.ours:.1f} s, plain loop {times.plain:.1f} s, ratio {times.ratio:.3f}")
    out.print(
        f"same answers in {times.same_answers} of {times.trials} trials; scores differ in {times.differing_trials}, "
        f"by at most {times.largest_difference:.2g}"
    )


app.command("detect")(takes(DetectSettings, bench_detect))


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


def bench_pair(settings: PairSettings) -> None:
    """Time an unmasked and a masked answer in one batch against an unmasked one alone; print the ratio."""
    from analyses.bench import bench_pair as measure
    from retmask.model.loading import load

    check(settings)
    n_prompt, n_new, rounds = settings.prompt_tokens, settings.new_tokens, settings.rounds
    how: dict[str, Any] = {"device": settings.device or None, "dtype": settings.dtype or None}
    model = load(settings.model, context_tokens=n_prompt + n_new, **how)
    scores = settings.scores or Path(settings.model).name
    mask = MaskRule(scores=scores, share=settings.share).build(model.grid)
    times = measure(model, mask, n_prompt, n_new, rounds)
    out.print(
        f"{model.name} on {model.device}, {model.dtype_name}, {model.attention}: {heads_words(len(mask))} masked, "
        f"the first in layer {mask.first_layer} of {model.grid.n_layers}"
    )
    out.print(f"{n_prompt} + {n_new} tokens, fastest of {rounds} rounds in turn:")
    for name, seconds in times.items():
        out.print(f"  {name}: {seconds:.2f} s, {seconds / times['one']:.2f} of one")


app.command("pair")(takes(PairSettings, bench_pair))
