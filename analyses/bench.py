"""Measurements of our own speed, against the plain way of doing the same, in one process on the same prompts."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import DynamicCache

from retmask.cli.bench import PairSettings
from retmask.cli.options import out
from retmask.detect.job import DetectSettings
from retmask.detect.trials import different_prompts, run_trials
from retmask.heads.grid import heads_words
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule, control
from retmask.heads.trials import Trial
from retmask.model.bridge import second_view
from retmask.model.decoding import Answer, answers, decode
from retmask.model.lens import LensModel
from retmask.model.loading import load
from retmask.runs.settings import check
from retmask.text.chat import Chat
from retmask.text.haystack import load_haystack
from retmask.text.needle import ANSWER_TOKENS, NeedlePrompt


class DetectTimes(NamedTuple):
    """Seconds for the same trials, ours and the plain loop's, and how far their scores and answers differ."""

    trials: int
    ours: float
    plain: float
    same_answers: int
    largest_difference: float
    differing_trials: int

    @property
    def ratio(self) -> float:
        """Our time as a part of the plain loop's."""
        return self.ours / self.plain


def plain_view(model: LensModel) -> Any:
    """A transformers model of the same weights that can attend eagerly, with nothing of ours in it."""
    view, _ = second_view(model.native)
    for module in view.modules():
        module._forward_pre_hooks.clear()
        module.__dict__.pop("forward", None)
    return view


@torch.no_grad()
def plain_answer(hf: Any, token_ids: Sequence[int], max_new_tokens: int, stop_ids: frozenset[int]) -> Answer:
    """The textbook loop: prefill the prompt, then a step a token with all attentions, every head's last row by itself.

    Sliding-window layers give only the keys in their window: their positions are counted from the window's start.
    """
    cache = DynamicCache(config=hf.config)
    with suppress(ValueError):  # some models attend eagerly only
        hf.set_attn_implementation("sdpa")
    hf(torch.tensor([token_ids[:-1]], device=hf.device), past_key_values=cache, logits_to_keep=1)
    hf.set_attn_implementation("eager")
    last, text, attended = token_ids[-1], [], []
    for step in range(max_new_tokens):
        out = hf(torch.tensor([[last]], device=hf.device), past_key_values=cache, output_attentions=True)
        last = int(out.logits[0, -1].argmax())
        if last in stop_ids:
            break
        seen = len(token_ids) + step
        attended.append(
            [
                [int(layer[0, head, -1].argmax()) + seen - layer.shape[-1] for head in range(layer.shape[1])]
                for layer in out.attentions
            ]
        )
        text.append(last)
    config = hf.config.get_text_config()
    shape = (len(text), config.num_hidden_layers, config.num_attention_heads)
    return Answer(tuple(text), np.array(attended, dtype=int).reshape(shape))


def plain_score(answer: Answer, prompt: NeedlePrompt) -> Float[np.ndarray, "layer head"]:
    """The set-counting score, head by head and step by step, as one would write it on a blackboard."""
    start, end = prompt.needle_span
    attended: Int[np.ndarray, "step layer head"] = answer.attended
    _, n_layers, n_heads = attended.shape
    out = np.zeros((n_layers, n_heads))
    for layer in range(n_layers):
        for head in range(n_heads):
            copied = set()
            for step, token in enumerate(answer.token_ids):
                position = int(attended[step, layer, head])
                if start <= position < end and prompt.token_ids[position] == token:
                    copied.add(position)
            out[layer, head] = len(copied) / (end - start)
    return out


def bench_pair(model: LensModel, mask: HeadMask, prompt_tokens: int, new_tokens: int, rounds: int) -> dict[str, float]:
    """Seconds, the least of all rounds, to answer one prompt in each of several ways, all of them in every round.

    `one`: unmasked; `pair`: unmasked and masked in one batch; `three`: those and a random control; `apart`: the pair
    one after the other; `plain`: unmasked, by transformers' own generation.
    """
    text = load_haystack("pydoc-end").take(8 * prompt_tokens).text
    prompt = model.tokenizer(text)["input_ids"][:prompt_tokens]
    hf, none = plain_view(model), HeadMask()
    hf.set_attn_implementation(model.attention)

    def answer(masks: list[HeadMask]) -> int:
        cache = model.fan_out(prompt[:-1], prompt_tokens + new_tokens, masks)
        return sum(1 for _ in decode(model, cache, [prompt[-1]] * len(masks), new_tokens, masks))

    def plain() -> None:
        ids = torch.tensor([prompt], device=model.device)
        hf.generate(ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    ways: dict[str, Any] = {
        "one": lambda: answer([none]),
        "pair": lambda: answer([none, mask]),
        "three": lambda: answer([none, mask, control(mask, model.grid, 0)]),
        "apart": lambda: [answer([which]) for which in (none, mask)],
        "plain": plain,
    }
    stops, model.stop_ids = model.stop_ids, frozenset()
    try:
        taken = [{name: _timed(way, model) for name, way in ways.items()} for _ in range(rounds + 1)][1:]  # one to warm
    finally:
        model.stop_ids = stops
    return {name: min(times[name] for times in taken) for name in ways}


def _timed(work: Any, model: LensModel) -> float:
    began = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def bench_detect(model: LensModel, config: DetectSettings) -> DetectTimes:
    """Run a detection's trials both ways, batch by batch in turn, so that a noisy machine disturbs both alike."""
    tasks, haystack = config.tasks(), load_haystack(config.haystack)
    hf = plain_view(model)
    chat = Chat(model.tokenizer)
    asked = different_prompts(chat, tasks, haystack)
    prompts = {task.key: prompt for task, prompt in asked.items()}
    warm = prompts[tasks[0].key].token_ids[:200]
    answers(model, [warm], 4)
    plain_answer(hf, warm, 4, model.stop_ids)
    times = DetectTimes(len(asked), 0.0, 0.0, 0, 0.0, 0)
    runs = run_trials(model, tasks, haystack, chat=chat)
    while True:
        began = time.perf_counter()
        batch = next(runs, None)
        times = times._replace(ours=times.ours + time.perf_counter() - began)
        if batch is None:
            return times
        for trial in batch:
            times = _plain(hf, model, prompts[trial.key], trial, times)


def _plain(hf: Any, model: LensModel, prompt: NeedlePrompt, trial: Trial, times: DetectTimes) -> DetectTimes:
    """The times with this trial done the plain way too."""
    began = time.perf_counter()
    answer = plain_answer(hf, prompt.token_ids, ANSWER_TOKENS, model.stop_ids)
    scores = plain_score(answer, prompt)
    taken = time.perf_counter() - began
    difference = float(np.abs(scores - trial.dense(model.grid)).max())
    return times._replace(
        plain=times.plain + taken,
        same_answers=times.same_answers + (answer.token_ids == trial.response_ids),
        largest_difference=max(times.largest_difference, difference),
        differing_trials=times.differing_trials + (difference > 1e-9),
    )


def print_detect(settings: DetectSettings) -> None:
    """What `bench_detect` measures of a detection with these settings."""
    device, dtype = settings.device or None, settings.dtype or None
    model = load(settings.model, device=device, dtype=dtype, context_tokens=max(settings.lengths))
    times = bench_detect(model, settings)
    out.print(f"{model.name} on {model.device}, {model.dtype_name}, {model.attention}: {times.trials} trials")
    out.print(f"ours {times.ours:.1f} s, plain loop {times.plain:.1f} s, ratio {times.ratio:.3f}")
    out.print(
        f"same answers in {times.same_answers} of {times.trials} trials; scores differ in {times.differing_trials}, "
        f"by at most {times.largest_difference:.2g}"
    )


def print_pair(settings: PairSettings) -> None:
    """What `bench_pair` measures with these settings. ValueError where they cannot be."""
    check(settings)
    n_prompt, n_new, rounds = settings.prompt_tokens, settings.new_tokens, settings.rounds
    device, dtype = settings.device or None, settings.dtype or None
    model = load(settings.model, device=device, dtype=dtype, context_tokens=n_prompt + n_new)
    scores = settings.scores or Path(settings.model).name
    mask = MaskRule(scores=scores, share=settings.share).build(model.grid)
    times = bench_pair(model, mask, n_prompt, n_new, rounds)
    out.print(
        f"{model.name} on {model.device}, {model.dtype_name}, {model.attention}: {heads_words(len(mask))} masked, "
        f"the first in layer {mask.first_layer} of {model.grid.n_layers}"
    )
    out.print(f"{n_prompt} + {n_new} tokens, fastest of {rounds} rounds in turn:")
    for name, seconds in times.items():
        out.print(f"  {name}: {seconds:.2f} s, {seconds / times['one']:.2f} of one")
