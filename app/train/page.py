"""The Train page: start a fine-tuning, watch its curves, stop or resume it, and use what came out."""

from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.shared import address, jobs, session
from app.shared.figure import CHART_CONFIG, download_button, file_name, images
from app.shared.text import guarded, says, sentence
from app.train import form as train_form
from app.train import result
from retmask.figures import training as curves
from retmask.files import mapping, number
from retmask.runs.overview import duration, progress, summary, when
from retmask.runs.run import Run
from retmask.train.checkpoints import CHECKPOINTS, newest
from retmask.train.curves import curves_csv, last_step, steps
from retmask.train.job import discard, stop_and_keep
from retmask.train.outcome import STOP

ACTIVE = ("queued", "started")
HEALTHY = (
    "A healthy run: the margin rises and the loss falls below 0.69. The chosen reward often falls too, as long as the "
    "rejected one falls faster. An accuracy of 1 within few steps is usual on easy pairs, and says little by itself."
)
LOG_LINES = 40


def page(compare_page: StreamlitPage, heads_page: StreamlitPage) -> None:
    """Draw the page; the other pages are where a trained model is compared and its heads are looked at."""
    st.header("Train", anchor=False)
    st.caption(
        "DPO on preference pairs: the model learns to prefer its own answers (chosen) to those it gives with its "
        "retrieval heads masked (rejected). A training goes on without this page."
    )
    train_form.open_or_close()
    runs = Run.all("train")
    train_form.section(is_first=not runs and not address.place("train"))
    run = _looked_at(runs)
    if run is None:
        return
    _about(run)
    if run.status in ACTIVE:
        st.fragment(guarded(_going), run_every=2)(run)
    else:
        _curves(run)
        result.section(run, compare_page, heads_page)
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
        run = Run.find(name)
        if run.record.get("kind") != "train":
            raise ValueError(f"{name} is a run of another kind: choose a training")
    except ValueError as error:
        st.error(sentence(error))
        run = None
    known = {one.id: one for one in runs} | ({run.reference: run} if run else {})
    if len(known) > (1 if run else 0):
        key = f"train_pick-{name}-{len(known)}"
        at = list(known).index(run.reference) if run else None
        st.selectbox(
            "Training",
            list(known),
            at,
            key=key,
            format_func=lambda id: _label(known[id]),
            on_change=session.newest("train", key, _pick),
        )
    return run


def _label(run: Run) -> str:
    record = run.record
    return f"{run.config.get('model', '')} · {when(str(record.get('created', '')))} · {run.reference}"


def _pick(name: str | None) -> None:
    if name:
        address.go_to(train=name)


def _about(run: Run) -> None:
    """What is trained on what, and how it stands if it is over."""
    config, sizes = run.config, mapping(run.record.get("preflight"))
    st.subheader(sentence(str(config.get("model", run.id)))[:-1], anchor=False, divider="gray")
    method = f"LoRA of rank {config.get('rank')}" if config.get("method") == "lora" else "all weights"
    parts = [method, f"learning rate {config.get('learning_rate')}", f"{config.get('batch')} pairs a step"]
    parts += [f"{sizes.get('pairs')} pairs, {sizes.get('held_out')} held out"] if sizes else []
    left = sizes.get("left_out")
    parts += [f"{len(left):,} left out, too long to teach anything"] if isinstance(left, list) and left else []
    parts += [f"from {', '.join(run.parents)}"] if run.parents else []
    st.caption(sentence(" · ".join(parts))[:-1])
    said = session.said("train")
    if said:
        st.error(said)
    if run.status not in ACTIVE:
        _ended(run)


def _ended(run: Run) -> None:
    """How a training ended, and what can be done with it now."""
    status, record, done = run.status, run.record, last_step(run)
    if status == "success":
        st.success(f"Finished after {done:,} step{'s' * (done != 1)}{_took(run)}.", icon=":material/check:")
    elif status == "error":
        st.error(f"This training failed after {done:,} steps. Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
    elif record.get("discarded"):
        st.info("This training was stopped; its checkpoints and its adapter are deleted.")
    elif record.get("stopped_at") is not None:
        st.info(f"This training was stopped after step {done:,}. What it had learned by then is kept, below.")
    else:
        st.info(f"This training was cancelled after step {done:,}.")
    if jobs.ours(run):
        with st.container(horizontal=True):
            _resume(run)
            st.button(
                "Start again with changed settings", icon=":material/edit:", key="train_change", on_click=_change,
                args=(run,),
            )  # fmt: skip


def _took(run: Run) -> str:
    done = steps(run)
    seconds = number(done[-1].get("time")) - number(done[0].get("time")) if done else 0
    return f" in {duration(seconds)}" if seconds > 0 else ""


def _resume(run: Run) -> None:
    """The button that lets a training go on, with the step that it goes on from."""
    if run.status == "success":
        return
    if jobs.stopping(run):
        st.fragment(guarded(_deleting), run_every=1)(run)
        return
    found = newest(run.path / CHECKPOINTS)
    words = f"Resume from step {int(found.name.rpartition('-')[2]):,}" if found else "Begin again from step 0"
    st.button(
        words, type="primary", icon=":material/play_arrow:", key="train_resume", on_click=jobs.again,
        args=(run, "train"),
    )  # fmt: skip


def _deleting(run: Run) -> None:
    """Until what is discarded is deleted: before that, nothing may go on from it."""
    if not jobs.stopping(run):
        st.rerun(scope="app")
    st.caption("Deleting…")


def _change(run: Run) -> None:
    try:
        train_form.start_from(run)
    except (ValueError, TypeError, KeyError, OSError) as error:
        session.say(sentence(f"the settings of this training cannot be read: {error}"), "train")


def _going(run: Run) -> None:
    """A training that is on its way, drawn anew every two seconds; the whole page when it is over."""
    if run.status not in ACTIVE:
        st.rerun(scope="app")
    share, words = progress(run)
    done = steps(run)
    st.progress(share, words)
    last = done[-1] if done else {}
    speed, memory = number(last.get("tokens_per_s")), number(last.get("memory"))
    seconds = summary(run).seconds if run.status == "started" else None
    facts = [f"{duration(seconds)} so far"] if seconds else []
    facts += [f"{speed:,.0f} tokens a second"] if speed else []
    facts += [f"{memory / 2**30:.1f} GiB of memory"] if memory else []
    facts += [] if done else ["the first step comes after the model is loaded, which takes some seconds"]
    st.caption(" · ".join(facts))
    if jobs.ours(run):
        _stops(run)
    _curves(run)


def _stops(run: Run) -> None:
    """The two ways to stop; the sidebar's Cancel is the third."""
    lines = run.progress
    asked = (run.path / STOP).exists()
    stopping = jobs.stopping(run)
    began = run.status == "started" and bool(lines) and lines[-1].get("stage") in ("starting", "steps")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Stopping after this step…" if asked and began else "Stop and keep", icon=":material/stop:",
            key="train_stop", disabled=not began or asked or stopping, on_click=_stop, args=(run,),
            help="after the present step: the adapter as it is then is kept, and the training can be resumed",
        )  # fmt: skip
        with st.popover(":red[Stop and discard]", icon=":material/delete:", key="train_sure", disabled=stopping):
            st.markdown("Stop now, and delete its checkpoints and its adapter?")
            st.button(":red[Discard it]", key="train_discard", on_click=_discard, args=(run,))


def _stop(run: Run) -> None:
    try:
        stop_and_keep(run)
    except OSError as error:  # a callback has no page to stand on: it would be a traceback
        session.say(sentence(says(error)), "train")


def _discard(run: Run) -> None:
    """Stop and delete, without making the page wait for it."""
    jobs.end(run, lambda: discard(run))


def _curves(run: Run) -> None:
    """The curves so far, their downloads, and the end of the log."""
    done = steps(run)
    if done:
        _charts(run, done, curves.LEARNING, "curves")
        st.caption(HEALTHY)
        with st.expander("More curves", key="train_more"):
            _charts(run, done, curves.BEHIND, "behind")
        if run.status not in ACTIVE:
            _downloads(run, done)
    log = run.log_tail(LOG_LINES)
    if log:
        with st.expander("The end of its log", key="train_log"):
            st.code(log, language=None, height=300)


def _charts(run: Run, done: list[dict[str, Any]], panels: tuple[str, ...], key: str) -> None:
    """Two columns of small charts, one below the other in a narrow window."""
    name = file_name(f"{run.id}-{key}")
    config = CHART_CONFIG | {"toImageButtonOptions": {"filename": name, "scale": 2}}
    with st.container(key=key):
        for i, column in enumerate(st.columns(2, gap="medium")):
            figure = curves.training_curves(done, panels[i::2], columns=1)
            column.plotly_chart(figure, theme=None, config=config, key=f"train-{key}-{i}")


def _downloads(run: Run, done: list[dict[str, Any]]) -> None:
    """All curves as files, made when they are asked for."""
    name = file_name(run.id)
    with st.popover("Download the curves", icon=":material/download:", type="tertiary", key="train_downloads"):
        images(curves.training_curves(done), f"{name}-curves")
        download_button("CSV", lambda: curves_csv(run).encode(), f"{name}-curves.csv", "text/csv")
