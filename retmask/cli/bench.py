"""`retmask bench ...`: our speed against the plain way, in one process."""

from pathlib import Path
from typing import Annotated

import typer

from retmask.cli.flags import takes
from retmask.cli.options import Device, Dtype, Model, ScoreFile, out
from retmask.detect.job import DEFAULT_MODEL, DetectSettings
from retmask.heads.grid import heads_words
from retmask.heads.rules import MaskRule

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


@app.command("pair")
def bench_pair(
    model: Model = DEFAULT_MODEL,
    scores: ScoreFile = "",
    share: Annotated[float, typer.Option(help="the share of heads that is masked")] = 0.05,
    prompt_tokens: Annotated[int, typer.Option(help="of the prompt")] = 1000,
    new_tokens: Annotated[int, typer.Option(help="of the answers")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="how often each is timed, in turn")] = 5,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Time an unmasked and a masked answer in one batch against an unmasked one alone; print the ratio."""
    from analyses.bench import bench_pair as measure
    from retmask.model.loading import load

    loaded = load(model, device=device or None, dtype=dtype or None, context_tokens=prompt_tokens + new_tokens)
    mask = MaskRule(scores=scores or Path(model).name, share=share).build(loaded.grid)
    times = measure(loaded, mask, prompt_tokens, new_tokens, rounds)
    out.print(
        f"{loaded.name} on {loaded.device}, {loaded.dtype_name}, {loaded.attention}: {heads_words(len(mask))} masked, "
        f"the first in layer {mask.first_layer} of {loaded.grid.n_layers}"
    )
    out.print(f"{prompt_tokens} + {new_tokens} tokens, fastest of {rounds} rounds in turn:")
    for name, seconds in times.items():
        out.print(f"  {name}: {seconds:.2f} s, {seconds / times['one']:.2f} of one")
