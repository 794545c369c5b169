"""Both answers to prompts from one model that is loaded here: unmasked and masked."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from retmask.heads.masks import HeadMask
from retmask.pairs.pair import Answer, PreferencePair, Question, unanswered
from retmask.runs.faults import is_out_of_memory
from retmask.text.chat import Chat
from retmask.text.sampling import Sampling

if TYPE_CHECKING:
    from retmask.model.lens import LensModel
    from retmask.pairs.job import PairsSettings
    from retmask.runs.job import Work

BLOCK = 8  # prompts answered together on a CPU: measured 1.4 s a pair against 2.7 s one at a time
MOST_BLOCK = 64
Both = tuple[list[int], list[int]]  # token ids of an unmasked and a masked answer


class Local:
    """The built-in backend: one model, a mask for each row of a batch."""

    def __init__(self, work: "Work[PairsSettings]") -> None:
        from retmask.model.loading import facts, load

        run, settings = work.run, work.settings
        self.limit = settings.max_new_tokens
        self.model = load(settings.model, **work.loading)
        self.mask = settings.rule.build(self.model.grid)
        self.template = Chat.resumed(self.model.tokenizer, run.record)
        self.chat = self.template.kind == "chat"
        self.missed: dict[str, int] = {}
        template = self.template.facts
        run.pin(**facts(self.model, settings.adapter), mask=str(self.mask), chat=self.chat)
        run.pin(thinking=template["thinking"])
        run.update(clock=template["clock"], head_grid=self.model.grid._asdict())
        run.update(device=str(self.model.device), attention=self.model.attention)
        if settings.rule.random:
            run.update(excluded=[*map(str, settings.rule.excluded(self.model.grid))])

    @property
    def block(self) -> int:
        """How many prompts stand together, by the kind of device alone: shards on other machines must agree."""
        return BLOCK if self.model.device.type == "cpu" else MOST_BLOCK

    def answer(
        self, questions: Sequence[Question], done: Mapping[str, PreferencePair]
    ) -> Iterator[tuple[int, PreferencePair]]:
        """A pair for each question, with its number. Those that are done are answered again: none stands alone.

        A prompt that the template refuses or that is too long for the model is a pair without answers. One that there
        is no memory for now is none: it goes into `missed`, for another time.
        """
        waiting: list[_Prepared] = []
        refused: list[tuple[int, PreferencePair]] = []
        for question in questions:
            prompt = question.prompt
            try:
                ids = self.template.prompt(prompt.messages, f"prompt {prompt.id}")
            except ValueError as error:
                refused.append((question.number, unanswered(prompt, str(error))))
                continue
            if len(ids) + self.limit > self.model.max_tokens:
                length = f"the prompt has {len(ids):,} tokens, and with {self.limit:,} new ones the model reads "
                yield question.number, unanswered(prompt, f"{length}{self.model.max_tokens:,} at most", len(ids))
                continue
            waiting.append(_Prepared(question, ids))
        if len(refused) == len(questions) and not done:  # it may be the template, not the prompts
            raise ValueError(refused[0][1].unanswered)
        yield from refused
        while waiting:
            answers = self._first(waiting)
            for prepared, both in zip(waiting, answers, strict=False):
                yield prepared.question.number, self._pair(prepared, both)
            waiting = waiting[len(answers) :]
            if not answers:
                skipped = waiting.pop(0)
                if skipped.question.prompt.id not in done:
                    self.missed[skipped.question.prompt.id] = len(skipped.ids) + self.limit

    def _first(self, waiting: Sequence["_Prepared"]) -> list[Both]:
        """Both answers to as many of the first prompts as there is memory for now; none where there is for none."""
        from retmask.model.loading import release

        many = len(waiting)
        if self.model.device.type != "cpu":
            longest = max(len(prepared.ids) for prepared in waiting) + self.limit
            many = min(many, max(1, self.model.rows_that_fit(longest) // 2))
        while many:
            part = waiting[:many]
            ids, draws = [prepared.ids for prepared in part], [prepared.question.sampling for prepared in part]
            try:
                return answer_both(self.model, ids, self.mask, draws, self.limit)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            release()
            many //= 2
        return []

    def _pair(self, prepared: "_Prepared", both: Both) -> PreferencePair:
        prompt = prepared.question.prompt
        chosen, rejected = (
            Answer(self.template.answer(ids), len(ids), "length" if len(ids) >= self.limit else "stop") for ids in both
        )
        return PreferencePair(
            prompt.id,
            prompt.messages,
            chosen,
            rejected,
            arm=prompt.arm,
            answer=prompt.answer,
            prompt_tokens=len(prepared.ids),
            diverged=next((i for i, (a, b) in enumerate(zip_longest(*both)) if a != b), None),
        )


class _Prepared(NamedTuple):
    """A question with the tokens of its prompt."""

    question: Question
    ids: list[int]


def answer_both(
    model: "LensModel",
    prompts: Sequence[Sequence[int]],
    mask: HeadMask,
    sampling: Sequence[Sampling],
    max_new_tokens: int,
) -> list[Both]:
    """The token ids of an unmasked and a masked answer to each prompt, all in one batch.

    ValueError where a prompt is too long for the model, MemoryError where the batch is for the memory that is free now.
    """
    from retmask.model.cache import stack, starts
    from retmask.model.decoding import decode

    longest = max(map(len, prompts)) + max_new_tokens
    model.check_length(longest)
    try:
        model.check_rows(longest, 2 * len(prompts))
    except ValueError as error:
        raise MemoryError(str(error)) from None
    masks = [HeadMask(), mask]
    caches = [model.fan_out(prompt[:-1], len(prompt), masks) for prompt in prompts]
    cache = stack(caches, longest)
    del caches
    begin = starts([len(prompt) - 1 for prompt in prompts for _ in masks])
    last = [prompt[-1] for prompt in prompts for _ in masks]
    draws = [draw for draw in sampling for _ in masks]
    answers: list[list[int]] = [[] for _ in last]
    for steps in decode(model, cache, last, max_new_tokens, masks * len(prompts), draws, begin):
        for answer, step in zip(answers, steps, strict=True):
            answer += [step.token_id] if step else []
    return list(zip(answers[::2], answers[1::2], strict=True))
