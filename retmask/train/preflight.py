"""What a training would take, known before it starts: the trainer's own pairs, and its model without weights."""

import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retmask.files import home, mapping, number
from retmask.pairs.files import pairs_file, read_rows
from retmask.runs.overview import duration
from retmask.runs.run import Run
from retmask.runs.turns import card_keys, device_key, devices
from retmask.train.launch import placing, unshared
from retmask.train.settings import TrainSettings

if TYPE_CHECKING:
    import torch

    from retmask.model.loading import Plan

_OF_THE_BEST = 0.6  # a training's share of the speed at which matrices are multiplied: about, not calibrated
_GIB = 2**30


class Preflight(NamedTuple):
    """What a training would take, known before it starts: sizes in bytes, lengths in tokens, shares 0-1.

    `problems` are sentences, each with the number to change; with none it can start. `warnings` can be lived with.
    `left_out` are the ids of pairs that would teach nothing; `trained` is how many numbers are trained; `seconds` is
    about how long it will take, 0 where that cannot be told.
    """

    pairs: int
    held_out: int
    steps: int
    longest: int
    cut: float
    needed: int
    free: int
    disk_needed: int
    disk_free: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    trained: int = 0
    seconds: float = 0.0

    @property
    def sentence(self) -> str:
        """The same in words."""
        left = f", {len(self.left_out):,} left out" if self.left_out else ""
        return (
            f"{_many(self.steps, 'step')} over {_many(self.pairs, 'pair')} ({self.held_out:,} held out{left}); "
            f"{self.cut:.0%} of the pairs are cut by max length, the longest has {self.longest:,} tokens; "
            f"{self.trained:,} numbers are trained; about {self.needed / _GIB:.1f} GiB of memory "
            f"({self.free / _GIB:.1f} free), {self.disk_needed / _GIB:.2f} GiB of disk ({self.disk_free / _GIB:.1f} "
            f"free) and {duration(self.seconds)}."
        )


def preflight(settings: TrainSettings, out: Path | None = None, trust_remote_code: bool = False) -> Preflight:
    """What this training would take. ValueError, one sentence, where model or pairs cannot be read at all."""
    from retmask.model.fit import choose_device, choose_dtype, count_weights, free_bytes, longest_context
    from retmask.model.loading import load_tokenizer, plan
    from retmask.train.lora import trained_numbers
    from retmask.train.tokens import moment, prepared

    file = pairs_file(settings.pairs)
    device = choose_device(settings.device or None)
    dtype = choose_dtype(settings.dtype or None, device)
    planned = plan(
        settings.model,
        revision=settings.revision or None,
        device=device,
        dtype=dtype,
        attention=settings.attention or None,
        trust_remote_code=trust_remote_code,
    )
    tokenizer = load_tokenizer(planned.source, trust_remote_code)
    when = moment({"made_with": Run(file.parent).record})
    pairs = prepared(read_rows(file), tokenizer, planned.vocabulary, settings, when)
    weights = count_weights(planned.empty)
    trained = trained_numbers(settings, planned.empty)
    # of what is trained: the weight, its gradient and Adam's two moments, or a bfloat16 pair with a float32 copy
    frozen = 0 if settings.method == "full" else weights * dtype.itemsize
    passes = _pass_bytes(settings, planned, pairs.longest, dtype)
    folder, steps = _existing(out or home()), _steps(len(pairs.train), settings)
    speed = known_speed(settings) or _speed(weights, settings, device, dtype)
    needs = Preflight(
        pairs=len(pairs.train),
        held_out=len(pairs.held_out),
        steps=steps,
        longest=pairs.longest,
        cut=pairs.cut,
        needed=int(1.1 * (frozen + 16 * trained + passes)),
        free=int(free_bytes(device)),
        disk_needed=3 * 3 * 4 * trained + 4 * trained,  # two checkpoints and the one being written, then the result
        disk_free=shutil.disk_usage(folder).free,
        left_out=pairs.left_out,
        trained=trained,
        seconds=steps * settings.batch * pairs.tokens / max(1, len(pairs.train)) / speed,
    )
    problems = _problems(needs, settings, folder, longest_context(planned.config))
    return needs._replace(
        problems=tuple(problems), warnings=(*_warnings(needs, settings, planned.empty), *pairs.doubts)
    )


def _pass_bytes(settings: TrainSettings, planned: "Plan", longest: int, dtype: "torch.dtype") -> int:
    """What the pass over the longest pair, both of its sequences, keeps for the way back."""
    from retmask.model.fit import kept_bytes

    length = min(longest, settings.max_length)
    return kept_bytes(
        planned.config,
        2 * settings.micro_batch * length,
        length,
        attention=planned.attention,
        checkpointing=settings.gradient_checkpointing,
        dtype=dtype,
    )


def known_speed(settings: TrainSettings) -> float:
    """The tokens a second of the last training of that model on the same kind of device; 0 where there is none."""
    wanted = (settings.model, settings.method, device_key(settings.device))
    for run in Run.all("train"):
        config = run.config
        if (config.get("model"), config.get("method"), device_key(str(config.get("device") or ""))) == wanted:
            speeds = [number(line.get("tokens_per_s")) for line in run.latest if line.get("stage") == "steps"]
            if speeds and speeds[-1] > 0:
                return speeds[-1]
    return 0.0


def _speed(weights: int, settings: TrainSettings, device: "torch.device", dtype: "torch.dtype") -> float:
    """About how many tokens a second are trained on: from how fast the device multiplies two matrices just now.

    A token takes 2 operations a weight forwards, 4 backwards and 2 for the reference (Kaplan et al. 2020).
    """
    import torch

    side = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - begin)
    rate = 2 * side**3 / min(times)
    return _OF_THE_BEST * rate / ((10 if settings.gradient_checkpointing else 8) * weights)


def _steps(pairs: int, settings: TrainSettings) -> int:
    """How many steps there will be, as the trainer counts them."""
    return settings.max_steps or math.ceil(settings.epochs * max(1, math.ceil(pairs / settings.batch)))


def _problems(needs: Preflight, settings: TrainSettings, folder: Path, reads: int) -> Iterator[str]:
    if needs.pairs + needs.held_out < 2:
        left = "no pair is left to train on" if not needs.pairs else "one pair is too few to train on"
        longer = f"raise max length to {needs.longest}, or " if needs.left_out else ""
        yield f"{left}{_left_out(needs, settings)}: {longer}make more pairs"
    if needs.needed > needs.free and not settings.accelerate_config and not _later(needs, settings):
        yield f"{_memory(needs.needed, needs.free)}: {_less_memory(settings)}"
    yield from _unshared(settings)
    if needs.disk_needed > needs.disk_free:
        yield (
            f"checkpoints need about {needs.disk_needed / _GIB:.2f} GiB and {needs.disk_free / _GIB:.2f} are free on "
            f"the disk of {folder}: free some, or choose another --out"
        )
    if not os.access(folder, os.W_OK):
        yield f"{folder} cannot be written to: choose another --out"
    if settings.report_to != "none" and find_spec(settings.report_to) is None:
        yield f"{settings.report_to} is not installed: pip install {settings.report_to}, or report to none"
    if needs.cut == 1:
        yield f"every pair is longer than max length {settings.max_length}: raise it to {needs.longest}"
    if min(needs.longest, settings.max_length) > reads:
        yield f"the model reads {reads:,} tokens and the longest pair has {needs.longest:,}: max length {reads} at most"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _left_out(needs: Preflight, settings: TrainSettings) -> str:
    """How many pairs are left out and why, to follow a clause; empty for none."""
    many = len(needs.left_out)
    why = f"whose prompt alone fills max length {settings.max_length} or whose answers are the same up to there"
    return f", {many:,} {'is' if many == 1 else 'are'} left out {why}" if many else ""


def _memory(needed: int, free: int) -> str:
    return f"training needs about {needed / _GIB:.1f} GiB of memory and {free / _GIB:.1f} are free"


def _later(needs: Preflight, settings: TrainSettings) -> str:
    """The run that this one would wait behind, where the device has room enough once that is over; else empty."""
    from retmask.model.fit import choose_device, total_bytes

    return ahead(settings) if needs.needed <= total_bytes(choose_device(settings.device or None)) else ""


def ahead(settings: TrainSettings) -> str:
    """The run that works now on a device which a training of these settings would take; empty for none."""
    key = device_key(settings.device)
    own = {key, *(card_keys(settings.processes) if key.startswith("cuda") else [])}
    started = (run for run in Run.all() if run.status == "started")
    return next((run.reference for run in started if own & {*devices(str(run.record.get("kind")), run.config)}), "")


def _unshared(settings: TrainSettings) -> Iterator[str]:
    """What is wrong with how a step is shared out over processes and the cards of this machine."""
    import torch

    from retmask.model.fit import choose_device

    try:
        cards = placing(settings).processes
    except ValueError as error:
        yield str(error)
        return
    there = torch.cuda.device_count()
    if choose_device(settings.device or None).type == "cuda" and not settings.accelerate_config and cards > there:
        yield f"{cards} GPUs were asked for and {there} are here: lower processes"
    if sentence := unshared(settings, cards):
        yield sentence


def _less_memory(settings: TrainSettings) -> str:
    """What to change so that less memory is needed."""
    if settings.micro_batch > 1:
        return f"lower micro batch from {settings.micro_batch} to 1"
    if not settings.gradient_checkpointing:
        return "switch gradient checkpointing on"
    if settings.method == "full":
        return "share it out with an accelerate config (DeepSpeed or FSDP), or train a LoRA adapter"
    return f"lower max length from {settings.max_length}, or take a smaller model"


def _warnings(needs: Preflight, settings: TrainSettings, adapted: Any) -> Iterator[str]:
    if needs.needed > needs.free:
        if settings.accelerate_config:
            yield f"{_memory(needs.needed, needs.free)} on one device; the accelerate config is to share it out"
        elif before := _later(needs, settings):
            yield f"{_memory(needs.needed, needs.free)} now; it waits behind {before} and looks again after that"
    if needs.left_out and needs.pairs:
        some = ", ".join(needs.left_out[:5]) + (", ..." if len(needs.left_out) > 5 else "")
        used = needs.pairs + needs.held_out
        yield f"{_many(used, 'pair')} {'is' if used == 1 else 'are'} used{_left_out(needs, settings)}: {some}"
    if settings.eval_share and not needs.held_out:
        yield (
            f"no pair is held out: {settings.eval_share:.0%} of {_many(needs.pairs, 'pair')} is less than one, so that "
            "no reward accuracy will be measured"
        )
    if 0 < needs.cut < 1:
        yield (
            f"{needs.cut:.0%} of the pairs are longer than max length {settings.max_length} and lose their end: "
            f"raise it to {needs.longest}"
        )
    if needs.pairs and needs.steps * settings.batch > 3 * needs.pairs * max(1.0, settings.epochs):
        over = f"{_many(needs.pairs, 'pair')} more than three times"
        yield f"{_many(needs.steps, 'step')} of {_many(settings.batch, 'pair')} go over {over}"
    if settings.method == "lora" and settings.target == "all" and _experts_left_alone(adapted):
        yield "the experts get no adapter, only attention and what else is linear: PEFT does not know how they are kept"


def _experts_left_alone(adapted: Any) -> bool:
    """Whether a mixture's experts, which are one tensor with three axes for all of them, have no adapter."""
    kinds = {type(module).__name__ for module in adapted.modules()}
    return "ParamWrapper" not in kinds and any(weight.ndim == 3 for weight in adapted.parameters())


def check_memory(record: Mapping[str, Any], settings: TrainSettings) -> None:
    """ValueError where what the pre-flight in a run's record says is needed is not free now that it is its turn."""
    from retmask.model.fit import choose_device, free_bytes

    needed = int(number(mapping(record.get("preflight")).get("needed")))
    free = int(free_bytes(choose_device(settings.device or None)))
    if needed > free and not settings.accelerate_config:
        raise ValueError(f"{_memory(needed, free)}: {_less_memory(settings)}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
