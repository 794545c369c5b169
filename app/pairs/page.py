"""The Pairs page: make preference pairs, see what came out, go through them, hand them on."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.pairs import card, form, gate
from app.shared import address, jobs, readers, session
from app.shared.text import sentence
from retmask.files import number
from retmask.pairs.remote import LEFT
from retmask.runs.overview import progress
from retmask.runs.run import Run, run_path

STATUS = {"queued": "waiting", "started": "running", "cancelled": "cancelled", "error": "failed"}
FACTS = (
    "model", "revision", "sha256", "adapter_sha256", "servers", "mask", "prompts_sha256", "pairs_sha256", "review",
    "device", "batch", "created", "ended", "versions",
)  # fmt: skip
WHAT = (
    "A preference pair is a prompt with two answers: the model's own (chosen), and that of the same model with its "
    "retrieval heads masked (rejected). Fine-tuning on pairs makes the model prefer the first kind."
)


def page(heads_page: StreamlitPage, train_page: StreamlitPage | None = None) -> None:
    """Draw the page; heads are selected on `heads_page`, and pairs are trained on on `train_page`."""
    st.header("Pairs", anchor=False)
    st.html(card.STYLE)
    runs = Run.all("pairs")
    st.caption(WHAT)
    form.section(heads_page, is_first=not runs)
    run = _picked(runs)
    if run is None:
        st.info('There are no pairs yet. Choose prompts above and press "Make pairs": a few hundred are a beginning.')
        return
    _condition(run)
    _notes(run)
    if readers.pairs_of(run.path):
        gate.section(run, train_page)
    _origin(run)


def _picked(runs: list[Run]) -> Run | None:
    """The run that is looked at: chosen here, or named in the address, which may be a folder from elsewhere."""
    name = address.place("pairs") or (runs[0].reference if runs else "")
    found = _opened(name) if name else None
    run = found if isinstance(found, Run) else next(iter(runs), None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if run:
            _picker(run, {one.reference: one for one in [*runs, run]})
        with st.popover("Open a folder", type="tertiary", icon=":material/folder_open:"):
            st.text_input("Folder of a run of `retmask pairs`", key="pairs_open", placeholder="folder of a run")
            st.button("Open", key="pairs_open_go", on_click=_open)
    if isinstance(found, str):
        st.error(found)
    return run


def _picker(run: Run, known: dict[str, Run]) -> None:
    """The runs to choose from. Streamlit tells choices by their labels: where these change, it is another widget."""
    labels = {name: _label(one) for name, one in known.items()}
    names = list(labels)
    key = f"pairs_run-{run.reference}-{hash(tuple(labels.values()))}"
    st.selectbox(
        "Run", names, names.index(run.reference), key=key, format_func=labels.get, width=560,
        on_change=session.newest("pairs", key, lambda name: _go(name) if name in names else None),
    )  # fmt: skip


def _label(run: Run) -> str:
    """A run's name for people: its id, what was asked, and how it stands where it is not finished."""
    config = run.config
    asked = str(config.get("generate") or config.get("prompts") or "")[-40:]
    count = f"{n:,} " if (n := int(number(config.get("count")))) else ""
    reviewed = "reviewed, from " if isinstance(run.record.get("review"), dict) else ""
    status = run.status
    parts = [run.id, f"{reviewed}{count}{asked} prompts", *([STATUS[status]] if status != "success" else [])]
    return " · ".join(parts)


def _opened(name: str) -> Run | str:
    """The pairs run of that id or in that folder; a sentence where there is none."""
    try:
        run = Run.find(name) if "/" in name else Run.open(run_path(name))
        if run.record.get("kind") != "pairs":
            raise ValueError(f"{name} holds no pairs: give the folder of a run of `retmask pairs`")
    except (ValueError, OSError) as error:
        return sentence(error)
    return run


def _open() -> None:
    _go(str(session.value("pairs_open", "")).strip())


def _go(name: str) -> None:
    address.go_to(pairs=name or None, gate=None)


def _condition(run: Run) -> None:
    """How a run stands that is not finished, and what can be done about it."""
    status = run.status
    if status in ("queued", "started"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(*progress(run, status), width=500)
            if jobs.ours(run):
                jobs.stop_button(run, "pairs")
        return
    if status == "cancelled":
        _, words = progress(run, status)
        st.info(f"This run was cancelled ({sentence(words)[:-1]}). What it has made can be used.")
    elif status == "error":
        st.error("This run failed. Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
    if status != "success" and jobs.ours(run):
        st.button(
            "Continue it", icon=":material/play_arrow:", on_click=jobs.again, args=(run, "pairs"),
            key="pairs_again",
            help="pairs that are made already are kept",
        )  # fmt: skip
    said = session.said("pairs")
    if said:
        st.error(said)


def _notes(run: Run) -> None:
    """What is to be known of how the prompts were read and asked."""
    known = run.record.get("passed_over")
    if isinstance(known, str):
        st.caption(sentence(known))
    if run.record.get("thinking") == LEFT:
        st.caption("A server does not take the field that switches thinking off: its model may have thought first.")
    without = [one.pair for one in readers.pairs_of(run.path) if one.pair.unanswered]
    if without:
        n = len(without)
        words = f"{n:,} prompt{'s' * (n != 1)} could not be asked, such as {without[0].id}: {without[0].unanswered}"
        st.warning(sentence(words))


def _origin(run: Run) -> None:
    """Where a run comes from, and the versions made of it."""
    parents, children = run.parents, [one for one in run.children if one.record.get("kind") == "pairs"]
    with st.container(horizontal=True, vertical_alignment="center", key="pairs_lineage"):
        versions = [one.reference for one in children]
        for words, where, names in (("Made from", "above", parents), ("Versions of it", "below", versions)):
            if names:
                st.markdown(f":gray[{words}]", width="content")
            for name in names:
                _link(name, where)
    with st.expander("How these pairs were made", key="pairs_origin"):
        if isinstance(run.record.get("review"), dict):
            st.caption("By going through those of the run that it is made from.")
        if run.command:
            st.code(run.command, language="bash", wrap_lines=True)
        st.code(str(run.path), language=None, wrap_lines=True)
        st.json({name: run.record[name] for name in FACTS if run.record.get(name) is not None})


def _link(name: str, where: str) -> None:
    """A button that looks at a run of pairs; the name of any other. One name may stand in several places."""
    if isinstance(_opened(name), Run):
        st.button(name, key=f"pairs_link-{where}-{name}", on_click=_go, args=(name,), type="tertiary")
    else:
        st.markdown(sentence(name)[:-1], width="content")
