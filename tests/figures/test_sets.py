"""Figures of several maps: what they show of values worked by hand, and that foreign names stay text."""

from html import unescape
from typing import Any

import numpy as np
import pytest

from retmask.families.agreement import agreement
from retmask.families.concentration import concentration
from retmask.families.gains import published_gains
from retmask.figures.agreement import agreement_map, overlap_map
from retmask.figures.concentration import (
    curves_together,
    depth_profiles,
    figure_dots,
    gain_scatter,
    lorenz_curves,
    rank_curves,
)
from retmask.figures.maps import small_multiples
from retmask.figures.style import cut, wrapped
from retmask.heads.grid import HeadId
from retmask.heads.scores import HeadScores

EVIL = "<b onclick=alert(1)>" + "long name " * 20
A = HeadScores("a", np.array([[[0.9, 0.6], [0.0, 0.3]]]))
B = HeadScores("b", np.array([[[0.0, 0.8], [0.7, 0.0]]]))


def large(n: int) -> dict[str, HeadScores]:
    rng = np.random.default_rng(0)
    return {f"model {i}": HeadScores(f"model {i}", rng.random((20, 36, 32)) ** 8) for i in range(n)}


def test_lorenz_begins_at_nothing_and_ends_at_everything() -> None:
    curve = lorenz_curves({"a": A.mean}).data[1]
    assert list(curve.x) == [0, 25, 50, 75, 100]
    assert list(curve.y) == pytest.approx([0, 0, 100 / 6, 50, 100], abs=1e-4)


@pytest.mark.parametrize(("relative", "ranks"), [(True, [25, 50, 75, 100]), (False, [1, 2, 3, 4])])
def test_ranks_go_down(relative: bool, ranks: list[float]) -> None:
    curve = rank_curves({"a": A.mean}, relative).data[0]
    assert list(curve.x) == ranks
    assert list(curve.y) == [0.9, 0.6, 0.3, 0.0]
    assert list(curve.text) == ["L0H0", "L0H1", "L1H1", "L1H0"]


def test_depth_holds_all_of_the_sum() -> None:
    curve = depth_profiles({"a": A.mean}, bins=2).data[0]
    assert list(curve.y) == pytest.approx([100 * 1.5 / 1.8, 100 * 0.3 / 1.8], abs=1e-4)


def test_small_maps_share_a_scale() -> None:
    figure = small_multiples({"a": A, "b": B})
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.9)
    assert [np.asarray(trace.z).tolist() for trace in figure.data] == [A.mean.tolist(), B.mean.tolist()]
    assert len({trace.coloraxis for trace in figure.data}) == 1


def test_the_best_of_two_maps_by_whose_they_are() -> None:
    figure = overlap_map(A, B, "a", "b", k=2)
    assert np.asarray(figure.data[0].z).tolist() == [[1, 2], [3, 0]]  # only A, both; only B, neither
    assert [trace.name for trace in figure.data if trace.name] == ["only a (1)", "in both (1)", "only b (1)"]


def test_a_head_without_a_score_is_among_no_best() -> None:
    one, other = (HeadScores("m", np.array([[mean]])) for mean in ([0.5, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3]))
    figure = overlap_map(one, other, "a", "b", k=3)
    assert [trace.name for trace in figure.data if trace.name] == ["only a (1)", "in both (0)", "only b (1)"]
    assert agreement(one, other, 3).overlap == 0


def test_long_names_wrap() -> None:
    name = "Llama-3.1-8B-Instruct · QRHead list · qr_head_NQ"
    assert wrapped(name, 60) == name
    assert wrapped(name, 34) == "Llama-3.1-8B-Instruct · QRHead<br>list · qr_head_NQ"
    for long in ("a" * 90, "word " * 30, "<b>" + "x y" * 60):
        lines = unescape(wrapped(long, 20)).split("<br>")
        assert len(lines) == 2
        assert all(len(line) <= 20 for line in lines)
        assert "…" in "".join(lines)
    assert "<b>" not in wrapped("<b>" + "x y" * 60, 20)


def test_maps_below_zero_keep_a_scale_that_goes_up() -> None:
    lost = {"causal": HeadScores("m", np.full((1, 2, 3), -0.2), "causal")}
    assert small_multiples(lost).layout.coloraxis.cmax == 1
    assert small_multiples(lost, common=False).data[0].zmax == 1


def test_what_is_not_comparable_stays_empty() -> None:
    figure = agreement_map(["a", "b"], [[1, None], [None, 1]], "Overlap", [["", "other grids"]] * 2)
    assert figure.data[0].z[0][1] is None
    assert "other grids" in figure.data[0].text[0][1]
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)


def test_dots_leave_out_what_has_no_figure() -> None:
    rows = [
        {"label": "a", "gini": 0.5, "gini_low": 0.4, "gini_high": 0.7, "over": "3 needles"},
        {"label": "b", "over": "", "gini": None, "gini_low": None, "gini_high": None},
    ]
    figure = figure_dots(rows, "gini")
    (dot,) = figure.data
    assert dot.error_x.array == pytest.approx((0.2,))
    assert dot.error_x.arrayminus == pytest.approx((0.1,))
    assert dot.text[0] == "<b>a</b><br>0.5<br>95 % from 0.4 to 0.7 over 3 needles"
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]


def test_gains_are_drawn_in_percent_of_what_was_before() -> None:
    (point,) = published_gains()
    own = point._replace(model="own", before=0.4, after=0.5, gain=0.1, low=-0.1, high=0.2, n=120)
    nothing = own._replace(figures=concentration(np.zeros((2, 2))))
    figure = gain_scatter([point, own, nothing], "gini")
    assert [trace.y[0] for trace in figure.data] == pytest.approx([100 * 2.28 / 46.4, 25])
    assert figure.data[0].error_y.array is None
    assert (figure.data[1].error_y.array, figure.data[1].error_y.arrayminus) == (
        pytest.approx((25,)),
        pytest.approx((50,)),
    )
    assert figure.layout.annotations[0].text == "n = 2"


def test_many_gains_have_their_names_in_the_hover_only() -> None:
    (point,) = published_gains()
    assert {trace.mode for trace in gain_scatter([point] * 2, "gini").data} == {"markers+text"}
    assert {trace.mode for trace in gain_scatter([point] * 9, "gini").data} == {"markers"}


def test_nothing_can_be_drawn() -> None:
    assert gain_scatter([], "gini").layout.annotations[0].text == "n = 0"
    for draw in (lorenz_curves, rank_curves, depth_profiles, small_multiples):
        draw({}).to_json()


def texts(value: Any) -> list[str]:
    """All texts in a figure."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in texts(part)]


def test_names_are_text_and_cut() -> None:
    scores = {EVIL: A}
    figures = [
        lorenz_curves({EVIL: A.mean}),
        rank_curves({EVIL: A.mean}),
        depth_profiles({EVIL: A.mean}),
        small_multiples(scores),
        overlap_map(A, B, EVIL, EVIL),
        agreement_map([EVIL], [[1]], EVIL),
        gain_scatter([published_gains()[0]._replace(model=EVIL)], "gini"),
    ]
    for figure in figures:
        assert not [text for text in texts(figure.to_dict()) if "<b onclick" in text]


def test_twelve_large_maps_stay_small() -> None:
    assert len(small_multiples(large(12)).to_json()) < 2**20


def test_sets_beyond_the_colours_differ_by_their_dashes() -> None:
    lines = [trace.line for trace in depth_profiles({str(i): A.mean for i in range(30)}).data]
    assert len({(line.color, line.dash) for line in lines}) == 30


def test_together_they_have_one_legend() -> None:
    figure = curves_together({"a": A.mean, "b": B.mean})
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]
    assert [sum(trace.name == "a" and trace.xaxis == axis for trace in figure.data) for axis in ("x", "x2", "x3")] == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(("most", "said"), [(20, "a b c d e f g"), (13, "a b c d e f g"), (7, "a b…f g"), (2, "a…")])
def test_a_long_name_loses_its_middle(most: int, said: str) -> None:
    assert cut("a b  c\nd e f g", most) == said


def test_the_heads_of_a_curve_are_named_by_layer() -> None:
    scores = next(iter(large(1).values()))
    curve = rank_curves({"m": scores.mean}).data[0]
    assert HeadId.parse(curve.text[0]) == scores.top(1)[0]
