"""What an evaluation says: verdicts, tables, a grid of lengths and depths, differences as a forest plot."""

from retmask.runs.run import Run


def show(run: Run) -> None:
    """Draw the result of an evaluation, or as much of it as there is."""
