"""The Compare page without a browser, with the real model: what a person sets, runs and reads on it."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import page
import pytest
from page import drawn, errors, press, query, words
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from typer.testing import CliRunner

from app.compare.answer_html import answer_html, context_html, marked_html, pieces, token_html, windows
from app.compare.setup import Setup, keep_setup, keep_text, read_setup
from app.shared import models
from app.shared.text import fact_html, in_one, text_html
from retmask.cli.main import app
from retmask.compare.comparison import Comparison, Prompt
from retmask.files import append_line, home, shipped
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask, mask_record, saved_masks
from retmask.heads.scores import HeadScores
from retmask.runs.run import Run
from retmask.text.sampling import Sampling

pytestmark = pytest.mark.usefixtures("fresh_home")
opened = partial(page.opened, "compare")

BEST = HeadScores.load(shipped("maps", "smollm2-135m"))
TOP = HeadMask.of(BEST.top_share())
SHORT = {"tokens": 256, "new_tokens": 32}  # long enough for the needle, and for its loss


def change(at: AppTest, **values: Any) -> AppTest:
    """Set widgets of the page, by the names of the settings."""
    for name, value in values.items():
        kinds = (at.number_input, at.text_area, at.text_input, at.selectbox, at.toggle, at.segmented_control, at.slider)
        found = [widget for kind in kinds for widget in kind if widget.key == f"ask_{name}"]
        drawn(found[0].set_value(value).run())
    return at


def answered(**values: Any) -> AppTest:
    """The page after a run with the best heads masked."""
    return press(change(opened(heads=str(TOP)), **(SHORT | values)), "run")


def texts(at: AppTest) -> list[str]:
    """The HTML of the columns, in order; then what else is drawn as HTML."""
    return [element.proto.body for element in at.get("html") if "<style>" not in element.proto.body]


def columns(at: AppTest) -> list[str]:
    return [text for text in texts(at) if "tokens/s" in text]


def test_without_a_selection_one_button_makes_one() -> None:
    at = opened()
    assert "0 of 270 heads masked" in words(at)
    assert words(at).count('No head is selected: press "Mask the top 5 %" above') == 2
    assert not any("retmask compare" in code.value for code in at.code)
    at = press(at, "mask_best")
    assert "14 of 270 heads masked (5.2 %)" in words(at)
    assert query(at, "heads") == str(TOP)
    assert at.code[0].value.startswith(f"retmask compare smollm2-135m --needle fair --heads {TOP}")


def test_masking_the_best_heads_loses_the_needle_and_masking_random_ones_does_not() -> None:
    at = answered()
    unmasked, masked, control = columns(at)
    assert '<span class="badge good">recall 1.00</span>' in unmasked
    assert '<span class="badge bad">recall 0.' in masked
    assert "badge good" in control
    assert "ended by itself" in unmasked
    assert any("Right answer: <b>a wheelbarrow decorated" in text for text in texts(at))
    assert at.button(key="stop").disabled
    _differences(at)
    _trace(at)


def _differences(at: AppTest) -> None:
    parting = next(text for text in texts(at) if "They part at token" in text)
    assert "unmasked" in parting
    lost = next(text for text in texts(at) if "<del>" in text and "They part" not in text)
    assert "wheelbarrow" in lost[lost.index("<del>") : lost.rindex("</del>")]
    assert "Mean divergence" in words(at)


def _trace(at: AppTest) -> None:
    drawn(at.segmented_control(key="view").set_value("Trace").run())
    names = [metric.label for metric in at.metric]
    assert names == ["Overlap with the mask", "With the top 20", "Persistence", "Entropy", "Effective heads"]
    assert 0 < float(at.metric[0].value) < 1
    step = next(box for box in at.selectbox if box.label == "Token")
    assert any('<mark class="now">' in text and "from position" in text for text in texts(at))
    head = next(box for box in at.selectbox if box.label == "Head")
    assert head.value in TOP.heads
    drawn(step.set_value(0).run())
    assert next(box for box in at.selectbox if box.label == "Token").value == 0


def test_the_command_on_the_page_answers_the_same() -> None:
    at = answered(tokens=200, new_tokens=6)
    done = CliRunner().invoke(app, [*shlex.split(at.code[0].value)[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert [column["text"] for column in json.loads(done.stdout)["columns"]] == [
        unescape(re.sub("<.*?>", "", text.split('<div class="said">')[1])) for text in columns(at)
    ]


def test_nothing_selected_still_answers_unmasked_and_own_text_has_no_recall() -> None:
    at = change(opened(), kind="text", text="Say <b>hello</b> & *nothing* else.", new_tokens=4)
    assert "is known once the model is loaded" in words(at)
    at = press(at, "run")
    assert len(columns(at)) == 1
    assert "recall" not in columns(at)[0]
    assert "No head is selected" in words(at)
    assert "tokens as a prompt; the model reads up to 8,188 and 4 new ones" in words(at)
    assert "Differences need two columns" in words(at)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tokens": 100}, "100 tokens are too few"),
        ({"kind": "text", "text": "  "}, "the prompt is empty"),
        ({"haystack": "/no/such/folder"}, "there is no haystack folder /no/such/folder"),
        ({"unmasked": False, "masked": False, "control": False}, "there is nothing to run: switch on a column"),
        ({"tokens": 9000}, "reads 8,192 tokens and 9,000 were asked for"),
        ({"tokens": 10**6}, "reads 8,192 tokens and 1,000,000 were asked for"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(values: dict[str, Any], sentence: str) -> None:

    at = press(opened(heads="L17H3", c=keep_setup(Setup(**values))), "run")
    assert len(at.error) == 1
    assert sentence in errors(at)
    assert columns(at) == []


def test_an_error_leaves_the_last_answers_and_other_settings_are_told() -> None:
    at = answered(new_tokens=2, control=False)
    before = columns(at)
    assert len(before) == 2
    at = press(change(at, tokens=100), "run")
    assert "too few" in errors(at)
    assert columns(at) == before
    assert "These answers are of other settings" in words(at)
    at = press(change(at, tokens=256), "run")
    assert errors(at) == ""
    assert "These answers are of other settings" not in words(at)


def test_a_reload_keeps_the_settings() -> None:
    values = {"needle": "lift", "tokens": 640, "depth": 0.25, "template": "plain", "control": False, "temperature": 0.7}
    at = change(opened(), **values, seed=3)
    again = opened(c=query(at, "c"))
    kept = {name: again.session_state[f"ask_{name}"] for name in [*values, "seed"]}
    assert kept == values | {"seed": 3}


def test_a_link_keeps_its_settings_whatever_its_receiver_changes() -> None:

    at = change(opened(), kind="text", text="One two.", new_tokens=2)
    sent = query(at, "c")
    shown = [code.value for code in press(at, "mask_best").code if "--prompt-file" in code.value]
    file = Path(shlex.split(shown[0])[shlex.split(shown[0]).index("--prompt-file") + 1])
    other = change(opened(c=sent), text="Three.", new_tokens=9)
    assert query(other, "c") != sent
    assert (read_setup(sent).text, read_setup(sent).new_tokens) == ("One two.", 2), "the sender's are as they were"
    assert file.read_text() == "One two.", "and so is the file in the command that was shown"
    back = change(other, text="One two.", new_tokens=2)
    assert query(back, "c") == sent, "the same settings are the same link"


@pytest.mark.parametrize("content", ["{", "[]", '{"tokens": "many", "depth": 7, "needle": "none", "seed": true}'])
def test_settings_that_cannot_be_read_are_the_defaults(content: str, fresh_home: Path) -> None:

    (fresh_home / "compare").mkdir()
    (fresh_home / "compare" / "0123456789ab.json").write_text(content)
    assert read_setup("0123456789ab") == Setup()
    assert read_setup("../../etc/passwd") == Setup()


def test_settings_come_back_from_their_record() -> None:

    setup = Setup(kind="text", text="a\n«b»", depth=0.0, temperature=1.0, matched=True)
    assert Setup.from_json(json.loads(json.dumps(setup.to_json()))) == setup
    assert isinstance(Setup.from_json({"depth": 1}).depth, float)


def test_the_scale_is_in_the_address_and_heads_that_stay_keep_it() -> None:
    at = opened(heads="L17H3,L18H6")
    scale = next(widget for widget in at.number_input if widget.label == "Scale")
    drawn(scale.set_value(0.5).run())
    assert query(at, "heads") == "L17H3:0.5,L18H6:0.5"
    assert "2 of 270 heads at scale 0.5" in words(at)
    assert "--heads L17H3,L18H6 --scores smollm2-135m --scale 0.5" in at.code[0].value
    again = opened(heads="L17H3:0.5,L18H6")
    assert "at mixed scales" in words(again)
    drawn(again.multiselect[0].set_value([*again.multiselect[0].value, HeadId(20, 1)]).run())
    assert query(again, "heads") == "L17H3:0.5,L18H6,L20H1"


def test_a_mask_is_kept_under_a_name_and_loaded() -> None:
    at = opened(heads="L17H3:0.5,L18H6")
    at.text_input(key="mask_name").set_value("two of them").run()
    at = press(at, "mask_save")
    assert "is not a mask name" in errors(at)
    at.text_input(key="mask_name").set_value("two").run()
    at = press(at, "mask_save")
    assert saved_masks() == ["two"]
    assert not at.error
    again = press(opened(), "mask_load")
    assert query(again, "heads") == "L17H3:0.5,L18H6"


def test_a_map_that_names_no_model_asks_for_it_and_must_fit_it(tmp_path: Path) -> None:
    HeadScores("mine", np.random.default_rng(0).random((3, 4, 8)) / 10).save(tmp_path / "mine.json")
    at = press(opened(map=str(tmp_path / "mine.json"), heads="L1H2"), "run")
    assert "the model is missing" in errors(at)
    at = press(change(at, model="smollm2-135m"), "run")
    assert "4 x 8" in errors(at)
    assert "30 x 9" in errors(at)
    at = press(change(at, model="/no/such/model"), "run")
    assert "/no/such/model" in errors(at)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"adapter": "some/lora"}, "--adapter some/lora"),
        ({"revision": "v2"}, "--revision v2"),
        ({"adapter": "a", "revision": "v2"}, "--revision v2 --adapter a"),
        ({"adapter": "", "revision": None}, ""),
    ],
)
def test_a_map_of_an_adapter_or_a_revision_is_of_that_model(config: dict[str, str], options: str) -> None:
    run = Run.create("detect", {"model": "smollm2-135m", **config})
    run.update(status="success")
    BEST.save(run.path / "scores.json")
    at = opened(map=run.id, heads="L17H3")
    assert not any(widget.key == "ask_model" for widget in at.text_input)
    commands = [code.value for code in at.code]
    assert len(commands) == 3, "ask, dose, ablate"
    for command in commands:
        assert options in command
        assert ("--adapter" in command, "--revision" in command) == ("--adapter" in options, "--revision" in options)


def test_another_sessions_model_is_only_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    at = press(change(opened(), kind="text", text="One two.", new_tokens=2), "run")
    assert not errors(at)
    ((ref, known),) = at.session_state["loaded"].items()
    assert (str(ref), known.has_template) == ("smollm2-135m", True)

    def never(*_: Any) -> None:
        raise AssertionError("a drawing loads no model")

    monkeypatch.setattr(models, "get", never)
    monkeypatch.setattr(known.tokenizer.__class__, "__call__", never)
    at = change(at, new_tokens=3)
    assert "and 3 new ones" in words(at), "the length is remembered"


def test_line_ends_of_windows_leave_the_file_as_it_is(fresh_home: Path) -> None:

    file = keep_text("a\r\nb\rc")
    assert file.read_bytes() == b"a\nb\nc"
    before = file.stat().st_mtime_ns
    assert keep_text("a\r\nb\rc").stat().st_mtime_ns == before


def curve_of(scores: str, ks: tuple[int, ...], **fields: Any) -> Run:
    """A dose curve's run, as its worker leaves it."""
    run = Run.create("dose", {"model": "smollm2-135m", "scores": scores, "trials": 2, "context_tokens": 512})
    run.update(command=["retmask", "dose", "smollm2-135m"], **fields)
    for k in ks:
        found = {"recall": 1 / (k + 1), "found": 1.0, "perplexity": 20.0 + k, "trials": 2, "recalls": [1.0, 0.5]}
        append_line(run.path / "points.jsonl", {"kind": "top", "k": k, "seed": None, **found, "heads": ""})
    return run


def test_a_dose_curve_is_started_with_what_the_form_says(spawned: list[Run]) -> None:
    at = opened()
    at.text_input(key="dose_ks").set_value("1, 2 4")
    at.number_input(key="dose_random_seeds").set_value(2)
    drawn(at.number_input(key="dose_trials").set_value(3).run())
    assert any(text.startswith("10 points.") for text in (caption.value for caption in at.caption))
    at = press(at, "dose_start")
    assert not errors(at)
    assert [run.record["kind"] for run in spawned] == ["dose"]
    config = spawned[0].record["config"]
    kept = {name: config[name] for name in ("model", "scores", "ks", "random_seeds", "trials", "context_tokens")}
    assert kept == {
        "model": "smollm2-135m",
        "scores": "smollm2-135m",
        "ks": [0, 1, 2, 4],
        "random_seeds": 2,
        "trials": 3,
        "context_tokens": 512,
    }
    assert any(button.key == f"dose_curve_stop-{spawned[0].id}" for button in at.button)


@pytest.mark.parametrize(
    ("ks", "sentence"),
    [("1,two", "is not a list of numbers"), ("1,500", "500 heads cannot be masked, the model has 270")],
)
def test_a_wrong_list_of_head_counts_is_one_sentence(ks: str, sentence: str) -> None:
    at = opened()
    drawn(at.text_input(key="dose_ks").set_value(ks).run())
    assert len(at.error) == 1
    assert sentence in errors(at)
    assert at.button(key="dose_start").disabled


def test_a_curve_is_drawn_with_what_became_of_it() -> None:
    run = curve_of("smollm2-135m", (0, 1, 2), status="success")
    curve_of("gemma-3-270m", (0, 1), status="success")  # of another map
    at = opened()
    assert [len(box.options) for box in at.selectbox if box.label == "Curve"] == [1]
    assert "2 trials a point" in words(at)
    assert len(at.get("plotly_chart")) == 1
    assert not at.error
    run.update(status="error", error="ValueError: the disk is full")
    at = opened()
    assert "This curve failed" in errors(at)
    assert "ValueError: the disk is full" in [code.value for code in at.code]
    assert at.button(key="dose_curve_resume").label == "Resume"
    run.update(status="cancelled", error=None)
    assert "Its points are kept" in opened().info[0].value


def export_to(at: AppTest, folder: str) -> AppTest:
    """The page with another folder for the checkpoint."""
    place = next(widget for widget in at.text_input if widget.label == "Folder")
    return drawn(place.set_value(folder).run())


def test_a_curve_is_told_how_long_it_may_take_by_the_last_one() -> None:
    last = curve_of(
        "smollm2-135m", (0, 4), status="success", started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:02:00+00:00"
    )
    assert last.config["trials"] * 2 * last.config["context_tokens"] == 2048
    at = opened()
    at.text_input(key="dose_ks").set_value("1")
    for key, value in (("dose_random_seeds", 1), ("dose_trials", 4), ("dose_context_tokens", 512)):
        at.number_input(key=key).set_value(value)
    at = drawn(at.run())
    assert "3 points, about 6 min." in words(at), "3 x 4 x 512 tokens, at 2048 tokens in two minutes"
    at = drawn(at.number_input(key="dose_trials").set_value(0).run())
    assert "trials 0 is outside 1 to 1,000,000" in errors(at)
    assert at.button(key="dose_start").disabled


def test_an_export_is_started_once(monkeypatch: pytest.MonkeyPatch, spawned: list[Run], tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    at = export_to(opened(heads="L17H3,L18H6:0.5"), "~/light")
    assert any(f"retmask ablate smollm2-135m --out {tmp_path / 'light'}" in code.value for code in at.code)
    at = press(at, "export_start")
    assert [run.record["kind"] for run in spawned] == ["ablate"]
    config = spawned[0].record["config"]
    assert (config["model"], config["out"]) == ("smollm2-135m", str(tmp_path / "light"))
    assert (config["rule"]["heads"], config["revision"], config["adapter"]) == ("L17H3,L18H6:0.5", "", "")
    assert at.button(key="export_start").disabled
    assert not export_to(at, str(tmp_path / "other")).button(key="export_start").disabled
    spawned[0].update(status="success")
    at = export_to(at, "~/light")
    assert not at.button(key="export_start").disabled
    assert not at.success, "the folder is gone"
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "mask.json").write_text("{}")
    at = export_to(at, "~/light")
    assert [success.value for success in at.success] == ["It is written. To load it:"]
    at = export_to(opened(heads="L17H3"), "~/light")
    assert not at.success, "another mask lies there"


def test_an_export_that_cannot_be_is_one_sentence(spawned: list[Run], tmp_path: Path) -> None:
    other = HeadMask.parse("L1H1", BEST.grid)
    (tmp_path / "mask.json").write_text(json.dumps({"mask": mask_record(other, BEST.grid, "smollm2-135m")}))
    at = press(export_to(opened(heads="L17H3"), str(tmp_path)), "export_start")
    assert len(at.error) == 1
    assert "holds the checkpoint of another mask (1 head)" in errors(at)
    at = export_to(at, "~nobody-of-that-name/x")
    assert len(at.error) == 1
    assert "~nobody-of-that-name is not known" in errors(at)
    assert at.button(key="export_start").disabled
    assert spawned == []
    assert not (home() / "runs").exists()


def test_a_map_in_an_unknown_home_is_one_sentence() -> None:
    at = opened(map="~nobody-of-that-name/x")
    assert len(at.error) == 1
    assert "~nobody-of-that-name is not known" in errors(at)


def test_the_command_says_what_the_settings_say() -> None:
    from app.shared.models import ModelRef

    setup = Setup(needle="lift", tokens=640, depth=0.25, control_seed=2, matched=True, temperature=0.7, seed=5)
    parts = shlex.split(setup.command(ModelRef("my model"), HeadMask.of([HeadId(1, 2)], 0.5), "a map", None))
    assert parts[:3] == ["retmask", "compare", "my model"]
    options = shlex.join(parts[3:])
    assert options == (
        "--needle lift --tokens 640 --depth 0.25 --heads L1H2 --control-seed 2 --scores 'a map' --scale 0.5 "
        "--layer-matched --temperature 0.7 --seed 5"
    )
    own = replace(setup, kind="text", control=False, temperature=0.0, template="plain")
    mixed = HeadMask({HeadId(1, 2): 0.5, HeadId(1, 3): 0.0})
    assert own.command(ModelRef("m"), mixed, "a map", Path("a b.txt")) == (
        "retmask compare m --prompt-file 'a b.txt' --template plain --heads L1H2:0.5,L1H3 --no-control"
    )
    tuned = own.command(ModelRef("m", "v2", "a"), HeadMask(), "a map", Path("b.txt"), "runs/x/adapter")
    assert tuned == (
        "retmask compare m --prompt-file b.txt --template plain --tuned runs/x/adapter --revision v2 --adapter a"
    )


def test_the_control_has_the_scales_of_the_mask_layer_by_layer() -> None:
    from app.shared.models import ModelRef

    mask = HeadMask({HeadId(3, 1): 0.5, HeadId(3, 4): 0.5, HeadId(9, 0): 0.0})
    drawn_heads = Setup(matched=True).columns(mask, BEST)[-1].mask
    assert [(head.layer, scale) for head, scale in drawn_heads.scales.items()] == [(3, 0.5), (3, 0.5), (9, 0.0)]
    assert not set(drawn_heads.heads) & set(mask.heads)
    for seed in range(20):
        heads = Setup(exclude="50%", control_seed=seed).columns(mask, BEST)[-1].mask.heads
        assert not set(heads) & set(BEST.top_share(0.5))
    command = Setup(exclude=" 50% ").command(ModelRef("m"), mask, "s", None)
    assert "--exclude 50%" in command
    with pytest.raises(ValueError, match="excludes no heads"):
        Setup(exclude="x").columns(mask, BEST)
    with pytest.raises(ValueError, match="excludes no heads"):
        Setup(exclude="x").command(ModelRef("m"), mask, "s", None)


def snapshot(stage: Any, n: int) -> Comparison:
    prompt = Prompt((1, 2), "plain")
    return Comparison(prompt, (), Sampling(), stage, ((0,) * n,), (("a",) * n,), ("",), (1.0,))


def test_a_comparison_goes_on_where_it_was_and_stop_keeps_what_was_said() -> None:
    from app.compare.comparison import LiveComparison
    from app.shared.models import ModelRef

    closed = []

    def steps() -> Iterator[Comparison]:
        try:
            yield snapshot("reading", 0)
            for n in range(1, 9):
                yield snapshot("answering", n)
            yield snapshot("done", 8)
        finally:
            closed.append(True)

    def begun() -> LiveComparison:
        return LiveComparison(steps(), ModelRef("m"), Setup(), HeadMask(), BEST, None)

    going = begun()
    for _ in range(3):
        going.advance()
    assert going.latest is not None
    assert going.latest.text(0) == "aa"
    going.stop()
    going.advance()
    assert (going.latest.text(0), going.over, going.done) == ("aa", True, None)
    assert closed == [True], "stopping lets go of the caches"
    going = begun()
    while not going.over:
        going.advance()
    assert going.done is not None
    assert closed == [True, True]


def test_an_answer_that_was_stopped_before_its_first_token_has_no_recall() -> None:
    now = replace(snapshot("answering", 0), prompt=Prompt((1,), "plain", answer="a b"))
    assert "recall" not in answer_html(now, 0, True, 0.5)
    now = replace(snapshot("answering", 2), prompt=Prompt((1,), "plain", answer="aa b"))
    assert "recall 0.50" in answer_html(now, 0, True, 0.5), "one of the two words was said"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("tokens", 99, "the length in tokens must be a number from 100 to 1,000,000"),
        ("new_tokens", 0, "the number of new tokens must be a number from 1 to 512"),
        ("temperature", 5.5, "the temperature must be a number from 0 to 5"),
        ("control_seed", -1, "the seed of the control must be a number from 0 to 1,000,000,000"),
    ],
)
def test_a_setting_out_of_range_is_said_and_runs_nothing(name: str, value: Any, sentence: str) -> None:
    at = change(opened(heads="L17H3"), **{name: value})
    assert sentence in errors(at)
    assert at.button(key="run").disabled


def test_settings_that_cannot_be_kept_are_used_all_the_same(fresh_home: Path) -> None:
    at = opened(heads="L17H3")
    (fresh_home / "compare").write_text("no folder")
    at = change(at, new_tokens=9)
    assert "The settings are not kept over a reload" in errors(at)
    assert next(widget for widget in at.number_input if widget.label == "New tokens").value == 9


def test_a_scale_out_of_range_is_said_and_changes_nothing() -> None:
    at = opened(heads="L17H3:0.5")
    scale = next(widget for widget in at.number_input if widget.label == "Scale")
    at = drawn(scale.set_value(3.0).run())
    assert "the scale must be a number from 0 to 2" in errors(at)
    assert query(at, "heads") == "L17H3:0.5"


def test_ones_own_text_can_have_a_right_answer() -> None:
    at = change(opened(), kind="text", text="Say hello.", answer=" hello world ", new_tokens=8)
    assert "--answer 'hello world'" in next(
        code.value for code in press(at, "mask_best").code if "retmask compare" in code.value
    )
    at = press(at, "run")
    assert not errors(at)
    assert all("recall" in column for column in columns(at))
    assert any("Right answer: <b>hello world" in text for text in texts(at))


def test_stopping_between_two_steps_keeps_the_last_one() -> None:
    from app.compare.comparison import LiveComparison
    from app.shared.models import ModelRef

    going = LiveComparison(iter((snapshot("reading", 0),)), ModelRef("m"), Setup(), HeadMask(), BEST, None)
    going.advance()
    going.steps = iter(())  # what `stop` does, between the look and the step
    going.advance()
    assert going.latest == snapshot("reading", 0)


@pytest.mark.parametrize(
    ("length", "read", "standing"),
    [
        (7950, 2048, "Reading the prompt: 2,048 of 7,950 tokens"),
        (7950, 0, "Reading the prompt…"),
        (1999, 1024, "Reading the prompt…"),
    ],
)
def test_a_long_prompt_says_how_far_it_has_been_read(length: int, read: int, standing: str) -> None:
    now = replace(snapshot("reading", 0), prompt=Prompt((1,) * length, "plain"), read_tokens=read)
    assert f">{standing}<" in answer_html(now, 0, False, 0.5)


NASTY = '<img src=x onerror="alert(1)"> & <script>'


def test_no_text_of_a_model_becomes_markup() -> None:
    parts = [
        text_html(NASTY),
        in_one(NASTY, NASTY + " more"),
        marked_html([NASTY, "b"], [0]),
        marked_html([NASTY], [], [0]),
        token_html([NASTY], 0),
        fact_html("a", NASTY),
    ]
    for part in parts:
        assert "<img" not in part
        assert "<script" not in part
        assert escape("onerror") in part or "…" in part


class Letters:
    """A tokenizer of one letter a token, of which 0 is the first byte of a two-byte one."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join("\ufffd" if token == 0 else chr(96 + token) for token in ids).replace("\ufffda", "é")


def test_tokens_side_by_side_are_the_decoded_text() -> None:
    assert pieces(Letters(), [2, 0, 1, 3]) == ["b", "", "é", "c"]
    assert pieces(Letters(), [2, 0]) == ["b", "\ufffd"]


def test_the_context_is_drawn_round_the_heaviest_positions_within_its_limit() -> None:
    assert windows({5: 1, 8: 1, 100: 1}, 110, around=3, most=50) == [range(2, 12), range(97, 104)]
    assert windows({5: 1, 100: 3}, 110, around=3, most=10) == [range(97, 104)]
    assert windows({0: 1}, 2, around=3, most=10) == [range(0, 2)]
    drawn_text = context_html(Letters(), [1] * 60, {30: 1}, [30])
    assert drawn_text.count("…") == 2
    assert drawn_text.count("a") > 20


def test_the_form_of_a_curve_keeps_its_values_over_pages() -> None:
    at = opened()
    drawn(at.number_input(key="dose_trials").set_value(7).run())
    for name in ("runs", "compare"):
        at._page_hash = calc_hash(name)
        drawn(at.run())
    assert at.number_input(key="dose_trials").value == 7
