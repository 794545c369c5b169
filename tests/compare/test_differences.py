"""Where answers part, and which of their words changed."""

import pytest

from retmask.compare.comparison import changes, first_divergence


@pytest.mark.parametrize(
    ("one", "other", "step"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1,), 1), ((), (1,), 0), ((), (), None)],
)
def test_first_divergence(one: tuple[int, ...], other: tuple[int, ...], step: int | None) -> None:
    assert first_divergence(one, other) == step


def test_changed_words() -> None:
    found = changes("the key is in the owl", "the key was in a brass owl")
    shown = ", ".join(f"{kind}: {text.strip()}" for kind, text in found)
    assert shown == "same: the key, lost: is, added: was, same: in, lost: the, added: a brass, same: owl"
    assert changes("", "") == []
    assert changes("a", "") == [("lost", "a")]
    assert "".join(text for kind, text in found if kind != "lost") == "the key was in a brass owl"
