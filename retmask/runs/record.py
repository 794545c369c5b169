"""What every record holds of the moment: the time, and the versions that a result depends on."""

import platform
from datetime import UTC, datetime
from importlib import metadata

_PACKAGES = "retmask torch transformers transformer-lens numpy trl peft accelerate datasets"


def versions() -> dict[str, str]:
    """The versions that a result depends on: Python, this package and the libraries under it."""
    out = {"python": platform.python_version()}
    for package in _PACKAGES.split():
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[package] = "unknown"
    return out


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
