"""Where things lie on disk, and how they are written so that nothing finished is ever lost."""

import codecs
import difflib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO, TypeGuard, overload

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MOST_NAME, _MOST_PATH = 255, 4096  # bytes: Linux has no longer ones, and `Path.exists` raises for them
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """The folder for converted models and runs: `RETMASK_HOME`, by default `~/.cache/retmask`."""
    return Path(os.environ.get("RETMASK_HOME") or Path.home() / ".cache" / "retmask").expanduser().resolve()


def expanded(path: str | Path) -> Path:
    """The path with `~` made the home folder. ValueError where nobody has that name, it is not UTF-8, or too long."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name {str(path)!a} is not in UTF-8: rename the file or folder") from None
    try:
        whole = Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"the folder of {str(path).split('/')[0]} is not known: write the whole path") from None
    if max(map(len, map(os.fsencode, whole.parts)), default=0) > _MOST_NAME or len(os.fsencode(whole)) >= _MOST_PATH:
        raise ValueError(f"{str(path)[:60]}... cannot be read: the name is too long for a file or folder")
    return whole


def settled(name: str, but: Collection[str] = (), only_path: bool = False) -> str:
    """The whole path where the name is a path to something that is there, else the name: what a run is to keep.

    Built-in models' names and those in `but` mean something else and stay. Another bare name (no slash, no ending) is
    taken for a folder, or with `only_path`, where nothing but a path can be meant, for whatever is there.
    """
    try:
        path = expanded(name)
        bare = "/" not in name and not path.suffix and not only_path
        if not name or name in but or (bare and shipped("maps", name).is_dir()):
            return name
        return str(path.resolve()) if (path.is_dir() if bare else path.exists()) else name
    except (ValueError, OSError):
        return name


def shipped(*parts: str) -> Path:
    """A file or folder that comes with the package, such as `shipped("needles.json")`."""
    return Path(str(resources.files("retmask"))) / "data" / Path(*parts)


def inside(root: Path, name: str, what: str = "name", ending: str = "") -> Path:
    """The path of that name in a folder. The one place where a name from a person becomes a path.

    ValueError for a name with a slash, `..`, a leading dot or more than 64 characters.
    """
    root = root.resolve()
    path = (root / (name + ending)).resolve() if _NAME.fullmatch(name) and ".." not in name else None
    if path is None or path.parent != root:
        shown = repr(name[:70]) if name else "an empty text"
        raise ValueError(f"{shown} is not a {what}: use letters, digits, '.', '_' and '-', 64 at most")
    return path


def stem(text: str, otherwise: str, most: int = 40) -> str:
    """A text made into a name that `inside` takes, of `most` characters; `otherwise` where nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", text).strip("-._")[:most] or otherwise


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """The hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_text(text: str, what: str) -> str:
    """The text. ValueError where it holds half of a surrogate pair, which no file in UTF-8 and no model can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds half a character ({text[error.start]!a}, character {error.start + 1}): write it anew"
        ) from None
    return text


def decode_text(content: bytes, name: str) -> str:
    """A person's text file as text, every line end as one \\n: by its byte order mark, else as UTF-8.

    ValueError, by name, for any other encoding, which would be read as other characters than the person sees.
    """
    coding = next((coding for mark, coding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(coding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # also of UTF-16 without a mark, which is UTF-8 with NULs
        raise ValueError(f"{name} is not a text in UTF-8, or in UTF-16 with a byte order mark: save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | Path) -> str:
    """A person's text file, as `decode_text` has it. ValueError, by name, where it cannot be read."""
    try:
        content = expanded(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    return decode_text(content, str(path))


def write_atomic(path: Path, text: str) -> None:
    """Put `text` at `path` so that a reader sees the old content or the new, never a half, whatever dies."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write bit by bit that is at `path` once all is written, as with `write_atomic`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:  # no mkstemp: that passes over the person's umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none that can be read."""
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


@overload
def number(value: object, default: float = 0.0) -> float: ...
@overload
def number(value: object, default: None) -> float | None: ...
def number(value: object, default: float | None = 0.0) -> float | None:
    """A number of a record, `default` where it is none: the file may be damaged, or come from anybody."""
    return float(value) if is_number(value) else default


def mapping(value: object) -> dict[str, Any]:
    """A part of a record that is to be an object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The objects in a part of a record that is to be a list of them."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and wait until it is on disk. A line that a crash cut short is ended first."""
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(value, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; none if there is no file. A line cut short by a crash is passed over."""
    yield from (value for _, value in placed_lines(path))


def placed_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, each with the byte at which its line begins, for `line_at`: all may be too much to hold."""
    if path.exists():
        with path.open("rb") as file:
            at = 0
            for line in file:
                yield from ((at, value) for value in _objects(line.decode("utf-8", errors="replace")))
                at += len(line)


def line_at(path: Path, place: int) -> dict[str, Any]:
    """The object of the line that begins at a byte; empty where there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(place)
        return next(_objects(file.readline().decode("utf-8", errors="replace")), {})
    return {}


def read_on(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file whose lines are whole, from a byte on; and the byte at which to read on."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(offset)
        whole = file.read().rpartition(b"\n")[0]
        return list(_objects(whole.decode("utf-8", errors="replace"))), offset + len(whole) + bool(whole)
    return [], offset


def read_tail(path: Path, most: int = 2**16) -> list[dict[str, Any]]:
    """The last objects of a JSON-lines file, those in its last `most` bytes; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return list(_objects(file.read().decode("utf-8", errors="replace")))
    except OSError:
        return []


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):  # splitlines() would cut at U+2028 too
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, a nest without end
            continue
        if isinstance(value, dict):
            yield value


HAYSTACKS = ("pydoc", "pydoc-end", "essays")  # known by name; any other is a folder


def meant(name: str, names: Iterable[str]) -> str:
    """ " (did you mean NAME?)" of the one of these that is nearest, or begins nearest; empty where none is near."""
    names = list(names)
    near = {known.casefold()[: len(name)]: known for known in names} | {known.casefold(): known for known in names}
    match = difflib.get_close_matches(name.casefold(), near if name else (), n=1, cutoff=0.7)
    return f" (did you mean {near[match[0]]}?)" if match else ""


def unknown(what: str, name: object, names: Collection[str]) -> ValueError:
    """The error of a name that is none of those: which there are, and which one may be meant."""
    choices = ", ".join(choice or "(empty)" for choice in names)
    return ValueError(f"{what} {name!r} is unknown: choose {choices}{meant(str(name), names)}")


def brief(error: BaseException, most: int = 200) -> str:
    """What an exception says, in one line."""
    return shorten(str(error), most, placeholder="...") or type(error).__name__
