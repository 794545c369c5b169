"""The Train page without a browser: the form and its command, a training in every state, and what can be done then."""

import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import page
import pytest
from page import drawn, keys, press, query, words
from streamlit.testing.v1 import AppTest
from trainings import by_preset, of
from typer.testing import CliRunner

from app.shared import models, readers
from app.train.pairs import FORM
from retmask.cli.main import app
from retmask.detect.job import DetectSettings
from retmask.model.gguf import BUILT_IN
from retmask.runs.run import Run
from retmask.runs.settings import from_preset, from_record
from retmask.runs.settings import record as record_of
from retmask.runs.worker import taken, working
from retmask.train.checkpoints import ADAPTER, CHECKPOINTS, WHOLE
from retmask.train.outcome import STOP
from retmask.train.preflight import Preflight
from retmask.train.settings import PRESETS, TrainSettings

pytestmark = pytest.mark.usefixtures("fresh_home")
opened = partial(page.opened, "train")

FOUND = Preflight(9, 1, 3, 100, 0.0, 2**30, 4 * 2**30, 2**28, 2**33, (), ())
FIELDS = [field for field in fields(TrainSettings) if field.name not in FORM.apart]
EVIL = "<b>bold</b> ![x](http://example.org/x.png) $x$"


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TrainSettings]]:
    """A pre-flight that finds nothing wrong and costs nothing: the settings it was asked about."""
    asked: list[TrainSettings] = []

    def look(settings: TrainSettings, *rest: Any) -> Preflight:
        asked.append(of("m", "p", settings))
        return FOUND

    monkeypatch.setattr("retmask.train.job.preflight", look)
    readers.preflight.clear()
    yield asked
    readers.preflight.clear()


def setting(at: AppTest, name: str) -> Any:
    """The widget of a setting."""
    kinds = (at.number_input, at.selectbox, at.toggle, at.text_input)
    (found,) = [widget for kind in kinds for widget in kind if re.fullmatch(rf"train_{name}(-\d+)?", widget.key or "")]
    return found


def change(at: AppTest, **values: Any) -> AppTest:
    for name, value in values.items():
        drawn(setting(at, name).set_value(value).run())
    return at


def preset(at: AppTest, name: str) -> AppTest:
    return drawn(at.segmented_control(key="train_preset").set_value(name).run())


def command(at: AppTest) -> list[str]:
    """The command that the form shows."""
    return next(shlex.split(code.value) for code in at.code if code.value.startswith("retmask train"))


def some_pairs(model: str = "smollm2-135m", kept: int = 10, **config: Any) -> Run:
    """A run that has made pairs."""
    run = Run.create("pairs", {"model": model, "revision": "", "rule": {"scores": "smollm2-135m"}, **config})
    rows = ({"prompt": f"{i}?", "chosen": "yes", "rejected": "no", "model": model} for i in range(kept))
    (run.path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.update(status="success", kept=kept, mask="L17H3")
    return run


def a_step(done: int, total: int = 30, **changes: Any) -> dict[str, Any]:
    """A line of progress.jsonl as the trainer writes it."""
    values = {
        "eta": 360.0,
        "tokens_per_s": 321.5,
        "memory": 2 * 2**30,
        "loss": 0.69 / done,
        "chosen": -0.1 * done,
        "rejected": -0.3 * done,
        "margin": 0.2 * done,
        "accuracy": 1.0,
        "logps_chosen": -60.0,
        "logps_rejected": -70.0,
        "grad_norm": 2.0,
        "lr": 1e-4,
    }
    return {"stage": "steps", "done": done, "total": total, **values, **changes}


def a_training(status: str = "success", done: int = 3, path: Path | None = None, **record: Any) -> Run:
    """A run that has trained for some steps."""
    pairs = some_pairs()
    settings = by_preset("laptop", rank=4, model="smollm2-135m", pairs=str(pairs.path / "pairs.jsonl"))
    run = Run.create("train", record_of(settings), path, parents=[pairs.id])
    run.report(stage="loading", done=0)
    for step in range(1, done + 1):
        run.report(**a_step(step))
    run.update(status=status, command=settings.command, preflight={"pairs": 216, "held_out": 24}, **record)
    return run


def with_adapter(run: Run, steps: int = 3, card: str = EVIL) -> Run:
    folder = run.path / ADAPTER
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").touch()
    made_from = {"base": "smollm2-135m", "base_sha256": BUILT_IN["smollm2-135m"].sha256}
    (folder / "retmask.json").write_text(json.dumps(made_from | {"run": run.id, "steps": steps}))
    (folder / "README.md").write_text(card)
    return run


def test_without_pairs_or_training_it_says_what_is_needed() -> None:
    at = opened()
    assert "It needs pairs, which the Pairs page makes" in words(at)
    assert "choose the pairs to train on, or name their file" in words(at)
    assert at.button(key="train_start").disabled


def test_every_setting_is_a_widget_with_its_help_and_range() -> None:
    some_pairs()
    at = opened()
    for field in FIELDS:
        widget = setting(at, field.name)
        assert widget.help.startswith(field.metadata["help"])
        assert widget.value == getattr(by_preset("laptop"), field.name)
        assert ("from" in widget.help) >= ("min" in field.metadata)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_every_widget(name: str) -> None:
    some_pairs()
    at = preset(opened(), name)
    assert {f.name: setting(at, f.name).value for f in FIELDS} == {
        f.name: getattr(by_preset(name), f.name) for f in FIELDS
    }
    assert PRESETS[name].says in words(at)
    assert "Changed against" not in words(at)
    assert command(at)[5:] == ([] if name == "laptop" else ["--preset", name])


def test_pairs_bring_their_model_and_other_pairs_another() -> None:
    some_pairs("gemma-3-270m")
    newest = some_pairs()
    at = opened()
    assert at.selectbox(key="train_pairs").value == newest.id
    assert command(at)[2:5] == ["smollm2-135m", "--pairs", newest.id]
    options = at.selectbox(key="train_pairs").options
    assert options[0].startswith(newest.id)
    assert options[0].endswith("10 pairs")
    at.selectbox(key="train_pairs").select_index(1).run()
    assert command(drawn(at))[2] == "gemma-3-270m"


def test_another_models_pairs_need_a_word() -> None:
    some_pairs()
    at = opened()
    assert not any(toggle.key == "train_any_pairs" for toggle in at.toggle)
    drawn(at.text_input(key="train_model").set_value("gemma-3-270m").run())
    assert "--any-pairs" not in command(at)
    drawn(at.toggle(key="train_any_pairs").set_value(True).run())
    assert "--any-pairs" in command(at)


def test_the_word_for_another_models_pairs_is_of_these_pairs() -> None:
    first = some_pairs("gemma-3-270m")
    second = some_pairs()
    at = opened()
    drawn(at.text_input(key="train_model").set_value("pythia").run())
    drawn(at.toggle(key="train_any_pairs").set_value(True).run())
    at.session_state["train_pairs"] = at.session_state["train_pairs"] = first.id
    drawn(at.run())
    drawn(next(field for field in at.text_input if field.label == "Model").set_value("pythia").run())
    assert "--any-pairs" not in command(at)
    assert second.id not in command(at)


def test_start_again_restores_the_word_for_another_models_pairs() -> None:
    run = a_training("cancelled")
    run.update(
        config={**run.record["config"], "model": "gemma-3-270m"}, command=[*run.record["command"], "--any-pairs"]
    )
    assert "--any-pairs" in command(press(opened(), "train_change"))


def test_pairs_of_a_cancelled_run_are_offered_and_those_that_go_on_named_by_their_path() -> None:
    cancelled, newest = some_pairs(kept=7), some_pairs()
    record = {name: value for name, value in cancelled.record.items() if name != "kept"} | {"status": "cancelled"}
    (cancelled.path / "run.json").write_text(json.dumps(record))
    at = opened()
    options = at.selectbox(key="train_pairs").options
    assert any(option.startswith(cancelled.id) and "7 pairs" in option for option in options)
    assert any(option.startswith(newest.id) for option in options)
    a_training()
    at = opened()
    at.session_state["train_pairs"] = "pairs-gone"
    at = drawn(at.run())
    assert at.text_input(key="train_file").value == str(newest.path.parent / "pairs-gone")
    assert "there are no pairs at" in words(at)


def test_a_second_start_finds_the_first(looked: list[TrainSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def spawn(run: Run) -> None:
        started.append(run.id)
        run.update(status="queued", spawned=time.time(), pid=None)

    monkeypatch.setattr("app.shared.jobs.spawn", spawn)
    a_training()
    first, second = opened(), opened()
    for at in (first, second):
        at.session_state["train_form"] = True
        drawn(at.run())
    press(first, "train_start")
    press(second, "train_start")
    assert query(first, "train") == query(second, "train") == started[0]
    assert len(started) == 1


def test_a_start_that_was_interrupted_does_not_begin_later(looked: list[TrainSettings], spawned: list[Run]) -> None:
    from app.train import preflight

    some_pairs()
    at = opened()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "section", lambda found: preflight.st.stop())
        press(at, "train_start")
    drawn(at.run())
    assert spawned == []


def test_the_steps_of_the_tuned_model_are_those_of_its_weights() -> None:
    from app.shared import models

    found = models.tuned(with_adapter(a_training("cancelled", done=9), steps=4).id)
    assert found is not None
    assert found.steps == 4


FIGURES = {
    "conditions": [{"condition": "tuned", "recall": 0.75, "low": 0.7, "high": 0.8, "found": 0.8}],
    "differences": [],
}


def measured(run: Run, folder: str, created: str = "2999-01-01T00:00:00+00:00") -> Run:
    """A finished evaluation of the model in that folder, made from the run."""
    made = Run.create("evaluate", {"model": "smollm2-135m", "tuned": [folder]}, parents=[run.id])
    (made.path / "results.json").write_text(json.dumps(FIGURES))
    made.update(status="success", created=created)
    return made


def recalls(at: AppTest) -> list[float]:
    return [value for table in at.dataframe if "recall" in table.value for value in table.value["recall"]]


def test_what_was_measured_of_this_training_is_shown() -> None:
    run = with_adapter(a_training(ended="2026-01-01T00:00:00+00:00"))
    assert at_button(opened(), "measure") == "Measure what changed"
    measured(run, "name=/elsewhere/adapter")
    assert recalls(opened()) == [], "of another training"
    made = measured(run, f"name={run.path / ADAPTER}")
    at = opened()
    assert recalls(at) == [0.75]
    assert at_button(at, "measure") == "Measure it again"
    made.update(created="2025-01-01T00:00:00+00:00")
    assert "measured before the training went on" in words(opened())
    made.update(status="cancelled")
    assert "measure_resume" not in keys(opened()), "it would go on with another adapter"
    made.update(created="2026-06-01T00:00:00+00:00")
    assert "measure_resume" in keys(opened())


def at_button(at: AppTest, key: str) -> str:
    return str(at.button(key=key).label)


def test_a_revision_is_in_the_command() -> None:
    some_pairs(revision="abc")
    assert command(opened())[-2:] == ["--revision", "abc"]


def test_pairs_in_a_file_of_ones_own(tmp_path: Path) -> None:
    at = opened()
    drawn(at.text_input(key="train_file").set_value(str(tmp_path / "none.jsonl")).run())
    assert "there are no pairs at" in words(at)
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    drawn(at.text_input(key="train_file").set_value(str(file)).run())
    assert "name the model to train" in words(at)
    drawn(at.text_input(key="train_model").set_value("smollm2-135m").run())
    assert command(at) == ["retmask", "train", "smollm2-135m", "--pairs", str(file)]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("learning_rate", 0.0, "learning rate 0 is outside 1e-08 to 0.01"),
        ("learning_rate", 10.0, "learning rate 10 is outside 1e-08 to 0.01"),
        ("rank", -1, "rank -1 is outside 1 to 1,024"),
        ("micro_batch", 3, "a batch of 8 is no multiple of the micro-batch 3"),
    ],
)
def test_a_setting_that_cannot_be_is_told_and_starts_nothing(name: str, value: Any, sentence: str) -> None:
    some_pairs()
    at = change(opened(), **{name: value})
    assert sentence in words(at)
    assert at.button(key="train_start").disabled
    assert at.button(key="train_check").disabled


def test_what_differs_from_the_preset_is_said_and_can_be_taken_back() -> None:
    some_pairs()
    at = change(opened(), learning_rate=5e-5, rank=8, gradient_checkpointing=True)
    assert "rank **8** (not 16), learning rate **5e-05** (not 0.0002), gradient checkpointing **on** (not off)" in (
        words(at)
    )
    assert "Changed against" not in words(press(at, "train_reset"))
    assert command(at)[5:] == []


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("laptop", {"learning_rate": 3e-5, "rank": 8, "target": "attention", "gradient_checkpointing": True}),
    ("gpu", {"gradient_checkpointing": False, "dtype": "", "device": "cpu", "warmup": 0.25}),
    ("paper", {"adam_beta2": 0.99, "eval_share": 0.1, "accelerate_config": "my config.yaml", "report_to": "wandb"}),
]


@pytest.mark.parametrize(("name", "changes"), CHANGES)
def test_the_command_gives_the_settings_that_the_form_shows(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = some_pairs()
    seen: list[TrainSettings] = []

    def look(settings: TrainSettings, *rest: Any) -> Preflight:
        seen.append(settings)
        return FOUND

    monkeypatch.setattr("retmask.cli.train.checked", look)
    at = change(preset(opened(), name), **changes)
    done = CliRunner().invoke(app, [*command(at)[1:], "--check"])
    assert done.exit_code == 0, done.output
    assert seen == [by_preset(name, **changes, model="smollm2-135m", pairs=pairs.id)]


def test_check_says_what_it_takes_and_starts_nothing(looked: list[TrainSettings], spawned: list[Run]) -> None:
    some_pairs()
    at = press(change(opened(), rank=2), "train_check")
    figures = {metric.label: metric.value for metric in at.metric}
    assert figures["Steps"] == "3"
    assert figures["Pairs to train on"] == "9"
    assert figures["Memory, of free"] == "1.0 of 4.0 GiB"
    assert "Nothing speaks against it" in words(at)
    assert looked == [by_preset("laptop", rank=2)]
    drawn(at.run())
    assert len(looked) == 1, "the same question is asked once"
    assert not change(at, rank=4).metric, "what was found is of other settings"
    assert Run.all("train") == []
    assert spawned == []


def test_problems_are_told_and_refuse_the_start(
    looked: list[TrainSettings], spawned: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    some_pairs()
    found = FOUND._replace(problems=("training needs 9.0 GiB: lower rank",), warnings=("10% lose their end",))
    monkeypatch.setattr("retmask.train.job.preflight", lambda *a, **k: found)
    at = press(opened(), "train_start")
    assert [error.value for error in at.error] == ["training needs 9.0 GiB\\: lower rank."]
    assert "10% lose their end" in at.warning[0].value
    assert Run.all("train") == []
    assert spawned == []


def test_start_makes_a_run_with_these_settings_and_looks_at_it(looked: list[TrainSettings], spawned: list[Run]) -> None:
    pairs = some_pairs()
    at = change(opened(), rank=2, learning_rate=3e-4)
    shown = command(at)
    at = press(at, "train_start")
    (run,) = Run.all("train")
    assert spawned == [run]
    assert query(at, "train") == run.id
    file = str(pairs.path / "pairs.jsonl")
    assert run.record["command"] == [file if word == pairs.id else word for word in shown]
    settings = from_record(TrainSettings, run.record["config"])
    assert settings == by_preset("laptop", rank=2, learning_rate=3e-4, model="smollm2-135m", pairs=file)
    assert run.parents == [pairs.id]
    assert "train_start" not in keys(at), "the form is folded away"


def test_pairs_of_another_model_are_refused_at_the_start(looked: list[TrainSettings], spawned: list[Run]) -> None:
    some_pairs()
    at = opened()
    drawn(at.text_input(key="train_model").set_value("gemma-3-270m").run())
    assert "was made with smollm2-135m and not with gemma-3-270m" in words(press(at, "train_check"))
    at = press(at, "train_start")
    assert "was made with smollm2-135m and not with gemma-3-270m" in words(at)
    assert spawned == []
    assert Run.all("train") == []


def test_a_model_in_memory_is_named_and_can_be_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    some_pairs()
    monkeypatch.setattr(models, "held", lambda: None)
    assert "train_unload" not in keys(opened())
    gone: list[bool] = []
    monkeypatch.setattr(models, "held", lambda: ("smollm2-135m", 2**29))
    monkeypatch.setattr(models, "unload", lambda: gone.append(True))
    at = opened()
    assert "The app holds the model smollm2-135m in memory, which takes 0.5 GiB" in words(at)
    press(at, "train_unload")
    assert gone == [True]


def test_a_finished_training_shows_its_result() -> None:
    run = with_adapter(a_training(held_out={"rewards/accuracies": 0.875}))
    at = opened()
    assert at.subheader[0].value == "smollm2-135m"
    assert "Finished after 3 steps" in words(at)
    assert {metric.label: metric.value for metric in at.metric} == {"Held-out reward accuracy": "0.88"}
    assert (
        "Of 24 pairs that it was not trained on, it prefers the chosen answer in 88 % (95 % interval 69 % to 96 %)"
        in (words(at))
    )
    assert any(code.value == EVIL for code in at.code), "the card is shown as it is"
    assert run.command in [code.value for code in at.code]
    assert {"train_tune", "train_detect", "merge_start", "train_change"} <= keys(at)
    assert "train_resume" not in keys(at)


def test_a_training_of_the_past_is_chosen_and_kept_in_the_address() -> None:
    first, second = a_training(), a_training(status="cancelled")
    second.update(created="2999-01-01T00:00:00+00:00")
    at = opened()
    assert "was stopped (3 of 30 steps" in words(at)
    picker = next(box for box in at.selectbox if box.label == "Training")
    drawn(picker.set_value(first.id).run())
    assert query(at, "train") == first.id
    assert "Finished after 3 steps" in words(at)


def test_a_failed_training_says_its_last_words_and_its_log() -> None:
    run = a_training("error", error=f"RuntimeError: {EVIL}")
    (run.path / "log.txt").write_text(f"first line\n{EVIL}\n")
    at = opened()
    assert "This training failed" in words(at)
    codes = [code.value for code in at.code]
    assert f"RuntimeError: {EVIL}" in codes
    assert f"first line\n{EVIL}" in codes
    assert EVIL not in " ".join(element.value for element in [*at.markdown, *at.caption, *at.error])


@pytest.mark.parametrize(("checkpoint", "label"), [(2, "Resume from step 2"), (None, "Start again from step 0")])
def test_a_cancelled_training_goes_on_from_its_checkpoint(
    checkpoint: int | None, label: str, spawned: list[Run]
) -> None:
    run = a_training("cancelled")
    if checkpoint:
        folder = run.path / CHECKPOINTS / f"checkpoint-{checkpoint}"
        folder.mkdir(parents=True)
        (folder / WHOLE).write_text('{"step": 2, "sizes": {}}')
    at = opened()
    assert "was stopped (3 of 30 steps" in words(at)
    assert at.button(key="train_resume").label == label
    press(at, "train_resume")
    assert spawned == [run]


def test_a_training_that_was_stopped_keeps_its_adapter_of_that_step() -> None:
    with_adapter(a_training("cancelled", stopped_at=3))
    at = opened()
    assert "was stopped (3 of 30 steps" in words(at)
    assert "What it had learned by then is kept" in words(at)
    assert "The adapter as it was after step 3" in [heading.value for heading in at.subheader]
    assert "No reward accuracy was measured" in words(at)
    assert {"train_resume", "train_tune"} <= keys(at)


def test_a_late_message_does_not_take_a_new_training_back() -> None:
    one, two = a_training("cancelled"), a_training("cancelled")
    at = opened(train=one.id)
    late = at._tree.get_widget_states()
    at.session_state["address"] = {**at.session_state["address"], "train": two.id}  # as Start does
    drawn(at.run())
    assert query(drawn(at._run(late)), "train") == two.id
    picker = next(box for box in at.selectbox if box.label == "Training")
    assert query(drawn(picker.set_value(one.id).run()), "train") == one.id


def test_a_discarded_training_offers_no_result() -> None:
    a_training("cancelled", discarded=True)
    at = opened()
    assert "Its checkpoints and its adapter are deleted" in words(at)
    assert "train_tune" not in keys(at)


def test_start_again_fills_the_form_with_the_settings_of_the_run() -> None:
    run = a_training("cancelled")
    run.update(config={**run.record["config"], "learning_rate": 3e-5, "batch": 4})
    at = opened()
    assert "train_start" not in keys(at)
    at = press(at, "train_change")
    assert setting(at, "learning_rate").value == 3e-5
    assert at.selectbox(key="train_pairs").value == run.parents[0]
    shown = ["--rank", "4", "--learning-rate", "3e-05", "--batch", "4"]
    assert command(at) == ["retmask", "train", "smollm2-135m", "--pairs", run.parents[0], *shown]


def test_a_training_that_goes_on_shows_how_far_it_is_and_how_to_stop() -> None:
    run = a_training("queued", done=0)
    with working(run):
        at = opened()
        assert progress(at) == "Loading the model…"
        assert at.button(key="train_stop").disabled, "what is asked now would not be heard"
        run.report(stage="starting", step=0)
        assert progress(opened()) == "Starting the trainer…"
        run.report(**a_step(12))
        at = opened()
        assert progress(at).startswith("12 of 30 steps")
        assert "about 6 min left" in progress(at)
        assert "322 tokens a second · 2.0 GiB of memory" in words(at)
        assert "train_resume" not in keys(at)
        press(at, "train_stop")
        assert (run.path / STOP).exists()
        at = opened()
        assert at.button(key="train_stop").label == "Stopping after this step…"


def progress(at: AppTest) -> str:
    """What the page's own bar says; the sidebar has another."""
    return str(at.main.get("progress")[0].proto.text)


def test_stop_and_discard_asks_first_and_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.train import page as train

    discarded: list[str] = []
    gone = threading.Event()

    def discard(run: Run) -> None:
        discarded.append(run.id)
        gone.wait(60)

    monkeypatch.setattr(train, "discard", discard)
    run = a_training("queued")
    with working(run):
        run.report(**a_step(4))
        at = press(opened(), "train_discard")
        assert discarded == []
        assert "Stop now, and delete its checkpoints and its adapter?" in words(at)
        at = press(at, "confirm_yes")
        assert discarded == [run.id]
        assert at.button(key="train_stop").disabled
    run.update(status="cancelled")
    assert "train_resume" not in keys(drawn(at.run())), "it is still being deleted"
    gone.set()
    until = time.monotonic() + 20
    while "train_resume" not in keys(drawn(at.run())):
        assert time.monotonic() < until


def test_a_question_about_a_training_that_has_finished_meanwhile_is_dropped() -> None:
    run = a_training("queued")
    with working(run):
        run.report(**a_step(4))
        at = press(opened(), "train_discard")
        assert "confirm_yes" in keys(drawn(at.run()))
    with_adapter(run)
    assert run.status == "success"
    at = press(at, "confirm_yes")
    assert "train_tune" in keys(at)
    assert not {"confirm_yes", "confirm_no"} & keys(at)
    assert (run.path / ADAPTER).is_dir()
    assert "discarded" not in run.record


def test_what_finishes_while_it_is_being_discarded_is_kept_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, over = a_training("queued"), threading.Event()
    monkeypatch.setattr("retmask.train.job.cancel", lambda run, patience: over.wait(60))
    with working(run):
        run.report(**a_step(4))
        at = press(press(opened(), "train_discard"), "confirm_yes")
        with_adapter(run)
    asked = {(run.id, 0.0)}
    assert at.session_state["stopping"] == asked
    over.set()
    until = time.monotonic() + 20
    while at.session_state["stopping"]:
        assert time.monotonic() < until
    assert f"{run.id} is finished, and what it has made is kept" in page.errors(drawn(at.run()))
    assert (run.path / ADAPTER).is_dir()
    assert "discarded" not in run.record


def signs() -> None:
    """A page that keeps what it is drawn anew for."""
    import streamlit as st

    from app.shared import jobs

    st.session_state["signs"] = jobs._signs(jobs.active())


def test_a_page_is_drawn_anew_when_what_was_asked_to_stop_has_been_let_go() -> None:
    """Its worker may have written that it is stopped while that is still waited for: Resume comes after it."""
    at = AppTest.from_function(signs)
    at.session_state["stopping"] = asked = {("train-1", 7.0)}
    before = at.run().session_state["signs"]
    asked.clear()
    assert at.run().session_state["signs"] != before


def test_a_training_behind_another_says_which() -> None:
    run = a_training("queued", done=0)
    run.update(spawned=0)
    run.report(stage="waiting", behind="detect-1")
    with taken(run):
        assert "detect-1" in progress(opened())


def test_a_folder_from_elsewhere_is_looked_at_and_not_worked_on(tmp_path: Path) -> None:
    run = with_adapter(a_training("cancelled", path=tmp_path / "elsewhere"))
    at = opened(train=str(run.path))
    assert "was stopped (3 of 30 steps" in words(at)
    assert not {"train_resume", "train_change", "train_stop"} & keys(at)


@pytest.mark.parametrize(
    "record",
    [
        {"config": [EVIL], "preflight": 3, "held_out": "x", "parents": [EVIL]},
        {"config": {"model": EVIL, "rank": EVIL}, "preflight": {"held_out": -1}, "error": EVIL, "command": [EVIL]},
    ],
)
@pytest.mark.parametrize("status", ["success", "error", "cancelled", "started"])
def test_a_record_that_makes_no_sense_breaks_nothing(tmp_path: Path, record: dict[str, Any], status: str) -> None:
    run = with_adapter(a_training("success", path=tmp_path / "elsewhere"))
    run.update(status=status, **record)
    (run.path / "progress.jsonl").write_text(
        '{"stage": "steps", "done": "x"}\n{"stage": "steps", "done": 1, "loss": {}}'
    )
    at = opened(train=str(run.path))
    assert EVIL not in " ".join(element.value for element in [*at.markdown, *at.caption, *at.subheader])


@pytest.mark.parametrize("name", ["no-such-run", "/no/such/folder", "../x", EVIL])
def test_a_training_that_is_not_there_is_a_sentence(name: str) -> None:
    at = opened(train=name)
    assert len([error for error in at.error if "pairs to train on" not in error.value]) == 1


def test_a_run_of_another_kind_is_none() -> None:
    assert "is a run of another kind" in words(opened(train=some_pairs().id))


def test_load_as_tuned_says_so() -> None:
    run = with_adapter(a_training())
    at = press(opened(), "train_tune")
    assert query(at, "tuned") == run.id
    assert at.button(key="train_tune").label == "It is loaded as tuned"


def test_detect_takes_the_grid_of_the_map_whose_heads_were_masked() -> None:
    from app.train import result

    run = with_adapter(a_training())
    config = from_preset(DetectSettings, "quick", model="smollm2-135m", counting="steps")
    base = Run.create("detect", {**asdict(config), "lengths": [384, 768], "depths": [0.0, 0.5, 1.0]})
    Run(run.path.parent / run.parents[0]).update(parents=[base.id])
    found = result.detection(run)
    assert (found.lengths, found.n_needles, found.counting) == ((384, 768), 3, "steps")
    assert (found.model, found.adapter) == ("smollm2-135m", str(run.path / ADAPTER))
    shutil.rmtree(base.path)
    assert result.detection(run).lengths == from_preset(DetectSettings, "laptop").lengths, "that of the shipped map"


def test_the_detection_of_the_tuned_model_is_started_and_its_map_looked_at(spawned: list[Run]) -> None:
    with_adapter(a_training())
    at = opened().button(key="train_detect").click().run()
    assert not at.exception
    (run,) = Run.all("detect")
    assert spawned == [run]
    assert query(at, "map") == run.id
    assert "Retrieval heads" in at.header[0].value


def test_merge_starts_a_run_and_says_the_command(spawned: list[Run], tmp_path: Path) -> None:
    run = with_adapter(a_training())
    at = opened()
    drawn(at.text_input(key=f"merge-{run.id}").set_value(str(tmp_path / "merged")).run())
    folder, out = str(run.path / ADAPTER), str(tmp_path / "merged")
    assert shlex.join(["retmask", "merge", "smollm2-135m", "--out", out, "--adapter", folder]) in [
        code.value for code in at.code
    ]
    press(at, "merge_start")
    (merge,) = Run.all("ablate")
    assert spawned == [merge]
    assert (merge.record["config"]["adapter"], merge.record["config"]["out"]) == (folder, out)
    merge.update(status="success")
    assert "It is written" not in words(drawn(at.run())), "the folder is gone"
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mask.json").write_text("{}")
    assert "It is written" in words(drawn(at.run()))


def test_what_the_browser_sends_late_does_not_take_a_preset_back() -> None:
    at = opened()
    at.segmented_control(key="train_preset").set_value("gpu")
    sent = at._tree.get_widget_states()  # with the numbers of the preset before
    drawn(at.run())
    assert setting(at, "batch").value == 32
    assert setting(drawn(at._run(sent)), "batch").value == 32


def test_pairs_chosen_on_another_page_open_the_form() -> None:
    a_training()
    other = some_pairs("gemma-3-270m", kept=7)
    at = opened()
    assert "train_start" not in keys(at)
    at.session_state["train_pairs"] = other.id
    at = drawn(at.run())
    assert command(at)[2:5] == ["gemma-3-270m", "--pairs", other.id]


def test_the_form_can_be_folded_away_at_once() -> None:
    a_training()
    at = opened()
    at.session_state["train_form"] = True
    assert "train_start" in keys(drawn(at.run()))
    at.session_state["train_form"] = False
    assert "train_start" not in keys(drawn(at.run()))


def test_the_form_holds_the_pairs_of_the_address_and_the_address_those_of_the_form() -> None:
    older, newest = some_pairs("gemma-3-270m"), some_pairs()
    at = opened(pairs=older.id)
    assert command(at)[2:5] == ["gemma-3-270m", "--pairs", older.id], "also after a reload"
    drawn(at.selectbox(key="train_pairs").set_value(newest.id).run())
    assert query(at, "pairs") == newest.id
    assert command(opened(pairs=query(at, "pairs"))) == command(at)
    drawn(at.selectbox(key="train_pairs").set_value("another file").run())
    assert "pairs" not in at.query_params, "no run is shown now"


def test_pairs_that_are_not_there_are_told(tmp_path: Path) -> None:
    a_training()
    at = opened(pairs="nope")
    assert "there are no pairs at" in words(at)
    assert at.button(key="train_start").disabled
    assert query(at, "pairs") == "nope"
    drawn(at.run())
    assert "there are no pairs at" in words(at), "as long as the address says so"


def test_a_training_in_the_address_is_looked_at_without_the_form() -> None:
    run = a_training()
    assert "train_start" not in keys(opened(pairs=run.parents[0], train=run.id))
    assert "train_start" in keys(opened(pairs=run.parents[0]))


def test_what_is_left_out_and_how_long_it_takes_is_shown(
    looked: list[TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    some_pairs()
    found = FOUND._replace(left_out=("a", "b"), trained=1234, seconds=600.0)
    monkeypatch.setattr("retmask.train.job.preflight", lambda *a, **k: found)
    figures = {metric.label: metric.value for metric in press(opened(), "train_check").metric}
    assert (figures["Left out"], figures["Numbers trained"], figures["Time, about"]) == ("2", "1,234", "10 min")


def test_the_time_that_has_gone_is_shown_while_the_model_loads() -> None:
    run = a_training("queued", done=0)
    with working(run):
        run.update(started="2026-01-01T00:00:00+00:00")
        said = words(opened())
        assert " h " in said
        assert "so far · the first step comes after the model is loaded" in said
