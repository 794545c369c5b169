"""What all figures share: colours, type, how numbers and tokens are written, and how a figure becomes a PNG.

White ground, one hue from white (0) to dark (the most), orange for what is selected or masked. Texts of models and of
files are escaped: Plotly reads HTML.
"""

import html
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

INK, MUTED, EMPTY, TEAL, ORANGE, PURPLE = "#1f2937", "#6b7280", "#e5e9eb", "#0f766e", "#d55e00", "#6d28d9"
HUE = [(0.0, "#ffffff"), (0.25, "#b5dcd8"), (0.5, "#5fb0a9"), (0.75, "#0f766e"), (1.0, "#063f3b")]
BOTH_WAYS = [(0.0, "#4c1d95"), (0.25, "#a78bda"), (0.5, "#ffffff"), (0.75, "#5fb0a9"), (1.0, "#063f3b")]  # -1, 0, 1
# Found by search: seen with protanopia, deuteranopia and tritanopia (Machado et al. 2009) the nearest two of the twelve
# lie 0.09 apart in OKLab, further than the nearest two of the seven colours of Okabe and Ito (0.08).
_SEARCHED = "#41bfd9 #661f42 #b20000 #b2b236 #2a3a8c #628ab2 #a64dff #ff8c9f #9f8cff"
SERIES = (TEAL, ORANGE, PURPLE, *_SEARCHED.split())
ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}  # a legend
NAME = 40  # characters of a name in a legend
_WIDTH = 640  # pixels: the narrowest page a legend is laid out for
_CHARACTER = 6.4  # pixels, of the legend's type
HOVER = "%{text}<extra></extra>"  # a hover that says a trace's text
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_AXIS = {"fixedrange": True, "zeroline": False, "showgrid": False, "gridcolor": EMPTY, "ticks": ""}
_STYLE = go.layout.Template(
    layout={
        "font": {"family": "Source Sans Pro, Segoe UI, Helvetica, Arial, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "showlegend": False,
        "hoverlabel": {"bgcolor": "white", "bordercolor": MUTED, "font": {"color": INK, "size": 13}, "align": "left"},
        "bargap": 0.25,
        "xaxis": _AXIS | {"title": {"standoff": 6}},
        "yaxis": _AXIS | {"title": {"standoff": 8}, "automargin": True},
        "shapedefaults": {"line": {"color": MUTED, "width": 1, "dash": "dash"}},
        "annotationdefaults": {"showarrow": False},
    }
)


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st ..."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def percent(share: float) -> str:
    """A share (0-1) for people: 50 %, 12.5 %, 11.1 %."""
    return f"{100 * share:.3g} %"


def browser() -> str | None:
    """The Chrome or Chromium that `png` can use; None where there is none."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def image(figure: go.Figure, kind: Literal["png", "svg"], width: int = 900) -> bytes:
    """The figure as PNG, two pixels a point, or as SVG. ValueError where no Chrome or Chromium is."""
    if browser() is None:
        raise ValueError(f"a {kind.upper()} needs Chrome or Chromium: install one, or use the camera on the figure")
    return bytes(figure.to_image(kind, width=width, height=figure.layout.height, scale=2))


def dress(figure: go.Figure, height: int, top: int = 12, bottom: int = 40) -> None:
    """Give a figure the common style; heights and margins in pixels."""
    figure.update_layout(template=_STYLE, height=height, margin={"l": 52, "r": 12, "t": top, "b": bottom})


def names_below(figure: go.Figure, names: Sequence[str], height: int, top: int = 12) -> None:
    """The style of a figure whose axes are so many pixels high, its names below: as many columns of them as fit."""
    longest = max((len(shortened(name, NAME)) for name in names), default=1)
    columns = max(1, min(len(names), int(_WIDTH / (46 + _CHARACTER * longest))))
    legend_height = 20 * -(-len(names) // columns) + 4
    dress(figure, height=height + top + 48 + legend_height, top=top, bottom=48 + legend_height)
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    legend |= {"entrywidth": 1 / columns - 0.001, "entrywidthmode": "fraction"}
    figure.update_layout(showlegend=True, legend=legend)


def panel_title(figure: go.Figure, number: int, text: str, size: int = 12, lift: int = 4) -> None:
    """A title over the panel with that number (from 1), at its left edge, so many pixels above it."""
    axis = "" if number == 1 else number
    place = {"x": 0, "xref": f"x{axis} domain", "xanchor": "left", "y": 1, "yref": f"y{axis} domain"}
    figure.add_annotation(**place, yanchor="bottom", yshift=lift, text=text, showarrow=False, font_size=size)


def whiskers(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None], **look: Any
) -> dict[str, Any]:
    """Error bars that end where 95 % intervals do; none where an end is not known."""
    ends = list(zip(values, lows, highs, strict=True))
    return {
        "array": [0.0 if high is None else high - value for value, _, high in ends],
        "arrayminus": [0.0 if low is None else value - low for value, low, _ in ends],
        **({"thickness": 1.5, "width": 4} | look),
    }


def log_ticks(n: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to n."""
    ticks = [m * 10**e for e in range(len(str(n))) for m in (1, 2, 5)]
    return [tick for tick in ticks if tick <= n]


def readable(text: str, most: int = 24) -> str:
    """A token to read: its spaces and line ends shown, escaped, cut at `most` characters."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return html.escape(shown if len(shown) <= most else shown[: most - 1] + "…", quote=False) or "∅"


def shortened(name: str, most: int) -> str:
    """A name for a figure: its middle left out where it has more than `most` characters, escaped."""
    return html.escape(cut(name, most), quote=False)


def wrapped(name: str, width: int) -> str:
    """A name for a figure in at most two lines of so many characters, its middle left out where there are more."""
    lines = textwrap.wrap(" ".join(name.split()), width)
    if len(lines) > 2:
        lines = textwrap.wrap(cut(name, 2 * width - 2), width)
    if len(lines) > 2:  # a break between words has cost more than is there
        short = cut(name, 2 * width)
        lines = [short[:width], short[width:]]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def cut(name: str, most: int) -> str:
    """A name in one line, its middle left out where it has more than `most` characters."""
    name = " ".join(name.split())
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def colorbar(title: str, height: float | None = None) -> dict[str, Any]:
    """A colour scale beside a figure, as high as its axes or so many pixels from their top."""
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "xpad": 8, "nticks": 6}
    return bar if height is None else bar | {"len": height, "lenmode": "pixels", "y": 1, "yanchor": "top"}
