"""The Families page without a browser: which sets are on it, what it says of them, and what can be done with them."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import streamlit as st
from page import codes, drawn, press, query, words
from score_sets import BEST, GEMMA, SMOL, a_detection, a_set, answered, opened
from streamlit.testing.v1 import AppTest

from app.shared import readers
from retmask.families.agreement import agreement
from retmask.families.concentration import concentration
from retmask.families.gains import Gain
from retmask.figures import rows as set_tables
from retmask.files import shipped
from retmask.heads.grid import HeadId
from retmask.heads.sets import read_set
from retmask.runs.run import Run

pytestmark = pytest.mark.usefixtures("fresh_home")

TOP = BEST.top(14)  # 5 % of 270
VIEWS = ["Concentration", "Maps", "Depth", "Gain", "Agreement"]


def chosen(at: AppTest) -> list[str]:
    return list(sets_shown(at).value)


def sets_shown(at: AppTest) -> Any:
    """The choice of sets: after one was added in another way it is a new widget."""
    return next(widget for widget in at.multiselect if widget.label == "Score sets")


def table(at: AppTest) -> Any:
    """The table of sets."""
    return at.dataframe[0].value


def add(at: AppTest, path: str) -> AppTest:
    """Add a set by its path or address."""
    number = at.session_state.get("sets_added", 0)
    at.text_input(key=f"set_path-{number}").set_value(path)
    return press(at, f"set_go-{number}")


def test_opens_with_the_shipped_maps() -> None:
    at = opened()
    assert chosen(at) == [SMOL, GEMMA]
    assert codes(at)[0] == f"retmask families {SMOL} {GEMMA}"
    assert list(table(at)["set"]) == [f"{SMOL} · copying · shipped", f"{GEMMA} · copying · shipped"]
    assert list(table(at)["family"]) == ["SmolLM", "Gemma"]
    assert list(table(at)["grid"]) == ["30 x 9", "18 x 4"]
    assert table(at)["Gini"][0] == pytest.approx(0.924, abs=0.001)
    assert table(at)["Gini 95 %"][0] == "0.90–0.95"
    assert list(table(at)["trials"]) == [40, 45]
    columns = list(table(at))
    assert columns[columns.index("trials") + 1] == "over"
    assert not at.error
    assert not at.warning


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws(view: str) -> None:
    at = opened(view=view)
    assert not at.error
    if view == "Gain":
        assert "too few to say whether concentration and gain go together" in words(at), "papers, as nobody has run one"
        assert "scores" in at.dataframe[-1].value, "the table of gains"
    assert at.get("plotly_chart")


def test_gains_that_are_not_drawn_are_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = concentration(np.eye(4))
    drawn, bare, zero = (
        Gain("m", "", "run", "needle recall", "recall, 0 to 1", before, 0.9, 0.9 - before, figures=known)
        for before, known in ((0.5, figures), (0.5, None), (0.0, figures))
    )
    monkeypatch.setattr("app.families.gains.own_gains", lambda: [drawn, bare, zero])
    said = words(opened(view="Gain"))
    assert "1 point of 1 model: too few" in said
    assert "1 without a score set of the base model, 1 with 0 before" in said


def test_a_new_detection_is_seen_by_the_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("app.families.gains.own_gains", lambda: asked.append(1) or [])
    at = opened(view="Gain")
    drawn(at.run())
    assert len(asked) == 1
    a_detection("m")
    drawn(at.run())
    assert len(asked) == 2


def test_the_measure_of_gains_is_kept_over_another_view(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ("recall", "tokens")
    points = [Gain("m", "", "run", way, "points", 0.5, 0.9, 0.4) for way in ways]
    monkeypatch.setattr("app.families.gains.own_gains", lambda: points)
    at = opened(view="Gain")
    drawn(at.selectbox(key="gain_way_own").set_value("tokens (points)").run())
    for view in ("Depth", "Gain"):
        drawn(at.segmented_control(key="families_view").set_value(view).run())
    assert at.selectbox(key="gain_way_own").value == "tokens (points)"


@pytest.mark.parametrize("view", ["Concentration", "Maps", "Depth"])
def test_lists_alone_draw_nothing_and_beside_a_map_are_left_out(tmp_path: Path, view: str) -> None:
    file = tmp_path / "Llama-list.yaml"
    file.write_text('attn_head_set: "13-18,8-1"\n')
    at = opened(str(file), view=view)
    assert "Lists of heads have no scores to draw" in words(at)
    assert not at.get("plotly_chart")
    at = opened(str(file), SMOL, view=view)
    assert "are left out here" in words(at)
    assert at.get("plotly_chart")


def test_gates_of_key_value_heads_are_shown_and_their_colours_are_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "SmolLM2-gates.tsv"
    file.write_text("\n".join("\t".join(str(one) for one in row) for row in np.random.default_rng(0).random((30, 3))))
    at = opened(SMOL, str(file), view="Maps")
    first, second = table(at)["grid"]
    assert (first.endswith("KV"), second.endswith("KV")) == (False, True)
    assert np.isnan(table(at)["trials"][1])
    assert "count in different ways, so each map has a colour scale of its own" in words(at)
    assert not any(toggle.key == "maps_common" for toggle in at.toggle), "there is no scale to share"
    alike = opened(SMOL, GEMMA, view="Maps")
    assert "count in different ways" not in words(alike)
    drawn(alike.toggle(key="maps_common").set_value(False).run())
    at = opened(SMOL, str(file), view="Agreement")
    assert at.get("plotly_chart")


def test_copies_of_trials_are_told_unfolded_however_many_sets_have_warnings(tmp_path: Path) -> None:
    few = [a_set(tmp_path / f"few-{n}.json", np.random.default_rng(n).random((3, 3, 3))) for n in range(5)]
    same = a_set(tmp_path / "same.json", np.repeat(np.random.default_rng(9).random((2, 3, 3)), 10, axis=0))
    at = opened(*map(str, [*few, same]))
    (told,) = at.warning
    assert "only 2 of 20 trials differ" in told.value
    (folded,) = (box for box in at.expander if "Before you read" in box.label)
    assert "of 5 of these sets" in folded.label
    assert "trials differ" not in " ".join(line.value for line in folded.markdown)


def test_figures_are_made_of_what_was_read_when_the_file_has_gone(tmp_path: Path) -> None:
    file = a_set(tmp_path / "a.json", np.random.default_rng(0).random((5, 3, 3)))
    found, stamp = readers.score_set(str(file))
    file.unlink()
    assert readers.set_row(str(file), stamp, found, 0.3)["n_heads"] == 9


def test_a_map_that_is_no_path_leaves_agreement_standing() -> None:
    run = a_detection("m")
    assert "Open A on Heads" in [
        button.label for button in opened(SMOL, run.id, view="Agreement", map="x" * 5000).button
    ]


def test_the_command_has_the_threshold_and_the_number_of_heads() -> None:
    at = opened(SMOL, a_detection("m").id, view="Agreement")
    drawn(at.number_input(key="sets_threshold").set_value(0.5).run())
    assert codes(at)[0].endswith(" --threshold 0.5")
    drawn(at.number_input(key="agree_k").set_value(9).run())
    assert any(code.startswith("retmask families") and code.endswith(" --threshold 0.5 --k 9") for code in codes(at))


def test_models_of_different_names_are_told_under_the_matrix(tmp_path: Path) -> None:
    one, other = (a_set(tmp_path / f"{name}.json", np.eye(4)[None]) for name in ("Llama-a", "Qwen-b"))
    assert "Models of different names are compared here" in words(opened(str(one), str(other), view="Agreement"))
    assert "Models of different names" not in words(opened(SMOL, a_detection("m").id, view="Agreement"))


def test_more_heads_than_a_detection_has_are_told() -> None:
    at = opened(GEMMA, SMOL, view="Agreement")
    drawn(at.number_input(key="agree_k").set_value(200).run())
    assert "This detection has 72 heads, fewer than the best 200" in words(at)


def test_trials_that_cannot_be_read_are_told() -> None:
    run = a_detection("m")
    (run.path / "trials.jsonl").write_text("{}\n")
    assert "No trial of this detection can be read" in words(opened(run.id, view="Agreement"))


def test_parts_that_round_to_one_name_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = importlib.import_module("app.families.trials")
    monkeypatch.setattr(slices, "slices", lambda *_: {0.3331: BEST, 0.3332: BEST, 0.5: BEST})
    parts = slices._parts(SimpleNamespace(set=read_set(SMOL)), "Depth")
    assert list(parts) == [f"0.3331 ({BEST.n_trials})", f"0.3332 ({BEST.n_trials})", f"50 % ({BEST.n_trials})"]


def test_a_matrix_leaves_its_diagonal_blank() -> None:
    matrix = importlib.import_module("app.families.matrix")
    drawn = matrix.figure(["a", "b"], {(0, 1): agreement(BEST, BEST)}, "Overlap").data[0]
    assert [list(line) for line in drawn.z] == [[None, 1.0], [1.0, None]]


def test_the_choice_is_in_the_address_and_survives_a_reload() -> None:
    run = a_detection("m", "attention")
    at = opened()
    assert any(option.endswith("· attention") for option in sets_shown(at).options)
    drawn(sets_shown(at).set_value([GEMMA, run.id]).run())
    assert query(at, "sets") == f"{GEMMA},{run.id}"
    again = opened(GEMMA, run.id)
    assert chosen(again) == [GEMMA, run.id]
    assert "attention" in table(again)["set"][1]


def test_no_set_says_what_to_do_and_stays_so() -> None:
    at = opened()
    drawn(sets_shown(at).set_value([]).run())
    assert "No score set is chosen" in words(at)
    assert not at.dataframe
    assert chosen(opened(query(at, "sets"))) == []


def test_a_list_of_heads_is_added_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "list, of heads.yaml"
    file.write_text('model_name_or_path: org/Llama-x\nattn_head_set: "13-18,8-1"\n')
    at = add(opened(), str(file))
    assert chosen(at) == [SMOL, GEMMA, str(file)]
    assert list(table(at)["family"]) == ["SmolLM", "Gemma", "Llama"]
    assert "a list of 2 heads without scores" in words(at)
    again = opened(query(at, "sets"))
    assert chosen(again) == chosen(at), "a comma in a path is no comma between sets"


def test_a_set_that_is_there_is_not_added_twice() -> None:
    at = add(opened(), str(shipped("maps", SMOL)))
    assert chosen(at) == [SMOL, GEMMA]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "attn_head_set: full_heads", "names all heads"),
        ("a.tsv", "0.1\t2\n", "which is no gate"),
        ("a.txt", "hello", "is none that can be read"),
    ],
)
def test_a_bad_file_is_a_sentence_and_changes_nothing(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    at = add(opened(), str(tmp_path / name))
    assert says in words(at)
    assert "The sets you see are unchanged." in words(at)
    assert chosen(at) == [SMOL, GEMMA]


def test_nothing_named_is_asked_for() -> None:
    assert "Name a path or an address" in words(add(opened(), " "))


def test_an_upload_is_kept_and_added(tmp_path: Path) -> None:
    at = opened()
    content = a_set(tmp_path / "Qwen3-tiny.json", np.eye(3)[None]).read_bytes()
    at.file_uploader(key="set_upload-0").set_value(("Qwen3-tiny.json", content, "application/json"))
    at = press(at, "set_go-0")
    assert "Qwen3-tiny" in chosen(at)[-1]
    assert Path(chosen(at)[-1]).is_file()
    assert list(table(at)["family"]) == ["SmolLM", "Gemma", "Qwen"]


def test_an_address_is_fetched_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("retmask.heads.sets.fetch", lambda url: asked.append(url) or b'attn_head_set: "3-1,2-2"')
    at = add(opened(), "https://example.org/lists/Llama-x.yaml")
    drawn(at.run())
    assert asked == ["https://example.org/lists/Llama-x.yaml"]
    assert Path(chosen(at)[-1]).is_file(), "the page's address names the copy, which needs no network"
    assert len(table(opened(query(at, "sets")))) == 3
    assert len(asked) == 1


def test_the_map_on_heads_is_added() -> None:
    at = opened(GEMMA)
    late = at._tree.get_widget_states()
    at = press(at, "set_here")
    assert chosen(at) == [GEMMA, SMOL]
    assert chosen(drawn(at._run(late))) == [GEMMA, SMOL], "what the browser sends late takes nothing back"


def test_a_file_that_has_gone_is_told_and_can_be_removed(tmp_path: Path) -> None:
    file = a_set(tmp_path / "gone.json", np.eye(3)[None])
    at = opened(SMOL, str(file))
    assert len(table(at)) == 2
    file.unlink()
    drawn(at.run())
    assert "there is no score set at" in words(at)
    assert len(table(at)) == 1
    at = press(at, f"set_remove-{file}")
    assert chosen(at) == [SMOL]
    assert not at.warning


@pytest.mark.parametrize("name", ["https://example.org/scores.json", "x" * 5000, "../../etc/passwd", "~nobody-here/a"])
def test_what_an_address_names_is_never_more_than_a_sentence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("retmask.heads.sets.fetch", lambda *_: pytest.fail("the page fetched what its address names"))
    at = opened(SMOL, name)
    assert len(at.warning) == 1
    assert len(table(at)) == 1


def test_foreign_names_are_shown_as_they_are(tmp_path: Path) -> None:
    name = "*a* $x$ [b](c) `d` <i>e"
    at = opened(str(a_set(tmp_path / f"{name}.json", np.eye(4)[None])), view="Concentration")
    assert f"{name} · " in table(at)["set"][0]
    assert "\\*a\\* \\$x\\$" in " ".join(line.value for line in at.markdown), "the warnings name it"


def test_intervals_are_not_drawn_anew_by_a_click(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    make = set_tables.intervals
    monkeypatch.setattr(set_tables, "intervals", lambda *args, **how: calls.append(args) or make(*args, **how))
    file = a_set(tmp_path / "a.json", np.random.default_rng(0).random((5, 3, 3)))
    at = opened(str(file))
    assert len(calls) == 1
    drawn(at.segmented_control(key="families_view").set_value("Depth").run())
    assert len(calls) == 1
    drawn(at.number_input(key="sets_threshold").set_value(0.5).run())
    assert len(calls) == 2
    assert "≥ 0.5" in table(at)


def test_two_maps_of_one_model_agree_as_counted_by_hand(tmp_path: Path) -> None:
    one = a_set(tmp_path / "one.json", [[[0.9, 0.8, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.1]]])
    other = a_set(tmp_path / "other.json", [[[0.9, 0.0, 0.0], [0.7, 0.6, 0.0], [0.0, 0.0, 0.1]]])
    at = opened(str(one), str(other), view="Agreement")
    drawn(at.number_input(key="agree_k").set_value(3).run())
    assert [metric.value for metric in at.metric[1:]] == ["0.50", "0.67", "2 of 3"]
    assert {"L0H1", "L0H0, L1H0", "L1H1"} <= set(codes(at))
    assert "The map that is open on Heads has another grid" in words(at)
    drawn(at.segmented_control(key="agree_view").set_value("Differences").run())
    assert "B minus A" in words(at)


def test_the_heads_of_a_set_are_selected_on_heads() -> None:
    run = a_detection("m", "query", BEST.values[:, ::-1, ::-1].copy())
    at = press(opened(SMOL, run.id, view="Agreement"), "agree_select_A's heads")
    assert query(at, "heads") == ",".join(sorted(map(str, TOP), key=HeadId.parse))
    assert "(14 selected there now)" in words(at)
    at = press(at, "agree_select_Only B")
    flipped = {HeadId(29 - head.layer, 8 - head.head) for head in TOP} - set(TOP)
    assert query(at, "heads") == ",".join(map(str, sorted(flipped)))


def test_another_grid_is_opened_on_heads_first() -> None:
    run = a_detection("m")
    at = opened(SMOL, run.id, view="Agreement", map=GEMMA, heads="L0H1")
    assert query(at, "heads") == "L0H1", "the selection of the map that is open is left alone"
    at = press(at, "agree_open_B")
    assert query(at, "map") == run.id


def test_sets_of_two_grids_cannot_be_compared_and_say_why() -> None:
    at = opened(view="Agreement")
    assert "These two cannot be compared head by head" in words(at)
    assert "1 pair of sets cannot be compared" in " ".join(box.label for box in at.expander)


def test_one_set_asks_for_a_second_and_its_trials_are_compared() -> None:
    at = opened(SMOL, view="Agreement")
    assert "Choose a second score set" in words(at)
    seen = {}
    for by in ("Length", "Depth", "Counting rule", "Needle"):
        drawn(at.segmented_control(key="agree_by").set_value(by).run())
        assert "two random halves, 20 trials each" in words(at)
        seen[by] = json.loads(at.get("plotly_chart")[-1].proto.spec)["layout"]["yaxis"]["ticktext"]
    assert len(seen["Length"]) == 3
    assert all("tokens" in name for name in seen["Length"])
    assert seen["Depth"] == ["0 % (6)", "25 % (9)", "50 % (8)", "75 % (8)", "100 % (9)"]
    assert [name[:-3] for name in seen["Counting rule"]] == ["each token once", "every step", "copied at all"]
    assert len(seen["Needle"]) == 3


def test_a_set_without_trials_says_so(tmp_path: Path) -> None:
    file = a_set(tmp_path / "a.json", np.eye(3)[None])
    assert "None of these sets keeps its trials" in words(opened(str(file), view="Agreement"))


def test_what_one_mask_does_that_the_other_does_not(spawned: list[Run]) -> None:
    other = a_detection("m", "query", BEST.values[:, ::-1, ::-1].copy())
    at = opened(SMOL, other.id, view="Agreement")
    assert "Masks the best 14 heads of A" in words(at)
    at = press(at, "disagree")
    (run,) = spawned
    names = [text.partition("=")[0] for text in run.config["also"]]
    assert run.config["also"][0].endswith("=" + ",".join(map(str, TOP)))
    for condition, recalls in zip(["unmasked", *names], ([1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]), strict=True):
        answered(run, condition, recalls)
    run.update(status="success")
    drawn(at.run())
    assert "finds the needle in 3 of 4 prompts" in words(at)
    assert "mask A loses **2** and mask B **3**; both lose 2, only A **0**, only B **1**" in words(at)
    pages = " ".join(element.proto.body for element in at.get("html"))
    assert "says &lt;b&gt;1&lt;/b&gt;" in pages


def test_a_measurement_that_goes_on_is_not_begun_again_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.families import masks
    from app.shared.models import ModelRef

    monkeypatch.setattr("retmask.runs.processes.start", lambda path, servers: None)  # it is about to come
    one, other = (SimpleNamespace(label=name) for name in "ab")
    for _ in range(2):
        masks._measure(ModelRef(SMOL), (one, other), (TOP[:1], TOP[1:2]), 4)
        st.cache_resource.clear()
    assert len(Run.all("evaluate")) == 1


def test_a_model_that_is_not_known_is_not_measured(tmp_path: Path) -> None:
    one, other = (
        a_set(tmp_path / name, values)
        for name, values in (("a.json", np.eye(4)[None]), ("b.json", np.eye(4)[None, ::-1]))
    )
    at = opened(str(one), str(other), view="Agreement")
    assert "Neither set says how its model is loaded" in words(at)
