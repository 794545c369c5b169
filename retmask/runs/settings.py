"""Settings of a job: from the fields of one frozen dataclass come its flags, its form, its record, its command line.

A field is made by `setting`, which says of it what all of these need. A field may itself hold settings, such as the
rule of a mask: its flags stand beside the others, its record in the record.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, get_args, get_origin

from retmask import files

REQUIRED: Any = MISSING  # the default of a setting that has none
USUAL = "laptop"  # the preset that holds where none is named, of settings that have presets
S = TypeVar("S")


class Marks(TypedDict, total=False):
    """What a setting may say of itself beside its default and its help."""

    label: str  # what people call it, where that is not its name
    min: float  # the least value, of a list the least of each
    max: float  # and the most; none without a least
    choices: Collection[str]  # the only values; a mapping says what each means
    expert: bool  # on the page it is folded away
    argument: bool  # on the command line it stands without a flag
    flag: str  # its flag, where that is not its name
    flags: Mapping[str, str]  # of settings inside: their flags, where those are not their names
    repeated: bool  # a flag for each of its values, not one with commas
    example: str  # a text or a list as it is to be written
    names: Literal["folder", "path", "file"]  # what it may name: see `whole`
    but: tuple[str, ...]  # names that mean something else than what lies here
    beside: tuple[str, Any]  # where that setting is given, no preset holds for this one, but that value
    before: Any  # what records mean that do not have it yet, where that is not its default
    matched: bool  # False: a run goes on also where it is another now


def setting(default: Any, help: str, **marks: Unpack[Marks]) -> Any:
    """A field of a settings dataclass."""
    return field(default=default, metadata={"help": help, **marks})


_SHARED: dict[str, tuple[str, Marks]] = {  # what several jobs are told alike
    "model": ("built-in name, Hub id, folder with safetensors, or .gguf file", {"argument": True, "names": "folder"}),
    "needles": (
        "a file of your own, JSON or JSON lines: needle, question, answer (or real_needle)",
        {"label": "file of needles", "names": "path", "expert": True},
    ),
    "haystack": (
        "what needles lie in: pydoc, pydoc-end (its second half), essays, or a folder with .txt files",
        {"names": "folder", "but": files.HAYSTACKS, "expert": True},
    ),
    "context_tokens": ("of a prompt with its answer", {"min": 128, "max": 2**21}),
    "revision": ("branch, tag or commit of a Hub model", {"expert": True}),
    "adapter": ("a PEFT adapter folder, merged into the model", {"names": "folder", "expert": True}),
    "device": ("cpu, cuda, cuda:1; by default cuda where there is one", {"expert": True}),
    "dtype": (
        "by default bfloat16 on cuda, else float32",
        {"choices": ("", "float32", "bfloat16", "float16"), "expert": True},
    ),
}


def shared(name: str, default: Any = "") -> Any:
    """The field of a setting that several jobs have, by its name in `_SHARED`."""
    help, marks = _SHARED[name]
    return setting(default, help, **marks)


@dataclass(frozen=True)
class Preset:
    """Settings that belong together, and what they are for.

    One that is a `grid` is told as a whole: a run with other depths is not that preset with a change.
    """

    says: str
    values: Mapping[str, Any]
    grid: bool = False


def from_preset(cls: type[S], name: str, **changes: Any) -> S:
    """The settings of a preset, with changes. ValueError for an unknown name."""
    presets: Mapping[str, Preset] = getattr(cls, "presets", {})
    if name not in presets:
        raise files.unknown("preset", name, presets)
    values = dict(presets[name].values)
    for each in fields(cls):  # type: ignore[arg-type]
        where, value = each.metadata.get("beside", ("", None))
        values |= {each.name: value} if changes.get(where) else {}
    return cls(**{**values, **changes})


def check(settings: Any) -> None:
    """ValueError where a setting is not among its choices or outside its range."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        for part in value if isinstance(value, tuple) else (value,):
            _check(each, part, isinstance(value, tuple))


def _check(each: "Field[Any]", value: Any, is_part: bool) -> None:
    marks, name = each.metadata, label(each)
    if "choices" in marks and value not in marks["choices"]:
        raise files.unknown(name, value, marks["choices"])
    if "min" in marks and not marks["min"] <= value <= marks.get("max", value):  # not for NaN either
        shown = str(value)[:20] if isinstance(value, int) else f"{value:g}"  # an integer may be too long for :g
        beyond = f"outside {limits(marks)}" if "max" in marks else f"below {_bound(marks['min'])}"
        raise ValueError(f"{f'{shown} in {name}' if is_part else f'{name} {shown}'} is {beyond}: change it")


def label(each: "Field[Any]") -> str:
    """What people call a setting."""
    return str(each.metadata.get("label", each.name.replace("_", " ")))


def limits(marks: Mapping[str, Any]) -> str:
    """The range of a number for people, such as 1 to 1,024; empty where it has none."""
    if "min" not in marks:
        return ""
    return f"{_bound(marks['min'])} " + (f"to {_bound(marks['max'])}" if "max" in marks else "or more")


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def typed(each: "Field[Any]", value: Any, name: str) -> Any:
    """The value of a setting as it was typed: a list is a text with commas, semicolons or blanks.

    ValueError, which calls it `name` and gives an example, for a text that is no list of numbers where one is due.
    """
    if get_origin(each.type) is not tuple or not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    if not value.strip(",; \n") and each.default == ():
        return ()
    kind, parts = get_args(each.type)[0], re.split(r"[,;\s]+", value.strip(",; \n"))
    try:
        return tuple(kind(part) for part in parts if part or kind is not str)
    except ValueError:
        example = each.metadata.get("example", "1,2")
        shown = f"{name} {value[:60]!r}"
        raise ValueError(f"{shown} is not a list of numbers: write them with commas, such as {example}") from None


def inner(each: "Field[Any]") -> Any:
    """The class of the settings that a field holds; None for a field that holds a value."""
    return each.type if is_dataclass(each.type) else None


def record(settings: Any) -> dict[str, Any]:
    """The settings as plain JSON values, as run.json keeps them."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain


def from_record(cls: type[S], config: Mapping[str, Any]) -> S:
    """The settings in a record; what it does not have yet is as by default, what is not known any more is left out.

    ValueError for what cannot be, or where a setting without a default is missing.
    """
    values: dict[str, Any] = {}
    config = _nested(cls, config)
    for each in fields(cls):  # type: ignore[arg-type]
        if inside := inner(each):
            values[each.name] = from_record(inside, config[each.name])
        elif each.name in config:
            values[each.name] = _recorded(each, config[each.name])
        elif "before" in each.metadata:
            values[each.name] = each.metadata["before"]
        elif each.default is MISSING:
            raise ValueError(f"the settings do not say the {each.name.replace('_', ' ')}: start a new run")
    return cls(**values)


def _recorded(each: "Field[Any]", value: Any) -> Any:
    """The value of a setting that a record has. ValueError for what is no list where one is due."""
    if get_origin(each.type) is not tuple:
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"the settings have no list under {each.name.replace('_', ' ')}: start a new run")
    return tuple(value)


def _nested(cls: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the settings inside a field in a part of their own: they may stand flat, as they once did."""
    nested, own = dict(config), {each.name for each in fields(cls)}
    for each in fields(cls):
        if (inside := inner(each)) and not isinstance(config.get(each.name), Mapping):
            flat = {part.name for part in fields(inside)} - own
            nested[each.name] = {name: nested.pop(name) for name in flat & set(nested)}
    return nested


def whole(settings: S) -> S:
    """The settings with names of what lies on this machine as whole paths: what a run is to keep.

    A `folder` is meant by a bare name only where there is one of that name, a `path` by whatever is there (see
    `files.settled`), a `file` only by a file.
    """
    changes = {each.name: _whole(each, getattr(settings, each.name)) for each in fields(settings)}  # type: ignore[arg-type]
    return replace(settings, **changes)  # type: ignore[type-var]


def _whole(each: "Field[Any]", value: Any) -> Any:
    names = each.metadata.get("names")
    if inner(each):
        return whole(value)
    if not names or not isinstance(value, str) or (names == "file" and not files.expanded(value).is_file()):
        return value
    return files.settled(value, each.metadata.get("but", ()), only_path=names != "folder")


def same(settings: Any, config: Mapping[str, Any]) -> bool:
    """Whether a record says the same settings, whichever way it names a path, and as far as it goes back.

    One with a setting that is not known, such as a newer version's, does not.
    """
    return _matched(type(settings), config) == _matched(type(settings), record(settings))


def _matched(cls: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What resuming must match: all that a record says, and a setting's default where the record is older."""
    values = _nested(cls, config)
    for each in fields(cls):
        if inside := inner(each):
            values[each.name] = _matched(inside, values[each.name])
        elif each.metadata.get("matched", True):
            usual = each.metadata.get("before", None if each.default is MISSING else each.default)
            value = config.get(each.name, usual)
            values[each.name] = _whole(each, list(value) if isinstance(value, tuple) else value)
        else:
            values.pop(each.name, None)
    return values


class Flag(NamedTuple):
    """A field as the command line has it: where it stands (`rule.seed`), its flag without dashes, itself."""

    path: tuple[str, ...]
    name: str
    field: "Field[Any]"


def flags(cls: Any) -> Iterator[Flag]:
    """The flags of settings and of those inside them, in order."""
    for each in fields(cls):
        if inside := inner(each):
            names = each.metadata.get("flags", {})
            for path, name, part in flags(inside):
                yield Flag((each.name, *path), names.get(path[-1], name), part)
        else:
            yield Flag((each.name,), each.metadata.get("flag", each.name.replace("_", "-")), each)


def command_line(word: str, settings: Any) -> list[str]:
    """The command that does the same: only what differs from the preset it is nearest to, or from the defaults."""
    presets: Mapping[str, Preset] = getattr(settings, "presets", {USUAL: Preset("", {})})
    names = [USUAL] + [name for name in presets if name != USUAL and _fits(presets[name], settings)]
    ways = {name: list(_differing(settings, presets[name].values)) for name in names}
    name = min(ways, key=lambda name: len(ways[name]) + (name != USUAL))  # of equal ones the usual
    out = ["retmask", word]
    out += [str(getattr(settings, each.name)) for each in fields(settings) if each.metadata.get("argument")]
    required = [flag for flag in ways[name] if flag.field.default is MISSING]
    out += [word for flag in required for word in _words(settings, flag)]
    out += [] if name == USUAL else ["--preset", name]
    return out + [word for flag in ways[name] if flag not in required for word in _words(settings, flag)]


def _fits(preset: Preset, settings: Any) -> bool:
    return not preset.grid or all(getattr(settings, name) == value for name, value in preset.values.items())


def _differing(settings: Any, values: Mapping[str, Any]) -> Iterator[Flag]:
    """The flags whose values are not those, nor the defaults where these have none."""
    shown = set()
    for flag in sorted(flags(type(settings)), key=lambda flag: "beside" in flag.field.metadata):
        each = flag.field
        usual = values.get(each.name, each.default) if len(flag.path) == 1 else each.default
        where = each.metadata.get("beside", ("",))[0]
        if not each.metadata.get("argument") and (_value(settings, flag.path) != usual or where in shown):
            shown.add(each.name)
            yield flag


def _value(settings: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        settings = getattr(settings, name)
    return settings


def _words(settings: Any, flag: Flag) -> list[str]:
    value, dashed = _value(settings, flag.path), f"--{flag.name}"
    if isinstance(value, bool):
        return [dashed if value else f"--no-{flag.name}"]
    if flag.field.metadata.get("repeated"):
        return [part for each in value for part in (dashed, each)]
    return [dashed, text(value)]


def text(value: Any) -> str:
    """A value as one types it: a list with commas."""
    if isinstance(value, tuple):
        return ",".join(map(text, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
