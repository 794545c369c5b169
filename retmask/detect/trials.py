"""Needle tasks in, trials out: asked in batches, judged, and scored by a detector.

A model's scores are the trials in which it found the needle; the others show nothing about retrieval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from retmask.detect.score import GATE, Counting, copies, retrieval_score
from retmask.heads.detectors import NULL_QUESTION, DetectorName
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores
from retmask.heads.trials import Trial
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack
from retmask.text.needle import NeedlePrompt, NeedleTask
from retmask.text.recall import recall

if TYPE_CHECKING:
    from retmask.model.cache import Trunk
    from retmask.model.decoding import Answer
    from retmask.model.lens import LensModel
    from retmask.runs.run import Run


def pin_measure(run: "Run", tasks: Sequence[NeedleTask], begun: bool) -> None:
    """Record by what a run's answers are judged. ValueError where those that it has were judged by another measure.

    Runs that do not say were judged by ROUGE, which reads a-z and 0-9 alone: the same where needles' answers are ASCII.
    """
    if begun and "judged_by" not in run.record and not all(task.needle.answer.isascii() for task in tasks):
        raise ValueError(f"{run.path} began with a measure of recall that reads a-z alone: choose another --out")
    run.pin(judged_by="ROUGE-1 recall of Unicode words")


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
    left, most = list(range(len(prompts))), 1
    while left:
        length = len(prompts[left[0]].token_ids)
        batch = [i for i in left if len(prompts[i].token_ids) == length][: min(most, size)]
        left = [i for i in left if i not in set(batch)]
        most *= 2
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
    from retmask.model.cache import longest_shared  # torch takes seconds to import, and readers of trials need none
    from retmask.model.decoding import answers

    model.check_length(max(task.context_tokens for task in tasks))
    chat = chat or Chat(model.tokenizer)
    asked = tasks if isinstance(tasks, Mapping) else different_prompts(chat, tasks, haystack)
    tasks, prompts = list(asked), list(asked.values())
    longest = max(len(prompt.token_ids) for prompt in prompts)
    trunk = longest_shared([prompt.token_ids for prompt in prompts])
    for batch in batches(prompts, batch_size or model.rows_that_fit(longest)):
        given = answers(model, [prompts[i].token_ids for i in batch], tasks[batch[0]].answer_tokens, trunk)
        trials = [_trial(model, tasks[i], prompts[i], answer, counting) for i, answer in zip(batch, given, strict=True)]
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
    from retmask.detect.passes import head_scores

    task, prompt, trial = done
    empty = task.asking(NULL_QUESTION, prompt, chat, haystack) if detector == "query" else ()
    scores = head_scores(model, detector, prompt, trial.response_ids, empty, trunk)
    heads = [HeadId(int(layer), int(head)) for layer, head in np.argwhere(scores != 0)]
    return replace(trial, scores={head: float(scores[head]) for head in heads})


def _trial(model: "LensModel", task: NeedleTask, prompt: NeedlePrompt, answer: "Answer", counting: Counting) -> Trial:
    """Judge an answer and score its heads."""
    response = model.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip()
    recalled = recall(task.needle.answer, response)
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
        recall=round(recalled, 4),
        success=recalled > GATE,
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
