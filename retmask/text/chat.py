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
    ids, answer = chat.pair(messages, "Eight.") # the same, and the answer with what ends it
    text = chat.text(messages)                  # where each content stands; chat.encode(text): tokens with places
    chat.answer(token_ids)                      # the text of an answer that a model gave
    plain(messages).text                        # what a model without a template is asked
    body | NO_THINKING                          # what a server is asked with besides

Messages are (role, content), or objects with both as TRL's rows hold them. Whatever goes wrong (no template, one that
fails, one that rewrites the content) is a ValueError in one sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple

from retmask.files import check_text
from retmask.text.template import ChatTemplate, Message, Turns, filled, laid
from retmask.text.tokenizer import Control, Span, Tokenizer, Tokens, Written, control_tokens, read_literally, written

Template = Literal["chat", "plain"]

# Thinking off in a request to a server (vLLM, SGLang, llama.cpp), as it is here. One that knows no such field refuses
# it with 400 (OpenAI's own does): then ask without.
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


class ChatText(NamedTuple):
    """A prompt as text. `spans` are [start, end) of what people wrote, in order; `answer` that of the answer, if any.

    `template` says what made the text: the model's chat template, or none.
    """

    text: str
    spans: tuple[Span, ...]
    template: Template
    answer: Span | None = None


def plain(messages: Sequence[Message]) -> ChatText:
    """The contents of a conversation with an empty line between them: what a model without a template is asked."""
    contents = Turns.of(messages).contents
    pieces = ["", *["\n\n"] * (len(contents) - 1), ""]
    return ChatText(filled(pieces, contents), laid(pieces, contents), "plain")


@dataclass(frozen=True, eq=False)
class Chat:
    """How a model is asked. `template`: chat or plain; None takes the chat template where there is one.

    `when` is the moment that a template's clock shows. ValueError where a chat template is asked for and not there.
    """

    tokenizer: Tokenizer
    when: datetime = field(default_factory=lambda: datetime.now().replace(microsecond=0))
    template: Template | None = None

    def __post_init__(self) -> None:
        if self.template == "chat" and not self._source:
            raise ValueError("this model has no chat template: choose plain")

    @classmethod
    def of(cls, tokenizer: "Tokenizer | Chat", template: Template | None = None) -> "Chat":
        """A chat of a tokenizer, or the one that is given, with that template."""
        chat = tokenizer if isinstance(tokenizer, Chat) else cls(tokenizer)
        return chat if template in (None, chat.template) else replace(chat, template=template)

    @classmethod
    def resumed(cls, tokenizer: Tokenizer, record: Mapping[str, Any]) -> "Chat":
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

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.when)

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
        closed = self._template.opens_a_thought(turns)
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
        lead, tail = self._around(turns, asked, where)
        at = len(asked.text) + len(lead)
        whole = asked._replace(text=asked.text + lead + answer + tail, answer=(at, at + len(answer)))
        prompt, ids = list(self.encode(asked).ids), list(self.encode(whole).ids)
        if self.kind == "plain":
            prompt, ids = unended(prompt, self.tokenizer), unended(ids, self.tokenizer)
        answered = ids[len(prompt) :]
        if ids[: len(prompt)] != prompt:  # where a token would hold the end of the one and the beginning of the other
            rest = ChatText(lead + answer + tail, (), "chat", (len(lead), len(lead) + len(answer)))
            answered = list(self.encode(rest).ids)
        end = self.tokenizer.eos_token_id
        if self.kind == "chat" or end is None or answered[-1:] == [end]:
            return prompt, answered
        return prompt, [*answered, end]

    def ends(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes an end or control token after an answer: a model cannot learn to stop without.

        ValueError as `text`.
        """
        turns, asked = self._asked(messages, "")
        marks = {self.tokenizer.eos_token or "", *(control.name for control in self._controls.values())} - {""}
        return any(mark in self._around(turns, asked, "")[1] for mark in marks)

    def answer(self, token_ids: Sequence[int]) -> str:
        """The text of an answer without special tokens and white space around it; in plain text that before stays."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip() if self.kind == "chat" else text.rstrip()

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
        controls = list(written(self._controls, text.text, tokens))
        own = [(control.start, control.end) for control in controls if not _is_theirs(text, control)]
        if len(own) == len(controls):
            return tokens
        names = {control.name for control in self._controls.values()}
        return read_literally(self.tokenizer, names, text.text, own, special)

    def _asked(self, messages: Sequence[Message], where: str) -> tuple[Turns, ChatText]:
        """The turns in the first of their forms that the template takes, and their text. ValueError as `text`."""
        turns = Turns.of(messages)
        if not turns.roles:
            raise ValueError(f"{where or 'the prompt'} has no message: write one")
        for content in turns.contents:
            check_text(content, where or "the prompt")
        if self.kind == "plain":
            return turns, plain(messages)
        errors: list[ValueError] = []
        for form in turns.forms:
            try:
                return form, ChatText(*self._template.prompt(form, where), "chat")
            except ValueError as error:
                errors.append(error)
        raise errors[0]  # it is about the turns as they are

    def _around(self, turns: Turns, asked: ChatText, where: str) -> tuple[str, str]:
        """What stands before an answer and after it."""
        return ("", "") if self.kind == "plain" else self._template.around(turns, asked.text, asked.spans, where)

    @cached_property
    def _controls(self) -> dict[int, Control]:
        return control_tokens(self.tokenizer, str(self._source or ""))

    def _refuse_controls(self, text: ChatText) -> None:
        for name, _ in self._controls.values():
            if any(name in text.text[start:end] for start, end in text.spans):
                raise ValueError(f"this model's tokenizer cannot read {name} as text: take it out of the text")


def _is_theirs(text: ChatText, token: Written) -> bool:
    """Whether a control token stands in what people wrote; in an answer only special ones are out of place."""
    spans = [*text.spans, *([text.answer] if text.answer and token.control.special else [])]
    return any(token.start < end and start < token.end for start, end in spans)


def unended(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a plain text without the end token that some tokenizers add."""
    end = tokenizer.eos_token_id
    added = end is not None and tokenizer("a")["input_ids"][-1:] == [end]
    return ids[:-1] if added and ids[-1:] == [end] else ids
