"""The form that makes preference pairs: whose answers, to which prompts, how they are drawn."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.compare import form
from app.pairs import card
from app.shared import address, jobs, readers, selection, session
from app.shared.maps import HeadMap
from app.shared.text import sentence
from retmask.figures import style
from retmask.files import expanded, number, settled
from retmask.heads.rules import MaskRule
from retmask.pairs.gate import RULES
from retmask.pairs.job import PAIR, PairsSettings
from retmask.runs.overview import duration
from retmask.runs.run import Run
from retmask.text.sources import FILES, read_prompts

SOURCES = {"generate": "Made here", "file": "File", "hub": "Hub dataset"}
ARMS = {
    "grounded": "Questions about a fact in a page of Python's manual; the answer is known, so pairs can be checked.",
    "chat": "Short instructions as people give them to an assistant; nobody knows the one right answer.",
}
PREVIEW = 3  # prompts
NUMBERS = {  # what the page calls them
    "count": "the number of prompts", "temperature": "the temperature", "top_p": "top p",
    "max_new_tokens": "the longest answer", "seed": "the seed",
}  # fmt: skip
MEASURED = {"smollm2-135m": 1.4 / 64}  # seconds a pair, by its longest answer in tokens, on two cores
LARGE = 64 * 2**20  # bytes of a file that is read at once
OPEN = "pairs_form"  # whether the form is open, in the session


def section(heads_page: StreamlitPage, is_first: bool) -> None:
    """The form, folded away once there is a run to look at."""
    if session.value("pairs_close"):  # what a widget shows cannot be changed after it is drawn
        session.put("pairs_close", False)
        session.put(OPEN, False)
    box = st.expander("Make pairs", expanded=is_first, key=OPEN, icon=":material/add:", on_change="rerun")
    if box.open:
        with box:
            _form(heads_page)


def _form(heads_page: StreamlitPage) -> None:
    """What to make pairs of, the command that does the same, and the button that starts it."""
    with st.container(key="settings"):
        whose = _model(heads_page)
        left, right = st.columns([11, 9], gap="large")
        with left:
            asked = _prompts()
        with right:
            drawn = _sampling()
    more = _more()
    missing, n = _missing(whose, asked | more), 0
    try:
        config = None if missing else _config(whose, asked | drawn | more)
        n = _read(config) if config and config.prompts else config.count if config else 0
    except (ValueError, OSError) as error:
        config = None
        st.error(sentence(error))
    if missing:
        st.info(sentence(missing))
    if config is None:
        st.button("Make pairs", type="primary", disabled=True, key="pairs_start")
        return
    st.caption(_how_long(config, n))
    _preview(config)
    st.caption("The command that does the same:")
    long = len(config.rule.heads) > 400
    st.code(shlex.join(config.command), language="bash", wrap_lines=True, height=160 if long else "content")
    _start(config)


def _model(heads_page: StreamlitPage) -> dict[str, Any]:
    """The model of the map that is looked at and its selected heads, as settings; empty where there is no map."""
    try:
        shown = selection.current_map()
    except ValueError as error:
        st.error(f"{sentence(error)} Choose another map in the sidebar.")
        return {}
    if shown.scores is None:
        st.info("The map in the sidebar has no heads yet: choose another one, or wait for its first trial.")
        return {}
    grid = shown.scores.grid
    mask = selection.mask(grid)
    with st.container(horizontal=True, vertical_alignment="center"):
        share = style.percent(round(len(mask) / grid.size, 3))
        count = f"{len(mask):,} head{'s' * (len(mask) != 1)} {selection.condition(mask)} ({share})"
        st.markdown(f"**{sentence(shown.model)[:-1]}, {count}**", width="content")
        if not len(mask):
            best = shown.scores.top_share()
            st.button(
                "Mask the top 5 %", type="primary", key="pairs_mask_best", on_click=selection.select,
                args=(best, grid, ("--top", f"{len(best)}")),
            )  # fmt: skip
        st.page_link(heads_page, label="Select on the map", icon=":material/grid_on:", width="content")
    rule = MaskRule(heads=str(mask), scores=shown.argument) if len(mask) else MaskRule()
    return {"rule": rule, **_loaded_by(shown)}


def _loaded_by(shown: HeadMap) -> dict[str, str]:
    """What the map's model is loaded by: asked for where the map does not say it."""
    if shown.variant:
        config = shown.run.config if shown.run else {}
        return {name: str(config.get(name) or "") for name in ("model", "adapter", "revision")}
    if shown.loadable:
        return {"model": shown.loadable}
    text: str = st.text_input(
        "Model", placeholder="folder or Hub id", help="this map does not say where its model lies",
        **form.widget("model"),
    )  # fmt: skip
    return {"model": text.strip()}


def _prompts() -> dict[str, Any]:
    """Where the prompts come from, as settings."""
    source = st.segmented_control(
        "Prompts", list(SOURCES), format_func=SOURCES.get, required=True, **session.kept("pairs_source", "generate")
    )
    if source == "file":
        return _file()
    if source == "hub":
        with st.container(horizontal=True):
            name = st.text_input(
                "Dataset", placeholder="owner/name or owner/name:split", width=330, **session.kept("pairs_hub", ""),
                help="with a column prompt, messages or conversation; rows in other languages are passed over",
            )  # fmt: skip
            return {"prompts": name.strip(), "count": _count(1)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        arm = st.segmented_control("Kind", list(ARMS), required=True, **session.kept("pairs_arm", "grounded"))
        count = _count(1)
    st.caption(ARMS[arm or "grounded"])
    return {"generate": arm or "grounded", "count": count}


def _count(least: int) -> int | None:
    """How many prompts. Limits are told and not enforced by the widget: `PairsSettings` says what is outside them."""
    says = "how many prompts are answered" + (", 1 or more" if least else "; 0 takes all of the file")
    where = "pairs_count" if least else "pairs_file_count"
    count: int | None = st.number_input(
        "Prompts", step=1, width=140, help=says, **session.kept(where, 300 if least else 0)
    )
    return count


def _file() -> dict[str, Any]:
    with st.container(horizontal=True):
        path = st.text_input(
            "Path", placeholder="folder/prompts.jsonl", width=330, **session.kept("pairs_file", ""),
            help=".jsonl or .json with a prompt (a text, or messages; the forms of OpenAI, ShareGPT and LMSYS too) in "
            "each row and, where it is known, its answer; or .txt with a prompt a line",
        )  # fmt: skip
        count = _count(0)
    st.file_uploader(
        "or drop one here",
        type=["jsonl", "json", "txt"],
        key="pairs_upload",
        max_upload_size=readers.MOST_UPLOAD,
        on_change=_uploaded,
    )
    said = session.said("pairs_upload")
    if said:
        st.error(said)
    return {"prompts": path.strip(), "count": count}


def _uploaded() -> None:
    """Keep an uploaded file and put its path into the field."""
    file = session.value("pairs_upload")
    if file is None:
        return
    try:
        path = str(keep_prompts(file.name, file.getvalue()))
    except (ValueError, OSError) as error:
        session.say(sentence(error), "pairs_upload")
        return
    session.fill(pairs_file=path)


def keep_prompts(name: str, content: bytes) -> Path:
    """The path of a lasting copy of a file of prompts. ValueError, and no copy, if it is none."""
    return readers.keep_upload(name, content, "prompts", lambda path: read_prompts(str(path)))


def _sampling() -> dict[str, Any]:
    with st.container(horizontal=True):
        out = {
            "temperature": st.number_input(
                "Temperature", step=0.1, format="%g", width=120, **session.kept("pairs_temperature", 0.6),
                help="both answers are drawn with one seed, so they differ only where the models do; 0 takes the "
                "likeliest token",
            ),
            "top_p": st.number_input(
                "Top p", step=0.05, format="%g", width=110, **session.kept("pairs_top_p", 1.0)
            ),
            "max_new_tokens": st.number_input(
                "Longest answer (tokens)", step=16, width=170, **session.kept("pairs_new_tokens", 64)
            ),
            "seed": st.number_input(
                "Seed", step=1, width=110, help="of the prompts that are made here, and of the answers",
                **session.kept("pairs_seed", 0),
            ),
        }  # fmt: skip
    return out


def _more() -> dict[str, Any]:
    """Servers that answer in place of the built-in backend, and the gate."""
    with st.expander("More: servers, quality gate", key="pairs_more"):
        st.caption(
            "Two OpenAI-compatible servers can answer instead: one with the model as it is, and one with a checkpoint "
            "of it that was exported masked on the Compare page. Then the heads selected above are not used."
        )
        left, right = st.columns(2)
        address, name = "http://127.0.0.1:8000/v1", "only where it serves several models"
        with left:
            server = st.text_input("Server, unmasked", placeholder=address, **session.kept("pairs_server", ""))
            own = st.text_input("Its model", placeholder=name, **session.kept("pairs_server_model", ""))
        with right:
            other = address.replace("8000", "8001")
            masked = st.text_input("Server, masked", placeholder=other, **session.kept("pairs_masked_server", ""))
            its = st.text_input("Its model ", placeholder=name, **session.kept("pairs_masked_model", ""))
        allowed = st.multiselect(
            "Rules of the gate that are switched off", list(RULES), format_func=lambda name: RULES[name].says,
            placeholder="none: whatever a rule finds is left out", **session.kept("pairs_allow", []),
        )  # fmt: skip
    texts = {"server": server, "server_model": own, "masked_server": masked, "masked_server_model": its}
    return {name: text.strip() for name, text in texts.items()} | {"allow": tuple(allowed)}


def _missing(whose: dict[str, Any], settings: dict[str, Any]) -> str:
    """What is not filled in yet, in a sentence; empty for nothing."""
    if not whose:
        return "there is no map of heads to mask: choose one in the sidebar"
    if not whose["model"]:
        return "the model is missing: name its folder or its Hub id above"
    if "prompts" in settings and not settings["prompts"]:
        return "there are no prompts yet: name a file or a dataset, or have some made here"
    if not _served(settings) and not whose["rule"].given:
        return 'no head is selected: press "Mask the top 5 %", or select heads on the map'
    return ""


def _served(settings: dict[str, Any]) -> bool:
    return bool(settings["server"] or settings["masked_server"])


def _config(whose: dict[str, Any], settings: dict[str, Any]) -> PairsSettings:
    """The settings. ValueError, one sentence, for what cannot be."""
    for name, value in settings.items():
        if value is None:
            raise ValueError(f"{NUMBERS[name]} is empty: give a number")
    return PairsSettings(**(whose | settings | ({"rule": MaskRule()} if _served(settings) else {})))


def _preview(config: PairsSettings) -> None:
    """The first prompts, made or read when they are asked for."""
    with st.expander(f"Look at {PREVIEW} of the prompts", key="pairs_preview", on_change="rerun") as preview:
        if not preview.open:
            return
        few = replace(config, count=min(config.count, PREVIEW) or PREVIEW, allow=())
        key = (few, _changed(config.prompts))
        try:
            with st.spinner("Reading the prompts…"):
                items = session.remembered("pairs_preview", key, few.items)
        except ValueError as error:
            st.error(sentence(error))
            return
        st.html("".join(card.prompt(item.messages, item.answer) for item in items[:PREVIEW]))


def _read(config: PairsSettings) -> int:
    """How many prompts a file holds, said with what is passed over. ValueError, one sentence, for what is no such file.

    What is large or lies elsewhere is read when the run begins, and not as one types.
    """
    path = expanded(config.prompts)
    if (path.is_file() and path.stat().st_size > LARGE) or not config.prompts.casefold().endswith(FILES):
        return config.count
    with st.spinner("Reading the prompts..."):
        found = session.remembered(
            "pairs_read", (config.prompts, config.count, _changed(config.prompts)),
            lambda: read_prompts(config.prompts, config.count),
        )  # fmt: skip
    n = len(found.prompts)
    st.caption(f"{n:,} prompt{'s' * (n != 1)}" + (f"; {found.sentence}." if found.sentence else "."))
    return n


def _how_long(config: PairsSettings, n: int) -> str:
    """About how long the answers to `n` prompts will take, by the last ones with this model."""
    alike = (run for run in Run.all("pairs") if _made_alike(run, config))
    seconds = next((pace for run in alike if (pace := number(run.record.get("seconds_a_token")))), 0.0)
    whose = "by the last pairs with this model"
    if not seconds and config.model in MEASURED and not config.server:
        seconds, whose = MEASURED[config.model], "as measured on two cores"
    if not seconds or not n:
        return "How long it takes is known after the first prompts: the sidebar shows what is left."
    each = seconds * config.max_new_tokens
    return f"It will take about {duration(n * each)}, {whose} ({each:.1f} s a pair)."


def _made_alike(run: Run, config: PairsSettings) -> bool:
    """Whether the run's model was this one, on the same device or servers."""
    known = run.config
    same = all((known.get(name) or "") == getattr(config, name) for name in ("device", "server"))
    return same and settled(str(known.get("model"))) == settled(config.model)


def _changed(prompts: str) -> int:
    """When a file of prompts was written; 0 for what is no file."""
    try:
        path = expanded(prompts)
        return path.stat().st_mtime_ns if prompts and path.is_file() else 0
    except (ValueError, OSError):
        return 0


def _start(config: PairsSettings) -> None:
    if not st.button("Make pairs", type="primary", icon=":material/play_arrow:", key="pairs_start"):
        return
    try:
        with st.spinner("Reading the prompts…"):
            run = jobs.start(PAIR, config)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return
    address.go_to(pairs=run.id, gate=None)
    session.put("pairs_close", True)
    st.rerun()
