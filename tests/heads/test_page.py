"""The Heads page without a browser: what a person does with its widgets, and what the page says to it."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page import codes, drawn, errors, keys, opened, press, query
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from typer.testing import CliRunner

from app.shared import readers
from retmask.cli.main import app
from retmask.detect.job import PRESETS, DetectSettings
from retmask.families.concentration import concentration
from retmask.files import shipped
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.heads.sets import keep_set
from retmask.heads.trials import Trial, read_trials
from retmask.runs.run import Run

pytestmark = pytest.mark.usefixtures("fresh_home")

BEST = HeadScores.load(shipped("maps", "smollm2-135m"))


def chips(at: AppTest) -> list[str]:
    """The selected heads that the page shows."""
    return [str(head) for head in at.multiselect[0].value]


def rule(at: AppTest, kind: str, **values: Any) -> AppTest:
    """Select by a rule."""
    drawn(at.segmented_control(key="rule_kind").set_value(kind).run())
    for name, value in values.items():
        widget = at.text_input(key=f"rule_{name}") if isinstance(value, str) else at.number_input(key=f"rule_{name}")
        widget.set_value(value)
    return drawn(at.button(key="rule_select").click().run())


def test_opens_with_the_shipped_map() -> None:
    at = opened()
    assert at.header[0].value == "Retrieval heads of smollm2-135m"
    assert "30 layers × 9 heads" in at.caption[0].value
    assert any("0 of 270 heads selected" in line.value for line in at.markdown)
    assert chips(at) == []
    assert at.metric[0].value == str(concentration(BEST.mean).above)
    assert "Band: 95 % interval over 3 needles." in [caption.value for caption in at.caption]
    assert not at.error


def test_a_list_of_heads_has_no_figures_of_concentration(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text('attn_head_set: "14-22,13-16"\nmodel_name_or_path: meta-llama/Llama-3.1-8B-Instruct\n')
    at = opened(map=str(file))
    assert "32 layers × 32 heads" in at.caption[0].value
    assert any("It has no scores" in caption.value for caption in at.caption)
    assert not at.metric


@pytest.mark.parametrize(
    ("kind", "values", "heads", "command"),
    [
        ("Top k", {"top": 5}, BEST.top(5), "--top 5"),
        ("Top %", {"share": 5.0}, BEST.top(14), "--top 14"),
        ("Score", {"above": 0.3}, BEST.above(0.3), "--threshold 0.3"),
        ("List", {"list": "L17H3, 18-6"}, HeadMask.parse("L17H3,L18H6", BEST.grid).heads, "--heads L17H3,L18H6"),
    ],
)
def test_rules_select_and_say_their_command(kind: str, values: dict[str, Any], heads: Any, command: str) -> None:
    at = rule(opened(), kind, **values)
    assert chips(at) == sorted_names(heads)
    assert codes(at)[0].endswith(command)
    assert query(at, "heads") == str(HeadMask.of(heads))


@pytest.mark.parametrize(
    ("kind", "values"), [("Top k", {"top": 3}), ("Score", {"above": 0.3}), ("List", {"list": "17-3"}), ("Random", {})]
)
def test_the_command_on_the_page_names_the_same_heads(kind: str, values: dict[str, Any]) -> None:
    at = rule(opened(), kind, **values)
    done = CliRunner().invoke(app, [*shlex.split(codes(at)[0])[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert sorted_names(HeadId.parse(row["head"]) for row in json.loads(done.stdout)["heads"]) == chips(at)


def sorted_names(heads: Any) -> list[str]:
    return [str(head) for head in sorted(heads)]


def test_random_is_of_the_same_size_and_the_same_for_a_seed() -> None:
    at = rule(opened(), "Top k", top=7)
    first = chips(rule(at, "Random", random=7, seed=3))
    assert len(first) == 7
    assert not set(first) & set(sorted_names(BEST.above()))
    assert chips(rule(opened(), "Random", random=7, seed=3)) == first
    at = rule(opened(), "Random", random=7, seed=3, exclude="50%")
    assert not set(chips(at)) & set(sorted_names(BEST.top_share(0.5)))
    assert codes(at)[0].endswith("--random 7 --seed 3 --exclude 50%")
    assert "excludes no heads" in errors(rule(at, "Random", random=7, seed=3, exclude="x"))


def test_undo_goes_back_step_by_step_and_clear_can_be_undone() -> None:
    at = rule(rule(opened(), "Top k", top=3), "Top k", top=5)
    three, five = sorted_names(BEST.top(3)), sorted_names(BEST.top(5))
    assert chips(at) == five
    at = press(at, "Clear")
    assert chips(at) == []
    assert "heads" not in at.query_params
    assert chips(press(at, "Undo")) == five
    assert chips(press(at, "Undo")) == three
    assert chips(press(at, "Undo")) == []


def test_a_chip_lets_its_head_go() -> None:
    at = opened(heads="L17H3,L18H6")
    at.multiselect[0].unselect(at.multiselect[0].value[0]).run()
    assert chips(drawn(at)) == ["L18H6"]


@pytest.mark.parametrize("heads", ["L17H3", "L17H3:0.5"])
def test_what_the_browser_sends_late_takes_nothing_back(heads: str) -> None:
    at = opened(heads=heads)
    late = at._tree.get_widget_states()
    at = rule(at, "Top k", top=3)
    selected = query(at, "heads")
    at = drawn(at._run(late))
    assert (chips(at), query(at, "heads")) == (sorted_names(BEST.top(3)), selected)
    assert chips(press(at, "Undo")) == ["L17H3"]


def test_what_the_browser_sends_late_does_not_bring_the_last_map_back(tmp_path: Path) -> None:
    at = opened()
    at.text_input(key="open_path").set_value(str(score_file(tmp_path / "mine.json"))).run()
    late = at._tree.get_widget_states()
    drawn(at.button(key="open_go").click().run())
    at = drawn(at._run(late))
    assert at.header[0].value == "Retrieval heads of mine"


def map_of(at: AppTest, name: str) -> AppTest:
    """Another map, by the picker."""
    return drawn(next(box for box in at.selectbox if box.label == "Map").set_value(name).run())


def test_each_map_has_its_own_selection() -> None:
    at = rule(opened(), "Top %", share=5.0)
    best, address = chips(at), query(at, "heads")
    at = map_of(at, "gemma-3-270m")
    assert chips(at) == []
    assert "heads" not in at.query_params
    assert codes(at)[0] == "retmask heads gemma-3-270m"
    at = rule(at, "List", list="L5H1, L11H2")
    at.multiselect[0].unselect(at.multiselect[0].value[0]).run()
    assert query(drawn(at), "heads") == "L11H2"
    assert chips(opened(map="gemma-3-270m", heads=query(at, "heads"))) == ["L11H2"], "a reload"
    at = map_of(at, "smollm2-135m")
    assert (chips(at), query(at, "heads")) == (best, address)
    assert chips(press(at, "Undo")) == []


def test_the_heads_in_the_address_are_of_the_map_in_the_address(tmp_path: Path) -> None:
    at = opened(map="no-such-map", heads="L5H1")
    assert chips(map_of(at, "gemma-3-270m")) == []


def test_the_command_of_another_map_of_the_same_grid_names_what_is_selected_there(tmp_path: Path) -> None:
    HeadScores("other", BEST.values[:, ::-1]).save(tmp_path / "other.json")
    at = rule(opened(), "Top %", share=5.0)
    at.text_input(key="open_path").set_value(str(tmp_path / "other.json")).run()
    at = drawn(at.button(key="open_go").click().run())
    assert (chips(at), "--top" in codes(at)[0]) == ([], False)
    at = map_of(at, "smollm2-135m")
    assert codes(at)[0].endswith("heads smollm2-135m --top 14")


def test_a_rule_that_a_growing_map_has_overtaken_gives_way_to_the_list() -> None:
    run = a_run("success", [], scores=True)
    at = rule(opened(map=run.id), "Top k", top=2)
    assert codes(at)[0].endswith("--top 2")
    HeadScores("smollm2-135m", BEST.values[:, ::-1], n_kv_heads=3).save(run.path / "scores.json")
    at = drawn(at.run())
    assert codes(at)[0].endswith(f"--heads {','.join(sorted_names(BEST.top(2)))}")


def test_a_typed_scale_is_kept() -> None:
    at = rule(opened(heads="L1H1"), "List", list="L17H3:0.5, L18H6")
    assert query(at, "heads") == "L17H3:0.5,L18H6"
    assert codes(at)[0].endswith("--heads L17H3:0.5,L18H6")


@pytest.mark.parametrize("typed", ["L40H2", "L1H1, nonsense", ""])
def test_a_list_that_cannot_be_changes_nothing(typed: str) -> None:
    at = rule(opened(heads="L17H3"), "List", list=typed)
    assert chips(at) == ["L17H3"]
    assert "Nothing was changed" in errors(at)


def test_the_address_keeps_map_selection_and_head() -> None:
    at = opened(map="gemma-3-270m", heads="L5H1,L11H2", head="L5H1")
    assert at.header[0].value == "Retrieval heads of gemma-3-270m"
    assert chips(at) == ["L5H1", "L11H2"]


def test_a_selection_in_the_address_that_cannot_be_is_left_out_with_a_sentence() -> None:
    at = opened(heads="L99H1")
    assert chips(at) == []
    assert "left out" in errors(at)


@pytest.mark.parametrize("k", [0, 1, 40, 41, 150, 270])
def test_selections_of_any_length_fit_the_address(k: int) -> None:
    from app.shared import address

    grid = Grid(36, 32)
    chosen = HeadMask.random(grid, k, seed=k)
    text = address.to_url(chosen, grid)
    assert (text is None) == (k == 0)
    if text:
        assert len(text) < 400
        assert address.from_url(text, grid) == chosen


@pytest.mark.parametrize("text", ["~", "~AAAA", "~!!!!", "~" + "A" * 500])
def test_a_broken_bit_map_is_refused(text: str) -> None:
    from app.shared import address

    with pytest.raises(ValueError, match="not one of a 36 x 32 grid"):
        address.from_url(text, Grid(36, 32))


BAD = {
    "not JSON": "{",
    "a list": "[1, 2]",
    "wrong key": '{"a-b": [1]}',
    "ragged": '{"0-0": [1], "0-1": [1, 2]}',
    "NaN": '{"0-0": [NaN]}',
    "empty": "{}",
    "no trials": '{"0-0": []}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_one_sentence_and_changes_nothing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(BAD[name])
    at = opened(heads="L17H3")
    at.text_input(key="open_path").set_value(str(file)).run()
    at = drawn(at.button(key="open_go").click().run())
    assert len(at.error) == 1
    assert errors(at).endswith("The map you see is unchanged.")
    assert at.header[0].value == "Retrieval heads of smollm2-135m"
    assert chips(at) == ["L17H3"]


def score_file(path: Path, n_layers: int = 4, n_heads: int = 8) -> Path:
    HeadScores("x", np.random.default_rng(0).random((3, n_layers, n_heads))).save(path)
    return path


def test_a_score_file_opens_by_path_with_its_groups(tmp_path: Path) -> None:
    at = opened()
    at.text_input(key="open_path").set_value(str(score_file(tmp_path / "mine.json"))).run()
    at.number_input(key="open_kv").set_value(2).run()
    at = drawn(at.button(key="open_go").click().run())
    assert at.header[0].value == "Retrieval heads of mine"
    assert "4 query heads share each key/value head" in at.caption[0].value
    assert query(at, "map") == str(tmp_path / "mine.json")
    assert any("scores only" in caption.value for caption in at.caption)


@pytest.mark.parametrize(("field", "value"), [("model", "smollm2-135m"), ("kv", 3), ("kv", 0), ("kv", 513)])
def test_a_grid_that_does_not_match_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    at = opened()
    at.text_input(key="open_path").set_value(str(score_file(tmp_path / "mine.json"))).run()
    widget = at.selectbox(key="open_model") if field == "model" else at.number_input(key="open_kv")
    widget.set_value(value).run()
    at = drawn(at.button(key="open_go").click().run())
    assert "unchanged" in errors(at)
    assert at.header[0].value == "Retrieval heads of smollm2-135m"


def test_what_families_takes_opens_as_a_map(tmp_path: Path) -> None:
    file = tmp_path / "llama-3.1-8b-instruct.yaml"
    file.write_text('attn_head_set: "13-18,16-1"\nmodel_name_or_path: meta-llama/Llama-3.1-8B-Instruct\n')
    at = opened(map=str(file))
    assert "32 layers × 32 heads" in at.caption[0].value
    assert any("only their order means anything" in caption.value for caption in at.caption)
    at = rule(at, "Top k", top=1)
    assert chips(at) == ["L13H18"]


def test_a_map_that_was_looked_at_stays_in_the_list(tmp_path: Path) -> None:
    file = str(score_file(tmp_path / "mine.json"))
    at = map_of(opened(map=file), "gemma-3-270m")
    at = map_of(at, file)
    assert at.header[0].value == "Retrieval heads of mine"


@pytest.mark.parametrize(
    ("kind", "name", "value", "sentence"),
    [
        ("Top k", "top", 0, "the number of heads must be a number from 1 to 270"),
        ("Top %", "share", 101.0, "the share in per cent must be a number from 0.1 to 100"),
        ("Score", "above", -1.0, "the score must be a number from 0 to 10"),
        ("Random", "seed", -1, "the seed must be a number from 0 to 1,000,000"),
    ],
)
def test_a_number_out_of_range_is_said_and_selects_nothing(kind: str, name: str, value: Any, sentence: str) -> None:
    at = opened(heads="L17H3")
    drawn(at.segmented_control(key="rule_kind").set_value(kind).run())
    at = drawn(at.number_input(key=f"rule_{name}").set_value(value).run())
    assert sentence in errors(at)
    assert at.button(key="rule_select").disabled
    assert at.button(key="rule_add").disabled
    assert chips(at) == ["L17H3"]


@pytest.mark.parametrize("command", ["retmask detect", 7, None, ["retmask", 7], {}])
def test_a_record_with_a_command_that_is_none_shows_the_map(command: Any) -> None:
    run = a_run("success", [], scores=True)
    run.update(command=command)
    at = opened(map=run.id)
    assert at.header[0].value == "Retrieval heads of smollm2-135m"


def test_an_upload_is_kept_only_if_it_is_a_score_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        keep_set("bad.json", b"{")
    assert not (tmp_path / "home" / "opened").exists()
    kept = keep_set("../../My scores.json", score_file(tmp_path / "a.json").read_bytes())
    assert Path(kept).is_relative_to(tmp_path / "home" / "opened")
    assert readers.open_map(kept).model == "My-scores"


def test_a_map_that_is_not_there_is_a_sentence() -> None:
    at = opened(map="no-such-map")
    assert at.header[0].value == "No map"
    assert "there is no score set" in errors(at)


def a_run(status: str, trials: list[Trial], scores: bool = False, **record: Any) -> Run:
    config = DetectSettings()
    run = Run.create(
        "detect", {"model": "smollm2-135m", "lengths": list(config.lengths), "depths": list(config.depths)}
    )
    grid = Grid(30, 9, 3)
    run.update(status=status, command=config.command, head_grid=grid._asdict(), model="smollm2-135m", **record)
    with (run.path / "trials.jsonl").open("w") as file:
        file.writelines(json.dumps(trial.to_json()) + "\n" for trial in trials)
    if scores:
        BEST.save(run.path / "scores.json")
    return run


def failed_trials() -> list[Trial]:
    lines = (trial.to_json() for trial in read_trials(shipped("maps", "smollm2-135m"))[:4])
    return [
        Trial.from_json({**line, "success": False, "recall": 0.0, "response": "no ![x](http://x)"}) for line in lines
    ]


def test_a_run_without_a_successful_trial_shows_the_answers_and_no_map() -> None:
    at = opened(map=a_run("success", failed_trials()).id)
    assert "None of 4 trials found its needle" in at.warning[0].value
    assert list(at.dataframe[0].value["the model's answer"]) == ["no ![x](http://x)"] * 4
    assert not at.metric


def test_a_failed_run_says_why_and_keeps_its_partial_map() -> None:
    run = a_run("error", [], scores=True, error="MemoryError: too little")
    (run.path / "log.txt").write_text("the last line of the log\n")
    at = opened(map=run.id)
    assert "failed" in errors(at)
    assert "MemoryError: too little" in codes(at)
    assert any("the last line of the log" in text for text in codes(at))
    assert at.metric


def test_a_cancelled_run_can_go_on() -> None:
    run = a_run("cancelled", [], scores=True)
    run.report(stage="trials", done=3, total=45, found=2, eta=60.0)
    at = opened(map=run.id)
    assert "3 of 45 trials, 2 found the needle" in at.info[0].value
    assert at.button(key="detect_resume").label == "Resume"


def form(at: AppTest) -> AppTest:
    return drawn(at.button(key="detect_again").click().run())


def test_the_form_says_the_command_that_does_the_same() -> None:
    at = form(opened())
    assert "retmask detect smollm2-135m --preset quick" in codes(at)
    drawn(at.segmented_control(key="detect_preset").set_value("paper").run())
    assert "retmask detect smollm2-135m --preset paper" in codes(at)
    assert any("600 trials" in caption.value for caption in at.caption)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("detect_depths", "0, 1.5", "1.5 in depths is outside 0 to 1"),
        ("detect_depths", "a", "depths 'a' is not a list of numbers"),
        ("detect_lengths", "12", "12 in lengths is outside 128 to 2,097,152"),
        ("detect_lengths", "", "lengths '' is not a list of numbers"),
        ("detect_needles", "/no/such/file", "cannot be read"),
        ("detect_haystack", "/no/such/folder", "there is no haystack folder"),
        ("detect_haystack", "x" * 5000, "cannot be read: the name is too long for a file or folder"),
    ],
)
def test_a_form_that_cannot_be_says_so_and_starts_nothing(field: str, value: str, sentence: str) -> None:
    at = form(opened())
    drawn(at.text_input(key=field).set_value(value).run())
    assert sentence in errors(at).replace("\\", "")
    assert at.button(key="detect_start").disabled
    assert Run.all() == []


def test_the_form_keeps_its_values_when_it_is_closed_and_over_pages() -> None:
    at = form(opened())
    drawn(at.text_input(key="detect_lengths").set_value("300, 400").run())
    drawn(at.number_input(key="detect_n_needles").set_value(2).run())
    drawn(at.selectbox(key="detect_model").set_value("gemma-3-270m").run())
    wanted = next(code for code in codes(at) if code.startswith("retmask detect gemma"))
    assert "300,400" in wanted
    at.session_state["form_open"] = False  # what Esc does
    assert "detect_start" not in keys(drawn(at.run()))
    for name in ("runs", ""):
        at._page_hash = calc_hash(name)
        drawn(at.run())
    assert wanted in codes(form(at))


@pytest.mark.parametrize("page", ["compare", "pairs", "families", "runs"])
def test_the_form_opens_on_every_page(page: str) -> None:
    at = form(opened(page))
    assert "retmask detect smollm2-135m --preset quick" in codes(at)


def test_start_makes_a_run_and_shows_it(spawned: list[Run]) -> None:
    at = form(opened())
    at = drawn(at.button(key="detect_start").click().run())
    (run,) = Run.all("detect")
    assert spawned == [run]
    assert query(at, "map") == run.id
    assert run.record["config"]["lengths"] == list(PRESETS["quick"].values["lengths"])
