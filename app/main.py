"""The app: `streamlit run app/main.py`. Page set-up, navigation and the picker of the map."""

import os
import sys
from pathlib import Path

# Streamlit puts this folder first: our modules would go by bare names then, and `import heads` be anybody's.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if Path(p).name != "app")]

import streamlit as st

from app.compare import page as compare
from app.families import page as families
from app.families import sets
from app.heads import detection as detect
from app.heads import page as heads
from app.pairs import page as pairs
from app.runs import page as runs
from app.shared import (
    guard,
    maps,
    markup,
    state,
    tuned,
    watch,
)
from app.train import page as train
from retmask.files import home
from retmask.heads.sets import keep_set

# Side by side where there is room, one below the other where there is not.
_STYLE = """<style>
@media (max-width: 1150px) {
  .st-key-beside [data-testid="stColumn"], .st-key-closely [data-testid="stColumn"],
  .st-key-curves [data-testid="stColumn"], .st-key-behind [data-testid="stColumn"],
  .st-key-settings [data-testid="stColumn"], .st-key-answers [data-testid="stColumn"] {min-width: 100%;}
  .st-key-beside [data-testid="stColumn"] [data-testid="stColumn"] {min-width: 5rem;}
}
@media (max-width: 900px) {
  [data-testid="stSidebar"][data-collapsed="false"] {width: 200px !important; min-width: 200px;}
  [data-testid="stSidebarContent"] {padding: 0 0.2rem;}
  .stMainBlockContainer {padding: 2.5rem 1rem 4rem !important;}
}
[data-testid="stStatusWidget"] button {display: none;}
[class*="st-key-wide_"] {overflow-x: auto;}
[class*="st-key-wide_"] > div:has([data-testid="stPlotlyChart"]) {min-width: 720px;}
.stMainBlockContainer {padding: 2.5rem 3rem 4rem;}
[data-testid="stMetricValue"] {font-size: 1.6rem;}
[class*="st-key-danger_"] button[kind="primary"] {background: #c62828; border-color: #c62828;}
[class*="st-key-danger_"] button[kind="primary"]:hover {background: #a31515; border-color: #a31515;}
h1, h2, h3, [data-testid="stAlert"], [data-testid="stCaptionContainer"] {overflow-wrap: anywhere;}
</style>"""


LONG = 28  # characters of a map's name that the picker shows


def picker() -> None:
    """The sidebar: which map is looked at, how to open another one, what is running."""
    names = state.sources()
    key, answer = state.answering("map-of", state.source(), lambda _, now: state.choose(now))
    st.selectbox("Map", names, names.index(state.source()), key=key, format_func=maps.label, on_change=answer)
    whole = maps.label(state.source())
    if len(whole) > LONG:
        st.caption(state.sentence(whole)[:-1])
    with st.expander("Open a score file", expanded=False):
        opener()
    st.button("Detect again", icon=":material/radar:", on_click=state.open_form, width="stretch", key="detect_again")
    tuned.line()
    watch.watch()
    if os.environ.get("RETMASK_HOME"):
        st.caption(
            "The commands on these pages find this app's runs with "
            f"`RETMASK_HOME={watch.plain(home())}` in their environment."
        )


def opener() -> None:
    """Open a score file by path or upload, in the sidebar. What is malformed is told in a sentence and not opened."""
    path = st.text_input(
        "Path of a score file or run folder", key="open_path", placeholder="folder/scores.json",
        help="also a list of QRHead or gates of DuoAttention, of a model that they name",
    )  # fmt: skip
    upload = st.file_uploader("or drop one here", type=sets.ENDINGS, key="open_upload", max_upload_size=64)
    model = st.selectbox("It belongs to", ["some other model", *maps.shipped_maps()], key="open_model")
    kv = st.number_input(
        "Key/value heads", value=None, step=1, key="open_kv", placeholder="not known",
        help="draws the groups of query heads that share a key/value head; published files do not say it",
    )  # fmt: skip
    if st.button("Open", key="open_go", disabled=not (path.strip() or upload), width="stretch"):
        try:
            wrong = kv is not None and state.out_of_range(("open_kv", "the number of key/value heads", 1, 512))
            if wrong:
                raise ValueError(wrong)
            name = keep_set(upload.name, upload.getvalue()) if upload else path.strip()
            _check(state.open_map(name, kv), model)
        except ValueError as error:
            st.error(f"{state.sentence(error)} The map you see is unchanged.")
            return
        state.choose(name, kv)
        st.rerun()


def _check(opened: maps.HeadMap, model: str) -> None:
    """ValueError where the scores cannot be the model's."""
    if model in maps.shipped_maps() and opened.scores:
        known = state.open_map(model).grid
        if known:
            opened.scores.check_grid(known, model)


def main() -> None:
    """Draw the app."""
    st.set_page_config(page_title="RetMask Workbench", page_icon=str(Path(__file__).parent / "icon.png"), layout="wide")
    st.html(_STYLE + markup.STYLE)
    refused = guard.refusal()
    if refused:
        st.error(state.sentence(refused))
        return
    on_map = st.Page(heads.page, title="Heads", icon=":material/grid_on:", url_path="heads", default=True)
    side_by_side = st.Page(
        lambda: compare.page(on_map), title="Compare", icon=":material/compare_arrows:", url_path="compare"
    )
    of_pairs = st.Page(
        lambda: pairs.page(on_map, training), title="Pairs", icon=":material/thumbs_up_down:", url_path="pairs"
    )
    training = st.Page(
        lambda: train.page(side_by_side, on_map), title="Train", icon=":material/model_training:", url_path="train"
    )
    of_families = st.Page(
        lambda: families.page(on_map), title="Families", icon=":material/stacked_bar_chart:", url_path="families"
    )
    all_runs = st.Page(
        lambda: runs.page({"detect": on_map, "dose": side_by_side, "pairs": of_pairs, "train": training}),
        title="Runs", icon=":material/history:", url_path="runs",
    )  # fmt: skip
    page = st.navigation([on_map, side_by_side, of_pairs, training, of_families, all_runs])
    state.keep_address()
    with st.sidebar:
        guard.guarded(picker)()
    if state.form_open():
        detect.form(on_map)
    guard.guarded(page.run)()


main()
