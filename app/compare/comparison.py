"""A comparison on its way: what the session holds of it between two drawings of the page."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, cast

from app.compare.setup import Setup
from app.shared import session
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.compare.comparison import Comparison
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores


@dataclass(eq=False)
class LiveComparison:
    """An iterator of snapshots with the latest of them, what was asked, and the map that was looked at.

    `left_out` says why the tuned model does not answer, where it was to.

    A drawing that a click has replaced may still be within a step while the next one wants to go on: they take turns.
    """

    steps: Iterator[Comparison]
    model: ModelRef
    setup: Setup
    mask: HeadMask
    scores: HeadScores
    tokenizer: Any
    left_out: str = ""
    latest: Comparison | None = None
    stopped: bool = False
    _turn: Lock = field(default_factory=Lock, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.stopped or self.done is not None

    @property
    def done(self) -> Comparison | None:
        """The finished comparison."""
        return self.latest if self.latest and self.latest.stage == "done" else None

    def advance(self) -> None:
        """Go one step on. RuntimeError or MemoryError, with an end to it, where the machine cannot."""
        with self._turn:
            if self.over:
                return
            try:
                self.latest = next(self.steps, self.latest)  # nothing more where it was stopped just now
            except (RuntimeError, MemoryError):
                self.stop()
                raise
            if self.over:
                self.steps = iter(())  # lets go of the caches

    def stop(self) -> None:
        """Leave it where it is. Never waits: the step that is being computed ends by itself."""
        self.stopped, self.steps = True, iter(())


def live() -> LiveComparison | None:
    """The comparison that is on its way or was made last."""
    return cast(LiveComparison | None, session.LIVE.get())


def begin(comparison: LiveComparison) -> None:
    """Put a comparison in the place of the last."""
    last = live()
    if last:
        last.stop()
    session.LIVE.put(comparison)
    session.WANTED.put(False)


def want() -> None:
    """Ask for a new comparison, made by the next drawing of the Compare page."""
    session.WANTED.put(True)
    session.FAILED.put("")


def fail(error: Exception | str) -> None:
    """Give up the comparison that was asked for; `session.FAILED` says why until the next is asked for."""
    session.WANTED.put(False)
    session.FAILED.put(sentence(error))
