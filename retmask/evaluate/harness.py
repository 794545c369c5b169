"""A model as EleutherAI's lm-evaluation-harness asks it (the extra `eval`): its interface, under any masks.

Prompts are as the harness makes them; chat templates and tokens are those of `retmask.text.chat`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from retmask.evaluate.engine import Asked, ask
from retmask.heads.masks import HeadMask
from retmask.model.lens import LensModel
from retmask.text.chat import Chat, ChatText, unended

_MOST_NEW = 256  # tokens of an answer where a task does not say

Words = tuple[int, ...]


class HarnessLM(TemplateLM):  # type: ignore[misc]  # it has no types
    """A model as the harness asks it: under the mask numbered `row`, though all masks are asked at once.

    What has been given to a request is kept until `forget`.
    """

    def __init__(self, model: LensModel, chat: Chat, masks: Sequence[HeadMask] = (HeadMask(),)) -> None:
        super().__init__()
        self.model, self.chat, self.masks, self.row = model, chat, masks, 0
        self.tokenizer = model.tokenizer
        self._templated: dict[str, ChatText] = {}
        self._given: dict[Any, list[Any]] = {}

    @property
    def tokenizer_name(self) -> str:
        """The model's name, for caches of requests."""
        return self.model.name.replace("/", "__")

    @property
    def eot_token_id(self) -> Any:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> Any:
        """What stands before a text that has nothing before it."""
        first = getattr(self.tokenizer, "bos_token_id", None)
        return self.eot_token_id if first is None else first

    def forget(self) -> None:
        """Let go of what has been given."""
        self._given.clear()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as text; without `add_generation_prompt` the last turn is the beginning of the answer."""
        turns = [(turn["role"], turn["content"]) for turn in chat_history]
        begun = "" if add_generation_prompt else turns.pop()[1]
        asked = self.chat.text(turns)
        span = (len(asked.text), len(asked.text) + len(begun))
        prompt = asked._replace(text=asked.text + begun, spans=(*asked.spans, span))
        self._templated[prompt.text.rstrip()] = prompt
        return prompt.text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The tokens of a text, which may begin with a prompt in the chat template."""
        if add_special_tokens is False:
            return list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        lengths = sorted(set(map(len, self._templated)), reverse=True)
        prompt = next((self._templated[string[:n]] for n in lengths if string[:n] in self._templated), None)
        if prompt:
            return list(self.chat.encode(prompt._replace(text=string)).ids)
        plain = self.chat.encode(ChatText(string, ((0, len(string)),), "plain"))
        return unended(list(plain.ids), self.tokenizer)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding would write it."""
        return list(self._answered([(tuple(before), tuple(text)) for _, before, text in requests], self._worths))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text as a whole, in windows as long as the model reads."""
        windows = [[("", *window) for window in self._windows(*request.args)] for request in requests]
        worths = iter(self._loglikelihood_tokens([window for text in windows for window in text]))
        return [sum(next(worths)[0] for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answers, cut off before the first of the texts that end them. ValueError for a task that draws."""
        return list(map(str, self._answered([self._posed(*request.args) for request in requests], self._texts)))

    def _answered(self, keys: Sequence[Any], give: Callable[[Sequence[Any]], Iterator[tuple[Any, list[Any]]]]) -> Any:
        """What each request is given under the mask in force; requests that are alike are asked once."""
        self._given.update(give([key for key in dict.fromkeys(keys) if key not in self._given]))
        return [self._given[key][self.row] for key in keys]

    def _worths(self, pairs: Sequence[tuple[Words, Words]]) -> Iterator[tuple[Any, list[Any]]]:
        texts: dict[Words, list[Words]] = defaultdict(list)
        for before, text in pairs:
            texts[before].append(text)
        for alike in _by_length(texts):
            given = ask(self.model, [Asked(before, tuple(texts[before]), 0) for before in alike], self.masks)
            for i, before in enumerate(alike):
                for j, text in enumerate(texts[before]):
                    yield (before, text), [(row[i].logprobs[j], row[i].likeliest[j]) for row in given]

    def _texts(self, keys: Sequence[tuple[Words, tuple[str, ...], int]]) -> Iterator[tuple[Any, list[Any]]]:
        for ends, most in dict.fromkeys(key[1:] for key in keys):
            for alike in _by_length([key[0] for key in keys if key[1:] == (ends, most)]):
                given = ask(self.model, [Asked(prompt, (), most) for prompt in alike], self.masks, self._ended(ends))
                for i, prompt in enumerate(alike):
                    yield (prompt, ends, most), [_cut(self._text(row[i].token_ids), ends) for row in given]

    def _posed(self, context: str, how: Mapping[str, Any]) -> tuple[Words, tuple[str, ...], int]:
        settings = normalize_gen_kwargs(dict(how), _MOST_NEW)
        if settings["do_sample"]:
            raise ValueError("this task of lm-eval draws its answers, and answers here are greedy: leave it out")
        ends = tuple(filter(None, settings["until"] or ()))
        return tuple(self.tok_encode(context)), ends, settings["max_gen_toks"]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        """A text as pairs of what is read and what is asked for; the last token need not be read."""
        ids, most = self.tok_encode(text), self.model.max_tokens - 1
        return map(make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, most, 1))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _ended(self, ends: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        return lambda ids: any(end in self._text(ids) for end in ends) if ends else False


def _by_length(prompts: Sequence[Words] | Mapping[Words, Any]) -> list[list[Words]]:
    groups: dict[int, list[Words]] = defaultdict(list)
    for prompt in prompts:
        groups[len(prompt)].append(prompt)
    return list(groups.values())


def _cut(text: str, ends: Sequence[str]) -> str:
    return min((text.split(end)[0] for end in ends), key=len, default=text)
