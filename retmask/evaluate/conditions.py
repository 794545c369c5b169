"""What is measured: a model with something done to it, and how it is called."""

from typing import NamedTuple

from retmask.heads.rules import MaskRule


class Condition(NamedTuple):
    """What answers: the model in a folder (empty: the model as it is), with the heads of a rule masked."""

    folder: str = ""
    rule: MaskRule = MaskRule()
