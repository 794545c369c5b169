"""The gate by hand: what is wrong with a pair, what runs in loops, what pairs have in common."""

from dataclasses import replace

import pytest
from answers import GOOD, said

from retmask.pairs.gate import RULES, check_rules, faults, gate_counts, loops, none_kept, statistics
from retmask.pairs.pair import PreferencePair
from retmask.text.recall import contains


@pytest.mark.parametrize(
    ("pair", "found"),
    [
        (GOOD, []),
        (replace(GOOD, answer="", rejected=GOOD.chosen), ["identical"]),
        (replace(GOOD, answer="", rejected=said(" ")), ["empty", "ratio"]),
        (replace(GOOD, chosen=said(GOOD.chosen.text, 64, "length")), ["cut"]),
        (replace(GOOD, rejected=said("on and on and on and on and on")), ["repetition"]),
        (replace(GOOD, rejected=said("No.")), ["ratio"]),
        (replace(GOOD, chosen=said("The key is in a blue box somewhere.")), ["chosen-wrong"]),
        (replace(GOOD, rejected=said("It is in THE  blue, jar!")), ["rejected-right"]),
    ],
)
def test_the_gate(pair: PreferencePair, found: list[str]) -> None:
    assert faults(pair) == found
    assert faults(pair, found) == []
    assert gate_counts([pair]) == {name: int(name in found) for name in RULES}


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match=r"gate rule 'cutt' is unknown: choose identical.*\(did you mean cut\?\)"):
        check_rules(["cut", "cutt"])


def test_an_answer_is_found_as_words() -> None:
    assert contains("She keeps it in a Hollow brass-owl.", "a hollow brass owl")
    assert not contains("It rhymes with carton.", "art")


@pytest.mark.parametrize(
    ("text", "round_and_round"),
    [
        ("no no no no", True),
        ("好的好的好的好的", True),
        ("今天天气很好，我们去公园吧。", False),
        ("no no no", False),
        ("a long way " * 4, True),
        ("He came, he saw, he went, he slept.", False),
        ("", False),
    ],
)
def test_loops(text: str, round_and_round: bool) -> None:
    assert loops(text) == round_and_round


def test_statistics_by_hand() -> None:
    long = replace(GOOD, id="b", chosen=said("x", 30), rejected=said("y", 10), diverged=0)
    found = statistics([GOOD, long], max_length=21)
    assert found is not None
    assert (found.pairs, found.prompt, found.chosen, found.rejected) == (2, 12, 19, 9.5)
    assert (found.bias, found.longer, found.diverged, found.longest) == (9.5, 0.5, 2, 42)
    # of GOOD 20 and 21 tokens fit into 21; of the other 42 loses 21 and 22 loses 1, of 8 + 9 + 30 + 10 said tokens
    assert found.cut_pairs == 0.5
    assert found.cut_tokens == pytest.approx(22 / 57)
    assert statistics([]) is None


def test_where_no_pair_is_kept_the_rule_that_left_them_out_is_named() -> None:
    cut = replace(GOOD, answer="", chosen=said(GOOD.chosen.text, 64, "length"))
    same = replace(GOOD, answer="", rejected=GOOD.chosen)
    both = replace(cut, rejected=cut.chosen)
    assert none_kept([cut, GOOD]) == none_kept([]) == none_kept([cut], allowed=["cut"]) == ""
    remedy = "(cut); give a larger --max-new-tokens, or keep such pairs with --allow cut"
    says = f"no pair is kept: in all 2 an answer is cut at the length limit {remedy}"
    assert none_kept([cut, cut]) == none_kept([both, cut]) == says
    assert none_kept([same, both]).startswith("no pair is kept: in all 2 both answers are the same (identical); mask ")
    assert none_kept([cut, same]).startswith("no pair is kept: in 1 of 2 ")
