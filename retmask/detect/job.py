"""Detection: which grid of needle trials, and the job that runs it. A run's folder in, results in that folder out."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from retmask.detect.score import Counting
from retmask.detect.trials import different_prompts, pin_measure, run_trials, stable_for
from retmask.files import HAYSTACKS, append_line, number, settled
from retmask.heads.detectors import DetectorName
from retmask.heads.grid import Grid
from retmask.heads.scores import HeadScores
from retmask.heads.trials import Trial, collect_scores, read_trials
from retmask.model.weights import check_there
from retmask.runs.run import Pace, Run
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack
from retmask.text.needle import NeedleTask, load_needles, needle_grid, needles_sha256

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

DEFAULT_MODEL = "smollm2-135m"
STABLE_TRIALS = 10  # --until-stable: the top 5 % unchanged over this many successful trials


class Preset(NamedTuple):
    """A detection's grid: how many needles, at which lengths (tokens), at which depths (0-1)."""

    needles: int
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    says: str


def _steps(n: int) -> tuple[float, ...]:
    return tuple(round(i / (n - 1), 4) for i in range(n))


PRESETS = {
    "quick": Preset(3, (384, 768), (0.0, 0.5, 1.0), "a first map: a minute or so on two idle CPU cores"),
    "laptop": Preset(3, (512, 1024, 2048), _steps(5), "a map to work with, some minutes on two CPU cores"),
    "paper": Preset(3, tuple(range(250, 5001, 250)), _steps(10), "the published grid of 600 trials, for a GPU"),
}


@dataclass(frozen=True)
class DetectConfig:
    """What a detection does. `needles` and `haystack` as `load_needles` and `load_haystack` take them.

    ValueError for a grid that is empty, not in order of sense, or not possible.
    """

    model: str = DEFAULT_MODEL
    lengths: tuple[int, ...] = PRESETS["laptop"].lengths
    depths: tuple[float, ...] = PRESETS["laptop"].depths
    n_needles: int = PRESETS["laptop"].needles
    needles: str = ""
    haystack: str = "pydoc"
    counting: Counting = "set"
    detector: DetectorName = "copy"
    whole_needle: bool = False
    keep_prompts: bool = False
    until_stable: bool = False
    revision: str = ""
    adapter: str = ""
    device: str = ""
    dtype: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(dict.fromkeys(int(length) for length in self.lengths)))
        object.__setattr__(self, "depths", tuple(dict.fromkeys(float(depth) for depth in self.depths)))
        if not self.lengths or not self.depths:
            raise ValueError("give at least one length (tokens) and one depth (0 to 1)")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ValueError(f"depth {depth} is outside 0 to 1: 0 is the beginning of the context, 1 its end")
        for length in self.lengths:
            if not 128 <= length <= 2**21:
                raise ValueError(f"a context of {length} tokens is not possible: choose 128 to 2,097,152")
        if self.n_needles < 1:
            raise ValueError(f"{self.n_needles} needles are too few: use at least 1")
        if self.counting not in ("set", "steps"):
            raise ValueError(f"counting {self.counting!r} is unknown: choose set or steps")
        if self.detector not in get_args(DetectorName):
            raise ValueError(f"detector {self.detector!r} is unknown: choose {', '.join(get_args(DetectorName))}")
        if self.counting != "set" and self.detector != "copy":
            raise ValueError(f"the detector {self.detector} counts no copies: leave the counting at set")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "DetectConfig":
        """The settings of a preset, with changes. ValueError for an unknown name."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown: choose {', '.join(PRESETS)}")
        chosen = PRESETS[name]
        base = {"n_needles": chosen.needles, "lengths": chosen.lengths, "depths": chosen.depths}
        return cls(**{**base, **changes})

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> "DetectConfig":
        """The settings in a run.json."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

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
        """The command line that does the same: only what differs from the preset or default it is nearest to."""
        default = DetectConfig()
        name = next((name for name, p in PRESETS.items() if p[:3] == (self.n_needles, self.lengths, self.depths)), "")
        out = ["retmask", "detect", self.model]
        if name and name != "laptop":
            out += ["--preset", name]
        if name and self.needles:  # else the command line takes all of the file
            out += ["--n-needles", str(self.n_needles)]
        if not name:
            out += [
                "--lengths",
                ",".join(map(str, self.lengths)),
                "--depths",
                ",".join(repr(d).removesuffix(".0") for d in self.depths),
            ]
            out += ["--n-needles", str(self.n_needles)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("model", "lengths", "depths", "n_needles") or value == getattr(default, field.name):
                continue
            flag = "--" + field.name.replace("_", "-")
            out += [flag] if value is True else [flag, str(value)]
        return out


class DetectProgress(NamedTuple):
    """How far a detection is: trials done of all, how many found the needle, seconds left (None: not known yet)."""

    done: int
    total: int
    found: int
    eta: float | None
    trials: list[Trial]
    grid: Grid


def new_detect(config: DetectConfig, out: Path | None = None) -> Run:
    """A run for this detection; in `out` an unfinished one with the same settings is taken up again.

    ValueError where `out` holds something else, or the settings name a model, needles or a haystack that are not there.
    """
    check_there(config.model)
    config.tasks()
    load_haystack(config.haystack)
    config = replace(
        config,
        model=settled(config.model),
        needles=settled(config.needles, only_path=True),
        haystack=settled(config.haystack, HAYSTACKS),
        adapter=settled(config.adapter),
    )
    record = {**asdict(config), "lengths": list(config.lengths), "depths": list(config.depths)}
    return Run.claim("detect", record, config.command, out, Path(config.model).name, before={"detector": "copy"})


def detect(run: Run, trust_remote_code: bool = False) -> Iterator[DetectProgress]:
    """Do what a detection's run says, or the rest of it; yields after every batch of trials.

    Each trial is in trials.jsonl before the next batch starts, and scores.json (present once a trial has found its
    needle) follows. A run whose model has changed since it began is refused with ValueError. Whether the model's own
    code may run is never read from the folder: that may come from anybody.
    """
    if run.status == "success":
        return
    config = DetectConfig.from_record(run.record["config"])
    tasks, haystack = config.tasks(), load_haystack(config.haystack)
    with run.working():
        trials = read_trials(run.path)
        done = {trial.key for trial in trials}
        pin_measure(run, tasks, bool(trials))
        run.report(stage="loading", done=len(trials), total=len(tasks))
        model = _load(config, trust_remote_code)
        chat = Chat.resumed(model.tokenizer, run.record)
        _describe(run, config, model, haystack, tasks, chat)
        model.check_length(max(config.lengths))  # before prompts are made, which takes long for long ones
        asked = different_prompts(chat, tasks, haystack)
        run.update(same_prompts=len(tasks) - len(asked))
        left, total = {task: prompt for task, prompt in asked.items() if task.key not in done}, len(asked)
        pace, ahead = Pace(), sum(task.context_tokens for task in left)
        for batch in run_trials(model, left, haystack, config.counting, detector=config.detector, chat=chat):
            for trial in batch:
                append_line(run.path / "trials.jsonl", trial.to_json(config.keep_prompts))
            trials += batch
            tokens = sum(trial.context_tokens for trial in batch)
            ahead -= tokens
            eta = pace.left(tokens, ahead)
            progress = DetectProgress(
                len(trials), total, sum(trial.success for trial in trials), eta, trials, model.grid
            )
            _save_scores(run, trials, model.grid, config)
            run.report(
                stage="trials", done=progress.done, total=progress.total, found=progress.found, eta=round(eta, 1)
            )
            yield progress
            if config.until_stable and stable_for(trials, model.grid) >= STABLE_TRIALS:
                break
        _save_scores(run, trials, model.grid, config)
        run.update(found=sum(trial.success for trial in trials), done=len(trials))
        if pace.each and config.detector == "copy":  # others read a prompt twice or oftener
            run.update(pace=pace.each)


def _load(config: DetectConfig, trust_remote_code: bool) -> "LensModel":
    from retmask.model.loading import load  # torch takes seconds to import, and only a worker needs it

    return load(
        config.model,
        revision=config.revision or None,
        adapter=config.adapter or None,
        device=config.device or None,
        dtype=config.dtype or None,
        context_tokens=max(config.lengths),
        trust_remote_code=trust_remote_code,
    )


def _describe(
    run: Run, config: DetectConfig, model: "LensModel", haystack: Haystack, tasks: list[NeedleTask], chat: Chat
) -> None:
    """Record what was measured with; refuse to go on with another model or other texts than the run began with."""
    from retmask.model.loading import facts

    run.pin(
        **facts(model, config.adapter),
        needles_sha256=needles_sha256(dict.fromkeys(task.needle for task in tasks)),
        haystack={"name": haystack.name, "sha256": haystack.sha256},
    )
    scored = {str(task.needle.scored_chars(task.whole_needle)[2]) for task in tasks}
    run.update(
        head_grid=model.grid._asdict(),
        grid={
            "needles": config.n_needles,
            "lengths": list(config.lengths),
            "depths": list(config.depths),
            "trials": len(tasks),
        },
        **chat.facts,
        counting=config.measure,
        scored=scored.pop() if len(scored) == 1 else "mixed",
        device=str(model.device),
        attention=model.attention,
        parity=model.parity,
        seed=0,
    )


def _save_scores(run: Run, trials: list[Trial], grid: Grid, config: DetectConfig) -> None:
    scores = collect_scores(trials, grid, config.model, config.measure)
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


def read_scores(folder: Path) -> HeadScores | None:
    """The scores of a run's folder so far, None while no trial has found its needle."""
    return HeadScores.load(folder) if (folder / "scores.json").is_file() else None
