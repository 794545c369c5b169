"""The Pairs page: make preference pairs, see what came out, go through them, hand them on."""

from collections.abc import Callable

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.pairs import card, form, gate
from app.pairs.decisions import pairs_of
from app.shared import address, jobs, session
from app.shared.jobs import Names
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.files import number
from retmask.pairs.remote import LEFT
from retmask.runs.run import Run

NAMES = Names("pairs", kept="What it has made can be used.")
FACTS = (
    "model revision sha256 adapter_sha256 servers mask prompts_sha256 pairs_sha256 review device batch created ended "
    "versions"
)
WHAT = (
    "A preference pair is a prompt with two answers: the model's own (chosen), and that of the same model with its "
    "retrieval heads masked (rejected). Fine-tuning on pairs makes the model prefer the first kind."
)


def page(heads_page: StreamlitPage, train_page: StreamlitPage, model_name: Callable[[], ModelRef | None]) -> None:
    """Draw the page; heads are selected on `heads_page`, and pairs are trained on on `train_page`.

    `model_name` asks for the model of a map that does not say its own.
    """
    st.header("Pairs", anchor=False)
    st.html(card.STYLE)
    runs = Run.all("pairs")
    st.caption(WHAT)
    form.section(heads_page, model_name, is_first=not runs)
    run = _looked_at(runs)
    if run is None:
        st.info('There are no pairs yet. Choose prompts above and press "Start": a few hundred are a beginning.')
        return
    jobs.status_block(run, NAMES)
    _notes(run)
    if pairs_of(run.path):
        gate.section(run, train_page)
    _origin(run)


def _looked_at(runs: list[Run]) -> Run | None:
    """The run that is looked at: chosen here, or named in the address, which may be a folder from elsewhere."""
    name, wrong, run = address.place("pairs"), "", next(iter(runs), None)
    if name:
        try:
            run = jobs.find_run(name, "pairs")
        except (ValueError, OSError) as error:
            wrong = sentence(error)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if run:
            offered = {each.reference: each for each in [*runs, run]}
            jobs.run_picker("Run", [*offered.values()], run, _go, _facts)
        with st.popover("Open a folder", type="tertiary", icon=":material/folder_open:"):
            st.text_input("Folder of a run of `retmask pairs`", key="pairs_open", placeholder="folder of a run")
            st.button("Open", key="pairs_open_go", on_click=_open)
    if wrong:
        st.error(wrong)
    return run


def _facts(run: Run) -> list[str]:
    """What was asked in a run."""
    asked = str(run.config.get("generate") or run.config.get("prompts") or "")[-40:]
    count = f"{n:,} " if (n := int(number(run.config.get("count")))) else ""
    reviewed = "reviewed, from " if isinstance(run.record.get("review"), dict) else ""
    return [f"{reviewed}{count}{asked} prompts"]


def _open() -> None:
    _go(str(session.value("pairs_open", "")).strip())


def _go(name: str) -> None:
    address.go_to(pairs=name or None, gate=None)


def _notes(run: Run) -> None:
    """What is to be known of how the prompts were read and asked."""
    passed_over = run.record.get("passed_over")
    if isinstance(passed_over, str):
        st.caption(sentence(passed_over))
    if run.record.get("thinking") == LEFT:
        st.caption("A server does not take the field that switches thinking off: its model may have thought first.")
    without = [judged.pair for judged in pairs_of(run.path) if judged.pair.unanswered]
    if without:
        n, first = len(without), without[0]
        text = f"{n:,} prompt{'s' * (n != 1)} could not be asked, such as {first.id}: {first.unanswered}"
        st.warning(sentence(text))


def _origin(run: Run) -> None:
    """Where a run comes from, and the versions made of it."""
    versions = [child.reference for child in run.children if child.record.get("kind") == "pairs"]
    with st.container(horizontal=True, vertical_alignment="center", key="pairs_lineage"):
        for title, where, names in (("Made from", "above", run.parents), ("Versions of it", "below", versions)):
            if names:
                st.markdown(f":gray[{title}]", width="content")
            for name in names:
                _link(name, where)
    with st.expander("How these pairs were made", key="pairs_origin"):
        if isinstance(run.record.get("review"), dict):
            st.caption("By going through those of the run that it is made from.")
        if run.command:
            st.code(run.command, language="bash", wrap_lines=True)
        st.code(str(run.path), language=None, wrap_lines=True)
        st.json({name: run.record[name] for name in FACTS.split() if run.record.get(name) is not None})


def _link(name: str, where: str) -> None:
    """A button that looks at a run of pairs; the name of any other. One name may stand in several places."""
    try:
        jobs.find_run(name, "pairs")
    except (ValueError, OSError):
        st.markdown(sentence(name)[:-1], width="content")
        return
    st.button(name, key=f"pairs_link-{where}-{name}", on_click=_go, args=(name,), type="tertiary")
