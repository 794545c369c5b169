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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import accumulate, count
from typing import Any, Literal, NamedTuple

from retmask.files import check_text
from retmask.text.controls import Control, Span, Tokens, Written, control_tokens, read_literally, written

Template = Literal["chat", "plain"]
Message = tuple[str, str] | Mapping[str, Any]
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
        turns, _ = self._asked([("user", "Hello")], "")
        closed = bool(_OPEN.search(self._apply(turns, generate=True)))
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

    def ends(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes an end or control token after an answer: a model cannot learn to stop without.

        ValueError as `text`.
        """
        turns, asked = self._asked(messages, "")
        marks = {self.tokenizer.eos_token or "", *(control.name for control in self._controls.values())} - {""}
        return any(mark in self._round(turns, asked, "")[1] for mark in marks)

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
        found = list(written(self._controls, text.text, tokens))
        own = [(one.start, one.end) for one in found if not _is_theirs(text, one)]
        if len(own) == len(found):
            return tokens
        return read_literally(self.tokenizer, {one.name for one in self._controls.values()}, text.text, own, special)

    # -- the template

    def _asked(self, messages: Sequence[Message], where: str) -> tuple[Turns, ChatText]:
        """The turns as the template takes them, and their text. ValueError as `text`.

        As they are; else the system turn in the user's; else contents in parts, as vision models' templates want them.
        """
        turns = [_turn(message) for message in messages]
        if not turns:
            raise ValueError(f"{where or 'the prompt'} has no message: write one")
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
        assert first is not None  # the turns as they are have been tried
        raise first

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
            if found := self._ended(turns, tried, text):
                return found
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

    def _ended(self, turns: Turns, contents: Sequence[str], text: str) -> tuple[Span, ...]:
        """Where the contents stand though the template asks what is in them, by a mark after each; empty if unknown."""
        marked = (content + _SLOT.format(i) for i, content in enumerate(contents))
        try:
            rendered = self._apply([_with(turn, [next(marked) for _ in _texts(turn)]) for turn in turns], generate=True)
        except ValueError:
            return ()
        parts = re.split(_SLOT.format(r"\d+"), rendered)
        ends = list(accumulate(map(len, parts[:-1])))
        spans = tuple((end - len(content), end) for end, content in zip(ends, contents, strict=False))
        right = "".join(parts) == text and [text[a:b] for a, b in spans] == [*contents]
        return spans if right else ()

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
    def _controls(self) -> dict[int, Control]:
        return control_tokens(self.tokenizer, str(self._source or ""))

    def _refuse_controls(self, text: ChatText) -> None:
        for name, _ in self._controls.values():
            if any(name in text.text[start:end] for start, end in text.spans):
                raise ValueError(f"this model's tokenizer cannot read {name} as text: take it out of the text")


def _is_theirs(text: ChatText, found: Written) -> bool:
    """Whether a control token stands in what people wrote; in an answer only special ones are out of place."""
    spans = [*text.spans, *([text.answer] if text.answer and found.control.special else [])]
    return any(found.start < end and start < found.end for start, end in spans)


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
