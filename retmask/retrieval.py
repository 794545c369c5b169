"""Retrieval scores: needle tasks in, trials out.

A head *copies* at a decode step when the position it attends to most lies in the needle and holds the token that is
generated at that step. Its score in a trial is the part of the needle that it copied: |g_h ∩ k| / |k|, k being the
needle's scored token positions (Wu et al. 2024, arXiv 2404.15574, eq. 1). A model's scores are the trials in which it
found the needle; the others show nothing about retrieval.

Other detectors (`detectors.py`) score the same trials in other ways.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from retmask.chat import Chat
from retmask.detectors import NULL_QUESTION, DetectorName
from retmask.files import read_lines
from retmask.heads import Grid, HeadId
from retmask.needle import Haystack, NeedlePrompt, NeedleTask, Scored
from retmask.recall import recall
from retmask.scores import HeadScores, TrialLabel

if TYPE_CHECKING:
    from retmask.cache import Trunk
    from retmask.model import Answer, LensModel
    from retmask.runs import Run

GATE = 0.5  # a trial counts when its ROUGE-1 recall is above this (RetMask's code)
_BEYOND = 1e12  # no token count, position or score is as large, nor nan
Counting = Literal["set", "steps"]
Pair = tuple[int, int]


def copies(
    attended: Int[np.ndarray, "step layer head"],
    generated: Sequence[int],
    prompt_ids: Sequence[int],
    needle_span: tuple[int, int],
) -> Bool[np.ndarray, "step layer head"]:
    """Whether each head copied from the needle at each step.

    `attended` is the most-attended position of every head when the step's token was chosen; positions from
    `len(prompt_ids)` on are the answer itself and never count.
    """
    start, end = needle_span
    inside = (attended >= start) & (attended < end)
    token = np.asarray(prompt_ids)[np.where(inside, attended, start)]
    hit: Bool[np.ndarray, "step layer head"] = inside & (token == np.asarray(generated, dtype=int)[:, None, None])
    return hit


def retrieval_score(
    attended: Int[np.ndarray, "step layer head"],
    generated: Sequence[int],
    prompt: NeedlePrompt,
    counting: Counting = "set",
) -> Float[np.ndarray, "layer head"]:
    """The score of every head in one trial.

    With `set` (default) each needle position counts once, so scores are in [0, 1]. With `steps` it counts at every
    step that copies it, as RetMask's public code does: scores are at least 0 and may pass 1.
    """
    start, end = prompt.needle_span
    hit = copies(attended, generated, prompt.token_ids, prompt.needle_span)
    if counting == "steps":
        return np.asarray(hit.sum(axis=0) / (end - start))
    positions = np.arange(start, end)
    found = (hit[..., None] & (attended[..., None] == positions)).any(axis=0)
    return np.asarray(found.sum(axis=-1) / (end - start))


@dataclass(frozen=True)
class Trial:
    """One needle task and what the model did with it.

    `scores` holds the heads whose score is not 0, by whatever detector, `copied` every (step, position) at which a head
    copied; `needle_tokens` and `response_tokens` are the texts of the tokens, so that a reader needs no tokenizer.
    """

    needle: str
    question: str
    answer: str
    context_tokens: int
    depth: float
    needle_span: tuple[int, int]
    prompt_tokens: int
    response: str
    response_ids: tuple[int, ...]
    recall: float
    success: bool
    scores: Mapping[HeadId, float]
    scored: Scored = "answer"
    template: str = "plain"
    char_depth: float = 0.0
    copied: Mapping[HeadId, tuple[Pair, ...]] = field(default_factory=dict)
    needle_tokens: tuple[str, ...] = ()
    response_tokens: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, int, float]:
        """What tells this trial from the others of a run; the same as its task's."""
        return (self.needle, self.context_tokens, self.depth)

    def dense(self, grid: Grid) -> Float[np.ndarray, "layer head"]:
        """The score of every head of the grid. ValueError for a head that is not on it."""
        grid.check(self.scores)
        out = np.zeros((grid.n_layers, grid.n_heads))
        for head, score in self.scores.items():
            out[head] = score
        return out

    def to_json(self, keep_prompt: bool = False) -> dict[str, Any]:
        """One line of trials.jsonl; `prompt_ids` only with `keep_prompt`."""
        line = {name: value for name, value in vars(self).items() if name not in ("scores", "copied", "prompt_ids")}
        line["scores"] = {head.key: round(score, 6) for head, score in self.scores.items()}
        line["copied"] = {head.key: pairs for head, pairs in self.copied.items()}
        return line | ({"prompt_ids": self.prompt_ids} if keep_prompt else {})

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Trial":
        """The trial that `to_json` wrote. KeyError, TypeError or ValueError for anything else."""
        known = {name: line[name] for name in cls.__dataclass_fields__ if name in line}
        for name in ("needle", "question", "answer", "response"):
            _check(line[name], str)
        for name in ("context_tokens", "depth", "prompt_tokens", "recall"):
            _check(line[name], int, float)
        start, end = line["needle_span"]
        _check(start, int)
        _check(end, int)
        if not 0 <= start < end:
            raise ValueError(f"a needle cannot stand from {start} to {end}")
        known["needle_span"] = start, end
        known["scores"] = {HeadId.parse(key): _check(score, int, float) for key, score in dict(line["scores"]).items()}
        copied = dict(line.get("copied", {}))
        known["copied"] = {
            HeadId.parse(key): tuple((_check(step, int), _check(at, int)) for step, at in pairs)
            for key, pairs in copied.items()
        }
        for name in ("response_ids", "needle_tokens", "response_tokens", "prompt_ids"):
            known[name] = tuple(line.get(name, ()))
        return cls(**known)


def _check(value: Any, *kinds: type) -> Any:
    """The value, as it is. TypeError where it is of another kind, ValueError for a number beyond all reason."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:20]!r} is not what a trial holds there")
    if isinstance(value, int | float) and not abs(value) < _BEYOND:
        raise ValueError(f"{str(value)[:20]} is no number of a trial")
    return value


def read_trials(folder: Path) -> list[Trial]:
    """The finished trials in a detection's folder, in the order in which they ended, each task once."""
    trials: dict[Any, Trial] = {}
    for line in read_lines(folder / "trials.jsonl"):
        try:
            trial = Trial.from_json(line)
        except (KeyError, TypeError, ValueError):
            continue
        trials.setdefault(trial.key, trial)
    return list(trials.values())


def pin_measure(run: "Run", tasks: Sequence[NeedleTask], begun: bool) -> None:
    """Record by what a run's answers are judged. ValueError where those that it has were judged by another measure.

    Runs that do not say were judged by ROUGE, which reads a-z and 0-9 alone: the same where needles' answers are ASCII.
    """
    if begun and "judged_by" not in run.record and not all(task.needle.answer.isascii() for task in tasks):
        raise ValueError(f"{run.path} began with a measure of recall that reads a-z alone: choose another --out")
    run.pin(judged_by="ROUGE-1 recall of Unicode words")


def collect_scores(trials: Sequence[Trial], grid: Grid, model: str, counting: str) -> HeadScores | None:
    """The scores of the successful trials; None if none was."""
    found = [trial for trial in trials if trial.success]
    if not found:
        return None
    labels = tuple(TrialLabel(*trial.key) for trial in found)
    return HeadScores(model, np.stack([trial.dense(grid) for trial in found]), counting, grid.n_kv_heads, labels)


def stable_for(trials: Sequence[Trial], grid: Grid) -> int:
    """For how many successful trials, up to the last, the top 5 % of heads have been the same set."""
    values = [trial.dense(grid) for trial in trials if trial.success]
    tops = (
        [
            frozenset(HeadScores("", mean[None]).top_share())
            for mean in np.cumsum(values, axis=0) / np.arange(1, len(values) + 1)[:, None, None]
        ]
        if values
        else []
    )
    return next((n for n, top in enumerate(reversed(tops)) if top != tops[-1]), len(tops))


def batches(prompts: Sequence[NeedlePrompt], size: int) -> Iterator[list[int]]:
    """Indices of prompts to answer together: of one length, so that no row is padded.

    The first batches are small (1, 2, 4, ...), so that a first result is there soon; the order is kept as far as
    one length allows.
    """
    left, now = list(range(len(prompts))), 1
    while left:
        length = len(prompts[left[0]].token_ids)
        batch = [i for i in left if len(prompts[i].token_ids) == length][: min(now, size)]
        left = [i for i in left if i not in set(batch)]
        now *= 2
        yield batch


def different_prompts(chat: Chat, tasks: Sequence[NeedleTask], haystack: Haystack) -> dict[NeedleTask, NeedlePrompt]:
    """The prompts of the tasks in order, each prompt once.

    Where a text has no sentence end between two depths both make one prompt: the first of the tasks has it, the others
    are left out, as the same answer is no second trial. ValueError where a task cannot be rendered.
    """
    asked = {task: task.render(chat, haystack) for task in tasks}
    first = {prompt.token_ids: task for task, prompt in reversed(asked.items())}
    return {task: prompt for task, prompt in asked.items() if first[prompt.token_ids] is task}


def run_trials(
    model: "LensModel",
    tasks: Sequence[NeedleTask] | Mapping[NeedleTask, NeedlePrompt],
    haystack: Haystack,
    counting: Counting = "set",
    batch_size: int | None = None,
    detector: DetectorName = "copy",
    chat: Chat | None = None,
) -> Iterator[list[Trial]]:
    """The trials of the tasks, a batch at a time, as they are finished; of tasks that ask the same prompt the first.

    The part of the haystack that prompts share is prefilled once. `batch_size` is by default what fits in a quarter
    of the free memory. Detectors other than `copy` read a prompt whose needle was found once more; `counting` is for
    `copy` alone. `tasks` may come with their prompts, as `different_prompts` makes them of a `chat`. ValueError, before
    any trial, where a task cannot be rendered for this model.
    """
    if not tasks:
        return
    model.check_length(max(task.context_tokens for task in tasks))
    chat = chat or Chat(model.tokenizer)
    asked = tasks if isinstance(tasks, Mapping) else different_prompts(chat, tasks, haystack)
    tasks, prompts = list(asked), list(asked.values())
    longest = max(len(prompt.token_ids) for prompt in prompts)
    trunk = model.shared_trunk([prompt.token_ids for prompt in prompts])
    for batch in batches(prompts, batch_size or model.rows_that_fit(longest)):
        answers = model.answer([prompts[i].token_ids for i in batch], tasks[batch[0]].answer_tokens, trunk)
        trials = [
            _trial(model, tasks[i], prompts[i], answer, counting) for i, answer in zip(batch, answers, strict=True)
        ]
        if detector != "copy":
            trials = [
                _probed(model, detector, (tasks[i], prompts[i], trial), haystack, trunk, chat)
                if trial.success
                else replace(trial, scores={})
                for i, trial in zip(batch, trials, strict=True)
            ]
        yield trials


def _probed(
    model: "LensModel",
    detector: DetectorName,
    done: tuple[NeedleTask, NeedlePrompt, Trial],
    haystack: Haystack,
    trunk: "Trunk",
    chat: Chat,
) -> Trial:
    """The trial with the scores of another detector."""
    from retmask.probes import head_scores  # torch takes seconds to import, and readers of trials need none

    task, prompt, trial = done
    empty = task.asking(NULL_QUESTION, prompt, chat, haystack) if detector == "query" else ()
    scores = head_scores(model, detector, prompt, trial.response_ids, empty, trunk)
    heads = [HeadId(int(layer), int(head)) for layer, head in np.argwhere(scores != 0)]
    return replace(trial, scores={head: float(scores[head]) for head in heads})


def _trial(model: "LensModel", task: NeedleTask, prompt: NeedlePrompt, answer: "Answer", counting: Counting) -> Trial:
    """Judge an answer and score its heads."""
    response = model.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip()
    found = recall(task.needle.answer, response)
    scores = retrieval_score(answer.attended, answer.token_ids, prompt, counting)
    hit = copies(answer.attended, answer.token_ids, prompt.token_ids, prompt.needle_span)
    heads = [HeadId(int(layer), int(head)) for layer, head in np.argwhere(scores > 0)]
    start, end = prompt.needle_span
    return Trial(
        needle=task.needle.needle,
        question=task.needle.question,
        answer=task.needle.answer,
        context_tokens=task.context_tokens,
        depth=task.depth,
        needle_span=prompt.needle_span,
        prompt_tokens=len(prompt.token_ids),
        response=response,
        response_ids=tuple(answer.token_ids),
        recall=round(found, 4),
        success=found > GATE,
        scores={head: float(scores[head]) for head in heads},
        scored=prompt.scored,
        template=prompt.template,
        char_depth=round(prompt.char_depth, 4),
        copied={
            head: tuple((int(step), int(answer.attended[(step, *head)])) for step in np.flatnonzero(hit[:, *head]))
            for head in heads
        },
        needle_tokens=tuple(model.tokenizer.decode([token]) for token in prompt.token_ids[start:end]),
        response_tokens=tuple(model.tokenizer.decode([token]) for token in answer.token_ids),
        prompt_ids=prompt.token_ids,
    )
