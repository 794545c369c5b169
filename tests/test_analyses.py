"""The pure parts of the studies on data that can be checked in the head, and the per-step ablation on a tiny model."""

from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model
from trials import a_trial, scores_of

from analyses import depth_bias, dynamics, families, figures, null_checks, stability
from retmask.compare.trace import Trace
from retmask.evaluate.job import EvaluateSettings
from retmask.files import append_line, sha256_text, write_json
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores, scores_path
from retmask.heads.sets import ScoreSet, read_set
from retmask.heads.trials import Trial, collect_scores
from retmask.model import loading
from retmask.model.decoding import answers
from retmask.model.weights import Source
from retmask.text.haystack import load_haystack

GRID = Grid(2, 10)
ONE, OTHER = HeadId(0, 3), HeadId(1, 7)


def trial(needle: str, depth: float, success: bool = True, **scores: float) -> Trial:
    return a_trial(needle=needle, depth=depth, success=success, scores=scores_of(**scores))


def detection(folder: Path, trials: list[Trial]) -> ScoreSet:
    """A detection's folder of these trials, read again."""
    folder.mkdir()
    for one in trials:
        append_line(folder / "trials.jsonl", one.to_json())
    grid = {"n_layers": 2, "n_heads": 10, "n_kv_heads": None}
    write_json(
        folder / "run.json",
        {"kind": "detect", "status": "success", "model": folder.name, "head_grid": grid, "counting": "set"},
    )
    scores = collect_scores(trials, GRID, folder.name, "set")
    assert scores
    scores.save(folder / "scores.json")
    return read_set(str(folder))


@pytest.fixture
def lopsided(tmp_path: Path) -> ScoreSet:
    """Two needles at three depths; at depth 0 only L0H3 copies, elsewhere only L1H7. One trial found nothing."""
    trials = [
        trial(needle, depth, h0_3=1.0) if depth == 0 else trial(needle, depth, h1_7=1.0)
        for needle in "ab"
        for depth in (0.0, 0.5, 1.0)
    ]
    trials[3] = trial("b", 0.0, success=False)
    return detection(tmp_path / "lopsided", trials)


def test_nine_of_ten_depths_stand_at_the_first(lopsided: ScoreSet) -> None:
    depths = [one.depth for one in depth_bias.stuck(lopsided.trials())]
    assert depths == ([0.0] * 9 + [1.0]) * 2
    assert {one.depth for one in depth_bias.stuck(lopsided.trials(), 1)} == {0.5, 1.0}
    assert depth_bias.stuck([trial("a", 0.0), trial("b", 1.0)]) == []


def test_stuck_needles_turn_a_map_over(lopsided: ScoreSet) -> None:
    assert lopsided.scores.mean[OTHER] == pytest.approx(4 / 5)
    biased = depth_bias.stuck_scores(lopsided)
    assert biased.n_trials == 11  # of 20, the nine copies of one that failed count nowhere
    assert biased.mean[ONE] == pytest.approx(9 / 11)
    rows = depth_bias.compare("lopsided", lopsided)
    assert [row["trials"] for row in rows] == [5, 11, 11, 20]
    assert [row["different"] for row in rows] == [2, 2, 2, 1]
    assert [row["top_5pct_shared"] for row in rows] == ["1 of 1", "0 of 1", "0 of 1", "1 of 1"]
    assert rows[1]["mean_change"] == pytest.approx(4 / 5 - 2 / 11, abs=1e-4)


def test_intervals_of_copies_are_as_wide_as_those_of_one_each() -> None:
    values = np.random.default_rng(0).random((8, 2, 10))
    once, nine = HeadScores("m", values), HeadScores("m", np.repeat(values, 9, axis=0))
    honest, naive = depth_bias.mean_bounds(nine, True), depth_bias.mean_bounds(nine, False)
    plain = (once.interval.high - once.interval.low).mean()
    assert (honest.high - honest.low).mean() == pytest.approx(plain, rel=0.1)
    assert (naive.high - naive.low).mean() == pytest.approx(plain / 3, rel=0.1)


def test_the_best_heads_by_depth(lopsided: ScoreSet) -> None:
    curve = depth_bias.by_depth("m", lopsided)
    assert (list(curve.x), list(curve.y)) == ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    assert len(depth_bias.draw({"m": lopsided}).data) >= 2


def test_equal_trials_agree_and_parts_that_differ_do_not() -> None:
    values = np.zeros((6, 2, 10))
    values[:3, 0, 3] = 1
    values[3:, 1, 7] = 1
    mixed = stability.shuffled(values[1:5], np.array([0, 0, 1, 1]))
    assert mixed.n_trials == 4
    assert (mixed.low, mixed.high) == (0, 0.5)  # one of either kind in each part: both heads tie
    assert mixed.mean == pytest.approx(1 / 3, abs=0.1)
    same = stability.shuffled(values[:3], np.array([0, 1, 2]))
    assert (same.mean, same.low) == (1, 1)


def test_parts_by_hand() -> None:
    """Two parts name L0H0 and the third L0H1: one pair of three agrees."""
    values = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.9]]])
    assert stability.parts_overlap(values, np.array([5, 7, 6, 7]), 0.5) == pytest.approx(1 / 3)
    assert stability.parts_overlap(values, np.array([0, 1, 0, 1]), 0.5) == 0
    assert np.isnan(stability.parts_overlap(values, np.zeros(4, dtype=int), 0.5))
    assert np.isnan(stability.parts_overlap(np.zeros((2, 1, 2)), np.array([0, 1]), 0.5))


def test_a_curve_of_stability_by_hand() -> None:
    values = np.repeat([[[0.9, 0.5, 0.0], [0.3, 0.0, 0.0]]], 7, axis=0)
    assert [tuple(point) for point in stability.stability_curve(values, 0.5)] == [(n, 1, 1, 1) for n in (1, 2, 4, 7)]
    assert stability.stability_curve(np.zeros((4, 2, 2))) == []
    assert [point.n_trials for point in stability.stability_curve(np.ones((1, 2, 2)))] == [1]
    assert [point.n_trials for point in stability.stability_curve(np.ones((8, 2, 2)))] == [1, 2, 4, 8]


def test_a_trial_without_scores_names_no_head_and_a_top_is_as_large_in_every_part() -> None:
    """Of the second trials only L0H0 and one of the others score, so the top of three is never full."""
    values = np.zeros((2, 1, 4))
    values[0] = [0.9, 0.0, 0.0, 0.8]
    assert stability.stability_curve(values, 0.5, draws=400)[0].mean == pytest.approx(0.5, abs=0.1)
    values = np.array([[[0.9, 0.5, 0.0, 0.0]], [[0.9, 0.0, 0.5, 0.0]]])
    assert stability.parts_overlap(values, np.array([0, 1]), 0.75) == pytest.approx(1 / 3)
    assert [point.mean for point in stability.stability_curve(values, 0.75)] == pytest.approx([2 / 3, 1])


def test_more_trials_agree_better_and_the_draws_are_the_same_ones() -> None:
    rng = np.random.default_rng(3)
    values = np.clip(rng.random((10, 10)) ** 4 + rng.normal(0, 0.5, (64, 10, 10)), 0, None)
    curve = stability.stability_curve(values, 0.1)
    means = [point.mean for point in curve]
    assert means == sorted(means)
    assert means[-1] == 1
    assert all(0 <= point.low <= point.mean <= point.high <= 1 for point in curve)
    assert curve == stability.stability_curve(values, 0.1) != stability.stability_curve(values, 0.1, seed=1)


def test_all_curves_of_stability_have_one_size_of_top(tmp_path: Path) -> None:
    """Of the top of 2 of 40 heads a single trial names one: the other is a different one in each."""
    values = np.zeros((4, 2, 20))
    for i in range(4):
        values[i, 0, 0], values[i, 1, i] = 1, 0.5 if i == 0 else 0
    found = ScoreSet("x", HeadScores("m", values))
    rows = {(row["kind"], row["trials"]): row["overlap"] for row in stability.rows_of("m", found)}
    assert rows[stability.TWO, 1] == rows[stability.TWO, 2] == rows["split half", 2] == 0.5
    assert rows[stability.WITHIN, 1] == pytest.approx((3 * 0.5 + 1) / 4, abs=0.05)


def test_the_table_of_stability(lopsided: ScoreSet) -> None:
    rows = stability.rows_of("lopsided", lopsided)
    found = {row["kind"]: row for row in rows}
    assert list(found)[:4] == [stability.TWO, stability.WITHIN, "split half", "needle"], "two needles: no bootstrap"
    assert found["depth"]["what"] == "3 parts of 1 to 2"
    assert found["depth"]["overlap"] == pytest.approx(1 / 3, abs=1e-4)  # two of the three parts name one head
    assert found["needle"]["overlap"] == 1
    assert "length" not in found  # there is only one
    stability.draw(rows)


def test_what_is_masked_at_a_step() -> None:
    values = np.zeros((1, 2, 10))
    values[0, 0, :5] = (0.9, 0.8, 0.7, 0.05, 0.02)
    scores = HeadScores("m", values)
    now = frozenset({HeadId(0, 0), HeadId(1, 1), HeadId(1, 2)})
    assert dynamics.step_mask("unmasked", now, scores, 0) == HeadMask()
    assert dynamics.step_mask("per step", now, scores, 0) == HeadMask.of(now)
    assert dynamics.step_mask("static", now, scores, 0) == HeadMask.of(scores.top(3))
    assert dynamics.step_mask("top 5 %", now, scores, 0) == HeadMask.of([HeadId(0, 0)])
    drawn = set(dynamics.step_mask("random", now, scores, 0).heads)
    assert len(drawn) == 3
    assert not drawn & (now | set(scores.above()))
    assert len(dynamics.step_mask("random", frozenset(scores.grid.heads()[:15]), scores, 0)) == 5  # all that is left


def test_overlaps_by_hand() -> None:
    scores = HeadScores("m", np.linspace(1, 0, 20).reshape(1, 2, 10))  # the best is L0H0, 5 % is this one
    first, second = HeadId(0, 0), HeadId(0, 1)
    trace = Trace(4, GRID, {first: {0: 5, 1: 6}, second: {1: 6}})
    found = dynamics.overlaps(trace, scores)
    assert found["size"] == 1.5  # steps at which nobody copies count nowhere
    assert found["top20"] == pytest.approx((1 / 20 + 2 / 20) / 2)
    assert found["top5pct"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["next"] == pytest.approx(1 / 2)
    assert found["any"] == pytest.approx(1 / 2)
    assert found["entropy"] == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    assert set(dynamics.overlaps(Trace(4, GRID, {}), scores).values()) == {None}


def test_finished_lines_count_only_for_the_same_weights_map_and_haystack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(tmp_path))
    assert dynamics.kept_at("a/b") != dynamics.kept_at("a-b")
    assert dynamics.kept_at("a/../b").parent == tmp_path / "analyses"
    monkeypatch.setattr(dynamics, "resolve", lambda name: Source(name, "", converted_from="sha"))
    monkeypatch.setattr(loading, "load", lambda name: pytest.fail("asked anew"))
    (task,) = EvaluateSettings(model="gemma-3-270m", trials=1).tasks()
    scores = HeadScores.load(scores_path("gemma-3-270m"))
    pins = {"weights": "sha", "map": sha256_text(scores.to_json()), "haystack": load_haystack("pydoc-end").sha256}
    kept = {
        "needle": task.needle.needle,
        "context_tokens": task.context_tokens,
        "depth": task.depth,
        "answer_tokens": 32,
    }
    path = dynamics.kept_at("gemma-3-270m")
    path.parent.mkdir()
    for other in (
        {},
        {"pins": pins | {"weights": "x"}},
        {"pins": pins | {"map": "x"}},
        {"pins": pins | {"haystack": 1}},
    ):
        append_line(path, kept | other)
    with pytest.raises(pytest.fail.Exception, match="asked anew"):
        list(dynamics.measure("gemma-3-270m", 1, 32))
    append_line(path, kept | {"pins": pins})
    assert list(dynamics.measure("gemma-3-270m", 1, 32)) == [kept | {"pins": pins}]


def line(needle: str, recalls: tuple[float, ...]) -> dict[str, object]:
    answers = {
        name: {"token_ids": [1, 2, 3], "sizes": [1, 1, 0], "recall": recall}
        for name, recall in zip(dynamics.CONDITIONS, recalls, strict=True)
    }
    return {
        "needle": needle,
        "context_tokens": 512,
        "depth": 0.1,
        "needle_span": (4, 6),
        "answers": answers,
        "copied": {"0-3": [(0, 5), (1, 9)], "1-7": [(2, 9)]},
    }


def test_the_table_of_dynamics() -> None:
    lines = [line("a", (1.0, 0.0, 0.5, 1.0, 0.0)), line("b", (0.5, 0.0, 0.0, 0.5, 0.0))]
    assert dynamics.traced(lines[0], GRID, needle_only=True).copied == {ONE: {0: 5}}
    scores = HeadScores("m", np.linspace(1, 0, 20).reshape(1, 2, 10))
    rows = {(row["kind"], row["what"]): row for row in dynamics.rows_of("m", lines, scores)}
    assert rows["recall", "unmasked"]["mean"] == 0.75
    assert rows["difference", "per step - unmasked"]["mean"] == -0.75
    assert rows["difference", "static - per step"]["mean"] == 0.25
    assert rows["overlap, all copies", "size"]["mean"] == 1
    assert rows["overlap, all copies", "next"]["mean"] == 0.5
    dynamics.draw(list(rows.values()))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_ablation_step_by_step(family: str) -> None:
    """Token by token, without a cache, the conditions give the same."""
    model = tiny_model(family)
    model.stop_ids = frozenset()
    scores = HeadScores("tiny", np.random.default_rng(0).random((2, 3, 4)))
    prompt = _prompt_that_is_copied(model)
    found = dynamics.ablate(model, prompt, scores, 6)
    unmasked = answers(model, [prompt], 6)[0]
    trace = Trace.read(unmasked.attended, unmasked.token_ids, prompt)
    assert found["answers"]["unmasked"]["token_ids"] == list(unmasked.token_ids)
    assert found["answers"]["unmasked"]["sizes"] == [len(trace.heads_at(step)) for step in range(6)]
    assert found["copied"] == {head.key: sorted(places.items()) for head, places in trace.copied.items()}
    assert sum(found["answers"]["unmasked"]["sizes"]) > 0
    first = trace.heads_at(0)  # before the first token all conditions have read the same
    for name in ("per step", "static", "top 5 %"):
        mask = dynamics.step_mask(name, first, scores, 0)
        cache = model.prefill(prompt[:-1], len(prompt) + 1)
        assert found["answers"][name]["token_ids"][:1] == dynamics.next_tokens(model, cache, prompt[-1:], [mask])


def _prompt_that_is_copied(model: object) -> list[int]:
    """A prompt of one token that the model goes on with, so that every head that looks at it copies."""
    for token in range(3, 120):
        prompt = [token] * 12
        answer = answers(model, [prompt], 1)[0]  # type: ignore[attr-defined]
        if answer.token_ids == (token,):
            return prompt
    pytest.fail("this tiny model repeats no token")


def test_an_answer_ends_at_a_stop_token() -> None:
    model = tiny_model("llama")
    model.stop_ids = frozenset()
    prompt = list(range(3, 40))
    scores = HeadScores("tiny", np.random.default_rng(0).random((2, 3, 4)))
    said = dynamics.ablate(model, prompt, scores, 5)["answers"]["unmasked"]["token_ids"]
    model.stop_ids = frozenset({said[2]})
    again = dynamics.ablate(model, prompt, scores, 5)["answers"]
    assert again["unmasked"]["token_ids"] == said[: said.index(said[2])]
    assert all(len(answer["token_ids"]) == len(answer["sizes"]) for answer in again.values())


def test_concentration_of_the_shipped_maps() -> None:
    sets = figures.opened(figures.BUILT_IN)
    assert {trace.name for trace in families.draw(sets).data if trace.showlegend} == set(figures.BUILT_IN)
    assert list(figures.opened(["smollm2-135m", "smollm2-135m"]))[1].endswith("(2)")


def test_a_list_of_heads_has_no_curve_and_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Qwen3-8B.yaml").write_text('attn_head_set: "13-18,2-1"')
    sets = figures.opened([*figures.BUILT_IN, str(tmp_path / "Qwen3-8B.yaml")], with_trials=False)
    assert "Qwen3-8B" not in {trace.name for trace in families.draw(sets).data}
    monkeypatch.setattr(families, "save", lambda figure, rows, name, **size: kept.extend(rows))
    monkeypatch.setattr("sys.argv", ["families.py", str(tmp_path / "Qwen3-8B.yaml")])
    kept: list[dict[str, object]] = []
    families.main()
    assert [(row["model"], row["gini"] is None) for row in kept] == [
        ("smollm2-135m", False),
        ("gemma-3-270m", False),
        ("Qwen3-8B", True),
    ]
    assert "a list of 2 heads without scores" in capsys.readouterr().out


def test_a_set_without_trials_is_told(tmp_path: Path) -> None:
    (tmp_path / "alone.json").write_text('{"0-0": [1.0], "0-1": [0.0]}')
    assert list(figures.opened([str(tmp_path / "alone.json")], with_trials=False)) == ["alone"]
    with pytest.raises(ValueError, match="no trials"):
        figures.opened([str(tmp_path / "alone.json")])


def test_a_result_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(figures, "browser", lambda: None)
    dots = [figures.Dot("a line", "one", 0.5, 0.4, 0.7), figures.Dot("a line", "two", 0.6)]
    curves = [figures.Curve("two", [1, 2], [0, 1], [0, 0.5], [0.5, 1])]
    figure = figures.panels([figures.Panel("dots", dots), figures.Panel("curves", curves)])
    assert [trace.name for trace in figure.data if trace.showlegend] == ["one", "two"]
    assert {trace.marker.color for trace in figure.data if trace.name == "two" and trace.mode == "markers"} == {
        trace.line.color for trace in figure.data if trace.name == "two" and trace.mode == "lines"
    }
    figures.save(figure, [{"model": "m", "value": 1}], "study", tmp_path)
    assert (tmp_path / "study.csv").read_text() == "model,value\nm,1\n"
    assert "plotly.min.js" in (tmp_path / "study.html").read_text()
    assert "needs Chrome" in capsys.readouterr().out
    figures.show([{"model": "m", "value": None}])
    assert capsys.readouterr().out == "| model | value |\n|---|---|\n| m |  |\n\n"


def test_simulated_conditions_are_what_they_are_called() -> None:
    """Base and itself are one, a tenth of the items is gold, and controls differ from base by chance alone."""
    kind = null_checks.suite()[0]
    scores = null_checks.answered(np.random.default_rng(0), kind, 5000)
    base, gold = scores["unmasked"], scores["reads gold"]
    assert (base == scores["itself"]).all()
    assert (gold >= base).all()
    assert (gold - base).mean() == pytest.approx(0.1 * (1 - base.mean()), abs=0.01)
    assert scores["control 1"].mean() == pytest.approx(base.mean(), abs=0.02)
    assert 0.7 < (scores["control 1"] == base).mean() < 0.9
    moved = null_checks.answered(np.random.default_rng(0), kind, 5000, moved=0.5)
    assert moved["chance"].mean() == pytest.approx(moved["control 1"].mean(), abs=0.02)
    assert moved["chance"].mean() > moved["unmasked"].mean() + 0.05


def test_a_simulated_evaluation_is_checked_in_every_way() -> None:
    truth = null_checks.truths(500)
    assert set(truth) == {*null_checks.TASKS, "overall", *(kind.name for kind in null_checks.suite())}
    found = list(null_checks.checks(np.random.default_rng(1), 4, truth))
    levels = {(check, level) for check, level, _ in found if check == null_checks.HOLDS}
    assert levels == {(null_checks.HOLDS, level) for level in ("task", "category", "overall")}
    names = {null_checks.PLAIN, null_checks.WITHIN, null_checks.PLANTED, null_checks.CHANCE, null_checks.SHARED}
    assert names <= {check for check, _, _ in found}
