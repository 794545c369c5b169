"""A model's chat template at work: what it makes of turns, where in that each content stands, what it writes around.

Where a content stands is known from trying the template on marks in the contents' places, and not from searching for
it: the template may write the same words, and a haystack may hold anything.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from retmask.text.tokenizer import Span, Tokenizer

Turn = tuple[str, str]  # (role, content)
Message = Turn | Mapping[str, str]  # or an object with both, as TRL's rows hold it
_SLOT = "\ue000{}\ue001"  # stands for a content where the template is tried: no template asks for such a text
_OPEN = re.compile(r"(?:<(?P<name>[\w:]*think\w*)>|\[(?P<upper>THINK)\])(?P<space>\s*)\Z")


class Turns(NamedTuple):
    """Turns as a template is given them: their roles and contents, each a text or a list of one part with the text."""

    roles: tuple[str, ...]
    contents: tuple[str, ...]
    in_parts: bool = False

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Turns":
        """The turns of a conversation."""
        pairs = [(turn["role"], turn["content"]) if isinstance(turn, Mapping) else turn for turn in messages]
        return cls(tuple(role for role, _ in pairs), tuple(content for _, content in pairs))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The objects that a template reads."""
        contents = ([{"type": "text", "text": text}] if self.in_parts else text for text in self.contents)
        return [{"role": role, "content": content} for role, content in zip(self.roles, contents, strict=True)]

    @property
    def forms(self) -> "Iterator[Turns]":
        """The ways to write them, best first: as they are; the system's turn in the user's; both with parts.

        Some templates refuse or drop a system turn, and those of vision models want contents in parts.
        """
        whole = [self]
        if self.roles[:2] == ("system", "user"):
            system, user, *rest = self.contents
            whole.append(Turns(self.roles[1:], (f"{system}\n\n{user}", *rest)))
        yield from whole
        yield from (turns._replace(in_parts=True) for turns in whole)


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of a tokenizer. `when` is the moment that a clock in it shows."""

    tokenizer: Tokenizer
    when: datetime

    def render(self, turns: Turns, generate: bool = True, where: str = "") -> str:
        """What the template makes of the turns, with `generate` up to where an answer begins.

        ValueError, that says `where`, for anything that it raises.
        """
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            source = self.tokenizer.get_chat_template()
            # Rendered here and not by apply_chat_template, which replaces a function among its arguments by a text
            rendered: str = _compile_jinja_template(source).render(
                **{
                    **self.tokenizer.special_tokens_map,
                    "messages": turns.messages,
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

    def prompt(self, turns: Turns, where: str = "") -> tuple[str, tuple[Span, ...]]:
        """The text up to where an answer begins, thinking closed, and [start, end) of each content in it.

        ValueError where the template fails or has changed a content.
        """
        text = self.render(turns, where=where)
        spans = self._spans(turns, text, where)
        opened = _OPEN.search(text, spans[-1][1])
        if opened:
            name = f"</{opened['name']}>" if opened["name"] else "[/THINK]"
            text = text[: opened.start("space")] + f"\n\n{name}\n\n"
        return text, spans

    def opens_a_thought(self, turns: Turns) -> bool:
        """Whether the template opens a block to think in though it is told not to, which `prompt` closes."""
        return bool(_OPEN.search(self.render(turns)))

    def around(self, turns: Turns, text: str, spans: Sequence[Span], where: str = "") -> tuple[str, str]:
        """What stands between a prompt, as `prompt` has it, and an answer to it (mostly nothing), and after the answer.

        ValueError where the template takes no answer.
        """
        pieces = self._pieces(Turns((*turns.roles, "assistant"), (*turns.contents, ""), turns.in_parts), generate=False)
        if not pieces:
            raise ValueError(f"the chat template of this model takes no answer{f' to {where}' if where else ''}")
        before = filled(pieces[:-1], [text[start:end] for start, end in spans])
        return before[len(text) :] if before.startswith(text) else "", pieces[-1]

    def _spans(self, turns: Turns, text: str, where: str) -> tuple[Span, ...]:
        """Where the contents stand in a rendered text. ValueError where the template has changed one.

        White space at either end of a content may be missing, and of an earlier answer the thoughts.
        """
        pieces = self._pieces(turns)
        for contents in (turns.contents, tuple(content.strip() for content in turns.contents)):
            if pieces and filled(pieces, contents) == text:
                return laid(pieces, contents)
            if spans := self._marked(turns._replace(contents=contents), text):
                return spans
        return tuple(_searched(turns, text, where))

    def _pieces(self, turns: Turns, generate: bool = True) -> list[str]:
        """What the template writes before, between and after the contents; empty where that cannot be told."""
        key = (turns.roles, turns.in_parts, generate)
        if key not in self._frames:
            slots = tuple(_SLOT.format(i) for i in range(len(turns.roles)))
            try:
                parts = re.split(_SLOT.format(r"(\d+)"), self.render(turns._replace(contents=slots), generate))
            except ValueError:
                parts = []
            whole = [int(number) for number in parts[1::2]] == list(range(len(slots)))
            self._frames[key] = parts[::2] if whole else []
        return self._frames[key]

    @cached_property
    def _frames(self) -> dict[tuple[tuple[str, ...], bool, bool], list[str]]:
        return {}

    def _marked(self, turns: Turns, text: str) -> tuple[Span, ...]:
        """Where the contents stand though the template asks what is in them, by a mark after each; empty if unknown."""
        marked = tuple(content + _SLOT.format(i) for i, content in enumerate(turns.contents))
        try:
            parts = re.split(_SLOT.format(r"\d+"), self.render(turns._replace(contents=marked)))
        except ValueError:
            return ()
        ends = accumulate(map(len, parts[:-1]))
        spans = tuple((end - len(content), end) for end, content in zip(ends, turns.contents, strict=False))
        right = "".join(parts) == text and [text[start:end] for start, end in spans] == [*turns.contents]
        return spans if right else ()


def _searched(turns: Turns, text: str, where: str) -> Iterator[Span]:
    """Where the contents stand, looked for one after the other. ValueError where one is not there."""
    at = 0
    for role, content in zip(turns.roles, map(str.strip, turns.contents), strict=True):
        if role == "assistant" and text.find(content, at) < 0:
            content = content.rpartition("</think>")[2].strip()
        start = text.find(content, at)
        if start < 0:
            on, remedy = (f" ({where})", "") if where else ("", ": choose plain")
            raise ValueError(f"the chat template of this model changes the prompt{on}{remedy}")
        at = start + len(content)
        yield start, at


def filled(pieces: Sequence[str], contents: Sequence[str]) -> str:
    """The text of contents with a piece before each and one at the end."""
    return "".join(part for two in zip(pieces, (*contents, ""), strict=True) for part in two)


def laid(pieces: Sequence[str], contents: Sequence[str]) -> tuple[Span, ...]:
    """[start, end) of each content in what `filled` makes."""
    ends = accumulate(len(piece) + len(content) for piece, content in zip(pieces, contents, strict=False))
    return tuple((end - len(content), end) for end, content in zip(ends, contents, strict=True))
