"""How a training ends: what asks a trainer to stop, and what it writes down of its end.

The trainer writes RUN/outcome.json at every end of its own. Its exit code counts only where it died without one.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from retmask.files import number, read_object, write_json

STOP = "stop"  # the file that asks a trainer to stop after its present step and to save its result
OUTCOME = "outcome.json"
How = Literal["finished", "stopped", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a trainer ended, after which step, why, and whether it saved the adapter or model.

    `refused`: `reason` says what to change. `failed`: a fault of ours or of a library, which `reason` names.
    """

    how: How
    step: int
    reason: str = ""
    saved: bool = False

    def write(self, folder: Path) -> None:
        """Put it into the run's folder; of several processes the first one's word counts."""
        if not (folder / OUTCOME).exists():
            write_json(folder / OUTCOME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Outcome | None":
        """What the trainer wrote into the run's folder; None where it died before it could."""
        record: dict[str, Any] = read_object(folder / OUTCOME)
        if record.get("how") not in get_args(How):
            return None
        how, step = cast(How, record["how"]), int(number(record.get("step")))
        return cls(how, step, str(record.get("reason") or ""), record.get("saved") is True)
