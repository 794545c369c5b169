"""How conditions are written and named, what they mean, and what cannot be one."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRID, SCORES, tiny_adapter, tiny_folder
from typer.testing import CliRunner

from retmask.cli.main import app
from retmask.compare.conditions import Condition, named, parse
from retmask.compare.settings import CompareSettings
from retmask.evaluate.job import EvaluateSettings
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask, save_mask
from retmask.heads.rules import MaskRule, control


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trials": 0}, "trials 0 is outside 1 to 1,000,000"),
        ({"tuned": ("unmasked=x",)}, "two conditions named unmasked"),
        ({"tuned": ("a=x", "a=y")}, "two conditions named a"),
        ({"also": ("a=L0H0", "a=L0H1")}, "a is what another condition is called"),
        ({"also": ("L0H0",)}, "'L0H0' names no mask: write name=L17H3,L18H6"),
        ({"also": ("unmasked=L0H0",)}, "unmasked is what another condition is called"),
        ({"also": ("masked=L0H0",)}, "masked is what another condition is called"),
        ({"also": (" tuned 2 =L0H0",)}, "tuned 2 is what another condition is called"),
        ({"also": ("bad=notahead",)}, "'notahead' is not a head"),
        ({"condition": ("a: masked=L0H0", "a: masked=L0H1")}, "two conditions named a: give each its own name"),
        ({"tuned": ("a=x",), "condition": ("a: masked=L0H1",)}, "two conditions named a"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EvaluateSettings(model="m", **changes)  # type: ignore[arg-type]


def test_conditions_have_names() -> None:
    config = EvaluateSettings(model="m", tuned=("a", "b", "control=c"), rule=MaskRule(heads="L0H0"))
    folders = {name: one.tuned for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "masked": "", "tuned": "a", "tuned 2": "b", "control": "c"}
    words = "retmask evaluate m --tuned a --tuned b --tuned control=c --heads L0H0 --suite quick"
    assert config.command == words.split()


def test_a_folder_may_have_an_equals_sign() -> None:
    config = EvaluateSettings(model="m", tuned=("/x/lr=0.02/a", "best=/x/lr=0.02/b"))
    folders = {name: one.tuned for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "tuned": "/x/lr=0.02/a", "best": "/x/lr=0.02/b"}


MEANT = [  # text, what it is called, what it is measured as
    ("unmasked", "unmasked", "base"),
    ("again: unmasked", "again", "base"),
    ("masked=top:5%", "masked=top:5%", "treatment"),
    ("masked=above:0.1", "masked=above:0.1", "treatment"),
    ("ours: masked=top:14", "ours", "treatment"),
    ("masked=L0H1,L2H3", "masked=L0H1,L2H3", "treatment"),
    ("masked=/x/query heads.json", "masked=query heads", "treatment"),
    ("scaled=top:5%:0.5", "scaled=top:5%:0.5", "treatment"),
    ("scaled=L0H1:0.5,L2H3:1.2", "scaled=L0H1:0.5,L2H3:1.2", "treatment"),
    ("scaled=seal", "scaled=seal", "treatment"),
    ("random=14:seed3", "random=14:seed3", "control"),
    ("random=top:5%:seed3:matched", "random=top:5%:seed3:matched", "control"),
    ("random=L0H1:0.5:seed0", "random=L0H1:0.5:seed0", "control"),
    ("tuned=/runs/train-3/adapter", "tuned=train-3", "treatment"),
    ("control: tuned=/runs/train-4/adapter", "control", "control"),
    ("tuned=/runs/a+b/adapter+masked=top:5%", "tuned=a+b+masked=top:5%", "treatment"),
    ("model=/checkpoints/step=200", "model=step=200", "treatment"),
    ("model=/m+tuned=/a+random=3:seed1", "model=m+tuned=a+random=3:seed1", "control"),
    ("server=http://gpu:8000/v1", "server=gpu:8000", "treatment"),
    ("server=https://gpu/v1+served=org/some:7b", "server=gpu+served=org/some:7b", "treatment"),
    ("control: server=http://gpu:8000/v1", "control", "control"),
]


@pytest.mark.parametrize(("text", "name", "role"), MEANT)
def test_a_condition_is_the_one_it_prints(text: str, name: str, role: str) -> None:
    (condition,) = parse(text)
    assert (str(condition), condition.name, condition.role) == (text, name, role)
    assert parse(str(condition)) == [condition]


MISTAKES = [
    ("", "'' is no part of a condition: write unmasked, masked=HEADS"),
    ("masked", "'masked' is no part of a condition"),
    ("unmasked=x", "'unmasked=x' is no part of a condition"),
    ("maskd=top:5%", "'maskd=top:5%' is no part of a condition"),
    ("masked=", "there is nothing after masked= in 'masked='"),
    ("masked=top:x", "'top:x' does not say which heads: write top:5%, top:14"),
    ("masked=top:0", "'top:0' names no head"),
    ("masked=top:101%", "'top:101%' names no head"),
    ("masked=5%", "'5%' does not say which heads: write top:5%"),
    ("masked=L0H1,foo", "'foo' is not a head: write L17H3"),
    ("masked=top:5%:0.5", "gives a scale, and masked heads have none: write scaled=top:5%:0.5"),
    ("masked=L0H1:0.5", "gives a scale, and masked heads have none: write scaled=L0H1:0.5"),
    ("scaled=top:5%", "does not say the scale: write scaled=top:5%:0.5"),
    ("scaled=L0H1", "does not say the scale"),
    ("scaled=L0H1:3", "scale 3.0 of L0H1 is outside 0 to 2"),
    ("random=0:seed1", "draws no heads: write random=14:seed3"),
    ("random=14:sed3", "'14:sed3' does not say which heads"),
    ("random=14:seed9-0", "draws no heads"),
    ("random=14:seed0-99999", "1,000 at most"),
    ("random=14:seed3:matched", "does not say whose layers to match: write random=top:14:seed3:matched"),
    ("masked=a+masked=b", "says masked twice"),
    ("masked=a+random=3", "says in two ways which heads are masked"),
    ("unmasked+tuned=a", "is unmasked and something else"),
    ("server=http://a+masked=b", "asks a server, which can neither mask heads nor take an adapter"),
    ("server=http://a+served=b+tuned=c", "asks a server, which can neither mask heads nor take an adapter"),
    ("model=a+served=b", "names a model of no server: write server=http://HOST:PORT/v1+served=NAME"),
    ("server=http://me:secret@a", "this is no server's address: write server=http://HOST:PORT/v1"),
    ("server=http://a/v1?key=secret+masked=b", "this is no server's address"),
    ("Server=http://me:secret@h/v1", "this is no part of a condition"),
    ("server=http://me:secret@h+server=x", "this says server twice"),
    ("server=me:secret@h+tuned=", "there is nothing after tuned= in this"),
    (": server=http://h?key=secret", "the label of this is empty"),
    ("unmasked: server=http://me:secret@h", "this calls unmasked what is not"),
    ("server=http://h+masked=a+tuned=http://me:secret@h", "this asks a server"),
    ("server=gpu:8000", "'server=gpu:8000' is no server's address: write server=http://HOST:PORT/v1"),
    (": masked=a", "the label of ': masked=a' is empty"),
    ("a\tb: masked=a", "no single line"),
    ("unmasked: masked=a", "calls unmasked what is not"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES)
def test_a_mistake_is_told_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        parse(text)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


NUMBERS = st.integers(1, 999_999).map(str)
BEST = st.one_of(
    st.integers(1, 999_999).map("top:{}".format),
    st.decimals("0.000001", 100, places=6).map("top:{}%".format),
    st.decimals("0.000001", 999, places=6).map("above:{}".format),
)
SCALES = st.decimals(0, 2, places=4).map(str)
HEADS = st.builds(HeadId, st.integers(0, 99), st.integers(0, 99)).map(str)
LISTS = st.lists(HEADS, min_size=1, max_size=4).map(",".join)
SCALED = st.lists(st.tuples(HEADS, SCALES).map(":".join), min_size=1, max_size=4).map(" ; ".join)
NAMES = st.text("abcdefghij /.-_0=+", min_size=1, max_size=12).map("/{}x".format)
SEEDS = st.integers(0, 10**9 - 1).map(":seed{}".format)
PARTS = {
    "masked": st.one_of(BEST, LISTS, NAMES),
    "scaled": st.one_of(st.tuples(st.one_of(BEST, NAMES), SCALES).map(":".join), SCALED.map("{},L1H1:2".format)),
    "random": st.one_of(
        st.tuples(NUMBERS, SEEDS).map("".join),
        st.tuples(st.one_of(BEST, LISTS, NAMES), SEEDS, st.sampled_from(["", ":matched"])).map("".join),
    ),
}
LABELS = st.text(st.characters(exclude_characters="=", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@st.composite
def written(draw: Any) -> str:
    """A condition as somebody may write it: the parts in any order, a label before."""
    parts = [f"{word}={draw(NAMES)}" for word in ("tuned", "model") if draw(st.booleans())]
    if word := draw(st.sampled_from(["", *PARTS])):
        parts.append(f"{word}={draw(PARTS[word])}")
    label = draw(st.one_of(st.just(""), LABELS.map("{}: ".format)))
    return str(label + draw(st.sampled_from([" + ", "+"])).join(draw(st.permutations(parts)) or ["unmasked"]))


@settings(deadline=None)
@given(written())
def test_what_is_printed_means_the_same(text: str) -> None:
    (condition,) = parse(text)
    assert parse(str(condition)) == [condition]
    assert str(parse(str(condition))[0]) == str(condition)
    assert condition.name


@settings(deadline=None)
@given(st.text("maskedtoprnul:=+,%0123456789LH. -/", max_size=40))
def test_any_text_is_a_condition_or_a_mistake(text: str) -> None:
    with suppress(ValueError):
        assert all(parse(str(condition)) == [condition] for condition in parse(text))


def test_ten_draws_are_ten_conditions() -> None:
    draws = parse("random=14:seed0-9")
    assert [each.name for each in draws] == [f"random=14:seed{seed}" for seed in range(10)]
    assert [each.name for each in parse("control: random=top:2:seed1-2")] == ["control seed1", "control seed2"]
    assert len(named([*draws, *draws])) == 10, "the same twice is one"


def test_what_a_condition_masks(score_file: str, fresh_home: Path) -> None:
    save_mask("seal", HeadMask({HeadId(0, 1): 0.5}), GRID)

    def mask(text: str, scores: str = score_file, exclude: str = "") -> str:
        (condition,) = parse(text, scores, exclude)
        condition.check(GRID)
        return str(condition.mask(GRID))

    assert mask("unmasked") == ""
    assert mask("masked=top:2") == mask("masked=above:0.3") == "L0H1,L2H3"
    assert mask("masked=top:5%") == "L0H1"
    assert mask("scaled=top:2:0.5") == "L0H1:0.5,L2H3:0.5"
    assert mask("masked=seal", "") == mask("scaled=seal", "") == "L0H1:0.5", "a file says how its heads are scaled"
    assert mask("scaled=seal:2") == "L0H1:2"
    retrieval, best = {"L0H1", "L1H0", "L2H3"}, HeadMask.of(SCORES.top(2))
    assert mask("random=9:seed3") == mask("random=9:seed4"), "all that are no retrieval heads"
    assert not set(mask("random=9:seed3").split(",")) & retrieval
    assert mask("random=top:2:seed3") == str(control(best, GRID, 3, SCORES))
    assert mask("random=top:2:seed3:matched") == str(control(best, GRID, 3, SCORES, matched=True))
    assert mask("random=2:seed3", exclude="0.4") == str(
        MaskRule(random=2, seed=3, scores=score_file, exclude="0.4").build(GRID)
    )
    given_scores = Condition(word="random", rule=MaskRule(top_k=2, seed=3)).mask(GRID, SCORES)
    assert str(given_scores) == mask("random=top:2:seed3"), "scores may be at hand"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("masked=top:2", "masked=top:2 takes the best heads of a score file: give it with --scores"),
        ("masked=L9H9", "L9H9 is outside this model's 3 x 4 grid"),
        ("masked=nothing", "there is no mask nothing"),
        ("random=13:seed0", "13 random heads asked for, 12 are left"),
        ("tuned=/nowhere", "/nowhere is no adapter and no model"),
        ("model=/nowhere", "/nowhere is no model: give a folder with its config.json"),
        ("server=http://gpu/v1", "http://gpu/v1 is on a server, where heads cannot be masked"),
    ],
)
def test_what_is_not_there_is_told_before_anything_loads(text: str, says: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)[0].check(GRID)


def test_what_was_tuned_on_pairs_of_random_heads_is_a_control(tmp_path: Path) -> None:
    for random, role in ((0, "treatment"), (14, "control")):
        (tmp_path / "retmask.json").write_text(json.dumps({"made_with": {"mask": "L0H1", "random": random}}))
        assert parse(f"tuned={tmp_path}")[0].role == role


def test_a_record_says_what_makes_a_condition() -> None:
    (condition,) = parse("a: tuned=x+masked=L0H1")
    assert condition.record(condition.mask(GRID), {"sha256": "ab", "adapter_sha256": "cd"}) == {
        "condition": "a",
        "text": "a: tuned=x+masked=L0H1",
        "role": "treatment",
        "mask": "L0H1",
        "sha256": "ab",
        "adapter_sha256": "cd",
    }
    assert parse("unmasked")[0].record() == {"condition": "unmasked", "text": "unmasked", "role": "base"}


def test_the_columns_of_a_comparison() -> None:
    config = CompareSettings(
        prompt="a", rule=MaskRule(heads="L0H1"), tuned="t", condition=("random=2:seed0-1", "tuned=t+masked=L0H1")
    )
    names = ["unmasked", "masked", "tuned", "random control", "random=2:seed0", "random=2:seed1", "tuned=t+masked=L0H1"]
    assert [condition.name for condition in config.conditions()] == names
    weights = [condition.weights for condition in config.conditions()]
    assert len(set(weights)) == 2, "two models to load"
    assert "--condition random=2:seed0-1 --condition tuned=t+masked=L0H1" in " ".join(config.command)
    drawn = CompareSettings(prompt="a", rule=MaskRule(random=2, seed=5)).conditions()
    masks = [set(condition.mask(GRID).heads) for condition in drawn]
    assert [len(heads) for heads in masks] == [0, 2, 2]
    assert not masks[1] & masks[2], "also random heads have a control"


def test_a_comparison_of_written_conditions(tmp_path: Path, fresh_home: Path) -> None:
    """Three answers of two models: an adapter's weights are loaded once, whatever is masked in them."""
    base, adapter = tiny_folder(tmp_path), tmp_path / "adapter"
    tiny_adapter(adapter)
    words = ["compare", str(base), "--prompt", "Copy this, please: abcabc", "--max-new-tokens", "6", "--json"]
    texts = [f"tuned={adapter}", f"both: tuned={adapter}+masked=L1H0", "random=2:seed0"]
    answer = CliRunner().invoke(app, words + [part for text in texts for part in ("--condition", text)])
    assert answer.exit_code == 0, answer.output
    columns = json.loads(answer.stdout)["columns"]
    assert [column["name"] for column in columns] == ["unmasked", f"tuned={tmp_path.name}", "both", "random=2:seed0"]
    assert [column["mask"] for column in columns][:3] == ["", "", "L1H0"]
    assert len({tuple(column["logprobs"][column["name"]]) for column in columns}) == 4
    refused = CliRunner().invoke(app, [*words, "--condition", "server=http://gpu/v1"])
    assert "where heads cannot be masked" in str(refused.exception)
