"""The browser over items: what passes a filter, what is drawn of an item, and what is made of it."""

import json

import pytest
from evaluations import CONDITIONS, EVIL, items, masking_hurts, run_of
from page import opened, press, query, words
from streamlit.testing.v1 import AppTest

from app.evaluate.evaluation import Evaluation, Filter, evaluation_of
from app.evaluate.item_html import AROUND, MOST, context_html
from retmask.items.item import Item
from retmask.pairs.files import read_rows
from retmask.pairs.pair import Answer, PreferencePair, read_items
from retmask.pairs.review import collect
from retmask.runs.run import Run

pytestmark = pytest.mark.usefixtures("fresh_home")
MASKED, RANDOM = CONDITIONS


@pytest.fixture
def run() -> Run:
    return run_of(items(4), masking_hurts)


@pytest.fixture
def evaluation(run: Run) -> Evaluation:
    return evaluation_of(run)


def item_of(at: AppTest) -> str:
    """The item as it is drawn."""
    return next(html.proto.body for html in at.get("html") if html.proto.body.startswith('<div class="item">'))


def test_filters_pass_what_they_say(evaluation: Evaluation) -> None:
    everything = range(len(evaluation.items))
    assert evaluation.shown(Filter()) == [*everything]
    hurt = [place for place in everything if place % 8]
    ways = {"worse": hurt, "lost": hurt, "better": [], "found": []}
    for way, places in ways.items():
        assert evaluation.shown(Filter(way=way, before="unmasked", after=MASKED)) == places, way
    back = {"worse": [], "lost": [], "better": hurt, "found": hurt}
    for way, places in back.items():
        assert evaluation.shown(Filter(way=way, before=MASKED, after="unmasked")) == places, way
    assert evaluation.shown(Filter(way="better", before="unmasked", after=RANDOM)) == []
    assert {evaluation.items[place].tokens for place in evaluation.shown(Filter(length=1024))} == {1024}
    assert len(evaluation.shown(Filter(category="rag", task="towns"))) == 8
    assert evaluation.shown(Filter(category="rag", task="codes")) == []


def test_contexts_stay_on_disk(run: Run, evaluation: Evaluation) -> None:
    assert sum(len(item.context) for item in evaluation.items) == len(evaluation.items)
    assert [evaluation.whole(place) for place in range(16)] == items(4)
    (run.path / "items.jsonl").write_text("")
    with pytest.raises(ValueError, match="have changed: load the page anew"):
        evaluation.whole(3)


def test_words_are_looked_for_in_question_gold_and_answers(evaluation: Evaluation) -> None:
    assert len(evaluation.shown(Filter(search="ADA 3"))) == 4
    assert len(evaluation.shown(Filter(search="<73>"))) == 4
    assert len(evaluation.shown(Filter(search="indeed"))) == 14
    assert evaluation.shown(Filter(search="so it goes")) == [], "the context is not searched"


@pytest.mark.parametrize("length", [60, 2_000, 60_000])
def test_what_is_planted_is_marked_and_nothing_else(length: int) -> None:
    item = items(4, length)[2]
    html = context_html(item)
    assert html.count('<mark class="now">The code of Ada 2 is &lt;72&gt;.</mark>') == 1
    assert html.count("<mark>The code of Bob is 5.</mark>") == 1
    assert html.count("<mark") == 2
    assert EVIL not in html
    assert len(html) < 2 * max(len(item.context), MOST)
    if len(item.context) > MOST:
        assert len(html) < 8 * AROUND


def test_spans_that_overlap_or_lie_outside_are_drawn_once() -> None:
    item = Item("a", "t", "recall", "a", 9, 0.5, "one two three", "?", ("x",), planted=((0, 7), (4, 13), (8, 99)))
    assert context_html(item) == '<mark class="now">one two</mark> three'


def test_an_item_has_an_address_and_neighbours(run: Run) -> None:
    at = opened("evaluate", evaluate=run.id, item="codes-512-2-0")
    assert "codes-512-2-0" in item_of(at)
    assert "**3 of 16**" in words(at)
    assert query(press(at, "items_Next"), "item") == "codes-512-3-0"
    press(press(at, "items_Previous"), "items_Previous")
    assert query(at, "item") == "codes-512-1-0"
    assert query(at, "evaluate") == run.id
    assert "There is no item nowhere" in words(opened("evaluate", evaluate=run.id, item="nowhere"))


@pytest.mark.parametrize(
    ("looked_at", "then"),
    [
        ("", "evaluate-tiny"),
        ("evaluate-tiny,evaluate-beside", "evaluate-tiny,evaluate-beside"),
        ("others", "evaluate-tiny"),
    ],
)
def test_a_step_keeps_those_beside_it_in_the_address(run: Run, looked_at: str, then: str) -> None:
    """The callback alone, as in a fragment: a drawing of the whole page puts them back."""

    def step() -> None:
        from app.evaluate.items import _step
        from retmask.runs.run import Run

        _step(Run.find("evaluate-tiny"), ["a", "b"], 0, 1)

    at = AppTest.from_function(step)
    at.query_params["evaluate"] = looked_at
    at.run()
    assert not at.exception
    assert (query(at, "evaluate"), query(at, "item")) == (then, "b")


def test_every_answer_is_drawn_with_its_score_and_rank(run: Run) -> None:
    html = item_of(opened("evaluate", evaluate=run.id, item="codes-512-1-0"))
    assert [html.count(f"<h4>{name}</h4>") for name in ("unmasked", *CONDITIONS, "no context")] == [1, 1, 1, 1]
    assert html.count("✓ score 1.00") == 2
    assert html.count("✗ score 0.00") == 2
    assert html.count("rank 3 of 4") == 2
    assert EVIL not in html


def test_a_pair_is_made_of_an_item(run: Run) -> None:
    at = press(opened("evaluate", evaluate=run.id, item="codes-512-1-0"), "items_add")
    assert "1 in it" in words(at)
    pairs = Run.find(query(at, "pairs"))
    assert pairs.parents == [run.id]
    pair = read_items(pairs.path)[0]
    assert (pair.chosen.text, pair.rejected.text) == ("It is <71>", f"It is I do not know {EVIL}")
    assert pair.messages[0][1] == items(4)[1].message
    assert read_rows(pairs.path / "pairs.jsonl")[0]["chosen"] == [{"role": "assistant", "content": "It is <71>"}]
    press(at, "items_Next")
    press(press(at, "items_add"), "items_add")
    assert [each.id for each in read_items(pairs.path)] == [f"codes-512-{i}-0 {MASKED}" for i in (1, 2)]
    assert pairs.record["kept"] == 2
    assert "Kept" in " ".join(str(box.options) for box in opened("pairs", pairs=pairs.id).button_group)


def test_no_pair_is_made_where_nobody_was_wrong() -> None:
    run = run_of(items(1), lambda condition, place: True)
    at = opened("evaluate", evaluate=run.id)
    assert "No condition has a wrong answer" in words(at)
    assert not [button for button in at.button if button.key == "items_add"]


def test_an_item_is_asked_again_on_compare(run: Run) -> None:
    at = opened("evaluate", evaluate=run.id, item="towns-1024-2-0")
    next(button for button in at.button if button.key == "items_compare").click().run()
    assert at.session_state["setup"].text == items(4)[14].message
    assert (at.session_state["setup"].kind, at.session_state["setup"].answer) == ("text", "<72>")


def test_damaged_lines_are_passed_over(run: Run) -> None:
    good = json.loads((run.path / "items.jsonl").read_text().splitlines()[0])
    bad = [{"id": "x"}, good | {"planted": [[1]]}, good | {"question": 3}, good | {"gold": []}, good | {"planted": 3}]
    (run.path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*bad, good]))
    assert [item.id for item in evaluation_of(run).items] == [good["id"]]
    assert "**1 of 1**" in words(opened("evaluate", evaluate=run.id))


@pytest.mark.parametrize("texts", [("yes", "yes"), ("yes", " "), ("", "no")])
def test_no_pair_is_kept_that_teaches_nothing(run: Run, texts: tuple[str, str]) -> None:
    chosen, rejected = (Answer(text, 0, "stop") for text in texts)
    with pytest.raises(ValueError, match="two different texts"):
        collect(run, PreferencePair("a", (("user", "?"),), chosen, rejected), chat=True)
    assert not Run.all("pairs")
