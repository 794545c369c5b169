"""Which score sets are on the Families page: chosen from a list, or opened from a path, an address or an upload."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import streamlit as st

from app.shared import address, maps, readers, selection, session
from app.shared.maps import shipped_maps
from app.shared.readers import Stamp
from app.shared.text import sentence
from retmask.files import home, shipped
from retmask.heads.detectors import DETECTORS
from retmask.heads.scores import THRESHOLD
from retmask.heads.sets import ScoreSet, keep_set, labels, read_set
from retmask.runs.run import Run

LONG = 360  # characters of a command that are shown without a scroll bar
HOLDS = "a score file, a folder with one, a list of QRHead, or gates of DuoAttention"


@dataclass(frozen=True, eq=False)
class Shown:
    """A score set on the page: what it is chosen by, its name in figures, the set, and its files' stamp."""

    name: str
    label: str
    set: ScoreSet
    stamp: Stamp


def section() -> list[Shown]:
    """The choice of sets, what adds one, and the sentences of those that cannot be read; the others come back."""
    names = {name: label(name) for name in offered()}
    hint = "None yet: choose a map, a detection, or add a set"
    look = {"select_all": False, "placeholder": hint, **session.SHOWN_SETS.kept(set_names(), _into_address)}
    box = st.container(key="sets")
    box.multiselect("Score sets", list(names), format_func=lambda name: names.get(name, name), wrap=True, **look)
    _add()
    with st.spinner("Reading the sets…"):
        shown = _opened()
    if shown:
        text = command(shown)
        st.code(text, language="bash", wrap_lines=True, height=110 if len(text) > LONG else "content")
    else:
        st.info("No score set is chosen. Choose shipped maps or your own detections above, or add a set from a file.")
    return shown


def command(shown: Sequence[Shown], k: int | None = None) -> str:
    """The command line that compares the same sets, with the threshold of the page and with `k` best heads."""
    least = threshold()
    options = [] if least == THRESHOLD else ["--threshold", f"{least:g}"]
    options += ["--k", str(k)] if k else []
    return shlex.join(["retmask", "families", *(each.name for each in shown), *options])


def threshold() -> float:
    """The threshold of the page; the usual one where its field holds none that is possible."""
    return THRESHOLD if wrong_threshold() else float(session.SETS_THRESHOLD.get() or 0)


def wrong_threshold() -> str:
    """What is wrong with the threshold of the page, empty for nothing."""
    held = session.SETS_THRESHOLD.get()
    return "" if held is not None and 0 <= held <= 1000 else "the threshold must be a number from 0 to 1,000"


def offered() -> list[str]:
    """What can be chosen: shipped maps, detections with scores, what was opened (each newest first), what is chosen."""
    runs = [run.id for run in Run.all("detect") if (run.path / "scores.json").is_file()]
    return list(dict.fromkeys([*maps.shipped_maps(), *runs, *maps.opened_files(), *set_names()]))


def label(name: str) -> str:
    """What a set is called in the list, from its name and its run alone: no score file is read for it."""
    try:
        path = maps.locate(name)
    except ValueError:
        return name
    is_kept = path.parent.parent == home() / "opened" or path.parent == home() / "runs"
    if not is_kept and name not in maps.shipped_maps():
        return name
    counting = DETECTORS.get(str(Run(path).record.get("counting", "set")), DETECTORS["unknown"])
    return maps.label(name, *([] if counting is DETECTORS["set"] else [counting.name]))


def name_of(score_set: ScoreSet) -> str:
    """What a set is chosen by: a shipped map's name, a run's id, else the path of its file."""
    assert score_set.path is not None, "a set that was read has a file"
    path = score_set.path.resolve()
    inside = path.parent.parent in (shipped("maps").resolve(), home() / "runs")
    return path.parent.name if inside and path.name == "scores.json" else str(path)


def _opened() -> list[Shown]:
    """The chosen sets that can be read; of the others a sentence, and what takes them from the list."""
    score_sets: list[tuple[str, ScoreSet, Stamp]] = []
    for name in set_names():
        try:
            score_sets.append((name, *readers.score_set(name)))
        except ValueError as error:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.warning(f"{sentence(label(name))[:-1]}: {sentence(error)}")
                st.button("Remove", key=f"set_remove-{name}", icon=":material/close:", on_click=_remove, args=(name,))
    names = labels([score_set for _, score_set, _ in score_sets])
    return [Shown(name, label, each, stamp) for (name, each, stamp), label in zip(score_sets, names, strict=True)]


def _remove(name: str) -> None:
    choose_sets(kept for kept in set_names() if kept != name)


def _add() -> None:
    """The menu that adds a set: a path or an address, an upload, or the map that is open on Heads."""
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover("Add a set", icon=":material/add:", key="set_menu"):
            _form()
        here = selection.source()
        label = f":material/grid_on: Add the map open on Heads: {sentence(maps.label(here))[:-1]}"
        there = here in set_names()
        st.button(label, key="set_here", type="tertiary", disabled=there, on_click=_add_here, args=(here,))
    session.show_said("sets")


def _add_here(name: str) -> None:
    """Add the map that is open on Heads, or say why it cannot be."""
    try:
        choose_sets([*set_names(), name_of(readers.score_set(name)[0])])
    except ValueError as error:
        session.say(f"{sentence(error)} The sets you see are unchanged.", "sets")


def _form() -> None:
    """Add a set by path, address or upload. What is none is told in a sentence and changes nothing."""
    number = session.SETS_ADDED.get()  # a form that has been used is a new one, and empty
    with st.form(f"set_form-{number}", border=False):
        key, hint = f"set_path-{number}", "folder/scores.json or https://…"
        path = st.text_input("Path or https address", key=key, placeholder=hint, help=HOLDS)
        upload = st.file_uploader("or a file", type=readers.SCORE_FILES, key=f"set_upload-{number}", max_upload_size=64)
        wanted = st.form_submit_button("Add", type="primary", key=f"set_go-{number}")
    if not wanted:
        return
    if not upload and not path.strip():
        st.error("Name a path or an address, or choose a file.")
        return
    try:
        with st.spinner("Reading…"):
            added = read_set(keep_set(upload.name, upload.getvalue()) if upload else path.strip())
    except ValueError as error:
        st.error(f"{sentence(error)} The sets you see are unchanged.")
        return
    choose_sets([*set_names(), name_of(added)])
    session.SETS_ADDED.put(number + 1)
    st.rerun()


def set_names() -> list[str]:
    """The score sets on the Families page: shipped names, runs, paths; on the first view those in the URL, if any."""
    return list(session.SHOWN_SETS.keep(_at_start))


def _at_start() -> list[str]:
    text = address.place("sets")
    return list(dict.fromkeys(unquote(part) for part in text.split(",") if part)) if text else shipped_maps()


def choose_sets(names: Iterable[str]) -> None:
    """Look at these score sets from now on."""
    session.SHOWN_SETS.fill(list(dict.fromkeys(names)))
    _into_address()


def _into_address() -> None:
    address.write("sets", ",".join(quote(name, safe="/~: ") for name in set_names()) or ",")
