"""The Evaluate page without a browser: conditions as rows, the form and its command, evaluations in every state."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import page
import pytest
from browser import wait_for
from evaluations import items, masking_hurts, run_of
from openai_server import OpenAIServer
from page import codes, drawn, errors, keys, press, query, words
from streamlit.testing.v1 import AppTest
from tiny import tiny_adapter, tiny_folder

from app.evaluate import form
from app.evaluate.evaluation import results
from retmask.compare.conditions import parse
from retmask.evaluate.job import EvaluateSettings
from retmask.heads.rules import MaskRule
from retmask.runs import processes
from retmask.runs.run import Run
from retmask.runs.settings import record as record_of

pytestmark = pytest.mark.usefixtures("fresh_home")
SHIPPED = "smollm2-135m"
DEFAULTS = ["masked=top:5%", "random=top:5%:seed0"]
opened = partial(page.opened, "evaluate")


def rows(at: AppTest) -> list[str]:
    """The conditions in their rows, the unmasked model's left out."""
    return [field.value for field in at.text_input if (field.key or "").startswith("evaluate_row-")]


def write(at: AppTest, row: int, text: str) -> AppTest:
    fields = [field for field in at.text_input if (field.key or "").startswith("evaluate_row-")]
    return drawn(fields[row].set_value(text).run())


def add(at: AppTest, kind: str, **values: Any) -> AppTest:
    """The page after a condition of that kind was added, with these values in its fields."""
    drawn(at.selectbox(key="evaluate_add").select(kind).run())
    for key, value in values.items():
        (field,) = [each for each in (*at.number_input, *at.toggle, *at.text_input) if each.key == f"evaluate_{key}"]
        drawn(field.set_value(value).run())
    return press(at, "evaluate_add_row")


def an_evaluation(status: str = "success", **changes: Any) -> Run:
    """A run of a suite that has answered nothing."""
    rule = MaskRule(scores=SHIPPED)
    settings = EvaluateSettings(model=SHIPPED, suite="rag", items=2, rule=rule, condition=("masked=top:14",), **changes)
    run = Run.create("evaluate", record_of(settings))
    run.update(status=status, command=settings.command)
    return run


def a_training(tmp_path: Path, random: int = 0, prompts: str = "abc") -> Run:
    """A training that has made an adapter for a tiny model, perhaps of pairs of random heads."""
    folder = tmp_path / "model"
    folder = folder if folder.is_dir() else tiny_folder(tmp_path)
    run = Run.create("train", {"model": str(folder), "revision": ""})
    tiny_adapter(run.path / "adapter")
    made = {"mask": "L0H1,L1H2", "prompts_sha256": prompts} | ({"random": random} if random else {})
    card = {"base": str(folder), "base_sha256": None, "run": run.id, "steps": 1, "made_with": made}
    (run.path / "adapter" / "retmask.json").write_text(json.dumps(card))
    run.report(stage="steps", done=1, total=1)
    run.update(status="success", made_with=made)
    return run


def test_the_first_rows_are_the_best_heads_and_as_many_random_ones() -> None:
    at = opened()
    assert "No evaluation yet" in words(at)
    assert rows(at) == DEFAULTS
    assert not at.button(key="evaluate_start").disabled
    assert "3 conditions and 1 floor" in words(at)
    assert "about" in words(at)


def test_start_begins_what_the_command_says(spawned: list[Run]) -> None:
    at = opened()
    command = codes(at)[0]
    press(at, "evaluate_start")
    (run,) = spawned
    assert run.command == command
    assert run.config["condition"] == DEFAULTS
    assert query(at, "evaluate") == run.reference
    assert rows(at) == [], "the form is folded away"


def test_selected_heads_are_the_first_rows_until_somebody_changes_them() -> None:
    at = opened(heads="L18H6,L20H5:0.5")
    assert rows(at) == ["scaled=L18H6,L20H5:0.5", "random: random=L18H6,L20H5:0.5:seed0"]
    at = press(at, "evaluate_drop-1")
    assert rows(at) == ["scaled=L18H6,L20H5:0.5"]
    drawn(at.run())
    assert rows(at) == ["scaled=L18H6,L20H5:0.5"], "what was removed stays away"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this row is empty"),
        ("maskd=top:5%", "is no part of a condition"),
        ("masked=L99H1", "L99"),
        ("tuned=/nowhere", "is no adapter and no model"),
        ("server=http://x/v1+masked=top:5%", "can neither mask heads nor take an adapter"),
        ("server=http://x:99999/v1", "is not a server's address"),
        ("masked=top:5%:0.5", "gives a scale"),
        ("random=top:5%:seed0: masked=top:14", "does not say which heads"),
    ],
)
def test_a_mistake_is_a_sentence_at_its_row_and_nothing_starts(text: str, sentence: str) -> None:
    at = write(opened(), 0, text)
    assert len(at.error) == 1
    assert sentence in errors(at)
    assert at.button(key="evaluate_start").disabled
    assert not write(at, 0, "masked=top:14").error


def test_a_file_of_items_with_a_mistake_is_one_sentence_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"question": "Who?", "gold": "Kim"}\n{"question": "Who?"}\n')
    at = opened(session={"evaluate_suite": str(tmp_path / "items.jsonl")})
    assert len(at.error) == 1
    assert "items.jsonl, line 2: gold is missing or empty." in errors(at)
    assert at.button(key="evaluate_start").disabled
    assert "No evaluation yet" in words(at), "the page goes on below it"


def test_the_hub_is_asked_once_for_a_model_that_it_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def check(name: str, revision: str | None) -> None:
        asked.append(name)
        raise ValueError(f"there is no model {name} on the Hub")

    monkeypatch.setattr("retmask.model.weights._check_hub", check)
    row = {"evaluate_rows": [0], "evaluate_rows_made": 1, "evaluate_row-0": f"tuned={tiny_adapter(tmp_path)}"}
    at = drawn(opened(session={"evaluate_map": SHIPPED, "evaluate_model": "acme/none"} | row).run())
    assert "there is no model acme/none on the Hub" in errors(at)
    assert asked == ["acme/none"]


def test_two_rows_of_one_name_are_told_at_the_second() -> None:
    at = write(write(opened(), 0, "a: masked=top:5%"), 1, "a: masked=top:14")
    assert "a row above is named a too" in errors(at)
    assert not write(at, 1, "b: masked=top:14").error


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("masked heads", {"share": 2.5}, "masked=top:2.5%"),
        ("random heads", {"draws": 3, "matched": True}, "random=top:5%:seed0-2:matched"),
        ("random heads", {"draws": 1}, "random=top:5%:seed0"),
        ("scaled heads", {"scale": 0.25}, "scaled=top:5%:0.25"),
        ("a checkpoint", {"folder": "/some/model"}, "model=/some/model"),
    ],
)
def test_what_is_added_is_a_row_in_the_grammar(kind: str, values: dict[str, Any], text: str) -> None:
    at = add(opened(), kind, **values)
    assert rows(at) == [*DEFAULTS, text]
    assert parse(text)
    assert bool(at.error) == (kind == "a checkpoint"), "there is no such model"


def test_a_server_is_added_where_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to when it is added and when the evaluation starts, never by looking at the page."""
    started: list[list[str]] = []
    monkeypatch.setattr(processes, "start", lambda path, servers: started.append([*servers]) or 0)
    monkeypatch.setenv("RETMASK_SERVER_KEYS", "other.example:8000=sk-secret")
    with OpenAIServer("a", "b") as server, OpenAIServer() as gone:
        gone.stop()
        at = add(opened(), "a server", server=gone.url)
        assert "does not answer" in errors(at)
        at = add(at, "a server", server=server.url)
        assert "serves 2 models and none is named: choose a, b" in errors(at)
        assert rows(at) == DEFAULTS
        at = add(at, "a server", server=server.url, served="b")
        assert rows(at) == [*DEFAULTS, f"server={server.url}+served=b"]
        assert not at.error
        assert "4 conditions and 1 floor" in words(at)
        assert "here, and what the servers take" in words(at)
        before = len(server.requests)
        drawn(at.run())
        assert len(server.requests) == before
        press(at, "evaluate_start")
        assert started == [[server.url]], "its worker may ask it"
        assert Run.all("evaluate")[0].config["condition"] == [*DEFAULTS, f"server={server.url}+served=b"]
        assert "sk-secret" not in str(server.requests)


def test_how_long_servers_take_is_not_foreseen() -> None:
    settings = EvaluateSettings(model="m", suite="rag", condition=("server=http://h/v1",))
    assert form._size(settings)[1].endswith(
        "how long they take is known once some have been given, the servers' aside."
    )


def test_what_a_training_made_is_added_with_or_without_a_mask(tmp_path: Path) -> None:
    run = a_training(tmp_path)
    at = opened(session={"evaluate_map": SHIPPED, "evaluate_model": run.config["model"]})
    assert rows(at) == [], "the map is another model's: its heads are not meant"
    at = add(at, "a training")
    assert rows(at) == [f"tuned={run.path / 'adapter'}"]
    assert not at.error
    at = write(press(at, "evaluate_add_row"), 1, f"tuned={run.path / 'adapter'}+masked=L0H1")
    assert not at.error
    assert "3 conditions" in words(at)


def test_a_training_opens_the_page_with_its_rows(tmp_path: Path) -> None:
    control, run = a_training(tmp_path, random=2), a_training(tmp_path)
    a_training(tmp_path, random=2, prompts="others")
    at = page.opened("train", train=run.id)
    at.button(key="measure").click().run()
    assert drawn(at, "evaluate").selectbox(key="evaluate_model").value == run.config["model"]
    adapters = [run.path / "adapter", control.path / "adapter"]
    assert rows(at) == [f"tuned: tuned={adapters[0]}", "masked: masked=L0H1,L1H2", f"control: tuned={adapters[1]}"]
    assert not at.error
    at = page.opened("train", train=control.id)
    at.button(key="measure").click().run()
    assert rows(at) == [f"control: tuned={adapters[1]}", "random control: masked=L0H1,L1H2"]


def test_an_evaluation_of_a_training_is_a_click_away_from_it(tmp_path: Path) -> None:
    run = a_training(tmp_path)
    settings = EvaluateSettings(model="m", suite="rag", condition=(f"x: tuned={run.path / 'adapter'}",))
    made = Run.create("evaluate", record_of(settings), parents=[run.id])
    made.update(status="success")
    at = page.opened("train", train=run.id)
    at.button(key="measured_open").click().run()
    assert query(drawn(at, "evaluate"), "evaluate") == made.reference


def test_the_form_of_an_evaluation_can_be_had_again() -> None:
    run = an_evaluation(lengths=(512,), seed=7)
    at = press(opened(), "evaluation_change")
    assert rows(at) == ["masked=top:14"]
    assert codes(at)[0] == run.command
    run.update(config={"model": 3, "suite": "rag", "condition": 5})
    at = press(opened(), "evaluation_change")
    assert errors(at)


@pytest.mark.parametrize("status", ["queued", "cancelled", "error", "success"])
def test_an_evaluation_in_every_state(status: str) -> None:
    run = an_evaluation(status)
    at = opened(evaluate=run.id)
    assert not errors(at).replace("This evaluation failed. Its last words:", "")
    assert ("evaluation_discard" in keys(at)) == (status != "success")
    assert ("evaluation_resume" in keys(at)) == (status in ("cancelled", "error", "queued") and not run.is_active)


def test_an_evaluation_that_is_discarded_is_gone_and_the_page_stays() -> None:
    run = an_evaluation("cancelled")
    at = press(press(opened(evaluate=run.id), "evaluation_discard"), "confirm_yes")
    assert query(at, "evaluate") == ""
    wait_for(lambda: not run.path.exists())
    assert "No evaluation yet" in words(drawn(at.run()))


def test_evaluations_of_the_same_items_are_looked_at_beside_each_other() -> None:
    """What both asked stands once; what only has the name of another is called by its run too."""
    asked, named = items(2), ("a: masked=top:2", "b: masked=top:3", "a: masked=top:4")
    first = run_of(asked, masking_hurts, named[:1], "evaluate-first")
    second = run_of(asked, lambda condition, _: condition == "a", named[1:], "evaluate-second")
    for run, digest in ((first, "same"), (second, "same"), (run_of(items(3), masking_hurts), "others")):
        run.update(items_sha256=digest)
    at = opened(evaluate=f"{first.id},{second.id}")
    (beside,) = at.multiselect
    assert [str(option).split(" ")[0] for option in beside.options] == [second.id]
    assert beside.value == [second.reference]
    together = results(first, [second])
    assert [row["condition"] for row in together["conditions"]] == ["unmasked", "a", "b", f"a ({second.id})"]
    means = {row["condition"]: row["mean"] for row in together["means"] if row["level"] == "overall"}
    assert means == {"unmasked": 0.875, "a": 0.875, "b": 0.0, f"a ({second.id})": 1.0}
    drawn(beside.set_value([]).run())
    assert query(at, "evaluate") == first.reference


def test_an_address_with_another_model_behind_it_stands_for_itself() -> None:
    """The base was served there, then a masked checkpoint: whose answers are whose is as the runs have pinned it."""
    asked, address = items(2), ("s: server=http://h/v1",)
    runs = []
    for model, right in (("base", True), ("masked", False), ("base", True)):
        runs.append(run_of(asked, lambda condition, _, r=right: r, address, f"evaluate-{model}-{len(runs)}"))  # type: ignore[misc]
        runs[-1].update(**{"server of s": {"url": "http://h/v1", "model": model}})
    first, second, third = runs
    together = results(first, [second, third])
    assert [facts["condition"] for facts in together["conditions"]] == ["unmasked", "s", f"s ({second.id})"]
    assert [facts["server"]["model"] for facts in together["conditions"][1:]] == ["base", "masked"]
    means = {row["condition"]: row["mean"] for row in together["means"] if row["level"] == "overall"}
    assert means == {"unmasked": 1.0, "s": 1.0, f"s ({second.id})": 0.0}


def test_an_address_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    assert "nowhere" in errors(opened(evaluate="nowhere"))
    assert "another kind" in errors(opened(evaluate=a_training(tmp_path).id))


def test_needle_evaluations_of_before_are_not_offered() -> None:
    Run.create("evaluate", {"model": "m", "tuned": ["x"]}).update(status="success")
    assert "No evaluation yet" in words(opened())


def test_wrong_settings_are_a_sentence() -> None:
    at = opened()
    drawn(at.text_input(key="evaluate_lengths").set_value("a lot").run())
    assert "is not a list of numbers" in errors(at)
    assert at.button(key="evaluate_start").disabled
    at = opened(session={"evaluate_suite": "no such task"})
    assert "is no suite, no task and no file of items" in errors(at)
    assert "choose a suite" in errors(opened(session={"evaluate_suite": "needles"}))
