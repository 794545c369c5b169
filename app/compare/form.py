"""The settings of a comparison as widgets: the prompt, how the answer is chosen, and the columns."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import streamlit as st

from app.compare import comparison
from app.compare.setup import LIMITS, Setup, keep_setup, keep_text, needles, read_setup
from app.heads import mask_editor
from app.shared import address, maps, models, session
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
MOST_UPLOAD = 8  # megabytes


def section(shown: maps.HeadMap) -> ModelRef | None:
    """Prompt, decoding and columns; what the model is loaded by, None where that is not known."""
    with st.container(border=True, key="settings"):
        left, right = st.columns([11, 9], gap="large")
        with left:
            ref = shown.ref or _model_name()
            kind = st.segmented_control(
                "Prompt", ["needle", "text"], format_func={"needle": "Needle", "text": "Own text"}.get,
                required=True, label_visibility="collapsed", **widget("kind"),
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
    setup = current_setup()
    asked = ["new_tokens", "temperature"] + ["tokens"] * (setup.kind == "needle")
    asked += ["top_p", "seed"] * bool(setup.temperature) + ["control_seed"] * setup.control
    return session.out_of_range(*((f"ask_{name}", NAMES[name], *LIMITS[name]) for name in asked))


def _model_name() -> ModelRef | None:
    """The folder or Hub id that is named by hand."""
    text: str = st.text_input(
        "Model",
        placeholder="folder or Hub id",
        help="this map does not say where its model lies",
        **widget("model"),
    )
    return ModelRef(text.strip()) if text.strip() else None


def _needle(_: ModelRef | None) -> None:
    names = needles()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = st.selectbox("Needle", list(names), format_func=names.get, width=290, **widget("needle"))
        st.number_input(
            "Length in tokens", step=128, width=150,
            help="of prompt and answer together, as in the needle test", **widget("tokens"),
        )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = [*HAYSTACKS, *({current_setup().haystack} - set(HAYSTACKS))]
        st.selectbox(
            "Haystack", known, format_func=lambda name: HAYSTACKS.get(name, name), accept_new_options=True, width=290,
            help="the text round the needle; or type the path of a folder with .txt files. Maps of up to 20,000 tokens "
            "that were made here have not read the second half of the manual", **widget("haystack"),
        )  # fmt: skip
        st.slider("Depth", 0.0, 1.0, step=0.05, format="percent", width=150, **widget("depth"))
    chosen = known_needle(needle or Setup.needle)
    st.caption(sentence(f'Hidden: "{chosen.needle}" Asked: "{chosen.question}"')[:-1])


def _own_text(ref: ModelRef | None) -> None:
    st.text_area("Text", height=200, placeholder="What the model is to answer or to go on with", **widget("text"))
    key = "ask_upload"
    st.file_uploader(
        "or a text file", type=["txt"], key=key, max_upload_size=MOST_UPLOAD, on_change=_uploaded, args=(key,)
    )
    st.caption(_length(ref))
    st.text_input(
        "Right answer", placeholder="none", **widget("answer"),
        help="recall is the share of its words that stand in an answer, 0 to 1",
    )  # fmt: skip


def _uploaded(key: str) -> None:
    """Put an uploaded file's text into the text area."""
    file = session.value(key)
    if file is None:
        return
    try:
        show(text=decode_text(file.getvalue(), file.name))
    except ValueError as error:
        comparison.fail(error)


def _length(ref: ModelRef | None) -> str:
    """How long the text is in tokens, and how long it may be, once that is known."""
    known, setup = models.loaded(ref), current_setup()
    if known is None or not setup.text.strip():
        return "How many tokens it has is known once the model is loaded, with the first run."
    try:
        n = session.remembered(
            "length", (ref, setup.text, setup.template), lambda: len(setup.prompt(known.tokenizer).token_ids)
        )
    except ValueError as error:
        return sentence(error)
    room = known.max_tokens - setup.new_tokens
    return f"{n:,} tokens as a prompt; the model reads up to {room:,} and {setup.new_tokens} new ones."


def _decoding(ref: ModelRef | None) -> None:
    setup = current_setup()
    with st.container(horizontal=True):
        st.number_input("New tokens", step=16, width=120, help="of each answer", **widget("new_tokens"))
        st.number_input(
            "Temperature", step=0.1, format="%g", width=120, help="0 takes the likeliest token",
            **widget("temperature"),
        )  # fmt: skip
        if setup.temperature:
            st.number_input("Top p", step=0.05, format="%g", width=110, **widget("top_p"))
            st.number_input("Seed", step=1, width=110, **widget("seed"))
        known = models.loaded(ref)
        if known is not None and not known.has_template:
            st.caption("This model has no chat template: the prompt is plain text.", width="content")
        else:
            st.segmented_control(
                "Template", ["chat", "plain"], required=True, help="chat: in the model's chat template, if it has one",
                **widget("template"),
            )  # fmt: skip


def _columns(ref: ModelRef | None) -> None:
    """Which columns are answered in."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.toggle("Unmasked", **widget("unmasked"))
        st.toggle("Masked", **widget("masked"))
        st.toggle(
            "Tuned", disabled=models.tuned_for(ref) is None, help="the model after fine-tuning, with no head masked",
            **tuned_switch(ref),
        )  # fmt: skip
        st.toggle(
            "Random control",
            help="as many random heads, none of them selected",
            **widget("control"),
        )
    if current_setup().control:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.number_input("Seed of the control", step=1, width=150, **widget("control_seed"))
            st.toggle("Same layers", help="as many heads of each layer as are selected there", **widget("matched"))
            st.text_input(
                "Never drawn", placeholder="retrieval heads", width=150, help=mask_editor.EXCLUDE,
                **widget("exclude"),
            )  # fmt: skip
    tuned_choice(ref)


def current_setup() -> Setup:
    """The settings of the Compare page; on the first view those that the address names, or the defaults."""
    chosen = models.tuned_id()
    if "setup" not in st.session_state:
        known = address.place("c")
        st.session_state["setup"] = read_setup(known) if known else Setup(tuned=chosen)
        st.session_state["setup_tuned"] = models.tuned_at_start()
    if st.session_state["setup_tuned"] != chosen:  # another tuned model was chosen, on any page: its column is shown
        st.session_state["setup_tuned"] = chosen
        change(tuned=chosen)
    return cast(Setup, st.session_state["setup"])


def change(**values: Any) -> None:
    """Change settings of the Compare page and keep them on disk, so that a reload finds them."""
    changed = replace(current_setup(), **values)
    if changed != current_setup():
        st.session_state["setup"] = changed
        try:
            address.write("c", keep_setup(changed))
        except OSError as error:  # a callback has no page to stand on: it would be a traceback
            session.say(f"{sentence(faults.sentence(error))} The settings are not kept over a reload.", "setup")


def widget(name: str) -> dict[str, Any]:
    """What makes a widget show a setting of the Compare page and change it."""
    key = f"ask_{name}"
    return session.kept(key, getattr(current_setup(), name), then=lambda: _take(name, st.session_state[key]))


def show(**values: Any) -> None:
    """Change settings and what their widgets show."""
    change(**values)
    st.session_state.update({f"ask_{name}": value for name, value in values.items()})


def setup_for(ref: ModelRef | None) -> Setup:
    """The settings of the Compare page as they hold for a model: without a tuned one that is not of it."""
    found = models.tuned_for(ref)
    return replace(current_setup(), tuned=current_setup().tuned if found and found.id == current_setup().tuned else "")


def tuned_switch(ref: ModelRef | None) -> dict[str, Any]:
    """What makes a toggle switch the column of the tuned model on and off."""
    st.session_state["ask_tuned"] = bool(setup_for(ref).tuned)
    return {"key": "ask_tuned", "on_change": _switch_tuned}


def _switch_tuned() -> None:
    change(tuned=models.tuned_id() if st.session_state["ask_tuned"] else "")


def text_file() -> Path:
    """Where the text of one's own lies for the command line: written when it is asked for."""
    return keep_text(current_setup().text)


def _take(name: str, held: Any) -> None:
    """Keep what a widget has been set to."""
    if held is not None:
        change(**{name: held})


def tuned_choice(ref: ModelRef | None) -> None:
    """Which training's model answers beside a model; a hint where there is none to choose."""
    if ref is None:
        return
    found, known = models.tuned_model(), tunings(ref)
    known += [found] if found and found.trained_on(ref) and found.id not in [one.id for one in known] else []
    if known:
        names = {one.id: str(one) for one in known}
        at = list(names).index(found.id) if found and found.id in names else None
        key, answer = session.answering("tuned_choice", found.id if at is not None and found else None, _tune)
        st.selectbox(
            "Tuned model", list(names), at, key=key, format_func=lambda name: names.get(name, name),
            placeholder="choose a training of this model", on_change=answer,
        )  # fmt: skip
    if found is None and not known:
        st.caption("A tuned column can be added once this model has been fine-tuned, on the Train page.")
    elif found and found.ref == ref:
        st.caption(sentence(f"This map is of the tuned model itself: a map of {found.base} has both side by side"))
    elif found and not found.trained_on(ref):
        st.caption(sentence(f"The tuned model was trained on {found.base}, so it is left out beside {ref}"))


def _tune(_: str | None, now: str | None) -> None:
    models.tune(now or "")
