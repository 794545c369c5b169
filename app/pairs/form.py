"""The form that makes preference pairs: whose answers, to which prompts, how they are drawn."""

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.pairs import prompts
from app.pairs.prompts import FORM
from app.shared import address, jobs, mask_editor, selection, session
from app.shared.form import show_command
from app.shared.maps import HeadMap
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.figures import style
from retmask.files import number, settled
from retmask.heads.rules import MaskRule
from retmask.pairs.job import PAIR, PairsSettings
from retmask.runs.overview import duration
from retmask.runs.run import Run

MEASURED = {"smollm2-135m": 1.4 / 64}  # seconds a pair, by its longest answer in tokens, on two cores


def section(heads_page: StreamlitPage, model_name: Callable[[], ModelRef | None], is_first: bool) -> None:
    """The form, folded away once there is a run to look at."""
    if session.PAIRS_CLOSE.get():  # what a widget shows cannot be changed after it is drawn
        session.PAIRS_CLOSE.put(False)
        session.PAIRS_FORM.put(False)
    box = st.expander(
        "Make pairs", expanded=is_first, key=session.PAIRS_FORM.name, icon=":material/add:", on_change="rerun"
    )
    if box.open:
        with box:
            _form(heads_page, model_name)


def _form(heads_page: StreamlitPage, model_name: Callable[[], ModelRef | None]) -> None:
    """What to make pairs of, the command that does the same, and the button that starts it."""
    with st.container(key="settings"):
        whose = _model(heads_page, model_name)
        (left, right), below = st.columns([11, 9], gap="large"), st.container()
        with left:
            asked = prompts.chosen()
        with right:
            drawn = FORM.widgets(below)
    values = asked | drawn
    missing, settings, n = _missing(whose, values), None, 0
    if missing:
        st.info(sentence(missing))
    else:
        try:
            settings = FORM.settings(values, **(whose | ({"rule": MaskRule()} if _served(values) else {})))
            n = prompts.read(settings) if settings.prompts else settings.count
        except (ValueError, OSError) as error:
            settings = None
            st.error(sentence(error))
    if settings is None:
        _start_button(disabled=True)
        return
    prompts.preview(settings)
    show_command(settings, _how_long(settings, n))
    if _start_button(disabled=False):
        _start(settings)


def _start_button(disabled: bool) -> bool:
    icon = ":material/play_arrow:"
    return bool(st.button("Start", type="primary", icon=icon, key="pairs_start", disabled=disabled))


def _model(heads_page: StreamlitPage, model_name: Callable[[], ModelRef | None]) -> dict[str, Any]:
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
            mask_editor.best(shown.scores, "pairs_mask_best")
        st.page_link(heads_page, label="Select on the map", icon=":material/grid_on:", width="content")
    rule = MaskRule(heads=str(mask), scores=shown.argument) if len(mask) else MaskRule()
    return {"rule": rule, **_loaded_by(shown, model_name)}


def _loaded_by(shown: HeadMap, model_name: Callable[[], ModelRef | None]) -> dict[str, str]:
    """What the map's model is loaded by: asked for where the map does not say it."""
    if shown.variant:
        config = shown.run.config if shown.run else {}
        return {name: str(config.get(name) or "") for name in ("model", "adapter", "revision")}
    if shown.loadable:
        return {"model": shown.loadable}
    ref = model_name()
    return {"model": ref.name if ref else ""}


def _missing(whose: dict[str, Any], values: dict[str, Any]) -> str:
    """What is not filled in yet, in a sentence; empty for nothing."""
    if not whose:
        return "there is no map of heads to mask: choose one in the sidebar"
    if not whose["model"]:
        return "the model is missing: name its folder or its Hub id above"
    if "prompts" in values and not values["prompts"]:
        return "there are no prompts yet: name a file or a dataset, or have some made here"
    if not _served(values) and not whose["rule"].given:
        return 'no head is selected: press "Mask the top 5 %", or select heads on the map'
    return ""


def _served(values: dict[str, Any]) -> bool:
    return bool(values["server"] or values["masked_server"])


def _how_long(settings: PairsSettings, n: int) -> str:
    """About how long the answers to `n` prompts will take, by the last ones with this model."""
    alike = (run for run in Run.all("pairs") if _made_alike(run, settings))
    seconds = next((pace for run in alike if (pace := number(run.record.get("seconds_a_token")))), 0.0)
    whose = "by the last pairs with this model"
    if not seconds and settings.model in MEASURED and not settings.server:
        seconds, whose = MEASURED[settings.model], "as measured on two cores"
    if not seconds or not n:
        return "How long it takes is known after the first prompts: the sidebar shows what is left."
    each = seconds * settings.max_new_tokens
    return f"It will take about {duration(n * each)}, {whose} ({each:.1f} s a pair)."


def _made_alike(run: Run, settings: PairsSettings) -> bool:
    """Whether the run's model was this one, on the same device or servers."""
    known = run.config
    same = all((known.get(name) or "") == getattr(settings, name) for name in ("device", "server"))
    return same and settled(str(known.get("model"))) == settled(settings.model)


def _start(settings: PairsSettings) -> None:
    """Begin the run and look at it."""
    try:
        with st.spinner("Reading the prompts…"):
            run = jobs.start(PAIR, settings)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return
    address.go_to(pairs=run.id, gate=None)
    session.PAIRS_CLOSE.put(True)
    st.rerun()
