"""A figure with its downloads: files are made when they are asked for."""

import json
import re
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from retmask.figures import style
from retmask.figures.rows import Row, to_csv

CHART_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"],
    "doubleClick": False,
    "doubleClickDelay": 1,  # two quick clicks are two clicks
}


def draw_figure(figure: go.Figure, name: str, rows: Callable[[], list[Row]], **chart: Any) -> None:
    """Draw a figure and, under it, its downloads; `name` makes file names and keys, `chart` goes to the chart."""
    name = file_name(name)
    config = CHART_CONFIG | {"toImageButtonOptions": {"filename": name, "scale": 2}}
    st.plotly_chart(figure, theme=None, config=config, **({"key": f"chart-{name}"} | chart))
    downloads(figure, name, rows)


def file_name(name: str) -> str:
    """A name without what a file name should not have."""
    return re.sub(r"[^\w.-]+", "-", name)


def downloads(figure: go.Figure | None, name: str, rows: Callable[[], list[Row]]) -> None:
    """A small menu: the figure as PNG and SVG, its data as CSV and JSON. Files are made when they are asked for."""
    with st.popover("Download", icon=":material/download:", type="tertiary", key=f"menu-{name}"):
        if figure is not None:
            images(figure, name)
        download_button("CSV", lambda: to_csv(rows()).encode(), f"{name}.csv", "text/csv")
        download_button(
            "JSON",
            lambda: json.dumps(rows(), indent=1, ensure_ascii=False).encode(),
            f"{name}.json",
            "application/json",
        )


def images(figure: go.Figure, name: str) -> None:
    """The buttons that download a figure as PNG and as SVG, or what they need."""
    if not style.browser():
        st.caption("A PNG or SVG file needs Chrome or Chromium on this machine. The camera on the figure does not.")
        return
    download_button("PNG", lambda: style.image(figure, "png"), f"{name}.png", "image/png")
    download_button("SVG", lambda: style.image(figure, "svg"), f"{name}.svg", "image/svg+xml")


def download_button(text: str, make: Callable[[], bytes], file: str, mime: str) -> None:
    """A download that is made when it is clicked, and that leaves the page as it is."""
    st.download_button(text, make, file, mime, key=f"download-{file}", on_click="ignore", type="tertiary")
