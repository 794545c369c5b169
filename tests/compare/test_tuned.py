"""The tuned model on the pages, with tiny models and real adapters: who it is, its column, what moved on its map."""

import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import page
import pytest
from page import drawn, press, query, words
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from tiny import tiny_adapter, tiny_folder, tiny_hf, tiny_tokenizer
from typer.testing import CliRunner

import retmask
from app.shared import models
from retmask.cli.main import app
from retmask.detect.job import DetectSettings
from retmask.files import append_line, shipped
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.heads.trials import collect_scores, read_trials
from retmask.model.weights import resolve
from retmask.runs.overview import label
from retmask.runs.run import Run

TEXT = "Copy this, please: abcabc"
MAP = HeadScores("model", np.random.default_rng(0).random((4, 3, 4)) / 10, "set", 2)  # no retrieval head


@pytest.fixture(autouse=True)
def _alone(fresh_home: Path) -> Iterator[None]:
    """A home without runs; afterwards no model is held."""
    yield
    models.unload()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a tiny model that chooses among letters, so that it never ends by itself."""
    return tiny_folder(tmp_path)


def detected(scores: HeadScores = MAP, **config: Any) -> Run:
    """A detection as its worker leaves it; its settings are the defaults but for these."""
    settings = asdict(DetectSettings(**config))
    run = Run.create("detect", settings | {"lengths": list(settings["lengths"]), "depths": list(settings["depths"])})
    run.update(created=f"2026-01-01T00:00:{len(Run.all('detect')):02}+00:00")  # the picker tells maps by their start
    measured = {"grid": {"trials": 45}, "counting": "set", "scored": "answer", "template": "plain"}
    run.update(status="success", head_grid={"n_layers": 3, "n_heads": 4, "n_kv_heads": 2}, model="model", **measured)
    scores.save(run.path / "scores.json")
    return run


def trained(base: Path, steps: int = 2, whole: bool = False) -> Run:
    """A training of a tiny model as its worker leaves it, with a real adapter, or with a whole model."""
    run = Run.create("train", {"model": str(base), "revision": ""}, name="tiny")
    run.update(status="success", model=base.name, sha256=resolve(str(base)).sha256)
    for step in range(1, steps + 1):
        run.report(stage="steps", done=step, total=steps)
    if whole:
        tiny_hf("llama", seed=3).save_pretrained(run.path / "model")
        tiny_tokenizer().save_pretrained(run.path / "model")
    else:
        tiny_adapter(run.path / "adapter")
    card = {"base": str(base), "revision": None, "base_sha256": run.record["sha256"], "run": run.id, "steps": steps}
    (run.path / ("model" if whole else "adapter") / "retmask.json").write_text(json.dumps(card))
    return run


def opened(name: str = "compare", **query: str) -> AppTest:
    """A page at an address."""
    return page.opened(name, **query)


def ask(at: AppTest, new_tokens: int = 6) -> AppTest:
    """A text of one's own, answered."""
    drawn(at.segmented_control(key="ask_kind").set_value("text").run())
    drawn(at.text_area(key="ask_text").set_value(TEXT).run())
    drawn(at.number_input(key="ask_new_tokens").set_value(new_tokens).run())
    return press(at, "run")


def said(at: AppTest) -> dict[str, str]:
    """What the columns that answer hold, by their names, in order."""
    texts = [one.proto.body for one in at.get("html") if 'class="facts"' in one.proto.body]
    plain = [unescape(re.sub("<.*?>", "", text.split('<div class="said">')[1])) for text in texts]
    columns = at.session_state["live"].latest.columns if plain else ()
    return dict(zip([column.name for column in columns], plain, strict=True))


NAMES = ("unmasked", "masked", "tuned", "random control")


def tuned_switch(at: AppTest) -> Any:
    """The toggle of the tuned model's column: after a change elsewhere it is a new widget."""
    return next(toggle for toggle in at.toggle if toggle.label == "Tuned")


def choice(at: AppTest) -> Any:
    return next(box for box in at.selectbox if box.label == "Tuned model")


def alone(text: str, new_tokens: int, adapter: Path | None, model: Path) -> str:
    """What a model says to that text by itself."""
    from retmask.compare.comparison import Column, Prompt
    from retmask.compare.side_by_side import compare

    found = retmask.load(str(model), adapter=str(adapter) if adapter else None, context_tokens=128)
    *_, last = compare(found, Prompt.of_text(found.tokenizer, text), [Column("a", HeadMask())], new_tokens)
    return last.text(0)


def test_a_training_is_chosen_and_answers_beside_the_others(base: Path) -> None:
    run, older = trained(base), trained(base, steps=1)
    at = opened(map=detected(model=str(base)).id, heads="L1H2,L2H0")
    assert tuned_switch(at).disabled
    assert choice(at).value is None
    assert set(choice(at).options) == {label(run, "2 steps"), label(older, "1 step")}
    at = drawn(choice(at).set_value(run.id).run())
    assert query(at, "tuned") == run.id
    assert tuned_switch(at).value is True
    at = ask(at)
    answers = said(at)
    assert tuple(answers) == NAMES
    assert answers["tuned"] == alone(TEXT, 6, run.path / "adapter", base)
    assert answers["unmasked"] == alone(TEXT, 6, None, base)
    assert answers["tuned"] != answers["unmasked"]
    assert label(run, "2 steps") in words(at)
    assert "Mean divergence" in words(at)
    _the_command(at, run, answers)
    _switched_off(at)


def _the_command(at: AppTest, run: Run, answers: dict[str, str]) -> None:
    command = next(code.value for code in at.code if code.value.startswith("retmask compare"))
    assert f"--tuned {run.path / 'adapter'}" in command
    done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert {column["name"]: column["text"] for column in data["columns"]} == answers
    assert data["columns"][2]["model"]["name"] == f"model + {run.path / 'adapter'}"
    assert set(data["columns"][0]["logprobs"]) == set(NAMES)


def _switched_off(at: AppTest) -> None:
    drawn(tuned_switch(at).set_value(False).run())
    assert "These answers are of other settings" in words(at)
    at = press(at, "run")
    assert tuple(said(at)) == ("unmasked", "masked", "random control")
    assert query(at, "tuned"), "only the column is switched off"
    at = press(at, "tuned_off")
    assert query(at, "tuned") == ""
    assert tuned_switch(at).disabled
    assert not any(button.key == "tuned_off" for button in at.button)


def test_a_reload_keeps_the_tuned_model_and_without_heads_it_answers_beside_the_unmasked(base: Path) -> None:
    run = trained(base, whole=True)
    at = ask(opened(map=detected(model=str(base)).id, tuned=run.id), 4)
    answers = said(at)
    assert answers["tuned"] == alone(TEXT, 4, None, run.path / "model")
    again = opened(map=query(at, "map"), tuned=query(at, "tuned"), c=query(at, "c"))
    assert tuned_switch(again).value is True
    assert f"Tuned: {label(run)}" in words(again)
    command = next(code.value for code in again.code if code.value.startswith("retmask compare"))
    assert f"--tuned {run.path / 'model'}" in command
    assert "--max-new-tokens 4" in command
    assert "control" not in command
    other = opened("heads", map=query(at, "map"), tuned=query(at, "tuned"))
    assert f"Tuned: {label(run)}" in words(other), "on every page"


def test_a_reload_keeps_the_column_of_a_model_that_was_loaded_and_left_on_other_pages(base: Path) -> None:
    run = trained(base)
    at = opened(map=detected(model=str(base)).id, heads="L1H2", train=run.id)
    drawn(at.number_input(key="ask_new_tokens").set_value(7).run())
    at._page_hash = calc_hash("train")
    at = press(drawn(at.run()), "train_tune")
    again = opened(**{name: query(at, name) for name in ("map", "heads", "tuned", "c")})
    assert tuned_switch(again).value is True
    assert again.number_input(key="ask_new_tokens").value == 7
    at = press(at, "tuned_off")
    again = opened(**{name: query(at, name) for name in ("map", "heads", "c")}, tuned=run.id)
    assert tuned_switch(again).value is False


@pytest.mark.parametrize("name", ["train-that-is-gone", "../../etc", "/no/such/folder", "~nobody/x", ""])
def test_a_training_that_is_gone_is_none(base: Path, name: str) -> None:
    at = opened(map=detected(model=str(base)).id, heads="L1H2", tuned=name)
    assert not any(button.key == "tuned_off" for button in at.button)
    assert tuned_switch(at).value is False
    assert "once this model has been fine-tuned, on the Train page" in words(at)
    assert not at.error


def test_the_tuned_model_of_another_base_is_left_out(base: Path) -> None:
    run = trained(base)
    at = opened(map="smollm2-135m", tuned=run.id)
    assert tuned_switch(at).disabled
    assert tuned_switch(at).value is False
    assert f"The tuned model was trained on {base}, so it is left out beside smollm2-135m." in words(at)
    on_its_own = detected(model=str(base), adapter=str(run.path / "adapter"))
    at = opened(map=on_its_own.id, tuned=run.id)
    assert "This map is of the tuned model itself" in words(at)
    assert tuned_switch(at).disabled


def test_a_tuned_model_that_cannot_be_loaded_is_told_and_the_others_answer(base: Path) -> None:
    run = trained(base)
    (run.path / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 100)
    at = ask(opened(map=detected(model=str(base)).id, heads="L1H2", tuned=run.id), 3)
    assert tuple(said(at)) == ("unmasked", "masked", "random control")
    told = [warning.value.replace("\\", "") for warning in at.warning]
    assert len(told) == 1
    assert told[0].startswith(
        f"there is no tuned answer: the adapter {run.path / 'adapter'} cannot be merged into model"
    )
    for name in ("unmasked", "masked", "control"):
        drawn(at.toggle(key=f"ask_{name}").set_value(False).run())
    at = press(at, "run")
    assert [error.value.replace("\\", "")[:12] for error in at.error] == ["the adapter "]


def test_two_models_that_do_not_fit_together_leave_the_base(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(base)
    at = opened(map=detected(model=str(base)).id, heads="L1H2", tuned=run.id)
    from retmask.model import loading

    load = loading.load

    def full(name: str, adapter: str | None = None, **how: Any) -> Any:
        if adapter:
            raise ValueError("model at 2,048 tokens needs about 9 GiB and 1 GiB is free")
        return load(name, adapter=adapter, **how)

    monkeypatch.setattr(loading, "load", full)
    at = ask(at, 3)
    assert [warning.value.replace("\\", "") for warning in at.warning] == [
        "there is no tuned answer: model at 2,048 tokens needs about 9 GiB and 1 GiB is free."
    ]
    assert tuple(said(at)) == ("unmasked", "masked", "random control")


def test_a_map_made_with_an_adapter_is_compared_with_it(base: Path) -> None:
    run = trained(base)
    at = opened(map=detected(model=str(base), adapter=str(run.path / "adapter")).id, heads="L1H2")
    assert not any(box.key == "ask_model" for box in at.text_input)
    assert f"{base} tuned by {run.id} answers one prompt" in words(at)
    commands = [code.value for code in at.code]
    assert [f"--adapter {run.path / 'adapter'}" in command for command in commands] == [True] * 3, "ask, dose, ablate"
    at = ask(at, 5)
    assert said(at)["unmasked"] == alone(TEXT, 5, run.path / "adapter", base)
    other = ask(opened(map=detected(model=str(base), adapter="some/lora").id, heads="L1H2"), 5)
    assert "some/lora is no adapter" in " ".join(error.value for error in other.error).replace("\\", "")


def moved_map() -> HeadScores:
    """The map, but for L2H3 which gained 0.3 and L0H1 which lost half."""
    values = MAP.values.copy()
    values[:, 2, 3] += 0.3
    values[:, 0, 1] /= 2
    return HeadScores("model", values, "set", 2)


@pytest.mark.parametrize("whole", [False, True])
def test_the_tuned_models_heads_are_detected_and_what_moved_is_shown(
    base: Path, spawned: list[Run], whole: bool
) -> None:
    run = trained(base, whole=whole)
    before = detected(model=str(base), lengths=(300, 500), n_needles=2)
    at = press(opened("heads", map=before.id, tuned=run.id), "tuned_detect")
    config = spawned[0].record["config"]
    folder = run.path / ("model" if whole else "adapter")
    assert (config["model"], config["adapter"]) == ((str(folder), "") if whole else (str(base), str(folder)))
    assert (config["lengths"], config["n_needles"]) == ([300, 500], 2), "the trials of the map"
    assert query(at, "map") == spawned[0].id
    at = press(opened("heads", map=before.id, tuned=run.id), "tuned_map")
    assert query(at, "map") == spawned[0].id, "it is not begun twice"
    spawned[0].update(status="success", **{name: before.record[name] for name in MEASURED})
    moved_map().save(spawned[0].path / "scores.json")
    _what_moved(opened("heads", map=spawned[0].id), run, base)


MEASURED = ("grid", "counting", "scored", "template", "head_grid", "model")


def _what_moved(at: AppTest, run: Run, base: Path) -> None:
    assert at.header[0].value.replace("\\", "") == f"Retrieval heads of {base} tuned by {run.id}"
    at = drawn(at.segmented_control(key="heads_view").set_value("What moved").run())
    figures = {metric.label: metric.value for metric in at.metric}
    assert set(figures) == {"Spearman", "Same top 5 %", "Jaccard"}
    assert 0.3 < float(figures["Spearman"]) < 1
    table = at.dataframe[0].value
    assert (table["head"][0], table["change"][0]) == ("L2H3", pytest.approx(0.3))
    assert len(table) == 10
    assert len(at.get("plotly_chart")) == 1
    assert "minus" in words(at)
    assert "other trials" not in words(at)


def test_without_a_map_of_the_base_there_is_nothing_to_subtract(base: Path) -> None:
    run = trained(base)
    tuned = detected(moved_map(), model=str(base), adapter=str(run.path / "adapter"))
    detected(model=str(base)).update(grid={"trials": 9})  # of other trials
    at = opened("heads", map=tuned.id)
    assert not any(control.key == "heads_view" for control in at.segmented_control)
    shipped = detected(model="smollm2-135m", adapter="some/lora")
    shipped.update(head_grid={"n_layers": 30, "n_heads": 9, "n_kv_heads": 3})
    HeadScores("m", np.random.default_rng(1).random((2, 30, 9)), "set", 3).save(shipped.path / "scores.json")
    at = opened("heads", map=shipped.id)
    at = drawn(at.segmented_control(key="heads_view").set_value("What moved").run())
    assert "smollm2-135m (shipped)" in words(at)
    assert "No trial is known to be in both" in words(at)
    assert "The two were asked or scored otherwise" in words(at)


def test_what_moved_is_of_the_trials_that_both_maps_have(fresh_home: Path) -> None:
    """A tuned model found 7 needles of the 40 that its base found: one head copies 0.1 more in each."""
    folder = shipped("maps", "smollm2-135m")
    found = [trial for trial in read_trials(folder) if trial.success][:7]
    head = HeadId(0, 0)
    run = detected(model="smollm2-135m", adapter="some/lora")
    run.update(**{name: Run(folder).record[name] for name in (*MEASURED, "haystack")})
    for trial in found:
        append_line(
            run.path / "trials.jsonl",
            replace(trial, scores={**trial.scores, head: trial.scores.get(head, 0) + 0.1}).to_json(),
        )
    after = collect_scores(read_trials(run.path), Grid(30, 9, 3), "smollm2-135m", "set")
    assert after is not None
    after.save(run.path / "scores.json")
    at = opened("heads", map=run.id)
    at = drawn(at.segmented_control(key="heads_view").set_value("What moved").run())
    assert "Of the 7 trials (needle, length, depth) that both have" in words(at)
    assert "1 change whose 95 % interval over 3 needles leaves out 0" in words(at)
    assert "otherwise" not in words(at)
    table = at.dataframe[0].value
    assert (table["head"][0], table["change"][0]) == ("L0H0", pytest.approx(0.1))
    assert set(table["change"][1:]) == {0.0}
    assert table["95 % interval"][0] == "+0.100 to +0.100"


def test_models_by_reference(base: Path) -> None:
    from app.shared.models import ModelRef, tunings

    run, whole = trained(base), trained(base, whole=True)
    adapter = str(run.path / "adapter")
    ref = ModelRef.of_config({"model": str(base), "adapter": adapter, "revision": None})
    assert ref == ModelRef(str(base), "", adapter)
    assert ref.base == ModelRef(str(base))
    assert ref.options == ["--adapter", adapter]
    assert str(ref) == f"{base} tuned by {run.id}"
    assert str(ModelRef("a/b", "v2")) == "a/b at revision v2"
    assert str(ModelRef("a/b", "v2", "x")) == "a/b tuned by x at revision v2"
    assert ModelRef(str(whole.path / "model")).base == ModelRef(str(base))
    assert str(ModelRef(str(whole.path / "model"))) == f"{base} tuned by {whole.id}"
    assert ModelRef("smollm2-135m").base is None
    assert {one.id for one in tunings(ModelRef(f"{base.parent}/./{base.name}"))} == {run.id, whole.id}, "one folder"
    assert tunings(ModelRef(str(base), "v2")) == []
    assert tunings(ref) == []


def test_two_models_are_held_and_others_let_go(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.shared import models
    from app.shared.models import Holding, ModelRef

    class Model:
        """Something that can be held."""

    loads: list[str] = []
    monkeypatch.setattr(models, "_load", lambda ref: loads.append(ref.name) or Model())
    holding = Holding()
    one, two, three = ModelRef("one"), ModelRef("two"), ModelRef("three")
    first = holding.get(one)
    assert holding.get(one) is first
    holding.get(two, [one])
    assert set(holding.held()) == {one, two}
    holding.get(three, [two])
    assert loads == ["one", "two", "three"]
    assert set(holding.held()) == {one, two, three}, "the first is still used here"
    del first
    assert set(holding.held()) == {two, three}
    holding.drop()
    assert holding.held() == {}


def test_an_adapter_that_was_written_anew_is_loaded_anew(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.shared import models

    loads: list[str] = []
    monkeypatch.setattr(models, "_load", lambda ref: loads.append(ref.adapter) or object.__new__(models.Holding))
    adapter = trained(base).path / "adapter"
    ref, holding = models.ModelRef(str(base), "", str(adapter)), models.Holding()
    holding.get(ref)
    holding.get(ref)
    assert len(loads) == 1
    later = time.time() + 10
    os.utime(adapter / "adapter_model.safetensors", (later, later))
    holding.get(ref)
    assert len(loads) == 2


def test_unloading_keeps_the_answers(base: Path) -> None:

    at = ask(opened(map=detected(model=str(base)).id, heads="L1H2", tuned=trained(base).id), 3)
    before = said(at)
    held = models.held()
    assert held is not None
    assert held[0].count("model") == 2
    assert held[1] > 1000
    models._holding().drop()
    assert models.held() is None
    assert said(drawn(at.run())) == before
