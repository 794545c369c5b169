"""Where messages become text and tokens: in a model's chat template, or plain. Everything that asks a model asks here.

The same messages give the same tokens for detection, comparison, pairs and training:

- A clock in the template shows one moment, `Chat.when`: all prompts of a run are of the same day.
- What a person wrote stays text. `<|im_end|>` or `<think>` in a haystack is read as characters; only the template's own
  control tokens are tokens. Where nothing of the kind occurs the tokens are those of the tokenizer as it is.
- Thinking is off: by `enable_thinking=False` where the template knows it; a block that the template opens all the same
  is closed at once, `<think>\n\n</think>\n\n`, so that the answer follows.
- A system turn that the template refuses or drops goes before the first turn of the user's.

    chat = Chat(tokenizer, when)                # `when` from run.json, so that a run that goes on asks the same
    ids = chat.prompt(messages)                 # up to where the answer begins
    ids, said = chat.pair(messages, "Eight.")   # the same, and the answer with what ends it
    text = chat.text(messages)                  # where each content stands; chat.encode(text): tokens with places
    body |= chat_template_kwargs()              # what a server is asked with besides

Messages are (role, content) or objects as TRL reads them, with content in parts, tool calls and so on. Whatever goes
wrong (no template, one that fails, one that rewrites the content) is a ValueError in one sentence.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import count, pairwise
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from retmask.files import check_text

Template = Literal["chat", "plain"]
Message = tuple[str, str] | Mapping[str, Any]
Span = tuple[int, int]
Turns = list[dict[str, Any]]  # messages as templates read them

_SLOT = "\ue000{}\ue001"  # stands for a content where the template is tried: no template asks for such a text
_OPEN = re.compile(r"(?:<(?P<name>[\w:]*think\w*)>|\[(?P<upper>THINK)\])(?P<space>\s*)\Z")


class ChatText(NamedTuple):
    """A prompt as text. `spans` are [start, end) of what people wrote, in order; `answer` that of the answer, if any.

    `template` says what made the text: the model's chat template, or none.
    """

    text: str
    spans: tuple[Span, ...]
    template: Template
    answer: Span | None = None


class Tokens(NamedTuple):
    """Token ids, and for each token [start, end) in the characters of the text; tokens without characters have (0, 0).

    A tokenizer that is not a fast one gives no places.
    """

    ids: tuple[int, ...]
    places: tuple[Span, ...]


def chat_template_kwargs() -> dict[str, Any]:
    """What a request to a server holds besides its messages (vLLM, SGLang, llama.cpp): thinking off, as it is here.

    A server that knows no such field refuses it with 400 (OpenAI's own does): then ask without.
    """
    return {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True, eq=False)
class Chat:
    """How a model is asked. `template`: chat or plain; None takes the chat template where there is one.

    `when` is the moment that a template's clock shows. ValueError where a chat template is asked for and not there.
    """

    tokenizer: Any
    when: datetime = field(default_factory=lambda: datetime.now().replace(microsecond=0))
    template: Template | None = None

    def __post_init__(self) -> None:
        if self.template == "chat" and not self._source:
            raise ValueError("this model has no chat template: choose plain")

    @classmethod
    def of(cls, tokenizer: "Any | Chat", template: Template | None = None) -> "Chat":
        """A chat of a tokenizer, or the one that is given, with that template."""
        if not isinstance(tokenizer, Chat):
            return cls(tokenizer, template=template)
        return (
            tokenizer if template in (None, tokenizer.template) else cls(tokenizer.tokenizer, tokenizer.when, template)
        )

    @classmethod
    def resumed(cls, tokenizer: Any, record: Mapping[str, Any]) -> "Chat":
        """The chat of a run: its clock shows what the run's record says, so that a run that goes on asks the same."""
        try:
            return cls(tokenizer, datetime.fromisoformat(str(record.get("clock"))))
        except ValueError:
            return cls(tokenizer)

    @property
    def kind(self) -> Template:
        """Whether prompts are made in the chat template or plain."""
        return "chat" if self._source and self.template != "plain" else "plain"

    @cached_property
    def _source(self) -> Any:
        return getattr(self.tokenizer, "chat_template", None)

    @property
    def facts(self) -> dict[str, str | None]:
        """What run.json says of it: the kind of template, the moment its clock shows, and what became of thinking.

        `clock` is None for a template without a clock; `thinking` is off (the template's switch), closed (a block that
        the template opens is closed) or none.
        """
        if self.kind == "plain":
            return {"template": "plain", "clock": None, "thinking": "none"}
        source = str(self._source)
        closed = bool(_OPEN.search(self._apply([{"role": "user", "content": "Hello"}], generate=True)))
        thinking = "closed" if closed else "off" if "enable_thinking" in source else "none"
        clock = self.when.isoformat() if "strftime_now" in source else None
        return {"template": "chat", "clock": clock, "thinking": thinking}

    def prompt(self, messages: Sequence[Message], where: str = "") -> list[int]:
        """The tokens of a conversation up to where the answer begins. `where` names it in an error: "prompt 7"."""
        return list(self.encode(self.text(messages, where)).ids)

    def pair(self, messages: Sequence[Message], answer: str, where: str = "") -> tuple[list[int], list[int]]:
        """The tokens of a conversation as `prompt` has them, and those of an answer to it with what ends it.

        In a chat template the turn's end as the template writes it; in plain text the tokenizer's end token, if any.
        """
        check_text(answer, where or "the answer")
        turns, asked = self._asked(messages, where)
        lead, tail = self._round(turns, asked, where)
        at = len(asked.text) + len(lead)
        whole = asked._replace(text=asked.text + lead + answer + tail, answer=(at, at + len(answer)))
        prompt, ids = list(self.encode(asked).ids), list(self.encode(whole).ids)
        if self.kind == "plain":
            prompt, ids = _unended(prompt, self.tokenizer), _unended(ids, self.tokenizer)
        said = ids[len(prompt) :]
        if ids[: len(prompt)] != prompt:  # where a token would hold the end of the one and the beginning of the other
            rest = ChatText(lead + answer + tail, (), "chat", (len(lead), len(lead) + len(answer)))
            said = list(self.encode(rest).ids)
        end = self.tokenizer.eos_token_id
        return prompt, said + ([end] if self.kind == "plain" and end is not None and said[-1:] != [end] else [])

    def text(self, messages: Sequence[Message], where: str = "") -> ChatText:
        """A conversation as text up to where the answer begins.

        In plain text the contents, an empty line between them. ValueError where the template fails, refuses the roles
        or changes a content.
        """
        return self._asked(messages, where)[1]

    def encode(self, text: ChatText) -> Tokens:
        """The tokens of a text; control tokens within what people wrote are characters there.

        ValueError for a tokenizer that cannot read them as such.
        """
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        special = text.template == "plain"
        encoded = self.tokenizer(text.text, add_special_tokens=special, return_offsets_mapping=fast)
        ids = tuple(encoded["input_ids"])
        if not fast:
            self._refuse_controls(text)
            return Tokens(ids, ())
        tokens = Tokens(ids, tuple(encoded["offset_mapping"]))
        hits = self._hits(text, tokens)
        theirs = {i for i in hits if self._is_theirs(text, tokens, i)}
        if not theirs:
            return tokens
        return self._literal(text.text, [tokens.places[i] for i in hits if i not in theirs], special)

    # -- the template

    def _asked(self, messages: Sequence[Message], where: str) -> tuple[Turns, ChatText]:
        """The turns as the template takes them, and their text. ValueError as `text`.

        As they are; else the system turn in the user's; else contents in parts, as vision models' templates want them.
        """
        turns = [_turn(message) for message in messages]
        contents = [text for turn in turns for text in _texts(turn)]
        for content in contents:
            check_text(content, where or "the prompt")
        if self.kind == "plain":
            return turns, _joined(contents)
        first: ValueError | None = None
        for tried in (turns, _merged(turns), _in_parts(turns), _in_parts(_merged(turns))):
            try:
                if tried:
                    return tried, self._in_template(tried, where)
            except ValueError as error:
                first = first or error
        raise first or ValueError(f"{where or 'the prompt'} has no message: write one")

    def _in_template(self, turns: Turns, where: str) -> ChatText:
        """The turns in the chat template, thinking closed."""
        text = self._apply(turns, generate=True, where=where)
        spans = self._spans(turns, text, where)
        end = spans[-1][1] if spans else 0
        opened = _OPEN.search(text, end)
        if opened:
            name = f"</{opened['name']}>" if opened["name"] else "[/THINK]"
            text = text[: opened.start("space")] + f"\n\n{name}\n\n"
        return ChatText(text, spans, "chat")

    def _apply(self, turns: Turns, generate: bool, where: str = "") -> str:
        """What the template makes of the turns. ValueError for anything that it raises."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            source = self.tokenizer.get_chat_template()
            # Rendered here and not by apply_chat_template, which replaces a function among its arguments by a text
            rendered: str = _compile_jinja_template(source).render(
                **{
                    **self.tokenizer.special_tokens_map,
                    "messages": [dict(turn) for turn in turns],
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": generate,
                    "enable_thinking": False,
                    "strftime_now": self.when.strftime,
                }
            )
        except Exception as error:  # a template is a program of the model's author: anything can come out of it
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            on, remedy = (f" on {where}", "") if where else ("", ". Choose plain")
            raise ValueError(f"the chat template of this model fails{on}: {reason}{remedy}") from error
        return rendered

    def _spans(self, turns: Turns, text: str, where: str) -> tuple[Span, ...]:
        """Where the contents stand in a text of the template. ValueError where it has changed one.

        White space at either end of a content may be missing, and of an earlier answer the thoughts.
        """
        contents = [part for turn in turns for part in _texts(turn)]
        pieces = self._pieces(turns)
        for tried in (contents, [content.strip() for content in contents]):
            if pieces and _filled(pieces, tried) == text:
                return tuple(_laid(pieces, tried))
        spans, at = [], 0
        roles = [turn["role"] for turn in turns for _ in _texts(turn)]
        for role, content in zip(roles, contents, strict=True):
            wanted = content.strip()
            if role == "assistant" and text.find(wanted, at) < 0:
                wanted = wanted.rpartition("</think>")[2].strip()
            start = text.find(wanted, at)
            if start < 0:
                on, remedy = (f" ({where})", "") if where else ("", ": choose plain")
                raise ValueError(f"the chat template of this model changes the prompt{on}{remedy}")
            at = start + len(wanted)
            spans.append((start, at))
        return tuple(spans)

    def _pieces(self, turns: Turns, generate: bool = True) -> list[str]:
        """What the template writes before, between and after the contents; empty where that cannot be told."""
        n = sum(len(_texts(turn)) for turn in turns)
        key = (generate, json.dumps([_with(turn, ["" for _ in _texts(turn)]) for turn in turns], default=str))
        if key not in self._frames:
            names = (_SLOT.format(i) for i in count())
            tried = [_with(turn, [next(names) for _ in _texts(turn)]) for turn in turns]
            try:
                parts = re.split(_SLOT.format(r"(\d+)"), self._apply(tried, generate))
            except ValueError:
                parts = []
            whole = [int(number) for number in parts[1::2]] == list(range(n))
            self._frames[key] = parts[::2] if whole else []
        return self._frames[key]

    @cached_property
    def _frames(self) -> dict[Any, list[str]]:
        return {}

    def _round(self, turns: Turns, asked: ChatText, where: str) -> tuple[str, str]:
        """What the template writes between the prompt and an answer to it (mostly nothing), and after the answer."""
        if self.kind == "plain":
            return "", ""
        in_parts = bool(turns) and isinstance(turns[-1].get("content"), list)
        answer = {"role": "assistant", "content": [{"type": "text", "text": ""}] if in_parts else ""}
        pieces = self._pieces([*turns, answer], generate=False)
        if not pieces:
            raise ValueError(f"the chat template of this model takes no answer{f' to {where}' if where else ''}")
        before = _filled(pieces[:-1], [asked.text[a:b] for a, b in asked.spans])
        return before[len(asked.text) :] if before.startswith(asked.text) else "", pieces[-1]

    # -- control tokens

    @cached_property
    def _controls(self) -> dict[int, tuple[str, bool]]:
        """The control tokens by id: what they are written as, and whether the tokenizer calls them special.

        Special tokens, and those added tokens that stand in the template or are not in the model's own vocabulary:
        marks of turns, tools and thoughts. White space and single characters are text, and so is an added token that
        the vocabulary was made with, such as Gemma's `<table>`.
        """
        known = getattr(getattr(self.tokenizer, "_tokenizer", None), "model", None)
        source, found = str(self._source or ""), {}
        for number, token in getattr(self.tokenizer, "added_tokens_decoder", {}).items():
            name, special = str(token.content), bool(token.special)
            foreign = name in source or (known is not None and known.token_to_id(name) is None)
            if len(name) > 1 and not name.isspace() and (special or foreign):
                found[int(number)] = (name, special)
        return found

    def _hits(self, text: ChatText, tokens: Tokens) -> list[int]:
        """Which tokens are control tokens that stand in the text as such."""
        found = []
        for i in (i for i, number in enumerate(tokens.ids) if number in self._controls):
            start, end = tokens.places[i]
            written = text.text[start:end].strip().casefold()
            if start < end and written == self._controls[tokens.ids[i]][0].strip().casefold():
                found.append(i)
        return found

    def _is_theirs(self, text: ChatText, tokens: Tokens, i: int) -> bool:
        """Whether a control token stands in what people wrote; in an answer only special ones are out of place."""
        start, end = tokens.places[i]
        spans = [*text.spans, *([text.answer] if text.answer and self._controls[tokens.ids[i]][1] else [])]
        return any(start < b and a < end for a, b in spans)

    def _refuse_controls(self, text: ChatText) -> None:
        written = [text.text[a:b] for a, b in text.spans]
        for name, _ in self._controls.values():
            if any(name in one for one in written):
                raise ValueError(f"this model's tokenizer cannot read {name} as text: take it out of the text")

    def _literal(self, text: str, own: Sequence[Span], special: bool) -> Tokens:
        """The tokens of a text in which nothing but what stands at `own` is a control token."""
        mark = next(letter for letter in map(chr, range(0xF0000, 0xFFFFE)) if letter not in text)
        reader, known = _reader(self, mark)
        starts = [start + len(text[start:end]) - len(text[start:end].lstrip()) for start, end in own]
        marked = "".join(mark * bool(a) + text[a:b] for a, b in pairwise([0, *starts, len(text)])) if starts else text
        if starts[:1] == [0]:
            marked = mark + marked
        moved = [start + i for i, start in enumerate(starts)]
        encoded = reader.encode(marked, add_special_tokens=special)
        places = tuple((a - bisect_left(moved, a), b - bisect_left(moved, b)) for a, b in encoded.offsets)
        return Tokens(tuple(known.get(number, number) for number in encoded.ids), places)


_READERS: WeakKeyDictionary[Any, dict[str, tuple[Any, dict[int, int]]]] = WeakKeyDictionary()


def _reader(chat: Chat, mark: str) -> tuple[Any, dict[int, int]]:
    """The tokenizer with every control token written with a mark before it, and its ids where they are others."""
    readers = _READERS.setdefault(chat.tokenizer, {})
    if mark not in readers:
        readers[mark] = _marked_tokenizer(chat, mark)
    return readers[mark]


def _marked_tokenizer(chat: Chat, mark: str) -> tuple[Any, dict[int, int]]:
    from tokenizers import Tokenizer

    names = {name for name, _ in chat._controls.values()}
    try:
        data = json.loads(chat.tokenizer._tokenizer.to_str())
    except Exception as error:  # parts of it may be written in Python
        raise ValueError("this model's tokenizer cannot read control tokens as text: take them out of it") from error
    for token in data["added_tokens"]:
        if token["content"] in names:
            token |= {"content": mark + token["content"], "normalized": False, "single_word": False}
    _rename(data["model"], names, mark)
    reader = Tokenizer.from_str(json.dumps(data | {"truncation": None, "padding": None}))
    ids = [(reader.token_to_id(token["content"]), token["id"]) for token in data["added_tokens"]]
    return reader, {new: old for new, old in ids if new is not None and new != old}


def _rename(model: dict[str, Any], names: set[str], mark: str) -> None:
    """Mark names in a tokenizer's own vocabulary too: they keep their ids, and plain text cannot become them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {mark + word if word in names else word: number for word, number in vocabulary.items()}
    else:  # Unigram: words with their scores
        model["vocab"] = [[mark + word if word in names else word, score] for word, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = mark + model["unk_token"]
    if "merges" in model:
        split = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [merge for merge in split if names.isdisjoint((*merge, "".join(merge)))]


# -- messages


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates read it; fields that are null are left out."""
    if isinstance(message, Mapping):
        return {name: value for name, value in message.items() if value is not None}
    role, content = message
    return {"role": role, "content": content}


def _texts(turn: Mapping[str, Any]) -> list[str]:
    """The texts of a turn: its content, or those of its parts."""
    content = turn.get("content")
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]


def _with(turn: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The turn with other texts."""
    content = turn.get("content")
    if isinstance(content, str):
        return {**turn, "content": texts[0]}
    if not isinstance(content, list):
        return dict(turn)
    left = iter(texts)
    has = [isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content]
    parts = [{**part, "text": next(left)} if text else part for part, text in zip(content, has, strict=True)]
    return {**turn, "content": parts}


def _merged(turns: Turns) -> Turns | None:
    """The turns with the system's before the user's first in one; None where there is no such turn."""
    if len(turns) < 2 or [turn.get("role") for turn in turns[:2]] != ["system", "user"]:
        return None
    system, user, *rest = turns
    if not all(isinstance(turn.get("content"), str) for turn in (system, user)):
        return None
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *map(dict, rest)]


def _in_parts(turns: Turns | None) -> Turns | None:
    """The turns with every content as a list of one text."""
    if turns is None or not all(isinstance(turn.get("content"), str) for turn in turns):
        return None
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def _joined(contents: Sequence[str]) -> ChatText:
    pieces = ["", *["\n\n"] * (len(contents) - 1), ""]
    return ChatText(_filled(pieces, contents), tuple(_laid(pieces, contents)), "plain")


def _filled(pieces: Sequence[str], contents: Sequence[str]) -> str:
    return "".join(part for two in zip(pieces, (*contents, ""), strict=True) for part in two)


def _laid(pieces: Sequence[str], contents: Sequence[str]) -> Iterator[Span]:
    at = 0
    for piece, content in zip(pieces, contents, strict=False):
        at += len(piece)
        yield at, at + len(content)
        at += len(content)


def _unended(ids: list[int], tokenizer: Any) -> list[int]:
    """The tokens of a plain text without the end token that some tokenizers add."""
    end = tokenizer.eos_token_id
    added = end is not None and tokenizer("a")["input_ids"][-1:] == [end]
    return ids[:-1] if added and ids[-1:] == [end] else ids
