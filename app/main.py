"""The app: `streamlit run app/main.py`. Page set-up, navigation and the picker of the map."""

import sys
from collections.abc import Callable
from pathlib import Path

# Streamlit puts this folder first: our modules would go by bare names then, and `import heads` be anybody's.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [str(_HERE.parent), *(path for path in sys.path if Path(path).resolve() not in (_HERE, _HERE.parent))]

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app import guard
from app.compare import form as compare_form
from app.compare import page as compare
from app.evaluate import form as evaluate_form
from app.evaluate import page as evaluate
from app.families import page as families
from app.heads import detection as detect
from app.heads import page as heads
from app.pairs import page as pairs
from app.runs import page as runs
from app.shared import address, session
from app.shared.text import STYLE, guarded, sentence
from app.sidebar import picker
from app.train import page as train
from retmask.evaluate.job import EvaluateSettings

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


def _page(draw: Callable[[], None], title: str, icon: str, is_first: bool = False) -> StreamlitPage:
    """A page of that title, at the address of its small letters."""
    return st.Page(draw, title=title, icon=f":material/{icon}:", url_path=title.lower(), default=is_first)


def main() -> None:
    """Draw the app."""
    st.set_page_config(page_title="RetMask Workbench", page_icon=str(Path(__file__).parent / "icon.png"), layout="wide")
    st.html(_STYLE + STYLE)
    refused = guard.refusal()
    if refused:
        st.error(sentence(refused))
        return

    def measure(settings: EvaluateSettings | None) -> None:
        """Open the page Evaluate, its form with these settings."""
        if settings:
            evaluate_form.show(settings)
        st.switch_page(evaluation)

    on_map = _page(heads.page, "Heads", "grid_on", is_first=True)
    side_by_side = _page(lambda: compare.page(on_map), "Compare", "compare_arrows")
    of_pairs = _page(lambda: pairs.page(on_map, training, compare_form.model_name), "Pairs", "thumbs_up_down")
    training = _page(lambda: train.page(side_by_side, on_map, compare_form.tune, measure), "Train", "model_training")
    evaluation = _page(lambda: evaluate.page(on_map, side_by_side, compare_form.ask), "Evaluate", "fact_check")
    of_families = _page(lambda: families.page(on_map), "Families", "stacked_bar_chart")
    results = {"detect": on_map, "dose": side_by_side, "pairs": of_pairs, "train": training, "evaluate": evaluation}
    all_runs = _page(lambda: runs.page(results), "Runs", "history")
    page = st.navigation([on_map, side_by_side, of_pairs, training, evaluation, of_families, all_runs])
    address.keep()
    with st.sidebar:
        guarded(picker)(compare_form.tune)
    if session.DETECTION_FORM.get():
        detect.form(on_map)
    guarded(page.run)()


main()
