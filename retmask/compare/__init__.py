"""What masking does to an answer: side by side, traces, the dose curve, checkpoints. For a script a function too."""

from typing import TYPE_CHECKING

from retmask import callable_room

if TYPE_CHECKING:
    from retmask.compare.comparison import Comparison
    from retmask.heads.masks import HeadMask
    from retmask.model.lens import LensModel
    from retmask.text.chat import Template
    from retmask.text.needle import NeedleTask


def compare(
    model: "LensModel",
    prompt: "str | NeedleTask",
    mask: "HeadMask",
    *,
    control: "HeadMask | None" = None,
    answer: str = "",
    template: "Template | None" = None,
    haystack: str = "pydoc-end",
    max_new_tokens: int = 64,
) -> "Comparison":
    """One prompt answered unmasked (column 0) and masked (1), greedily, with differences and traces; and `control` (2).

    `prompt` is a text, of which `answer` may be the right one, or a needle task, hidden in `haystack`. `template`:
    the chat template or plain text; None takes the chat template where there is one. ValueError where the prompt is
    empty or too long for the model, and where a mask does not fit it.
    """
    from retmask.compare.comparison import Column, Prompt
    from retmask.compare.side_by_side import compare as growing
    from retmask.heads.masks import HeadMask
    from retmask.heads.rules import CONTROL, MASKED, UNMASKED
    from retmask.text.haystack import load_haystack

    asked = (
        Prompt.of_text(model.tokenizer, prompt, template, answer)
        if isinstance(prompt, str)
        else Prompt.of_needle(model.tokenizer, prompt, load_haystack(haystack))
    )
    columns = [Column(UNMASKED, HeadMask()), Column(MASKED, mask)]
    columns += [Column(CONTROL, control)] if control else []
    *_, finished = growing(model, asked, columns, max_new_tokens)
    return finished


callable_room(__name__, compare)
