"""Both answers to prompts from one model that is loaded here: unmasked and masked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from retmask.heads.masks import HeadMask
from retmask.pairs.pair import Answer, PreferencePair
from retmask.text.chat import Chat
from retmask.text.prompts import PairPrompt
from retmask.text.sampling import Sampling

if TYPE_CHECKING:
    from retmask.model.lens import LensModel
    from retmask.pairs.job import PairsSettings
    from retmask.runs.job import Work

BLOCK = 8  # prompts answered together on a CPU: measured 1.4 s a pair against 2.7 s one at a time
MOST_BLOCK = 64


class Local:
    """The built-in backend: one model, a mask for each row of a batch."""

    def __init__(self, work: "Work[PairsSettings]") -> None:
        from retmask.model.loading import facts, load

        run, settings = work.run, work.settings
        self.settings = settings
        self.model = load(settings.model, **work.loading)
        self.mask = settings.rule.build(self.model.grid)
        self.chat_of = Chat.resumed(self.model.tokenizer, run.record)
        self.chat = self.chat_of.kind == "chat"
        self.missed: dict[str, int] = {}
        run.pin(**facts(self.model, settings.adapter), mask=str(self.mask), chat=self.chat)
        run.pin(thinking=self.chat_of.facts["thinking"])
        run.update(clock=self.chat_of.facts["clock"])
        run.update(head_grid=self.model.grid._asdict(), device=str(self.model.device), attention=self.model.attention)
        if settings.rule.random:
            run.update(excluded=[*map(str, settings.rule.excluded(self.model.grid))])

    @property
    def block(self) -> int:
        """How many prompts stand together, by the kind of device alone: shards on other machines must agree."""
        return BLOCK if self.model.device.type == "cpu" else MOST_BLOCK

    def answer(
        self, asked: Sequence[tuple[int, PairPrompt, Sampling]], known: Mapping[str, PreferencePair]
    ) -> Iterator[tuple[int, PreferencePair]]:
        """A pair for each prompt, with its number. Those that are known are answered again, so that none stands alone.

        A prompt that the template refuses or that is too long for the model is a pair without answers. One that there
        is no memory for now is none: it goes into `missed`, for another time.
        """
        limit, left, refused = self.settings.max_new_tokens, [], []
        for number, prompt, sampling in asked:
            try:
                ids = self.chat_of.prompt(prompt.messages, f"prompt {prompt.id}")
            except ValueError as error:
                refused.append((number, _without_answer(prompt, str(error))))
                continue
            if len(ids) + limit > self.model.max_tokens:
                longer = f"the prompt has {len(ids):,} tokens, and with {limit:,} new ones the model reads "
                yield number, _without_answer(prompt, f"{longer}{self.model.max_tokens:,} at most", len(ids))
                continue
            left.append(_Asked(number, prompt, sampling, ids))
        if len(refused) == len(asked) and not known:  # it may be the template, not the prompts
            raise ValueError(refused[0][1].unanswered)
        yield from refused
        while left:
            many = self._together([len(one.ids) + limit for one in left])
            said = self._said(left[:many]) if many else None
            while said is None and many > 1:  # less was free than it seemed
                many //= 2
                said = self._said(left[:many])
            if said is None:
                one = left.pop(0)
                if one.prompt.id not in known:
                    self.missed[one.prompt.id] = len(one.ids) + limit
                continue
            part, left = left[:many], left[many:]
            for one, two in zip(part, said, strict=True):
                yield one.number, _pair(self.chat_of, one.prompt, len(one.ids), two, limit)

    def _said(self, part: Sequence["_Asked"]) -> list[tuple[list[int], list[int]]] | None:
        """Both answers to each prompt; None where the memory does not hold them now."""
        try:
            limit = self.settings.max_new_tokens
            return answer_both(self.model, [one.ids for one in part], self.mask, [one.sampling for one in part], limit)
        except Exception as error:
            if not isinstance(error, NoRoom) and not _is_out_of_memory(error):
                raise
        from retmask.model.loading import release

        release()
        return None

    def _together(self, lengths: Sequence[int]) -> int:
        """How many of the next prompts to answer in one batch: two rows each, all as long as the longest; 0 for none.

        0 where the first of them alone does not fit into the memory that is free now.
        """
        many = len(lengths)
        if self.model.device.type != "cpu":
            many = min(many, max(1, self.model.rows_that_fit(max(lengths)) // 2))
        while many and not _fits(self.model, max(lengths[:many]), many):
            many //= 2
        return many


class _Asked(NamedTuple):
    """A prompt that is about to be answered: its number, itself, how its answers are drawn, its tokens."""

    number: int
    prompt: PairPrompt
    sampling: Sampling
    ids: list[int]


class NoRoom(ValueError):
    """There is too little free memory now."""


def _fits(model: "LensModel", tokens: int, prompts: int) -> bool:
    try:
        model.check_rows(tokens, 2 * prompts)
    except ValueError:
        return False
    return True


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on a GPU, or on a CPU, where torch says so in a RuntimeError."""
    names = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return names or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _without_answer(prompt: PairPrompt, why: str, tokens: int = 0) -> PreferencePair:
    """What is written down for a prompt that cannot be asked."""
    nothing = Answer("", 0, "stop")
    return PreferencePair(
        prompt.id, prompt.messages, nothing, nothing, prompt.arm, prompt.answer, tokens, unanswered=why
    )


def answer_both(
    model: "LensModel",
    prompts: Sequence[Sequence[int]],
    mask: HeadMask,
    sampling: Sequence[Sampling],
    max_new_tokens: int,
) -> list[tuple[list[int], list[int]]]:
    """The token ids of an unmasked and a masked answer to each prompt, all in one batch.

    ValueError where a prompt is too long for the model, `NoRoom` where the batch is for the memory that is free now.
    """
    from retmask.model.cache import stack, starts
    from retmask.model.decoding import decode

    longest = max(map(len, prompts)) + max_new_tokens
    model.check_length(longest)
    try:
        model.check_rows(longest, 2 * len(prompts))
    except ValueError as error:
        raise NoRoom(str(error)) from None
    masks = [HeadMask(), mask]
    caches = [model.fan_out(prompt[:-1], len(prompt), masks) for prompt in prompts]
    cache = stack(caches, longest)
    del caches
    begin = starts([len(prompt) - 1 for prompt in prompts for _ in masks])
    last = [prompt[-1] for prompt in prompts for _ in masks]
    draws = [one for one in sampling for _ in masks]
    said: list[list[int]] = [[] for _ in last]
    for step in decode(model, cache, last, max_new_tokens, masks * len(prompts), draws, begin):
        for text, token in zip(said, step, strict=True):
            text += [token.token_id] if token else []
    return list(zip(said[::2], said[1::2], strict=True))


def _pair(
    chat: Chat, prompt: PairPrompt, prompt_tokens: int, two: tuple[list[int], list[int]], limit: int
) -> PreferencePair:
    said = [Answer(chat.answer(ids), len(ids), "length" if len(ids) >= limit else "stop") for ids in two]
    diverged = next((i for i, (a, b) in enumerate(zip(*two, strict=False)) if a != b), None)
    if diverged is None and len(two[0]) != len(two[1]):
        diverged = min(map(len, two))
    return PreferencePair(
        prompt.id, prompt.messages, said[0], said[1], prompt.arm, prompt.answer, prompt_tokens, diverged
    )
