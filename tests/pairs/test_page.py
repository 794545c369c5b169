"""The Pairs page without a browser: the form, the gate, the review that loses nothing, and what is handed on."""

import fcntl
import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import page
import pytest
import streamlit as st
from page import drawn, press, query, words
from streamlit.testing.v1 import AppTest

from app.shared import readers
from retmask.files import append_line, home, shipped
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.pairs.files import llama_factory, read_rows
from retmask.pairs.gate import faults
from retmask.pairs.pair import ITEMS, PAIRS, Answer, PreferencePair, read_items, write_pairs
from retmask.pairs.review import REVIEW, Review, decide, read_review
from retmask.runs import processes
from retmask.runs.record import now
from retmask.runs.run import Run
from retmask.text.prompts import generate

pytestmark = pytest.mark.usefixtures("fresh_home")
opened = partial(page.opened, "pairs")

TOP = HeadMask.of(HeadScores.load(shipped("maps", "smollm2-135m")).top_share())
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & **bold** ![x](http://127.0.0.1:1/x.png)"
ODD = [HOSTILE, "# Heading\n\n* one $a^2$", "مرحبا بالعالم", "long " * 5000, "a\u202eb\u2028c", "`x` :red[y]"]


def made_up(n: int) -> Iterator[PreferencePair]:
    """Pairs of every kind: of ten, five are good, and the gate finds the others."""
    for i, prompt in enumerate(generate("grounded", n, 0)):
        right = Answer(f"It is {prompt.answer}, as the text says in these words.", 12, "stop")
        wrong = Answer("I do not know: the text says little of it in any words.", 13, "stop")
        bad = {
            1: right,
            2: Answer("", 1, "stop"),
            3: Answer(wrong.text, 64, "length"),
            4: Answer("round and round " * 5, 30, "stop"),
            5: Answer("No.", 2, "stop"),
        }
        messages = (("system", "Be <b>terse</b>."), ("user", ODD[i // 10 % len(ODD)])) if i % 10 == 6 else None
        answer = "" if messages else prompt.answer
        yield PreferencePair(
            prompt.id, messages or prompt.messages, right, bad.get(i % 10, wrong), prompt.arm, answer, 100 + i, i % 7
        )


def made(n: int = 40, path: Path | None = None, pairs: list[PreferencePair] | None = None, **record: Any) -> Run:
    """A finished run of made-up pairs, as `retmask pairs` leaves it."""
    pairs = list(made_up(n)) if pairs is None else pairs
    config = {"model": "smollm2-135m", "generate": "grounded", "count": n, "allow": []}
    run = Run.create("pairs", config, path, name="made-up", parents=["detect-tiny"])
    for number, pair in enumerate(pairs):
        append_line(run.path / ITEMS, {"number": number, **pair.to_json()})
    kept = [pair for pair in pairs if not faults(pair)]
    write_pairs(run.path, kept, True, "smollm2-135m")
    run.report(stage="pairs", done=len(pairs), total=n, kept=len(kept))
    facts = {"status": "success", "ended": now(), "model": "smollm2-135m", "chat": True, "kept": len(kept)}
    run.update(command=["retmask", "pairs", "smollm2-135m", "--generate", "grounded"], **(facts | record))
    return run


def change(at: AppTest, name: str, value: Any) -> AppTest:
    """Set a widget of the form, by its name."""
    kinds = (at.number_input, at.text_input, at.segmented_control, at.multiselect, at.selectbox)
    found = [widget for kind in kinds for widget in kind if widget.key == f"pairs_{name}"]
    return drawn(found[0].set_value(value).run())


def card(at: AppTest) -> str:
    """The pair that is looked at, as HTML."""
    return next(
        body
        for body in (element.proto.body for element in at.get("html"))
        if "verdict" in body and "badge" in body and "<style>" not in body
    )


def position(at: AppTest) -> str:
    return next(
        line.value
        for line in at.markdown
        if " of " in line.value
        and line.value.startswith("**")
        and line.value.strip("*").replace(",", "").replace(" of ", "").isdigit()
    ).strip("*")


def figure(at: AppTest, name: str) -> str:
    return next(metric.value for metric in at.metric if metric.label == name)


def decisions(run: Run) -> list[dict[str, Any]]:
    path = run.path / REVIEW
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_without_a_run_it_says_what_pairs_are_and_what_to_do() -> None:
    at = opened()
    assert "A preference pair is a prompt with two answers" in words(at)
    assert "There are no pairs yet" in words(at)
    assert "no head is selected" in words(at)
    assert not at.error, "nothing is wrong: something is not filled in yet"
    assert at.button(key="pairs_start").disabled
    at = press(at, "pairs_mask_best")
    assert "14 heads masked (5.2 %)" in words(at)
    assert "It will take about 7 min, as measured on two cores (1.4 s a pair)" in words(at)
    assert query(at, "heads") == str(TOP)
    assert not at.error
    assert not at.button(key="pairs_start").disabled


def test_the_command_says_what_the_form_says() -> None:
    at = opened(heads=str(TOP))
    for name, value in {"generate": "chat", "count": 12, "temperature": 0.9, "max_new_tokens": 32, "seed": 5}.items():
        at = change(at, name, value)
    at = change(at, "allow", ["ratio"])
    parts = shlex.split(at.code[0].value)
    assert parts[:3] == ["retmask", "pairs", "smollm2-135m"]
    options = dict(zip(parts[3::2], parts[4::2], strict=True))
    assert options == {
        "--heads": str(TOP),
        "--scores": "smollm2-135m",
        "--generate": "chat",
        "--count": "12",
        "--seed": "5",
        "--temperature": "0.9",
        "--max-new-tokens": "32",
        "--allow": "ratio",
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"source": "file"}, "there are no prompts yet"),
        ({"server": "http://127.0.0.1:1/v1"}, "servers come in pairs"),
        ({"temperature": 9.0}, "temperature 9 is outside 0 to 5"),
        ({"top_p": 0.0}, "top_p 0 is outside 0 to 1"),
        ({"max_new_tokens": 0}, "new tokens 0 is outside 1 to 65,536"),
        ({"seed": -1}, "seed -1 is below 0"),
        ({"count": 0}, "say how many prompts"),
    ],
)
def test_what_cannot_be_is_one_sentence(values: dict[str, Any], says: str) -> None:
    at = opened(heads=str(TOP))
    for name, value in values.items():
        at = change(at, name, value)
    assert len(at.error) <= 1
    assert says in words(at)
    assert at.button(key="pairs_start").disabled


def test_a_file_that_is_not_there_starts_nothing() -> None:
    at = change(change(opened(heads=str(TOP)), "source", "file"), "prompts", "/nowhere/*x*.jsonl")
    assert "cannot be read" in at.error[0].value
    assert "\\*x\\*" in at.error[0].value
    assert at.button(key="pairs_start").disabled


def test_a_file_says_how_many_prompts_it_holds_and_what_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.JSONL"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a"}]}\n{"prompt": ""}\n{"prompt": "b", "redacted": true}'
    )
    at = change(change(opened(heads=str(TOP)), "source", "file"), "prompts", str(path))
    assert "1 prompt; 2 rows passed over: 1 without text, 1 redacted." in words(at)
    assert not at.button(key="pairs_start").disabled
    path.write_text('{"prompt": "a"}\n{"prompt": 5}')
    at = drawn(at.run())
    assert "p.JSONL, line 2: prompt is not a text" in at.error[0].value.replace("\\", "")
    assert at.button(key="pairs_start").disabled


def test_a_dataset_with_a_dot_in_its_name_is_not_fetched_as_one_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.text.sources._hub_prompts", lambda *_: pytest.fail("it is fetched"))
    at = change(opened(heads=str(TOP)), "source", "file")
    at = change(change(at, "prompts", "owner/data-v1.1"), "file_count", 8)
    assert any("retmask pairs" in code.value and "owner/data-v1.1" in code.value for code in at.code)
    assert not at.error


def test_how_long_it_will_take_is_told_by_the_last_pairs() -> None:
    """A twentieth of a second a token: 128 tokens take 6.4 s, and 60 pairs of them 6.4 minutes."""
    made(10, seconds_a_token=0.05)
    at = opened(heads=str(TOP))
    at.session_state["pairs_form"] = True
    at = change(change(drawn(at.run()), "count", 60), "max_new_tokens", 128)
    assert "It will take about 6 min, by the last pairs with this model (6.4 s a pair)" in words(at)


def test_a_run_with_servers_goes_on_only_once_they_are_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder may come from anybody: the host and the file are named before anything is sent."""
    started: list[list[str]] = []
    monkeypatch.setattr(processes, "start", lambda path, servers: started.append([*servers]) or 0)
    run = made(10, status="cancelled")
    servers = {"server": "http://a:8000/v1", "masked_server": "http://b:8000/v1", "prompts": "/home/me/diary.txt"}
    run.update(config=run.config | servers)
    at = press(opened(), "pairs_resume")
    assert started == []
    asked = f"{run.id} sends the prompts in /home/me/diary.txt to http://a:8000/v1 and http://b:8000/v1"
    assert asked in [code.value for code in at.code]
    at = press(at, "confirm_no")
    assert not [button for button in at.button if button.key == "confirm_yes"]
    at = press(press(at, "pairs_resume"), "confirm_yes")
    assert started == [["http://a:8000/v1", "http://b:8000/v1"]]
    assert not [button for button in at.button if button.key == "confirm_yes"]


def test_what_could_not_be_asked_is_said() -> None:
    pairs = list(made_up(3))
    nothing = Answer("", 0, "stop")
    pairs[1] = replace(pairs[1], chosen=nothing, rejected=nothing, unanswered="the template refuses a <b>poet</b>")
    made(3, pairs=pairs, passed_over="2 rows passed over: 2 redacted", thinking="left to the server")
    at = opened()
    assert "1 prompt could not be asked, such as grounded-0-00001: the template refuses a" in words(at)
    assert "2 rows passed over: 2 redacted" in words(at)
    assert figure(at, "Answered") == "2"
    assert "switches thinking off" in words(at)
    assert "the template refuses a &lt;b&gt;poet&lt;/b&gt;" in card(press(at, "review_next"))


def test_two_servers_need_no_heads() -> None:
    at = change(change(opened(), "server", "http://127.0.0.1:1/v1"), "masked_server", "http://127.0.0.1:2/v1")
    assert not at.error
    assert "--heads" not in at.code[0].value
    assert "--masked-server http://127.0.0.1:2/v1" in at.code[0].value


def test_prompts_are_looked_at_before_they_are_used() -> None:
    at = opened(heads=str(TOP))
    at.session_state["pairs_preview"] = True
    at = drawn(at.run())
    bodies = [element.proto.body for element in at.get("html") if 'class="prompt"' in element.proto.body]
    assert len(bodies) == 1
    assert bodies[0].count('class="prompt"') == 3
    assert "<mark>" in bodies[0]


def test_the_start_begins_a_run_and_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "start", lambda path, servers: 0)
    at = press(change(opened(heads=str(TOP)), "count", 8), "pairs_start")
    run = Run.all("pairs")[0]
    assert run.record["config"]["count"] == 8
    assert run.record["config"]["rule"]["heads"] == str(TOP)
    assert query(at, "pairs") == run.id
    assert not [button for button in at.button if button.key == "pairs_start"], "the form makes room for the run"


def test_a_second_click_after_a_restart_of_the_app_finds_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app remembered of what it began is gone; the record is not."""
    monkeypatch.setattr(processes, "start", lambda path, servers: None)  # it is about to come
    for _ in range(2):
        at = opened(heads=str(TOP))
        at.session_state["pairs_form"] = True
        press(change(drawn(at.run()), "count", 8), "pairs_start")
        st.cache_resource.clear()
    assert len(Run.all("pairs")) == 1


def test_a_file_of_pairs_in_another_form_is_kept_in_utf_8() -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    path = readers.keep_upload("p.JSON", json.dumps(rows).encode("utf-16"), "pairs", read_rows)
    assert path.parent == home() / "pairs"
    assert read_rows(path) == rows
    with pytest.raises(ValueError, match="line 1: chosen is missing"):
        readers.keep_upload("p.jsonl", b'{"prompt": "a"}', "pairs", read_rows)
    assert list(path.parent.iterdir()) == [path]


def test_an_upload_is_kept_only_if_it_holds_prompts() -> None:
    from app.pairs import prompts

    path = prompts.keep("../My prompts!.jsonl", b'{"prompt": "Hello"}\n')
    assert path.parent == home() / "prompts"
    assert path.name.startswith("My-prompts-")
    assert path.suffix == ".jsonl"
    with pytest.raises(ValueError, match="not JSON"):
        prompts.keep("bad.jsonl", b"{")
    with pytest.raises(ValueError, match="UTF-8"):
        prompts.keep("bad.txt", b"\xff\xfe\x00")
    assert list((home() / "prompts").iterdir()) == [path]
    assert prompts.keep("_x.jsonl", b'{"prompt": "Hello"}\n').name.startswith("x-")
    assert prompts.keep("_.jsonl", b'{"prompt": "Hello"}\n').name.startswith("prompts-")


def test_the_newest_run_is_shown_and_another_can_be_picked() -> None:
    first = made(10)
    first.update(created="2026-01-01T00:00:00+00:00")
    second = made(20)
    at = opened()
    assert figure(at, "Answered") == "20"
    box = next(box for box in at.selectbox if box.label == "Run")
    assert [option.split(" · ")[0] for option in box.options] == [second.id, first.id]
    at = drawn(box.set_value(first.id).run())
    assert query(at, "pairs") == first.id
    assert figure(at, "Answered") == "10"


def test_the_gate_counts_and_its_switches_change_what_is_kept() -> None:
    run = made(40)
    at = opened()
    assert figure(at, "Kept") == "20"
    assert any("leaves out 20 of 40 pairs" in expander.label for expander in at.expander)
    assert at.toggle(key=f"gate-{run.id}-empty").disabled
    at = drawn(at.toggle(key=f"gate-{run.id}-identical").set_value(False).run())
    assert figure(at, "Kept") == "20"  # another rule finds the same pairs: the rejected answer is right
    at = drawn(at.toggle(key=f"gate-{run.id}-rejected-right").set_value(False).run())
    assert figure(at, "Kept") == "24"
    assert query(at, "gate") == "identical,rejected-right"
    assert figure(opened(pairs=run.id, gate="identical,rejected-right"), "Kept") == "24"
    at = drawn(at.toggle(key=f"gate-{run.id}-identical").set_value(True).run())
    assert figure(at, "Kept") == "20"


def test_max_length_says_what_it_would_cut() -> None:
    made(10)
    at = opened()
    assert figure(at, "Beyond max_length") == "0 %"
    assert figure(change(at, "max_length", 105), "Beyond max_length") != "0 %"


def test_decisions_are_written_at_once_and_taken_back() -> None:
    run = made(20)
    at = opened()
    assert position(at) == "1 of 20"
    at = press(at, "review_drop")
    assert decisions(run) == [{"id": "grounded-0-00000", "verdict": "drop"}]
    assert position(at) == "2 of 20"
    assert figure(at, "Kept") == "9"
    at = press(at, "review_keep")
    assert decisions(run)[-1] == {"id": "grounded-0-00001", "verdict": "keep"}
    assert figure(at, "Kept") == "10"
    again = opened()  # a reload
    assert position(again) == "3 of 20"  # where nobody has decided yet
    assert figure(again, "Kept") == "10"
    at = press(press(at, "review_undo"), "review_undo")
    assert read_review(run.path) == Review({}, {})
    assert position(at) == "1 of 20"
    assert at.button(key="review_undo").disabled


def test_steps_go_through_what_the_filter_shows() -> None:
    run = made(20)
    at = opened()
    assert at.button(key="review_previous").disabled
    at = press(press(at, "review_next"), "review_next")
    assert position(at) == "3 of 20"
    assert position(press(at, "review_previous")) == "2 of 20"
    at = change(at, "filter", "Dropped")
    assert position(at).endswith("of 10")
    assert "dropped by the gate" in card(at)
    at = change(at, "filter", "Kept")
    assert position(at).endswith("of 10")
    before = position(at)
    at = press(at, "review_drop")  # it leaves the list, and the next one takes its place
    assert position(at) == before.replace("of 10", "of 9")
    assert "kept" in card(at)
    at = change(at, "filter", "Undecided")
    assert position(at).endswith("of 19")
    at = change(at, "filter", "Edited")
    assert "No pair is left under this filter" in words(at)
    assert at.button(key="review_keep").disabled
    assert not at.button(key="review_undo").disabled
    assert len(decisions(run)) == 1


def test_search_and_rules_narrow_the_review() -> None:
    made(20)
    at = drawn(next(box for box in opened().selectbox if box.label == "Found by").set_value("cut").run())
    assert position(at) == "1 of 2"
    at = drawn(at.text_input(key="review_search").set_value("NO SUCH words").run())
    assert "No pair is left" in words(at)
    at = drawn(at.text_input(key="review_search").set_value("i DO not know").run())
    assert position(at) == "1 of 2"


def test_a_press_meant_for_a_pair_that_has_gone_decides_nothing() -> None:
    from app.pairs import review
    from app.pairs.decisions import nearest

    run = made(10)
    opened()
    assert nearest([2, 5, 9], 3) == 1
    assert nearest([2, 5, 9], 10) == 2
    review._decide(run, 4, 5, "keep")  # nothing is drawn in this session
    assert decisions(run) == []


def test_an_empty_answer_is_kept_only_once_it_is_edited() -> None:
    run = made(10)
    at = press(press(opened(), "review_next"), "review_next")
    at = press(at, "review_keep")
    assert "An answer is empty" in words(at)
    assert decisions(run) == []
    at = save(press(at, "review_edit"), "It is here.", "")
    assert "An answer is empty" in words(at)
    assert decisions(run) == []
    at = save(at, "It is here.", "It is there.")
    assert decisions(run) == [{"id": "grounded-0-00002", "edit": ["It is here.", "It is there."], "verdict": "keep"}]
    assert "kept by you" in card(at)
    assert card(at).count("edited") == 2
    at = press(at, "review_undo")
    assert read_review(run.path) == Review({}, {})


def save(at: AppTest, chosen: str, rejected: str) -> AppTest:
    at.text_area[0].set_value(chosen)
    at.text_area[1].set_value(rejected)
    return drawn(next(button for button in at.button if button.label == "Save and keep").click().run())


def test_an_edit_can_be_left_and_given_up() -> None:
    run = made(10)
    at = press(opened(), "review_edit")
    assert at.button(key="review_keep").disabled
    at = drawn(next(button for button in at.button if button.label == "Cancel").click().run())
    assert not at.text_area
    assert decisions(run) == []
    at = save(press(at, "review_edit"), "same", "same")
    assert "Both texts are the same" in words(at)
    at = press(save(at, "one", "other"), "review_edit")
    assert at.text_area[0].value == "one"
    drawn(next(button for button in at.button if button.label == "The models' own texts").click().run())
    assert read_review(run.path).edits == {}


def test_a_new_version_holds_what_is_kept_and_knows_its_parent() -> None:
    run = made(20)
    at = press(opened(), "review_drop")
    at = save(press(at, "review_edit"), "chosen by me", "rejected by me")
    at = drawn(at.toggle(key=f"gate-{run.id}-ratio").set_value(False).run())
    kept = figure(at, "Kept")
    at = press(at, "pairs_save")
    new = Run.all("pairs")[0]
    assert new.id != run.id
    assert query(at, "pairs") == new.id
    assert new.parents == [run.id]
    assert "save a new version first" not in words(at)
    assert figure(at, "Answered") == figure(at, "Kept") == kept
    rows = read_rows(new.path / PAIRS)
    assert len(rows) == int(kept)
    assert rows[0]["chosen"][0]["content"] == "chosen by me"
    assert read_items(run.path) == list(made_up(20)), "the first version stays as it is"
    at = press(at, f"pairs_link-above-{run.id}")
    assert query(at, "pairs") == run.id
    assert at.button(key=f"pairs_link-below-{new.id}")


def test_what_the_page_counts_is_what_a_new_version_holds() -> None:
    run = made(60)
    for i, verdict in enumerate(("keep", "drop", None) * 5):
        decide(run.path, f"grounded-0-{3 * i:05d}", verdict=verdict)
    for gate in ("all", "cut", "ratio,rejected-right,identical"):
        at = opened(pairs=run.id, gate=gate)
        kept = int(figure(at, "Kept"))
        press(at, "pairs_save")
        assert Run.all("pairs")[0].record["kept"] == kept


def test_a_version_is_saved_once() -> None:
    run = made(20)
    first, second = press(opened(), "review_drop"), opened(pairs=run.id)
    first, second = press(first, "pairs_save"), press(second, "pairs_save")
    assert query(first, "pairs") == query(second, "pairs")
    assert len(Run.all("pairs")) == 2
    assert first.button(key="pairs_save").disabled, "there is nothing new in a version that was just saved"
    decide(run.path, "grounded-0-00006", verdict="drop")
    press(opened(pairs=run.id), "pairs_save")
    assert len(Run.all("pairs")) == 3


def test_a_newer_run_does_not_take_the_place_of_one_that_is_reviewed() -> None:
    run = made(20)
    at = press(opened(), "review_drop")
    assert query(at, "pairs") == run.id
    made(10)
    assert figure(drawn(at.run()), "Answered") == "20"


def test_files_and_training_are_offered() -> None:
    run = made(20)
    at = opened()
    labels = [element.proto.label for element in at.get("download_button")]
    assert labels == ["TRL (JSONL)", "LLaMA-Factory (JSON)"]
    assert len(llama_factory(read_rows(run.path / PAIRS))) == 10
    at.button(key="pairs_train").click().run()
    assert not at.exception
    assert at.session_state["train_pairs"] == run.id


def test_a_run_without_a_kept_pair_says_why() -> None:
    same = [pair for i, pair in enumerate(made_up(40)) if i % 10 == 1]
    run = made(4, pairs=same)
    at = opened()
    assert "No pair is kept: both answers are the same (4 of 4)" in words(at)
    assert at.button(key="pairs_save").disabled
    assert not at.get("download_button")
    assert run.status == "success"


def test_a_run_that_has_failed_says_its_last_words_and_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "start", lambda path, servers: 0)
    run = made(10, status="error", error="ValueError: *no* room")
    at = opened()
    assert "This run failed" in words(at)
    assert any("*no* room" in code.value for code in at.code)
    press(at, "pairs_resume")
    assert run.record["status"] == "queued"


def test_a_run_that_goes_on_shows_how_far_it_is() -> None:
    run = made(10, status="started")
    run.report(stage="pairs", done=10, total=300, kept=5, eta=240.0)
    with (run.path / processes.LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at = opened()
    assert any("10 of 300" in element.proto.text for element in at.get("progress"))
    assert at.button(key=f"pairs_stop-{run.id}")
    assert at.button(key="pairs_save").disabled
    assert not at.get("download_button")
    assert not at.button(key="review_keep").disabled


def test_a_cancelled_run_can_be_used() -> None:
    made(10, status="cancelled")
    at = opened()
    assert "This run was stopped (10 of 10" in words(at)
    assert at.button(key="pairs_resume")
    assert at.button(key="pairs_save").disabled, "its pairs are saved as they are"
    at = press(at, "review_drop")
    assert not at.button(key="pairs_save").disabled


def test_a_run_that_has_made_nothing_yet_is_no_trouble() -> None:
    made(4, pairs=[])
    at = opened()
    assert not at.metric
    assert not at.error


def test_a_folder_from_elsewhere_is_reviewed_there_and_its_version_is_ours(tmp_path: Path) -> None:
    run = made(10, path=tmp_path / "elsewhere", status="cancelled")
    at = opened(pairs=str(run.path))
    assert figure(at, "Answered") == "10"
    assert not [button for button in at.button if button.key == "pairs_resume"]
    at = press(at, "review_drop")
    assert len(decisions(run)) == 1
    at = press(at, "pairs_save")
    assert Run.all("pairs")[0].parents == [str(run.path)]
    at.button(key=f"pairs_link-above-{run.path}").click().run()
    assert query(drawn(at), "pairs") == str(run.path)


@pytest.mark.parametrize("name", ["../../etc", "no-such-run", "/nowhere/at/all", "detect-x"])
def test_a_name_that_is_no_run_of_pairs_is_one_sentence(name: str) -> None:
    run = made(10)
    Run.create("detect", {}, home() / "runs" / "detect-x")
    at = opened(pairs=name)
    assert len(at.error) == 1
    assert figure(at, "Answered") == "10"
    assert run.id in next(box for box in at.selectbox if box.label == "Run").value


def test_a_folder_is_opened_by_hand(tmp_path: Path) -> None:
    run = made(10, path=tmp_path / "elsewhere")
    at = opened()
    at.text_input(key="pairs_open").set_value(str(run.path))
    at = press(at, "pairs_open_go")
    assert figure(at, "Answered") == "10"


def test_texts_are_shown_as_they_are() -> None:
    made(70)
    at = opened()
    seen = ""
    for _ in range(69):
        at = press(at, "review_next")
        seen += card(at)
    assert "<script>" not in seen
    assert "<img" not in seen
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in seen
    assert "Be &lt;b&gt;terse&lt;/b&gt;." in seen
    assert "more characters" in seen
    assert "مرحبا بالعالم" in seen
