"""Detection: which grid of needle trials, and the job that runs it. A run's folder in, results in that folder out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from retmask.detect.score import Counting
from retmask.detect.trials import different_prompts, pin_measure, run_trials, stable_for
from retmask.files import append_line, number
from retmask.heads.detectors import DETECTORS, DetectorName
from retmask.heads.grid import Grid
from retmask.heads.trials import Trial, collect_scores, read_trials
from retmask.model.weights import check_there
from retmask.runs.job import Job, Pace, Progress, Start, Work
from retmask.runs.run import Run
from retmask.runs.settings import Preset, check, command_line, setting, shared, whole
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack
from retmask.text.needle import NeedleTask, load_needles, needle_grid, needles_sha256

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

DEFAULT_MODEL = "smollm2-135m"
_SCORES = {name: "copied needle tokens" if name == "copy" else DETECTORS[name].says for name in get_args(DetectorName)}
STABLE_TRIALS = 10  # --until-stable: the top 5 % unchanged over this many successful trials


def _steps(n: int) -> tuple[float, ...]:
    return tuple(round(i / (n - 1), 4) for i in range(n))


def _preset(says: str, lengths: tuple[int, ...], depths: tuple[float, ...]) -> Preset:
    return Preset(says, {"n_needles": 3, "lengths": lengths, "depths": depths}, grid=True)


PRESETS = {
    "quick": _preset("a first map: a minute or so on two idle CPU cores", (384, 768), (0.0, 0.5, 1.0)),
    "laptop": _preset("a map to work with, some minutes on two CPU cores", (512, 1024, 2048), _steps(5)),
    "paper": _preset("the published grid of 600 trials, for a GPU", tuple(range(250, 5001, 250)), _steps(10)),
}


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """What a detection does. `needles` and `haystack` as `load_needles` and `load_haystack` take them.

    ValueError for a grid that is empty, not in order of sense, or not possible.
    """

    presets: ClassVar = PRESETS
    model: str = shared("model", DEFAULT_MODEL)
    lengths: tuple[int, ...] = setting(
        PRESETS["laptop"].values["lengths"],
        "how long the contexts are, prompt and answer, in tokens",
        example="512,1024",
        min=128,
        max=2**21,
    )
    depths: tuple[float, ...] = setting(
        PRESETS["laptop"].values["depths"],
        "where needles lie, 0 = beginning, 1 = end of the context",
        example="0,0.5,1",
        min=0.0,
        max=1.0,
    )
    n_needles: int = setting(
        3,
        "how many needles; by default as the preset, or on the command line all of a file",
        label="number of needles",
        min=1,
        max=1_000_000,
        beside=("needles", 0),
    )
    needles: str = shared("needles")
    haystack: str = shared("haystack", "pydoc")
    counting: Counting = setting(
        "set", "how the detector copy counts", choices={"set": "a token once", "steps": "at every step"}, expert=True
    )
    detector: DetectorName = setting("copy", "what a head's score is", choices=_SCORES, expert=True)
    whole_needle: bool = setting(False, "score the whole needle, not only its answer", expert=True)
    keep_prompts: bool = setting(False, "write the tokens of each prompt into trials.jsonl (prompt_ids)", expert=True)
    until_stable: bool = setting(
        False, f"stop when the top 5 % stay the same over {STABLE_TRIALS} trials that found their needle", expert=True
    )
    revision: str = shared("revision")
    adapter: str = shared("adapter")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(dict.fromkeys(int(length) for length in self.lengths)))
        object.__setattr__(self, "depths", tuple(dict.fromkeys(float(depth) for depth in self.depths)))
        if self.needles and not self.n_needles:
            object.__setattr__(self, "n_needles", len(load_needles(Path(self.needles))))
        if not self.lengths or not self.depths:
            raise ValueError("give at least one length (tokens) and one depth (0 to 1)")
        check(self)
        if self.counting != "set" and self.detector != "copy":
            raise ValueError(f"the detector {self.detector} counts no copies: leave the counting at set")

    def tasks(self) -> list[NeedleTask]:
        """The needle tasks in the order in which they run. ValueError if there are fewer needles than asked for."""
        needles = load_needles(Path(self.needles) if self.needles else None)
        if self.n_needles > len(needles):
            whose = self.needles or "the file that comes with the project"
            raise ValueError(f"{whose} holds {len(needles)} needles and {self.n_needles} were asked for: choose fewer")
        return needle_grid(needles[: self.n_needles], self.lengths, self.depths, self.whole_needle)

    @property
    def measure(self) -> str:
        """How scores are made, as in `DETECTORS`: the counting of copies, or the other detector."""
        return self.counting if self.detector == "copy" else self.detector

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("detect", self)


def _check(settings: DetectSettings, *_: Any) -> Start[DetectSettings]:
    check_there(settings.model, settings.adapter, settings.revision)
    _texts(settings)
    return Start(whole(settings))


def _texts(settings: DetectSettings) -> tuple[list[NeedleTask], Haystack]:
    return settings.tasks(), load_haystack(settings.haystack)


def _trials(work: Work[DetectSettings]) -> Iterator[Progress]:
    """Each batch of trials is in trials.jsonl before the next; scores.json follows once a trial found its needle."""
    run, settings = work.run, work.settings
    tasks, haystack = _texts(settings)
    from retmask.model.loading import load  # torch takes seconds to import, and only a worker needs it

    trials = read_trials(run.path)
    done = {trial.key for trial in trials}
    pin_measure(run, tasks, bool(trials))
    run.report(stage="loading", done=len(trials), total=len(tasks))
    model = load(settings.model, context_tokens=max(settings.lengths), **work.loading)
    chat = Chat.resumed(model.tokenizer, run.record)
    _describe(run, settings, model, haystack, tasks, chat)
    model.check_length(max(settings.lengths))  # before prompts are made, which takes long for long ones
    asked = different_prompts(chat, tasks, haystack)
    run.update(same_prompts=len(tasks) - len(asked))
    left = {task: prompt for task, prompt in asked.items() if task.key not in done}
    pace, ahead = Pace(), sum(task.context_tokens for task in left)
    for batch in run_trials(model, left, haystack, settings.counting, detector=settings.detector, chat=chat):
        for trial in batch:
            append_line(run.path / "trials.jsonl", trial.to_json(settings.keep_prompts))
        trials += batch
        tokens = sum(trial.context_tokens for trial in batch)
        ahead -= tokens
        _save_scores(run, trials, model.grid, settings)
        found = sum(trial.success for trial in trials)
        yield Progress(len(trials), len(asked), pace.left(tokens, ahead), {"found": found})
        if settings.until_stable and stable_for(trials, model.grid) >= STABLE_TRIALS:
            break
    _save_scores(run, trials, model.grid, settings)
    run.update(found=sum(trial.success for trial in trials), done=len(trials))
    if pace.each and settings.detector == "copy":  # others read a prompt twice or oftener
        run.update(pace=pace.each)


DETECT = Job("detect", DetectSettings, _check, _trials, "trials", lambda work: _texts(work.settings))


def _describe(
    run: Run, settings: DetectSettings, model: "LensModel", haystack: Haystack, tasks: list[NeedleTask], chat: Chat
) -> None:
    """Record what was measured with; refuse to go on with another model or other texts than the run began with."""
    from retmask.model.loading import facts

    run.pin(
        **facts(model, settings.adapter),
        needles_sha256=needles_sha256(dict.fromkeys(task.needle for task in tasks)),
        haystack=haystack.facts,
    )
    scored = {str(task.needle.scored_chars(task.whole_needle)[2]) for task in tasks}
    run.update(
        head_grid=model.grid._asdict(),
        grid={"needles": settings.n_needles, "lengths": list(settings.lengths), "depths": list(settings.depths)}
        | {"trials": len(tasks)},
        **chat.facts,
        counting=settings.measure,
        scored=scored.pop() if len(scored) == 1 else "mixed",
        device=str(model.device),
        attention=model.attention,
        parity=model.parity,
        seed=0,
    )


def _save_scores(run: Run, trials: list[Trial], grid: Grid, settings: DetectSettings) -> None:
    scores = collect_scores(trials, grid, settings.model, settings.measure)
    if scores is not None:
        scores.save(run.path / "scores.json")


def no_map_sentence(trials: list[Trial]) -> str:
    """What to say instead of a map when no trial found its needle."""
    return (
        f"None of {len(trials)} trials found its needle, so there are no retrieval scores: "
        "this model may need shorter contexts, a chat template, or other needles."
    )


def same_prompts_sentence(record: Mapping[str, Any]) -> str:
    """What to say of the trials that asked what another one asked, from the run's record; empty for none."""
    same = int(number(record.get("same_prompts")))
    if same < 1:
        return ""
    verb = "trial was" if same == 1 else "trials were"
    return (
        f"{same} {verb} left out that would have asked the same prompt as another: the haystack has no sentence end "
        "between their depths."
    )
