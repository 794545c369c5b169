"""What came out of a run of pairs: in figures, by the rules of the gate, pair by pair; and what is done with it."""

from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.pairs import review
from app.pairs.decisions import Reviewed, pairs_of, review_of
from app.shared import address, jobs, session
from app.shared.text import download_button, guarded, sentence
from retmask.figures import style
from retmask.pairs.files import llama_factory_text, read_rows
from retmask.pairs.gate import RULES, Statistics, statistics
from retmask.pairs.pair import PAIRS, read_items
from retmask.pairs.review import new_version
from retmask.runs.run import Run

MAX_LENGTH = 1024  # tokens, as the training has it by default
ALWAYS = "empty"  # training takes no empty answers: this rule is never switched off here


@st.fragment
@guarded
def section(run: Run, train_page: StreamlitPage) -> None:
    """What came out, and the review: a key that is pressed draws this anew and nothing else."""
    allowed = _allowed(run)
    reviewed = Reviewed(pairs_of(run.path), review_of(run.path), allowed)
    _figures(reviewed)
    _gate(run, reviewed)
    if not reviewed.kept:
        _none(reviewed)
    review.section(run, reviewed)
    _hand_on(run, reviewed, train_page)


def _figures(reviewed: Reviewed) -> None:
    """The kept pairs in figures."""
    n, kept = len(reviewed.judged), reviewed.kept
    most = int(session.value("pairs_max_length") or MAX_LENGTH)
    of_kept, answered = statistics(kept, most), n - sum(bool(each.pair.unanswered) for each in reviewed.judged)
    share = style.percent(round(len(kept) / n, 3))
    figures = [
        ("Answered", f"{answered:,}", "prompts with both answers"),
        ("Kept", f"{len(kept):,}", f"pairs that are kept, {share} of all; the figures after this one are theirs"),
        *(_figures_of(of_kept, most) if of_kept else ()),
    ]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="pairs_figures"):
        for name, value, hint in figures:
            st.metric(name, value, help=hint, width="content")
        says = "how many tokens of prompt and answer together the training will read: it cuts the end off"
        widget = session.kept("pairs_max_length", MAX_LENGTH)
        st.number_input("max_length", 16, 2**20, step=256, width=130, help=says, **widget)


def _figures_of(figures: Statistics, most: int) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure of a set of pairs."""
    longer, cut = (style.percent(round(share, 3)) for share in (figures.longer, figures.cut_pairs))
    return [
        ("Prompt", f"{figures.prompt:.1f}", "mean length of the prompts, in tokens"),
        ("Chosen", f"{figures.chosen:.1f}", "mean length of the chosen answers, in tokens"),
        ("Rejected", f"{figures.rejected:.1f}", "mean length of the rejected answers, in tokens"),
        (
            "Length bias",
            f"{figures.bias:+.1f}",
            f"mean of chosen minus rejected length, in tokens; the chosen answer is the longer one in {longer} of the "
            "pairs. Far from 0, training teaches length",
        ),
        (
            "They part at",
            "–" if figures.diverged is None else f"{figures.diverged + 1:g}",
            "the median of the first token at which the two answers differ",
        ),
        (
            "Beyond max_length",
            style.percent(round(figures.cut_tokens, 3)),
            f"the share of the answers' tokens that lie beyond {most:,} tokens of prompt and answer; {cut} of the "
            f"pairs lose some. The longest has {figures.longest:,}",
        ),
    ]


def _allowed(run: Run) -> tuple[str, ...]:
    """The rules that are switched off: by the address, else by the run's settings; never the one for empty answers."""
    text = address.place("gate")
    return tuple(name for name in (text.split(",") if text else _recorded(run)) if name in RULES and name != ALWAYS)


def _recorded(run: Run) -> list[str]:
    """The rules that the run's settings switch off."""
    names = run.config.get("allow")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _gate(run: Run, reviewed: Reviewed) -> None:
    """The rules of the gate, how many pairs each finds, and its switch."""
    out = sum(bool(reviewed.active(i)) for i in range(len(reviewed.judged)))
    label = f"**Quality gate:** leaves out {out:,} of {len(reviewed.judged):,} pairs"
    with st.expander(label, expanded=True, key="pairs_gate"), st.container(gap=None, width=560):
        st.caption(
            "A pair that a rule finds is left out, unless you keep it in the review; with the switch off it is let in. "
            "Beside each rule: how many pairs it finds."
        )
        for name, rule in RULES.items():
            switch, count = st.columns([7, 1], vertical_alignment="center")
            key = f"gate-{run.reference}-{name}"
            session.put(key, name not in reviewed.allowed)
            fixed = name == ALWAYS
            says = "training takes no empty answers" if fixed else None
            switch.toggle(rule.says, key=key, disabled=fixed, on_change=_switch, args=(run, name, key), help=says)
            count.markdown(f"{reviewed.faults[name]:,}" if reviewed.faults[name] else ":gray[0]")


def _switch(run: Run, name: str, key: str) -> None:
    """Switch a rule, and keep that in the address."""
    off = set(_allowed(run)) - {name} if session.value(key) else {*_allowed(run), name}
    address.go_to(pairs=run.reference, gate=",".join(rule for rule in RULES if rule in off) or "all")


def _none(reviewed: Reviewed) -> None:
    """Why no pair is kept."""
    n = len(reviewed.judged)
    most = sorted(reviewed.faults.items(), key=lambda item: -item[1])[:3]
    why = "; ".join(f"{RULES[name].says} ({count:,} of {n:,})" for name, count in most)
    st.warning(
        f"No pair is kept: {sentence(why)} Mask more heads or others, raise the temperature or the longest "
        "answer, or switch a rule off."
    )


def _hand_on(run: Run, reviewed: Reviewed, train_page: StreamlitPage) -> None:
    """Save what was decided, take the pairs away, train on them."""
    st.subheader("Use these pairs", anchor=False)
    over = not run.is_active
    review = reviewed.review
    changed = bool(review.verdicts or review.edits) or set(reviewed.allowed) != {*_recorded(run)} & {*RULES} - {ALWAYS}
    n, decisions = len(reviewed.kept), f"{reviewed.decided('keep'):,} kept, {reviewed.decided('drop'):,} dropped"
    if changed:
        st.caption(
            f"By you: {decisions}, {reviewed.edited:,} edited. The files below do not know of it, nor of the switches: "
            "save a new version first, which leaves this one as it is."
        )
    file = run.path / PAIRS
    there = over and file.is_file() and file.stat().st_size > 0
    with st.container(horizontal=True, vertical_alignment="center"):
        label = f"Save {n:,} pair{'s' * (n != 1)} as a new version"
        kind: Any = "primary" if changed else "secondary"
        new = over and bool(n) and (changed or not there)
        if st.button(label, type=kind, icon=":material/save:", disabled=not new, key="pairs_save") and new:
            _save(run, reviewed)
        if there:
            download_button("TRL (JSONL)", file.read_bytes, f"{run.id}.jsonl", "application/jsonl")
            download_button(
                "LLaMA-Factory (JSON)", lambda: _llama_factory(run), f"{run.id}-llama-factory.json", "application/json"
            )
        kind, icon = "secondary" if changed else "primary", ":material/model_training:"
        if st.button("Train on these pairs", icon=icon, disabled=not there, key="pairs_train", type=kind):
            _train(run)
            st.switch_page(train_page)
    session.show_said("pairs_save")
    if not over:
        st.caption("Files and new versions are to be had when the run is over.")


def _train(run: Run) -> None:
    """Put the pairs into the form of the Train page and open it."""
    session.TRAIN_PAIRS.fill(run.reference)
    session.TRAIN_FORM.put(True)


def _llama_factory(run: Run) -> bytes:
    return llama_factory_text(read_rows(run.path / PAIRS)).encode()


def _save(run: Run, reviewed: Reviewed) -> None:
    """Save what is kept as a run of its own and look at that; where the last version holds the same, look at it."""
    try:
        with st.spinner("Saving…"), jobs.one_at_a_time():
            new = _version(run, reviewed) or new_version(run, tuple(reviewed.allowed))
    except (ValueError, OSError) as error:
        session.say(sentence(error), "pairs_save")
        return
    address.go_to(pairs=new.id, gate=None)
    st.rerun()


def _version(run: Run, reviewed: Reviewed) -> Run | None:
    """The last version that was saved of a run, if it holds just these pairs: a second click makes no second one."""
    last = next((each for each in run.children if isinstance(each.record.get("review"), dict)), None)
    kept = [pair for pair in reviewed.kept if pair.chosen.text.strip() and pair.rejected.text.strip()]
    return last if last and read_items(last.path) == kept else None
