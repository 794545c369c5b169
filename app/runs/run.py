"""One run closely: how it stands, what it was made from, what it wrote, and what can be done with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.shared import address, jobs, maps, selection, session
from app.shared.figure import download_button
from app.shared.text import guarded, sentence
from retmask.runs import overview
from retmask.runs.overview import Summary, progress
from retmask.runs.run import Run, parent_ids, run_path

COLOURS: dict[str, Any] = {
    "queued": "gray", "started": "blue", "success": "green", "cancelled": "orange", "error": "red",
}  # fmt: skip
SAYS = {
    "queued": "It has not begun",
    "started": "It goes on, with this page or without it",
    "success": "It is finished",
    "cancelled": "What it had finished is kept",
    "error": "It failed",
}
READABLE = {".json", ".jsonl", ".txt", ".csv", ".md", ".log", ".yaml", ".yml", ".jinja"}
MOST_READ = 200_000  # bytes of a file that are shown
MOST_LISTED = 200  # files of a folder that are named


def named(name: str) -> Run | None:
    """The run of that id, None if there is none (any more)."""
    try:
        return Run.open(run_path(name))
    except ValueError:
        return None


def link(name: str, where: str) -> None:
    """A run's id, which a click looks at; plain text for what is not among the runs.

    `where` tells the places apart in which one name may stand.
    """
    words = sentence(name)[:-1]
    if named(name):
        st.button(
            f":primary[{words}]", key=f"runs_link-{where}-{name}", type="tertiary", on_click=_follow, args=(name,)
        )
    else:
        st.markdown(f":gray[{words} (not among the runs)]", width="content")


def _follow(name: str) -> None:
    look_at_run(name)
    session.put("runs_followed", followed() + 1)


def followed() -> int:
    """How many links have been followed: the table is drawn anew then, since it keeps what was chosen in it."""
    return int(session.value("runs_followed", 0))


def closely(run: Run, opens: tuple[StreamlitPage, Callable[[Run], None]] | None) -> None:
    """Draw a run; `opens` is the page that shows its result, and what chooses it there."""
    row = overview.summary(run)
    st.subheader(run.id, anchor=False, divider="gray")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(row.status, color=COLOURS[row.status])
        going = row.status in ("queued", "started")
        st.markdown(" · ".join([SAYS[row.status], *([] if going else [sentence(row.words)[:-1]]), *_times(row)]))
    holder = overview.behind(run)
    if holder:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("Waiting behind", width="content")
            link(holder, "behind")
    elif going:
        st.fragment(guarded(_going), run_every=2)(run)
    elif row.status == "error":
        st.caption("Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
    _buttons(run, row, opens)
    _lineage(run)
    _written(run)
    if run.command:
        st.markdown("**The command that does the same**")
        st.code(run.command, language="bash", wrap_lines=True)
    with st.expander("Its record (run.json)", key="runs_record"):
        st.json(run.record, expanded=1)
    if not going:
        _log(run)


def _times(row: Summary) -> list[str]:
    """When a run began and ended, and how long it took, in words."""
    ended = row.ended and row.status not in ("queued", "started")
    took = "" if row.seconds is None else overview.duration(row.seconds)
    words = [f"begun {overview.when(row.started)}"] if row.started else [f"made {overview.when(row.created)}"]
    words += [f"ended {overview.when(row.ended)}"] if ended and row.started else []
    return words + ([f"{took} so far" if row.status == "started" else f"took {took}"] if took else [])


def _going(run: Run) -> None:
    """How far a run is, and the end of its log, as it goes."""
    share, words = progress(run)
    st.progress(share, sentence(words)[:-1])
    _log(run)


def _log(run: Run) -> None:
    log = run.log_tail(40)
    if log:
        with st.expander("The end of its log", key="runs_log"):
            st.code(log, language=None, wrap_lines=True, height=min(400, 60 + 22 * log.count("\n")))


def _buttons(run: Run, row: Summary, opens: tuple[StreamlitPage, Callable[[Run], None]] | None) -> None:
    """What can be done with a run."""
    going = row.status in ("queued", "started")
    with st.container(horizontal=True, vertical_alignment="center"):
        if opens:
            page, choose = opens
            if st.button(f"Open in {page.title}", type="primary", icon=":material/open_in_new:", key="runs_open"):
                choose(run)
                st.switch_page(page)
        if going:
            jobs.stop(run, f"runs_cancel-{run.id}")
        if row.status in ("cancelled", "error") and not jobs.stopping(run):
            st.button(
                "Resume", icon=":material/play_arrow:", key="runs_resume",
                on_click=jobs.again, args=(run, "runs"),
            )  # fmt: skip
        if not going and session.value("deleting") != run.id:
            st.button("Delete…", icon=":material/delete:", key="runs_delete", on_click=_ask, args=(run.id,))
    if not going and session.value("deleting") == run.id:
        _sure(run)


def _ask(name: str) -> None:
    session.put("deleting", name)


def _sure(run: Run) -> None:
    """Ask once more, and say what goes and what stays."""
    size = overview.size(sum(output.size for output in overview.outputs(run)))
    children = ", ".join(f"`{child.id}`" for child in run.children)
    with st.container(border=True):
        st.markdown(f"Delete `{run.id}` with all that it wrote, {size}?")
        if children:
            st.markdown(f"What was made from it stays: {children}.")
        with st.container(horizontal=True):
            with st.container(key="danger_run", width="content"):  # red, in main.py's style
                st.button("Delete it", type="primary", key="runs_delete_yes", on_click=_delete, args=(run,))
            st.button("Keep it", key="runs_delete_no", on_click=_ask, args=("",))


def _delete(run: Run) -> None:
    _ask("")
    looked_at = run.reference in parent_ids(selection.source())
    try:
        run.remove()
    except (ValueError, OSError) as error:
        session.say(sentence(error), "runs")
        return
    look_at_run()
    selection.forget(run.path)
    if address.place("train") == run.reference:
        address.go_to(train=None)
    if address.place("pairs") == run.reference:
        address.go_to(pairs=None, gate=None)
    if looked_at:
        selection.choose(maps.shipped_maps()[0])
    session.say(f"The run {sentence(run.id)[:-1]} is deleted.", "runs")


def _lineage(run: Run) -> None:
    """What a run was made from, and what was made from it, each a step away."""
    above = _generations(run)
    below = [child.id for child in run.children]
    if not above and not below:
        return
    st.markdown("**Where it comes from, and what came of it**")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for names in above:
            for name in names:
                link(name, "above")
            st.markdown("→", width="content")
        st.markdown(f"**{sentence(run.id)[:-1]}**", width="content")
        if below:
            st.markdown("→", width="content")
        for name in below:
            link(name, "below")


def _generations(run: Run) -> list[list[str]]:
    """The runs that a run was made from, before them those that these were made from, and so on; each once."""
    found: list[list[str]] = []
    seen, names = {run.reference}, run.parents
    while len(found) < 5 and (new := [name for name in names if name not in seen]):
        found.insert(0, new)
        seen |= {*new}
        parents = [known for name in new if (known := named(name))]
        names = list(dict.fromkeys(name for parent in parents for name in parent.parents))
    return found


def _written(run: Run) -> None:
    """The files that a run wrote; a click on one shows what is in it."""
    outputs = overview.outputs(run)
    total = overview.size(sum(output.size for output in outputs))
    st.markdown(f"**What it wrote** ({total})")
    files = [output.name + (f" ({output.files} files)" if output.name.endswith("/") else "") for output in outputs]
    event: Any = st.dataframe(
        {"file": files, "size": [overview.size(output.size) for output in outputs]},
        hide_index=True, key=f"runs_files-{run.id}", selection_mode="single-row", on_select="rerun", width=400,
        column_config={"file": st.column_config.TextColumn(width=270), "size": st.column_config.TextColumn(width=80)},
    )  # fmt: skip
    st.caption(f"Click a file to look into it. They lie in `{run.path}`.")
    rows = [row for row in event["selection"]["rows"] if row < len(outputs)]
    if rows:
        _content(run.path / outputs[rows[0]].name.rstrip("/"))


def _content(path: Path) -> None:
    """What is in a file or a folder, as far as it can be read."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        lines = [f"{file.relative_to(path)}  {overview.size(file.stat().st_size)}" for file in files[:MOST_LISTED]]
        st.code("\n".join([*lines, "…"] if len(files) > MOST_LISTED else lines), language=None)
    elif path.suffix == ".png":
        st.image(path.read_bytes())
    elif path.suffix in READABLE:
        _text(path)
    else:
        st.caption("It is not a text; it lies in the folder for other programs.")
    if path.is_file():
        download_button("Download", path.read_bytes, path.name, "application/octet-stream")


def _text(path: Path) -> None:
    with path.open("rb") as file:
        content = file.read(MOST_READ + 1)
    text = content[:MOST_READ].decode("utf-8", errors="replace")
    cut = len(content) > MOST_READ
    if path.suffix == ".json" and not cut:
        try:
            value = json.loads(text)
            with st.container(height=400 if len(text) > 1000 else "content", border=False):
                st.json(value, expanded=1)
            return
        except ValueError:  # shown as it is
            pass
    st.code(text, language=None, wrap_lines=True, height=400)
    if cut:
        st.caption(f"The first {overview.size(MOST_READ)} of it.")


def run_ids() -> list[str]:
    """The ids of the runs that are looked at; on the first view those in the URL. There need not be such runs."""
    text = str(st.session_state.setdefault("runs", address.place("run")))
    return [name for name in text.split(",") if name]


def look_at_run(*ids: str) -> None:
    """Look at a run, or at several beside each other."""
    st.session_state["runs"] = ",".join(ids)
    address.write("run", ",".join(ids) or None)
