"""The settings of a comparison as widgets: the prompt, how the answer is chosen, and the columns."""

import streamlit as st

from app.compare import ask
from app.shared import maps, selection, state, tuned
from app.shared.models import ModelRef
from retmask.files import decode_text
from retmask.text.needle import known_needle

HAYSTACKS = {
    "pydoc-end": "second half of Python's manual",
    "pydoc": "Python's manual",
    "essays": "essays (where installed)",
}
MOST_UPLOAD = 8  # megabytes


def section(shown: maps.HeadMap) -> ModelRef | None:
    """Prompt, decoding and columns; what the model is loaded by, None where that is not known."""
    with st.container(border=True, key="settings"):
        left, right = st.columns([11, 9], gap="large")
        with left:
            ref = shown.ref or _model_name()
            kind = st.segmented_control(
                "Prompt", ["needle", "text"], format_func={"needle": "Needle", "text": "Own text"}.get,
                required=True, label_visibility="collapsed", **state.widget("kind"),
            )  # fmt: skip
            (_own_text if kind == "text" else _needle)(ref)
        with right:
            _decoding(ref)
            _columns(ref)
    return ref


NAMES = {
    "tokens": "the length in tokens", "new_tokens": "the number of new tokens", "temperature": "the temperature",
    "top_p": "top p", "seed": "the seed", "control_seed": "the seed of the control",
}  # fmt: skip


def wrong() -> str:
    """What is wrong with the numbers that are asked for now, empty for nothing."""
    setup = state.setup()
    asked = ["new_tokens", "temperature"] + ["tokens"] * (setup.kind == "needle")
    asked += ["top_p", "seed"] * bool(setup.temperature) + ["control_seed"] * setup.control
    return state.out_of_range(*((f"ask_{name}", NAMES[name], *ask.LIMITS[name]) for name in asked))


def _model_name() -> ModelRef | None:
    """The folder or Hub id that is named by hand."""
    text: str = st.text_input(
        "Model",
        placeholder="folder or Hub id",
        help="this map does not say where its model lies",
        **state.widget("model"),
    )
    return ModelRef(text.strip()) if text.strip() else None


def _needle(_: ModelRef | None) -> None:
    names = ask.needles()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = st.selectbox("Needle", list(names), format_func=names.get, width=290, **state.widget("needle"))
        st.number_input(
            "Length in tokens", step=128, width=150,
            help="of prompt and answer together, as in the needle test", **state.widget("tokens"),
        )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = [*HAYSTACKS, *({state.setup().haystack} - set(HAYSTACKS))]
        st.selectbox(
            "Haystack", known, format_func=lambda name: HAYSTACKS.get(name, name), accept_new_options=True, width=290,
            help="the text round the needle; or type the path of a folder with .txt files. Maps of up to 20,000 tokens "
            "that were made here have not read the second half of the manual", **state.widget("haystack"),
        )  # fmt: skip
        st.slider("Depth", 0.0, 1.0, step=0.05, format="percent", width=150, **state.widget("depth"))
    chosen = known_needle(needle or ask.Setup.needle)
    st.caption(state.sentence(f'Hidden: "{chosen.needle}" Asked: "{chosen.question}"')[:-1])


def _own_text(ref: ModelRef | None) -> None:
    st.text_area("Text", height=200, placeholder="What the model is to answer or to go on with", **state.widget("text"))
    key = "ask_upload"
    st.file_uploader(
        "or a text file", type=["txt"], key=key, max_upload_size=MOST_UPLOAD, on_change=_uploaded, args=(key,)
    )
    st.caption(_length(ref))
    st.text_input(
        "Right answer", placeholder="none", **state.widget("answer"),
        help="recall is the share of its words that stand in an answer, 0 to 1",
    )  # fmt: skip


def _uploaded(key: str) -> None:
    """Put an uploaded file's text into the text area."""
    file = state.value(key)
    if file is None:
        return
    try:
        state.show(text=decode_text(file.getvalue(), file.name))
    except ValueError as error:
        state.fail(error)


def _length(ref: ModelRef | None) -> str:
    """How long the text is in tokens, and how long it may be, once that is known."""
    known, setup = state.loaded(ref), state.setup()
    if known is None or not setup.text.strip():
        return "How many tokens it has is known once the model is loaded, with the first run."
    try:
        n = state.remembered(
            "length", (ref, setup.text, setup.template), lambda: len(setup.prompt(known.tokenizer).token_ids)
        )
    except ValueError as error:
        return state.sentence(error)
    room = known.max_tokens - setup.new_tokens
    return f"{n:,} tokens as a prompt; the model reads up to {room:,} and {setup.new_tokens} new ones."


def _decoding(ref: ModelRef | None) -> None:
    setup = state.setup()
    with st.container(horizontal=True):
        st.number_input("New tokens", step=16, width=120, help="of each answer", **state.widget("new_tokens"))
        st.number_input(
            "Temperature", step=0.1, format="%g", width=120, help="0 takes the likeliest token",
            **state.widget("temperature"),
        )  # fmt: skip
        if setup.temperature:
            st.number_input("Top p", step=0.05, format="%g", width=110, **state.widget("top_p"))
            st.number_input("Seed", step=1, width=110, **state.widget("seed"))
        known = state.loaded(ref)
        if known is not None and not known.has_template:
            st.caption("This model has no chat template: the prompt is plain text.", width="content")
        else:
            st.segmented_control(
                "Template", ["chat", "plain"], required=True, help="chat: in the model's chat template, if it has one",
                **state.widget("template"),
            )  # fmt: skip


def _columns(ref: ModelRef | None) -> None:
    """Which columns are answered in."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.toggle("Unmasked", **state.widget("unmasked"))
        st.toggle("Masked", **state.widget("masked"))
        st.toggle(
            "Tuned", disabled=state.tuned_for(ref) is None, help="the model after fine-tuning, with no head masked",
            **state.tuned_switch(ref),
        )  # fmt: skip
        st.toggle(
            "Random control",
            help="as many random heads, none of them selected",
            **state.widget("control"),
        )
    if state.setup().control:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.number_input("Seed of the control", step=1, width=150, **state.widget("control_seed"))
            st.toggle(
                "Same layers", help="as many heads of each layer as are selected there", **state.widget("matched")
            )
            st.text_input(
                "Never drawn", placeholder="retrieval heads", width=150, help=selection.EXCLUDE,
                **state.widget("exclude"),
            )  # fmt: skip
    tuned.choice(ref)
