"""What an evaluation says: verdicts, the table, a grid of lengths and depths, differences as a forest plot."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from app.evaluate import table
from app.evaluate.evaluation import Evaluation, evaluation_of, needle_rows, results
from app.evaluate.verdicts import base_of, marks, sentences
from app.shared import session
from app.shared.text import badge, download_button, downloads, draw_figure, file_name, sentence
from retmask.evaluate.results import FLOORS, at_lengths, markdown, not_served
from retmask.figures.evaluation import forest, means_map, score_grid
from retmask.figures.rows import depth_rows, forest_rows
from retmask.heads.intervals import span
from retmask.runs.run import Run

FINE = 40  # items of a length from which on the grid has ten stretches of depth, else five
KINDS = {"gain": "good", "loss": "bad"}
FLOORS_SAY = (
    "In grey the floors: what the unmasked model scores without the context, with its words in disorder, what the "
    "most frequent answer of a task scores, and one of the candidates drawn blindly."
)
MARKS_SAY = (
    "▲ and ▼: it differs from unmasked, and in the same direction from every control (95 %, corrected across "
    "categories)."
)
INTERVALS_SAY = "Small: 95 % intervals over documents."


def show(run: Run, beside: Sequence[Run] = ()) -> None:
    """Draw the result of an evaluation, or as much of it as there is, with the conditions of those `beside` it."""
    made = results(run, beside)
    if not made:
        _of_needles(run)
        return
    st.html(table.STYLE)
    st.subheader("Result", anchor=False, divider="gray")
    _verdicts(made)
    _table(run, made)
    evaluation = evaluation_of(run, beside)
    _forest(run, made)
    _grid(run, evaluation)


def _of_needles(run: Run) -> None:
    """The table of an evaluation of needles, which has no categories."""
    rows = [row for row in needle_rows(run) if {"condition", "recall", "low", "high"} <= set(row)]
    if not rows:
        st.caption("Nothing has been answered yet.")
        return
    st.subheader("Result", anchor=False, divider="gray")
    number = st.column_config.NumberColumn
    shown = [
        {"condition": row["condition"], "recall": row["recall"], "95 % interval": span(row["low"], row["high"])}
        for row in rows
    ]
    st.dataframe(shown, column_config={"recall": number(format="%.2f")}, hide_index=True, width=620)
    downloads(None, file_name(f"{run.id}-needles"), lambda: rows)


def _verdicts(made: Mapping[str, Any]) -> None:
    for condition, says, text in sentences(made):
        st.html(f'<p style="margin: 0">{badge(condition, KINDS.get(says, "plain"))}{escape(text)}</p>')
    if not made["verdicts"]:
        st.caption("There is nothing to compare: besides unmasked it has no condition but controls.")


def _table(run: Run, made: Mapping[str, Any]) -> None:
    names = {name: figure.name for name, figure in table.FIGURES.items()}
    look: dict[str, Any] = {"format_func": names.__getitem__, "label_visibility": "collapsed", "required": True}
    figure = st.segmented_control("Figure", list(names), **look, **session.kept("result_figure", "means")) or "means"
    rows, signs = table.rows_of(made, figure), marks(made) if figure == "means" else {}
    if not rows:
        st.caption("No answer has this figure yet.")
        return
    st.html(table.by_condition(rows, signs, FLOORS))
    says = (table.FIGURES[figure].says, INTERVALS_SAY, *((MARKS_SAY, FLOORS_SAY) if figure == "means" else ()))
    st.caption(" ".join(says))
    if served := not_served(made):
        st.caption(sentence(served))
    own = [row for row in rows if row["condition"] not in FLOORS]
    with st.container(horizontal=True, vertical_alignment="center"):
        picture = means_map(own, {place: table.SIGNS[word] for place, word in signs.items()})
        downloads(
            picture if figure == "means" else None, file_name(f"{run.id}-{figure}"), lambda: list(map(dict, rows))
        )
        if figure == "means":
            name = file_name(f"{run.id}-table.md")
            download_button("Markdown table for a paper", lambda: markdown(made).encode(), name, "text/markdown")
    if figure != "perplexity":
        with st.expander("By task", key="result_tasks"):
            tasks = table.rows_of(made, figure, "task")
            st.html(table.by_task(tasks))
            downloads(None, file_name(f"{run.id}-{figure}-tasks"), lambda: list(map(dict, tasks)))
    if figure == "means":
        _lengths(run, made)


def _lengths(run: Run, made: Mapping[str, Any]) -> None:
    """Mean scores at each length, overall or of what is picked, where there is more than one."""
    names = list(dict.fromkeys(row["name"] for row in made.get("by_length", ()) if "name" in row))
    if not names:
        return
    names.sort(key=lambda name: name != "overall")
    with st.expander("By length", key="result_lengths"):
        name = st.selectbox("Task or category", names, key=f"result_length_of-{run.id}-{len(names)}", width=260)
        rows = at_lengths(made, str(name))
        st.html(table.by_condition(rows, {}, FLOORS))
        st.caption(INTERVALS_SAY)
        downloads(None, file_name(f"{run.id}-{name}-lengths"), lambda: rows)


def _forest(run: Run, made: Mapping[str, Any]) -> None:
    """Differences against base and the best control, of the conditions that are picked."""
    rows, base = forest_rows(made), base_of(made)
    conditions = [row["condition"] for row in made["conditions"]]
    drawn = [name for name in conditions if any(row["condition"] == name for row in rows)]
    if not drawn:
        return
    st.markdown(f"**Differences against {sentence(base)[:-1]} and against the best control**")
    if len(drawn) > 3:
        roles = {row["condition"]: row["role"] for row in made["conditions"]}
        first = [name for name in drawn if roles[name] != "control"][:5] or drawn[:5]
        drawn = st.multiselect("Conditions", drawn, first, key=f"result_drawn-{run.id}", label_visibility="collapsed")
    rows = [row for row in rows if row["condition"] in drawn]
    if rows:
        with st.container(key="wide_forest"):
            draw_figure(forest(rows, conditions), f"{run.id}-differences", lambda: rows)
        st.caption(
            "Full: the difference holds (95 %, corrected across categories). The best control is, in every category, "
            "that from which the condition is least sure to differ."
        )


def _grid(run: Run, evaluation: Evaluation) -> None:
    """Mean score of a task, or all of them, by length and depth, under a condition."""
    tasks = list(dict.fromkeys(item.task for item in evaluation.items if item.depth is not None))
    if not tasks:
        return
    st.markdown("**By length and depth**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        task = st.selectbox("Task", tasks, key=f"result_task-{run.id}", width=260)
        condition = st.selectbox("Condition", evaluation.answering, key=f"result_condition-{run.id}", width=340)
    scores = _scores(evaluation, str(task), str(condition))
    if not scores:
        st.caption("It has not answered any of these yet.")
        return
    bins = 10 if len(scores) >= FINE * len({length for length, _, _ in scores}) else 5
    name = f"{run.id}-{task}-{condition}-depth"
    draw_figure(score_grid(scores, bins), name, lambda: depth_rows(scores, bins), key=f"result_grid-{run.id}")


def _scores(evaluation: Evaluation, task: str, condition: str) -> Sequence[tuple[int, float, float]]:
    """Length, depth and score of what a condition has answered."""
    asked = [(item, evaluation.score(condition, item)) for item in evaluation.items if item.task == task]
    return [(item.tokens, item.depth, score) for item, score in asked if item.depth is not None and score is not None]
