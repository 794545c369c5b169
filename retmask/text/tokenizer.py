"""A tokenizer: what is used of one, and its control tokens, where they stand and how a text is read without them.

A tokenizer cuts a text at its added tokens before anything else, whoever wrote them. `read_literally` has the same
tokenizer look for marked names instead, which only the template's own control tokens bear: all else is done as always.
"""

import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

Span = tuple[int, int]
_Reader = tuple[Any, dict[int, int]]  # a tokenizer, and the usual ids of tokens that have another one in it
_READERS: WeakKeyDictionary[Any, dict[Any, _Reader]] = WeakKeyDictionary()


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    @property
    def eos_token(self) -> str | None:
        """What ends an answer; None where nothing does."""

    @property
    def eos_token_id(self) -> int | None:
        """Its id."""

    @property
    def bos_token_id(self) -> int | None:
        """The id of what begins a text; None where nothing does."""

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """The names of special tokens and what they are written as, for the chat template."""

    def __call__(self, text: str, *, add_special_tokens: bool = ..., return_offsets_mapping: bool = ...) -> Any:
        """The tokens of a text: `input_ids`, and the `offset_mapping` where it is asked for."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = ...) -> Any:
        """The text of tokens."""

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""

    def get_chat_template(self) -> str:
        """The chat template. ValueError where there is none."""

    def save_pretrained(self, save_directory: str | PathLike[str]) -> Any:
        """Write it into a folder."""


class Tokens(NamedTuple):
    """Token ids, and for each token [start, end) in the characters of the text; tokens without characters have (0, 0).

    A tokenizer that is not a fast one gives no places.
    """

    ids: tuple[int, ...]
    places: tuple[Span, ...]


class Control(NamedTuple):
    """A control token: what it is written as, and whether the tokenizer calls it special."""

    name: str
    special: bool


class Written(NamedTuple):
    """A control token in a text: which, and [start, end) of its name, without white space that it takes with it."""

    control: Control
    start: int
    end: int


def control_tokens(tokenizer: Tokenizer, template: str) -> dict[int, Control]:
    """The control tokens by id.

    Special tokens, and those added tokens that stand in the template or are not in the model's own vocabulary: marks of
    turns, tools and thoughts. White space and single characters are text, and so is an added token that the vocabulary
    was made with, such as Gemma's `<table>`.
    """
    vocabulary = getattr(getattr(tokenizer, "_tokenizer", None), "model", None)
    controls = {}
    for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        name, special = str(token.content), bool(token.special)
        foreign = name in template or (vocabulary is not None and vocabulary.token_to_id(name) is None)
        if len(name) > 1 and not name.isspace() and (special or foreign):
            controls[int(number)] = Control(name, special)
    return controls


def written(controls: Mapping[int, Control], text: str, tokens: Tokens) -> Iterator[Written]:
    """The control tokens among a text's tokens that stand in it as such; not those that a tokenizer adds of itself."""
    for i in (i for i, number in enumerate(tokens.ids) if number in controls):
        control, (start, end) = controls[tokens.ids[i]], tokens.places[i]
        name = text[start:end].strip()
        if name and name.casefold() == control.name.strip().casefold():
            at = text.index(name, start)
            yield Written(control, at, at + len(name))


def read_literally(
    tokenizer: Tokenizer, names: Collection[str], text: str, own: Sequence[Span], special: bool
) -> Tokens:
    """The tokens of a text in which none of the control tokens `names` is one but what stands at the spans `own`.

    `special`: with what the tokenizer adds of itself. ValueError for a tokenizer that cannot be made anew.
    """
    mark = next(letter for letter in map(chr, range(0xF0000, 0xFFFFE)) if letter not in text)
    reader, usual = _reader(tokenizer, frozenset(names), mark)
    cuts = [*(start for start, _ in own), len(text)]
    marked = text[: cuts[0]] + "".join(mark + text[start:end] for start, end in pairwise(cuts))
    moved = [start + i for i, start in enumerate(cuts[:-1])]
    encoded = reader.encode(marked, add_special_tokens=special)
    places = tuple((start - bisect_left(moved, start), end - bisect_left(moved, end)) for start, end in encoded.offsets)
    return Tokens(tuple(usual.get(number, number) for number in encoded.ids), places)


def _reader(tokenizer: Tokenizer, names: frozenset[str], mark: str) -> _Reader:
    readers = _READERS.setdefault(tokenizer, {})
    if (names, mark) not in readers:
        readers[names, mark] = _marked(tokenizer, names, mark)
    return readers[names, mark]


def _marked(tokenizer: Tokenizer, names: frozenset[str], mark: str) -> _Reader:
    """The tokenizer with a mark before the name of every control token."""
    from tokenizers import Tokenizer as Rust

    inner: Any = tokenizer
    try:
        data = json.loads(inner._tokenizer.to_str())
    except Exception as error:  # parts of it may be written in Python
        raise ValueError("this model's tokenizer cannot read control tokens as text: take them out of it") from error
    for token in data["added_tokens"]:
        if token["content"] in names:
            token |= {"content": mark + token["content"], "normalized": False, "single_word": False}
    _rename(data["model"], names, mark)
    reader = Rust.from_str(json.dumps(data | {"truncation": None, "padding": None}))
    ids = [(reader.token_to_id(token["content"]), token["id"]) for token in data["added_tokens"]]
    return reader, {new: old for new, old in ids if new is not None and new != old}


def _rename(model: dict[str, Any], names: frozenset[str], mark: str) -> None:
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
