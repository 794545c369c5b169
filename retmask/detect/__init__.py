"""Which heads copy: the score, the trials, the detectors and their job. For a script the room is a function too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retmask import callable_room

if TYPE_CHECKING:
    from retmask.detect.score import Counting
    from retmask.heads.detectors import DetectorName
    from retmask.heads.scores import HeadScores
    from retmask.model.lens import LensModel
    from retmask.text.needle import NeedleTask


def detect(
    model: "LensModel",
    preset: str = "laptop",
    *,
    tasks: "Sequence[NeedleTask]" = (),
    haystack: str = "pydoc",
    counting: "Counting" = "set",
    detector: "DetectorName" = "copy",
) -> "HeadScores":
    """The scores of all heads over the trials of a preset (quick, laptop or paper), or of `tasks` in its place.

    Nothing is written: `retmask detect` keeps its trials in a folder and can be continued. `haystack`, `counting` and
    `detector` are its options. ValueError where no trial found its needle, and where a task is too long for the model.
    """
    from retmask.detect.job import DetectSettings, no_map_sentence
    from retmask.detect.trials import run_trials
    from retmask.heads.trials import collect_scores
    from retmask.runs.settings import from_preset
    from retmask.text.haystack import load_haystack

    settings = from_preset(DetectSettings, preset, haystack=haystack, counting=counting, detector=detector)
    batches = run_trials(model, tasks or settings.tasks(), load_haystack(haystack), counting, detector=detector)
    trials = [trial for batch in batches for trial in batch]
    scores = collect_scores(trials, model.grid, model.name, settings.measure)
    if scores is None:
        raise ValueError(no_map_sentence(trials))
    return scores


callable_room(__name__, detect)
