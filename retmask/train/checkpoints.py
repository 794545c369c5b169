"""What a training leaves in its run's folder: checkpoints, of which only whole ones count, and its result."""

from pathlib import Path

from retmask.files import read_object, write_json

CHECKPOINTS, ADAPTER, FULL, WHOLE = "checkpoints", "adapter", "model", "complete.json"


def newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written whole: its marker names every file and its size."""
    return max(filter(_is_whole, checkpoints.glob("checkpoint-*")), key=step_of, default=None)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written; -1 for a name that says none."""
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdecimal() else -1


def _is_whole(path: Path) -> bool:
    sizes = read_object(path / WHOLE).get("sizes")
    try:
        return isinstance(sizes, dict) and all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):  # a file is missing, or a name can be none
        return False


def mark_whole(path: Path) -> None:
    """Write down that a checkpoint is complete, with the size of each of its files."""
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    sizes.pop(WHOLE, None)
    write_json(path / WHOLE, {"step": step_of(path), "sizes": sizes})
