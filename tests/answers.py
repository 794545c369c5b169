"""A preference pair that the gate keeps, and answers to change it by."""

from retmask.pairs.pair import Answer, PreferencePair

GOOD = PreferencePair(
    "a",
    (("user", "Where is the key? The key is in the blue jar."),),
    Answer("The key is in the blue jar.", 8, "stop"),
    Answer("The key is on a shelf, I think.", 9, "stop"),
    "grounded",
    "the blue jar",
    12,
    4,
)


def said(text: str, tokens: int = 8, ended: str = "stop") -> Answer:
    return Answer(text, tokens, ended)  # type: ignore[arg-type]
