"""How long needle prompts will take here, by what they took last: for an estimate before a run begins."""

from retmask.files import number
from retmask.runs.run import Run


def seconds_for(tokens: int, model: str, device: str = "") -> float | None:
    """Seconds that prompts of so many context tokens in all may take, their answers included and loading not.

    At the pace of the newest run of the model on that device which has recorded one, None where none has.
    """
    for run in Run.all():
        pace = number(run.record.get("pace"))
        if pace > 0 and (run.config.get("model"), run.config.get("device", "")) == (model, device):
            return pace * tokens
    return None
