"""Files that are dropped on a page: a copy that lasts is kept where runs can find it, if it is what it should be."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retmask.files import decode_text, home, inside, stem, write_atomic

MOST_UPLOAD = 64  # megabytes


def keep(name: str, content: bytes, kind: str, check: Callable[[Path], Any]) -> Path:
    """The path of a lasting copy, in the folder of that kind. ValueError, as `check` has it, and no copy if it is none.

    The copy is in UTF-8 whatever the file was in; its name ends in the hash of the content.
    """
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = inside(home() / kind, f"{stem(Path(name).stem, kind)}-{digest}", "file name", Path(name).suffix.lower())
    if path.is_file():
        return path
    write_atomic(path, decode_text(content, name))
    try:
        check(path)
    except ValueError:
        path.unlink()
        raise
    return path
