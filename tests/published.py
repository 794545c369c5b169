"""The published score files of RetMask: they are not part of the project, and lie beside its folder where they are."""

from pathlib import Path

import pytest

_PLACES = (folder / "shared" / "reference" / "head_scores" for folder in Path(__file__).parents)
PUBLISHED = next(filter(Path.is_dir, _PLACES), Path("nowhere"))
with_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published score files are not here")
