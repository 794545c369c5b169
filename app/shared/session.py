"""What a session keeps: THE table of its values by name, widgets that keep theirs, sentences to say once.

Only this module touches `st.session_state`. A value that no widget shows, or that more than one module reads, is in the
table below: its name and, by what makes its default, its type. The key of a widget that its own module alone reads
stands at the widget. `tests/test_layers.py` holds the app to this.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

import streamlit as st

from app.shared.text import guarded
from retmask.heads.scores import THRESHOLD

T = TypeVar("T")


@dataclass(frozen=True)
class Value(Generic[T]):
    """A value of the session: the name that it is kept under, and what makes its default."""

    name: str
    default: Callable[[], T]

    def get(self) -> T:
        """What the session holds, or the default."""
        return cast(T, value(self.name, self.default()))

    def keep(self, first: Callable[[], T] | None = None) -> T:
        """What the session holds; where that is nothing, from now on what `first` makes, or the default."""
        if widget_key(self.name) not in st.session_state:
            self.put((first or self.default)())
        return self.get()

    def put(self, held: T) -> None:
        """Let the session hold this."""
        put(self.name, held)

    def fill(self, held: T) -> None:
        """As `fill`: put this into the widget that shows the value."""
        fill(**{self.name: held})

    def kept(self, first: T | None = None, then: Callable[[], None] | None = None) -> dict[str, Any]:
        """As `kept`: what makes a widget show the value, at first the default or `first`."""
        return kept(self.name, self.default() if first is None else first, then)


ADDRESS = Value("address", dict[str, str])
ADDRESS_AT_START = Value("address_at_start", dict[str, str])
SOURCE = Value("source", str)  # the map that is looked at
LOOKED_AT = Value("looked_at", dict[str, None])  # the maps that have been
SELECTIONS = Value("selections", dict[tuple[str, int, int], list[Any]])  # steps, by map and grid
FOCUS = Value("focus", str)  # the head that is looked at closely
DETECTION_FORM = Value("form_open", bool)
TUNED = Value("tuned", str)  # the training whose model is the tuned one
LOADED = Value("loaded", dict[Any, Any])  # what is known of models that were loaded, by `ModelRef`

WENT_ON = Value("went_on", set[str])  # the runs that went on at the last look
STOPPING = Value("stopping", set[tuple[str, float]])  # the workers that were asked to stop
NOT_ENDED = Value("not_ended", list[tuple[str, str]])  # the sentences of those that could not be, with their places
RUNS_FOLLOWED = Value("runs_followed", int)  # how many links to runs

SETUP: Value[Any] = Value("setup", lambda: None)  # of Compare
LIVE: Value[Any] = Value("live", lambda: None)  # its comparison, the last or the present one
WANTED = Value("wanted", bool)  # whether another is asked for
FAILED = Value("failed", str)  # why there is none
SCROLLED_TO: Value[Any] = Value("scrolled_to", lambda: None)  # the comparison that was scrolled to
TRACE_STEP: Value[int | None] = Value("trace_step", lambda: None)
TRACE_HEAD: Value[Any] = Value("trace_head", lambda: None)
DOSE_RUN = Value("dose_run", lambda: ("", ""))  # the curve that was chosen, and the newest one then

SHOWN_SETS = Value("shown_sets", list[str])
SETS_ADDED = Value("sets_added", int)  # how many, by the form
SETS_THRESHOLD = Value[float | None]("sets_threshold", lambda: THRESHOLD)

PAIRS_FORM = Value("pairs_form", bool)  # whether it is open
PAIRS_CLOSE = Value("pairs_close", bool)  # whether it is to be closed at the next drawing
TRAIN_FORM = Value("train_form", bool)
TRAIN_CLOSE = Value("train_close", bool)
TRAIN_VISITED = Value("train_visited", bool)
TRAIN_PAIRS = Value("train_pairs", str)  # the run with the pairs that is picked
TRAIN_PAIRS_SEEN = Value("train_pairs_seen", str)  # that at the last drawing
TRAIN_PAIRS_IN_ADDRESS = Value("train_pairs_in_address", str)
TRAIN_FILE = Value("train_file", str)  # the file of pairs that is named in its place
TRAIN_MODEL_OF = Value("train_model_of", str)  # the pairs whose model was put into the form
TRAIN_ASKED: Value[Any] = Value("train_asked", lambda: None)  # the settings that were to be checked
TRAIN_BEGIN = Value("train_begin", bool)  # whether they are to be started
EVALUATE_FORM = Value("evaluate_form", bool)  # whether it is open
EVALUATE_ROWS = Value("evaluate_rows", list[int])  # the numbers of the conditions' rows
EVALUATE_ROWS_MADE = Value("evaluate_rows_made", int)  # how many there have been
EVALUATE_FIRST = Value("evaluate_first", list[str])  # the conditions that were put there unasked
EVALUATE_MAP = Value("evaluate_map", str)  # the map whose model was put into the form

_DRAWING = Value("drawing", int)
_SEEN = Value("seen", dict[str, tuple[int, Any]])
_FILLED = Value("filled", dict[str, int])  # how often a widget has been filled
_QUESTION: Value["Question | None"] = Value("question", lambda: None)


def value(key: str, default: Any = None) -> Any:
    """What a widget holds now, by its key or by the name under which it is `kept`."""
    return st.session_state.get(widget_key(key), default)


def put(key: str, value: Any) -> None:
    """Keep a value of the session."""
    st.session_state[widget_key(key)] = value


def say(text: str, where: str = "") -> None:
    """Show a sentence, as `sentence` makes it, at the next drawing, once; `where` names one of several places."""
    st.session_state[f"said{where}"] = text


def said(where: str = "") -> str:
    """The sentence to show there now, empty for none."""
    return str(st.session_state.pop(f"said{where}", ""))


def show_said(where: str = "") -> None:
    """The sentence to show there now, as an error."""
    if text := said(where):
        st.error(text)


def remembered(place: str, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives, made anew only when the key has changed; the session keeps the last one of each place."""
    last = st.session_state.get(f"remembered_{place}")
    if last is None or last[0] != key:
        last = st.session_state[f"remembered_{place}"] = (key, make())
    return cast(T, last[1])


def drawing() -> int:
    """A number that goes up with every change of what is selected or looked at."""
    return _DRAWING.get()


def draw_anew() -> None:
    """Draw widgets that show what also changes elsewhere as new ones, with what is so now."""
    _DRAWING.put(drawing() + 1)


def answering(kind: str, drawn: T, do: Callable[[T, T], None]) -> tuple[str, Callable[[], None]]:
    """The key of a widget that shows `drawn`, and the callback that does what a person has changed in it.

    For widgets that show what also changes elsewhere: each drawing has a new one. The browser sends the values of all
    its widgets with whatever it asks for, also with the look at the runs every two seconds, and for as long as it has
    not drawn the new ones these are the old ones. Streamlit, which has forgotten them, takes each for a change and
    calls back. So `do` is called with what the widget held before and holds now, and only where that is news.
    """
    number = drawing()
    key = f"{kind}-{number}"

    def answer() -> None:
        seen = _SEEN.keep()
        last, before = seen.get(kind, (-1, drawn))
        before = before if last == number else drawn
        if key in st.session_state and number >= last and st.session_state[key] != before:
            seen[kind] = number, st.session_state[key]
            do(before, st.session_state[key])

    return key, answer


def newest(kind: str, key: str, do: Callable[[Any], None]) -> Callable[[], None]:
    """A callback with what the widget of that key holds; nothing once another of its kind has been drawn.

    As with `answering`: what a browser still sends of the one before must not take back what was chosen since.
    """
    put(f"newest_{kind}", key)
    return lambda: do(value(key)) if value(f"newest_{kind}") == key and key in st.session_state else None


def picked(before: Any, event: Any) -> list[tuple[int, ...]]:
    """The customdata, without the stamp at its end, of the points that are new in a chart's selection event.

    An event repeats the points of the one before it when both come from the same drawing (shift-click, or a click
    before the answer to the last is drawn); only what was added since then is meant.
    """
    last, after = _points(before), _points(event)
    return sorted(after - last if last <= after else after)


def _points(event: Any) -> set[tuple[int, ...]]:
    points = event.get("selection", {}).get("points", []) if event else []
    return {tuple(map(int, point["customdata"][:-1])) for point in points if point.get("customdata")}


def kept(name: str, default: Any, then: Callable[[], None] | None = None) -> dict[str, Any]:
    """What makes a widget keep its value while other pages are drawn, under its name in the session."""
    key = widget_key(name)
    st.session_state.setdefault(key, default)
    changed = (lambda: then() if key == widget_key(name) else None) if then else None
    return {"key": key, "persist_state": "session", "on_change": changed}


def fill(**values: Any) -> None:
    """Put values into widgets that `kept` keeps, by name; before they are drawn, or in a callback.

    Each is another widget from then on: what a browser still sends of the one before must not take that back, as with
    `answering`.
    """
    numbers = _FILLED.keep()
    for name, filled in values.items():
        if value(name, filled) != filled:
            numbers[name] = numbers.get(name, 0) + 1
        if widget_key(name) not in st.session_state:  # what it shows already cannot be put once it is drawn
            put(name, filled)


def widget_key(name: str) -> str:
    """The key of the widget that shows what is kept under that name."""
    number = st.session_state.get(_FILLED.name, {}).get(name)
    return f"{name}-{number}" if number else name


def out_of_range(*numbers: tuple[str, str, float, float]) -> str:
    """What is wrong with the first number that a widget holds outside its range, empty for none.

    Each is a widget's key, what it is called, and its range. The widgets themselves must have none: a browser leaves a
    number beyond it in the field and goes on with the one before.
    """
    for key, name, low, high in numbers:
        number = value(key, low)
        if number is None or not low <= number <= high:
            return f"{name} must be a number from {low:,} to {high:,}"
    return ""


class Question(NamedTuple):
    """What is asked, in Markdown, and what is done where the answer is yes.

    `text` is shown as it is: what a stranger wrote is no link. Where something is lost, the button is red. Once it no
    longer `holds`, it is dropped: what it was asked about is over.
    """

    title: str
    asks: str
    yes: str
    do: Callable[[], None]
    text: str = ""
    is_loss: bool = True
    holds: Callable[[], bool] = lambda: True


def ask(question: Question) -> None:
    """Ask at the next drawing of the page."""
    _QUESTION.put(question)


def draw_question() -> None:
    """The dialog, for as long as nobody has answered and there is something to answer."""
    show_said(_QUESTION.name)
    question = _QUESTION.get()
    if question and not question.holds():
        _leave()
    elif question:
        st.dialog(question.title, on_dismiss=_leave)(guarded(_dialog))(question)


def _dialog(question: Question) -> None:
    if question.text:
        st.code(question.text, language=None, wrap_lines=True)
    st.markdown(question.asks)
    with st.container(horizontal=True, key="danger_confirm" if question.is_loss else "confirm"):  # see main.py
        yes = st.button(question.yes, type="primary", key="confirm_yes")
        no = st.button("Cancel", key="confirm_no")
    if yes or no:
        _leave()
        if yes and question.holds():
            question.do()
        elif yes:
            say("It has ended since you were asked: nothing was done.", _QUESTION.name)
        st.rerun()


def _leave() -> None:
    _QUESTION.put(None)
