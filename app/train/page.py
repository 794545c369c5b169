"""The Train page: start a fine-tuning, watch its curves, stop or resume it, and use what came out."""

from collections.abc import Callable
from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.shared import address, jobs, session
from app.shared.jobs import Names
from app.shared.session import Question
from app.shared.text import guarded, sentence
from app.train import curves, form, result
from app.train.evaluation import Measure
from retmask.files import mapping, number
from retmask.runs.overview import duration, stage, summary
from retmask.runs.run import Run
from retmask.train.checkpoints import CHECKPOINTS, newest
from retmask.train.job import discard, stop_and_keep
from retmask.train.outcome import STOP
from retmask.train.results import last_step, steps

KEEPS = "after the present step: the adapter as it is then is kept, and the training can be resumed"


def page(compare_page: StreamlitPage, heads_page: StreamlitPage, tune: Callable[[str], None], measure: Measure) -> None:
    """Draw the page; on the others a trained model is compared and its heads are looked at; `tune` chooses it there.

    `measure` opens the page on which it is evaluated.
    """
    st.header("Train", anchor=False)
    st.caption(
        "DPO on preference pairs: the model learns to prefer its own answers (chosen) to those it gives with its "
        "retrieval heads masked (rejected). A training goes on without this page."
    )
    form.open_or_close()
    runs = Run.all("train")
    form.section(is_first=not runs and not address.place("train"))
    run = _looked_at(runs)
    if run is None:
        return
    _about(run)
    _status(run)
    if run.is_active:
        st.fragment(guarded(_live), run_every=2)(run)
    else:
        curves.section(run)
        result.section(run, compare_page, heads_page, tune=tune, measure=measure)
    with st.expander("How this training was started", key="train_origin"):
        st.code(run.command, language="bash", wrap_lines=True)
        st.code(str(run.path), language=None, wrap_lines=True)


def _looked_at(runs: list[Run]) -> Run | None:
    """The training that the address names, else the newest; with a sentence where there is none such."""
    name = address.place("train") or (runs[0].id if runs else "")
    if not name:
        st.info("No training yet. It needs pairs, which the Pairs page makes, and a preset: then press Start.")
        return None
    try:
        run: Run | None = jobs.find_run(name, "train")
    except ValueError as error:
        st.error(sentence(error))
        run = None
    offered = [*runs, *([run] if run and run.reference not in [each.reference for each in runs] else [])]
    if len(offered) > (1 if run else 0):
        jobs.run_picker("Training", offered, run, _go)
    return run


def _go(name: str) -> None:
    address.go_to(train=name)


def _about(run: Run) -> None:
    """What is trained on what."""
    config, sizes = run.config, mapping(run.record.get("preflight"))
    st.subheader(sentence(str(config.get("model", run.id)))[:-1], anchor=False, divider="gray")
    method = f"LoRA of rank {config.get('rank')}" if config.get("method") == "lora" else "all weights"
    facts = [method, f"learning rate {config.get('learning_rate')}", f"{config.get('batch')} pairs a step"]
    facts += [f"{sizes.get('pairs')} pairs, {sizes.get('held_out')} held out"] if sizes else []
    left = sizes.get("left_out")
    facts += [f"{len(left):,} left out, too long to teach anything"] if isinstance(left, list) and left else []
    facts += [f"from {', '.join(run.parents)}"] if run.parents else []
    st.caption(sentence(" · ".join(facts))[:-1])


def _status(run: Run) -> None:
    """How a training stands, and what can be done with it now."""
    done = last_step(run)
    if run.status == "success":
        st.success(f"Finished after {done:,} step{'s' * (done != 1)}{_took(run)}.", icon=":material/check:")
    checkpoint = newest(run.path / CHECKPOINTS)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    label = f"Resume from step {step:,}" if step else "Start again from step 0"
    jobs.status_block(run, Names("train", "This training", _kept(run), label), _stops, _change_button)


def _change_button(run: Run) -> None:
    """The button that opens the form with the settings of a training that is over."""
    if jobs.ours(run) and not run.is_active:
        label, icon = "Start again with changed settings", ":material/edit:"
        st.button(label, icon=icon, key="train_change", on_click=_change, args=(run,))


def _kept(run: Run) -> str:
    """What there is still of a training that was stopped."""
    if run.record.get("discarded"):
        return "Its checkpoints and its adapter are deleted."
    return "What it had learned by then is kept, below." if run.record.get("stopped_at") is not None else ""


def _took(run: Run) -> str:
    done = steps(run)
    seconds = number(done[-1].get("time")) - number(done[0].get("time")) if done else 0
    return f" in {duration(seconds)}" if seconds > 0 else ""


def _change(run: Run) -> None:
    try:
        form.start_from(run)
    except (ValueError, TypeError, KeyError, OSError) as error:
        session.say(sentence(f"the settings of this training cannot be read: {error}"), "train")


def _live(run: Run) -> None:
    """What a training that goes on has come to, drawn anew every two seconds."""
    done = steps(run)
    last = done[-1] if done else {}
    speed, memory = number(last.get("tokens_per_s")), number(last.get("memory"))
    seconds = summary(run).seconds if run.status == "started" else None
    facts = [f"{duration(seconds)} so far"] if seconds else []
    facts += [f"{speed:,.0f} tokens a second"] if speed else []
    facts += [f"{memory / 2**30:.1f} GiB of memory"] if memory else []
    facts += [] if done else ["the first step comes after the model is loaded, which takes some seconds"]
    st.caption(" · ".join(facts))
    curves.section(run)


def _stops(run: Run) -> None:
    """Stop, which keeps what was learned, and Discard; the sidebar's Stop keeps the last checkpoint."""
    asked, stopping = (run.path / STOP).exists(), jobs.stopping(run)
    has_begun = run.status == "started" and stage(run) in ("starting", "steps")
    label = "Stopping after this step…" if asked and has_begun else "Stop"
    off = not has_begun or asked or stopping
    st.button(label, icon=":material/stop:", key="train_stop", disabled=off, on_click=_stop, args=(run,), help=KEEPS)
    icon = ":material/delete:"
    st.button("Discard", icon=icon, key="train_discard", disabled=stopping, on_click=_ask, args=(run,))


def _stop(run: Run) -> None:
    with jobs.telling("train"):
        stop_and_keep(run)


def _ask(run: Run) -> None:
    """Ask before a training is stopped and deleted; then the page does not wait for it."""
    asks = "Stop now, and delete its checkpoints and its adapter?"
    do, holds = partial(jobs.end, run, partial(discard, run), "train"), lambda: run.is_active
    session.ask(Question("Discard this training?", asks, "Discard", do, holds=holds))
