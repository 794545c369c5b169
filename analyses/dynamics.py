"""Do the heads that copy change from token to token, and are they what the needle needs?

Retrieval heads are dynamic, says arXiv 2602.11162: the heads that copy at a step, H_t, are not the fixed set of the
best heads. A head copies at a step when the position it attends to most lies in the prompt and holds the token that
the unmasked model writes there (`retmask.compare.trace`).

- **Overlap**: of the unmasked answers, the Jaccard index of H_t with the best 20 heads and the best 5 % of the map,
  with 20 random heads, and with H_t+1; and the entropy of the heads' shares of all copies.
- **Per-step ablation**: at each step H_t is found, all of it is masked, the step is run again, and that token is
  written. Controls: as many of the best heads at each step, as many random ones (not in H_t, below 0.1), and the best
  5 % at every step. The prompt is read unmasked, and what a masked step leaves in the cache stays there.

`python analyses/dynamics.py` asks the built-in models 40 held-out prompts of 512 tokens, half an hour or so on two CPU
cores. Every finished prompt is a line of RETMASK_HOME/analyses/dynamics-MODEL.jsonl, and is not asked again as long as
the weights, the map and the haystack are the same.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go

from analyses.figures import BUILT_IN, Dot, Panel, panels, rounded, save, show
from retmask.compare.trace import Trace, jaccard
from retmask.evaluate.job import EvaluateSettings
from retmask.evaluate.needles import summary
from retmask.files import append_line, home, read_lines, sha256_text
from retmask.heads.grid import Grid, HeadId
from retmask.heads.intervals import clusters, ends, interval
from retmask.heads.masks import HeadMask
from retmask.heads.rules import retrieval_heads
from retmask.heads.scores import HeadScores, scores_path
from retmask.model.cache import stack
from retmask.model.decoding import attended, decode
from retmask.model.weights import resolve
from retmask.text.haystack import load_haystack
from retmask.text.recall import recall

if TYPE_CHECKING:
    from transformers import Cache

    from retmask.model.lens import LensModel

UNMASKED, PER_STEP, STATIC, RANDOM, TOP = "unmasked", "per step", "static", "random", "top 5 %"
CONDITIONS = {
    UNMASKED: "unmasked",
    PER_STEP: "H<sub>t</sub> masked",
    STATIC: "as many of the best heads",
    RANDOM: "as many random heads",
    TOP: "the best 5 %, at every step",
}
SHARED = {  # Jaccard indices of H_t with
    "top20": "the best 20 heads",
    "top5pct": "the best 5 %",
    "random20": "20 random heads",
    "next": "the next step's",
    "any": "any other step's",
}
MEASURES = ("size", *SHARED, "entropy")  # how many heads copy at a step; the above; entropy of the copies in nats
DRAWS = 20  # of 20 random heads
ANSWER_TOKENS = 32  # the longest needle and a bit


def step_mask(condition: str, copying: frozenset[HeadId], scores: HeadScores, seed: int) -> HeadMask:
    """What a condition masks at a step at which the heads `copying` copy.

    Random heads are drawn anew at each step: none that copies, none that the map calls a retrieval head as long as
    enough are left, and fewer than `copying` only where so many do not exist.
    """
    match condition:
        case "per step":
            return HeadMask.of(copying)
        case "static":
            return HeadMask.of(scores.top(len(copying)))
        case "top 5 %":
            return HeadMask.of(scores.top_share())
        case "random":
            quiet = {*copying, *retrieval_heads(scores)}
            if scores.grid.size - len(quiet) < len(copying):
                quiet = set(copying)
            return HeadMask.random(scores.grid, min(len(copying), scores.grid.size - len(quiet)), seed, excluding=quiet)
    return HeadMask()


def next_tokens(model: "LensModel", cache: "Cache", last: Sequence[int], masks: Sequence[HeadMask]) -> list[int | None]:
    """Every row's next token under its mask, None for a stop token. The cache grows by one."""
    steps = next(decode(model, cache, last, 1, masks), [None] * len(last))
    return [step.token_id if step else None for step in steps]


def ablate(
    model: "LensModel", prompt_ids: Sequence[int], scores: HeadScores, most: int, seed: int = 0
) -> dict[str, Any]:
    """Greedy answers of at most `most` tokens under all conditions, each along its own text.

    `answers` has of each condition its token ids and how many heads copied at each step; `copied` has of the unmasked
    answer which head ("layer-head") copied at which (step, position).
    """
    n, rng = len(CONDITIONS), np.random.default_rng(seed)
    cache = stack([model.prefill(prompt_ids[:-1], len(prompt_ids) + most)] * n, len(prompt_ids) + most)
    rows = {name: list(prompt_ids) for name in CONDITIONS}  # a row that has ended is fed on, and no longer read
    answers: dict[str, dict[str, list[int]]] = {name: {"token_ids": [], "sizes": []} for name in CONDITIONS}
    ended: set[str] = set()
    copied: dict[HeadId, list[tuple[int, int]]] = {}
    for step in range(most):
        have = len(prompt_ids) - 1 + step
        last = [row[-1] for row in rows.values()]
        plain = next_tokens(model, cache, last, [HeadMask()] * n)
        looked = attended(model, cache, have, list(rows.values()), [[token or 0] for token in plain])
        traces = [Trace.read(at, [token or 0], prompt_ids) for at, token in zip(looked, plain, strict=True)]
        copying = [
            trace.heads_at(0) if token is not None else frozenset() for trace, token in zip(traces, plain, strict=True)
        ]
        draw = int(rng.integers(2**31))
        masks = [step_mask(name, heads, scores, draw) for name, heads in zip(CONDITIONS, copying, strict=True)]
        cache.crop(have - cache.get_seq_length())
        written = next_tokens(model, cache, last, masks)
        if UNMASKED not in ended:
            for head, steps in traces[0].copied.items() if plain[0] is not None else ():
                copied.setdefault(head, []).append((step, steps[0]))
        for name, token, heads in zip(CONDITIONS, written, copying, strict=True):
            ended |= {name} if token is None else set()
            rows[name].append(token or 0)
            if name not in ended and token is not None:
                answers[name]["token_ids"].append(token)
                answers[name]["sizes"].append(len(heads))
        if len(ended) == n:
            break
    return {"answers": answers, "copied": {head.key: places for head, places in sorted(copied.items())}}


def measure(source: str, prompts: int, most: int) -> Iterator[dict[str, Any]]:
    """The lines of the first `prompts` held-out needle prompts, those that are not on disk measured now."""
    tasks = EvaluateSettings(model=source, trials=prompts).tasks()
    path = kept_at(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    model, haystack, scores = None, load_haystack("pydoc-end"), HeadScores.load(scores_path(source))
    pins = {"weights": resolve(source).sha256, "map": sha256_text(scores.to_json()), "haystack": haystack.sha256}
    done = {(*_key(line), line["answer_tokens"]): line for line in read_lines(path) if line.get("pins") == pins}
    for number, task in enumerate(tasks):
        line = done.get((*task.key, most))
        if line is None:
            if model is None:
                from retmask.model.loading import load

                model = load(source)
                scores.check_grid(model.grid, source)
            prompt = task.render(model.tokenizer, haystack)
            line = {
                "needle": task.needle.needle,
                "context_tokens": task.context_tokens,
                "depth": task.depth,
                "answer_tokens": most,
                "needle_span": prompt.needle_span,
                "pins": pins,
            }
            line |= ablate(model, prompt.token_ids, scores, most, seed=number)
            for answer in line["answers"].values():
                answer["response"] = model.tokenizer.decode(answer["token_ids"], skip_special_tokens=True).strip()
                answer["recall"] = round(recall(task.needle.answer, answer["response"]), 4)
            append_line(path, line)
            recalls = ", ".join(f"{name} {answer['recall']:.2f}" for name, answer in line["answers"].items())
            print(f"{source} {number + 1}/{len(tasks)}: {recalls}", flush=True)
        yield line


def kept_at(source: str) -> Path:
    """The file of a model's finished lines, of no other model."""
    return home() / "analyses" / f"dynamics-{quote(source, safe='')}.jsonl"


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["needle"], line["context_tokens"], line["depth"]


def traced(line: Mapping[str, Any], grid: Grid, needle_only: bool = False) -> Trace:
    """The trace of a line's unmasked answer; with `needle_only` of copies from the scored part of the needle alone."""
    first, last = line["needle_span"]
    kept = {
        HeadId.parse(key): {step: at for step, at in places if not needle_only or first <= at < last}
        for key, places in line["copied"].items()
    }
    steps = len(line["answers"][UNMASKED]["token_ids"])
    return Trace(steps, grid, {head: places for head, places in kept.items() if places})


def overlaps(trace: Trace, scores: HeadScores) -> dict[str, float | None]:
    """The figures named in MEASURES; None for those that no step or no pair of steps has.

    Steps at which no head copies count nowhere, so that H_t+1 is compared as H_s is.
    """
    steps = [heads for heads in map(trace.heads_at, range(trace.n_steps)) if heads]
    if not steps:
        return dict.fromkeys(MEASURES)
    every = map(trace.heads_at, range(trace.n_steps))
    after = [jaccard(first, second) for first, second in pairwise(every) if first and second]
    drawn = [HeadMask.random(scores.grid, min(20, scores.grid.size), seed).heads for seed in range(DRAWS)]
    pairs = [jaccard(first, second) for first, second in combinations(steps, 2)]
    return {
        "size": float(np.mean([len(heads) for heads in steps])),
        "top20": trace.overlap(scores.top(20)),
        "top5pct": trace.overlap(scores.top_share()),
        "random20": float(np.mean([trace.overlap(heads) for heads in drawn])),
        "next": float(np.mean(after)) if after else None,
        "any": float(np.mean(pairs)) if pairs else None,
        "entropy": trace.entropy(),
    }


def rows_of(model: str, lines: Sequence[Mapping[str, Any]], scores: HeadScores) -> list[dict[str, Any]]:
    """The table of a model: recalls, their paired differences, overlaps; 95 % bootstrap intervals over needles."""
    recalls = [
        {
            "condition": name,
            "needle": line["needle"],
            "context_tokens": line["context_tokens"],
            "depth": line["depth"],
            "recall": answer["recall"],
        }
        for line in lines
        for name, answer in line["answers"].items()
    ]
    table = summary(recalls, list(CONDITIONS))
    rows = [
        _row(model, "recall", row["condition"], row["recall"], row["low"], row["high"], row["trials"])
        for row in table["conditions"]
    ]
    rows += [
        _row(model, "found", row["condition"], row["found"], None, None, row["trials"]) for row in table["conditions"]
    ]
    rows += [
        _row(
            model,
            "difference",
            f"{row['condition']} - {row['against']}",
            row["mean"],
            row["needle_low"],
            row["needle_high"],
            len(lines),
        )
        for row in table["differences"]
        if (row["condition"], row["against"]) in ((PER_STEP, UNMASKED), (STATIC, PER_STEP), (RANDOM, PER_STEP))
    ]
    for kind, needle_only in (("overlap, all copies", False), ("overlap, copies of the needle's answer", True)):
        each = [(line["needle"], overlaps(traced(line, scores.grid, needle_only), scores)) for line in lines]
        for name in MEASURES:
            figures = [(needle, row[name]) for needle, row in each if row[name] is not None]
            if figures:
                values = np.array([value for _, value in figures])
                low, high = ends(interval(values, clusters([needle for needle, _ in figures], "needle")))
                rows.append(_row(model, kind, name, float(values.mean()), low, high, len(values)))
    return rows


def _row(
    model: str, kind: str, what: str, mean: float, low: float | None, high: float | None, prompts: int
) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "what": what,
        "mean": rounded(mean),
        "low": rounded(low),
        "high": rounded(high),
        "prompts": prompts,
    }


def draw(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Recall under all conditions, and the overlaps that are Jaccard indices."""

    def dots(kind: str, names: Mapping[str, str]) -> list[Dot]:
        return [
            Dot(names[row["what"]], row["model"], row["mean"], row["low"], row["high"])
            for name in names
            for row in rows
            if row["kind"] == kind and row["what"] == name
        ]

    from_zero = {"range": [-0.02, 1.02]}
    return panels(
        [
            Panel("recall of the needle's answer", dots("recall", CONDITIONS), from_zero),
            Panel("Jaccard index of H<sub>t</sub> and", dots("overlap, all copies", SHARED), from_zero),
        ]
    )


def main() -> None:
    """Measure what is not on disk, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=BUILT_IN, help="built-in models")
    parser.add_argument("--prompts", type=int, default=40, help="of 120 held-out ones, the first so many")
    parser.add_argument("--answer-tokens", type=int, default=ANSWER_TOKENS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        lines = list(measure(name, options.prompts, options.answer_tokens))
        rows += rows_of(name, lines, HeadScores.load(scores_path(name)))
    show(rows)
    save(draw(rows), rows, "dynamics", width=1000)


if __name__ == "__main__":
    main()
