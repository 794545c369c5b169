"""The form of a comparison: its settings, in the session and as widgets."""

from dataclasses import replace
from typing import Any, cast

import streamlit as st

from app.compare import comparison
from app.compare.setup import LIMITS, Setup, keep_setup, needles, read_setup
from app.shared import address, maps, mask_editor, models, session
from app.shared.models import ModelRef, tunings
from app.shared.text import sentence
from retmask.files import decode_text
from retmask.runs import faults
from retmask.text.needle import known_needle

HAYSTACKS = {
    "pydoc-end": "second half of Python's manual",
    "pydoc": "Python's manual",
    "essays": "essays (where installed)",
}
HAYSTACK = (
    "the text round the needle; or type the path of a folder with .txt files. Maps of up to 20,000 tokens that were "
    "made here have not read the second half of the manual"
)
KINDS = {"needle": "Needle", "text": "Own text"}
CHOOSE = "choose a training of this model"
PLACE = "compare"  # where sentences are said
UPLOAD, MOST_UPLOAD = "ask_upload", 8  # key; megabytes


def section(shown: maps.HeadMap) -> ModelRef | None:
    """Prompt, decoding and columns; what the model is loaded by, None where that is not known."""
    with st.container(border=True, key="settings"):
        left, right = st.columns([11, 9], gap="large")
        with left:
            ref = shown.ref or model_name()
            look: dict[str, Any] = {"format_func": KINDS.__getitem__, "label_visibility": "collapsed"}
            kind = st.segmented_control("Prompt", list(KINDS), required=True, **look, **widget("kind"))
            (_own_text if kind == "text" else _needle)(ref)
        with right:
            _decoding(ref)
            _columns(ref)
    return ref


NAMES = {
    "tokens": "the length in tokens",
    "new_tokens": "the number of new tokens",
    "temperature": "the temperature",
    "top_p": "top p",
    "seed": "the seed",
    "control_seed": "the seed of the control",
}


def wrong() -> str:
    """What is wrong with the numbers that are asked for now, empty for nothing."""
    setup = current_setup()
    asked = ["new_tokens", "temperature"] + ["tokens"] * (setup.kind == "needle")
    asked += ["top_p", "seed"] * bool(setup.temperature) + ["control_seed"] * setup.control
    return session.out_of_range(*((f"ask_{name}", NAMES[name], *LIMITS[name]) for name in asked))


def model_name() -> ModelRef | None:
    """The folder or Hub id that is named by hand."""
    says = "this map does not say where its model lies"
    text: str = st.text_input("Model", placeholder="folder or Hub id", help=says, **widget("model"))
    return ModelRef(text.strip()) if text.strip() else None


def _needle(_: ModelRef | None) -> None:
    needle_names = needles()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = st.selectbox(
            "Needle", list(needle_names), format_func=needle_names.__getitem__, width=290, **widget("needle")
        )
        says = "of prompt and answer together, as in the needle test"
        st.number_input("Length in tokens", step=128, width=150, help=says, **widget("tokens"))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = [*HAYSTACKS, *({current_setup().haystack} - set(HAYSTACKS))]
        look: dict[str, Any] = {"format_func": lambda name: HAYSTACKS.get(name, name), "width": 290}
        st.selectbox("Haystack", names, accept_new_options=True, help=HAYSTACK, **look, **widget("haystack"))
        st.slider("Depth", 0.0, 1.0, step=0.05, format="percent", width=150, **widget("depth"))
    chosen = known_needle(needle or Setup.needle)
    st.caption(sentence(f'Hidden: "{chosen.needle}" Asked: "{chosen.question}"')[:-1])


def _own_text(ref: ModelRef | None) -> None:
    st.text_area("Text", height=200, placeholder="What the model is to answer or to go on with", **widget("text"))
    st.file_uploader("or a text file", type=["txt"], key=UPLOAD, max_upload_size=MOST_UPLOAD, on_change=_uploaded)
    st.caption(_length(ref))
    says = "recall is the share of its words that stand in an answer, 0 to 1"
    st.text_input("Right answer", placeholder="none", help=says, **widget("answer"))


def _uploaded() -> None:
    """Put an uploaded file's text into the text area."""
    file = session.value(UPLOAD)
    if file is None:
        return
    try:
        show(text=decode_text(file.getvalue(), file.name))
    except ValueError as error:
        comparison.fail(error)


def _length(ref: ModelRef | None) -> str:
    """How long the text is in tokens, and how long it may be, once that is known."""
    model, setup = models.loaded(ref), current_setup()
    if model is None or not setup.text.strip():
        return "How many tokens it has is known once the model is loaded, with the first run."
    try:
        asked = (ref, setup.text, setup.template)
        n = session.remembered("length", asked, lambda: len(setup.prompt(model.tokenizer).token_ids))
    except ValueError as error:
        return sentence(error)
    room = model.max_tokens - setup.new_tokens
    return f"{n:,} tokens as a prompt; the model reads up to {room:,} and {setup.new_tokens} new ones."


def _decoding(ref: ModelRef | None) -> None:
    setup = current_setup()
    with st.container(horizontal=True):
        st.number_input("New tokens", step=16, width=120, help="of each answer", **widget("new_tokens"))
        says = "0 takes the likeliest token"
        st.number_input("Temperature", step=0.1, format="%g", width=120, help=says, **widget("temperature"))
        if setup.temperature:
            st.number_input("Top p", step=0.05, format="%g", width=110, **widget("top_p"))
            st.number_input("Seed", step=1, width=110, **widget("seed"))
        model = models.loaded(ref)
        if model is not None and not model.has_template:
            st.caption("This model has no chat template: the prompt is plain text.", width="content")
        else:
            says = "chat: in the model's chat template, if it has one"
            st.segmented_control("Template", ["chat", "plain"], required=True, help=says, **widget("template"))


def _columns(ref: ModelRef | None) -> None:
    """Which columns are answered in."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.toggle("Unmasked", **widget("unmasked"))
        st.toggle("Masked", **widget("masked"))
        says, none = "the model after fine-tuning, with no head masked", models.tuned_for(ref) is None
        session.put("ask_tuned", bool(setup_for(ref).tuned))
        st.toggle("Tuned", disabled=none, help=says, key="ask_tuned", on_change=_switch_tuned)
        st.toggle("Random control", help="as many random heads, none of them selected", **widget("control"))
    if current_setup().control:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.number_input("Seed of the control", step=1, width=150, **widget("control_seed"))
            st.toggle("Same layers", help="as many heads of each layer as are selected there", **widget("matched"))
            drawn, says = "retrieval heads", mask_editor.EXCLUDE
            st.text_input("Never drawn", placeholder=drawn, width=150, help=says, **widget("exclude"))
    tuned_choice(ref)


def current_setup() -> Setup:
    """The settings of the Compare page; on the first view those that the address names, or the defaults."""
    return cast(Setup, session.SETUP.keep(_setup_at_start))


def _setup_at_start() -> Setup:
    name = address.place("c")
    return read_setup(name) if name else Setup(tuned=models.tuned_id())


def change(**values: Any) -> None:
    """Change settings of the Compare page and keep them on disk, so that a reload finds them."""
    changed = replace(current_setup(), **values)
    if changed != current_setup():
        session.SETUP.put(changed)
        try:
            address.write("c", keep_setup(changed))
        except OSError as error:  # a callback has no page to stand on: it would be a traceback
            session.say(f"{sentence(faults.sentence(error))} The settings are not kept over a reload.", PLACE)


def widget(name: str) -> dict[str, Any]:
    """What makes a widget show a setting of the Compare page and change it."""
    key = f"ask_{name}"

    def take() -> None:
        if (held := session.value(key)) is not None:
            change(**{name: held})

    return session.kept(key, getattr(current_setup(), name), take)


def show(**values: Any) -> None:
    """Change settings and what their widgets show."""
    change(**values)
    session.fill(**{f"ask_{name}": value for name, value in values.items()})


def ask(text: str, answer: str, template: str) -> None:
    """Put a text of one's own and its right answer into the form; `template` is "chat" or "plain"."""
    show(kind="text", text=text, answer=answer, template=template)


def setup_for(ref: ModelRef | None) -> Setup:
    """The settings of the Compare page as they hold for a model: without a tuned one that is not of it."""
    setup, training = current_setup(), models.tuned_for(ref)
    return setup if training and training.id == setup.tuned else replace(setup, tuned="")


def _switch_tuned() -> None:
    change(tuned=models.tuned_id() if session.value("ask_tuned") else "")


def tuned_choice(ref: ModelRef | None) -> None:
    """Which training's model answers beside a model; a hint where there is none to choose."""
    if ref is None:
        return
    tuned, labels = models.tuned_model(), {training.id: str(training) for training in tunings(ref)}
    if tuned and tuned.trained_on(ref):
        labels.setdefault(tuned.id, str(tuned))
    if labels:
        names, chosen = list(labels), tuned.id if tuned and tuned.id in labels else None
        key, answer = session.answering("tuned_choice", chosen, lambda _, picked: tune(picked or ""))
        look: dict[str, Any] = {"format_func": lambda name: labels.get(name, name), "placeholder": CHOOSE}
        st.selectbox("Tuned model", names, names.index(chosen) if chosen else None, key=key, on_change=answer, **look)
    if tuned is None and not labels:
        st.caption("A tuned column can be added once this model has been fine-tuned, on the Train page.")
    elif tuned and tuned.ref == ref:
        st.caption(sentence(f"This map is of the tuned model itself: a map of {tuned.base} has both side by side"))
    elif tuned and not tuned.trained_on(ref):
        st.caption(sentence(f"The tuned model was trained on {tuned.base}, so it is left out beside {ref}"))


def tune(name: str) -> None:
    """As `models.choose_tuned`, for all pages; its column is switched on, in the address too, or off where it is none.

    So a reload of any page finds both.
    """
    models.choose_tuned(name)
    change(tuned=models.tuned_id())
