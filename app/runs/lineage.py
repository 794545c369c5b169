"""Runs as links to each other: what one was made from, and what was made from it."""

import streamlit as st

from app.shared import address, session
from app.shared.text import sentence
from retmask.runs.run import Run, run_path


def named(name: str) -> Run | None:
    """The run of that id, None if there is none (any more)."""
    try:
        return Run.open(run_path(name))
    except ValueError:
        return None


def run_ids() -> list[str]:
    """The ids of the runs that are looked at; on the first view those in the URL. There need not be such runs."""
    return [name for name in address.place("run").split(",") if name]


def look_at_run(*ids: str) -> None:
    """Look at a run, or at several beside each other."""
    address.go_to(run=",".join(ids) or None)


def link(name: str, where: str) -> None:
    """A run's id, which a click looks at; plain text for what is not among the runs.

    `where` tells the places apart in which one name may stand.
    """
    text = sentence(name)[:-1]
    if named(name):
        key = f"runs_link-{where}-{name}"
        st.button(f":primary[{text}]", key=key, type="tertiary", on_click=_follow, args=(name,))
    else:
        st.markdown(f":gray[{text} (not among the runs)]", width="content")


def _follow(name: str) -> None:
    look_at_run(name)
    session.RUNS_FOLLOWED.put(session.RUNS_FOLLOWED.get() + 1)


def section(run: Run) -> None:
    """What a run was made from, and what was made from it, each a click away."""
    above, below = generations(run), [child.id for child in run.children]
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


def generations(run: Run) -> list[list[str]]:
    """The runs that a run was made from, before them those that these were made from, and so on; each once."""
    out: list[list[str]] = []
    seen, names = {run.reference}, run.parents
    while len(out) < 5 and (new := [name for name in names if name not in seen]):
        out.insert(0, new)
        seen |= {*new}
        parents = [parent for name in new if (parent := named(name))]
        names = list(dict.fromkeys(name for parent in parents for name in parent.parents))
    return out
