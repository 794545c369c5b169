"""The formats of head scores, ours and others', told by what a file holds and never by its name. No model.

- JSON, `{"layer-head": [scores]}`: our own and the published score files;
- YAML with `attn_head_set: "13-18,13-21,..."`: QRHead's lists (arXiv 2506.09944), heads in order without scores;
- a table of tabs, a row a layer and a column a key/value head: DuoAttention's gates (arXiv 2410.10819), 0 to 1.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from retmask.heads.grid import Grid, HeadId, known_grid
from retmask.heads.scores import MAX_FILE_BYTES, HeadScores, printable

Level = Literal["query", "kv"]
Kind = Literal["scores", "list", "gates"]

MAX_TEXT_BYTES = 2**18  # of a list or a table; of lists, YAML reads no more than 100 KB a second
FAMILIES = {  # by name, the first that fits: a "DeepSeek-R1-Distill-Qwen" is a Qwen
    "SmolLM": r"smollm",
    "Llama": r"llama|vicuna",
    "Qwen": r"qwen|(?<![a-z])qwq",
    "Gemma": r"gemma",
    "Mistral": r"mistral|mixtral|ministral",
    "OLMo": r"olmo",
    "Phi": r"(?<![a-z])phi(?![a-z])",
    "GPT-2": r"(?<![a-z])gpt-?2(?!\d)",
    "GPT-OSS": r"gpt-?oss",
    "GPT-Neo": r"gpt-?neo|(?<![a-z])gpt-?j(?![a-z])",
    "Pythia": r"pythia",
    "DeepSeek": r"deepseek",
    "GLM": r"glm(?![a-z])",
    "Yi": r"(?<![a-z])yi(?![a-z])",
    "Falcon": r"falcon",
    "Granite": r"granite",
    "InternLM": r"internlm",
    "StableLM": r"stablelm",
    "OPT": r"(?<![a-z])opt(?![a-z])",
    "BLOOM": r"bloom",
}
_MOST = 1000  # layers, and heads of a layer, of a list or a table
_HEAD = re.compile(r"(\d{1,4})[-_](\d{1,4})", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_DEEPEST = 20  # levels of a YAML file
_SLACK = 0.01  # by which a trained gate may lie outside 0 to 1
_SUFFIXES = (".json", ".yaml", ".yml", ".tsv", ".txt", ".csv")
_REVISION = {"resolve", "raw", "blob"}  # in an address; what follows is a branch, a tag or a commit
_NO_MODEL = _REVISION | {"refs", "heads", "main", "master"}
_WANTED = "a score set is a JSON score file, a YAML list of heads or a table of gates"


class Content(NamedTuple):
    """What a file holds: scores of query heads, or of the key/value heads that groups of them share.

    Where `grid_known` is not so, the grid of its scores is only the smallest that holds them, and is to be shown to
    nobody. `kin` is the model's family, empty where no name tells it; `notes` are sentences about what was done to the
    content.
    """

    scores: HeadScores
    level: Level = "query"
    kin: str = ""
    grid_known: bool = True
    notes: tuple[str, ...] = ()


def read_content(content: bytes, name: str) -> Content:
    """The scores in a file; `name`, its name or path, stands for the model where nothing else does.

    ValueError, one sentence, for what is no set of scores.
    """
    shown = repr(PurePosixPath(name).name[:60])[1:-1] or "the file"
    match kind(content, shown):
        case "scores":
            # of a detector that a file alone does not name, and whose scores may be below 0
            scores = HeadScores.from_json(content.decode("utf-8-sig"), model_of(name), signed=True)
            return Content(scores, kin=family(scores.model))
        case "list":
            return _from_list(content.decode("utf-8-sig"), name, shown)
        case "gates":
            return _from_table(content.decode("utf-8-sig"), name, shown)


def family(model: str) -> str:
    """The family that a model's name tells, such as "Llama" or "Qwen"; empty for none. SmolLM counts as its own."""
    name = short(model).lower()
    return next((kin for kin, pattern in FAMILIES.items() if re.search(pattern, name)), "")


def short(model: str) -> str:
    """The last part of a model's name or path, with "�" for what does not print."""
    return printable(PurePosixPath(model.rstrip("/")).name or model)


def model_of(name: str) -> str:
    """The model that a file's path tells: its name, or that of a folder above where all such files have one name.

    DuoAttention's folder `Model/lr=0.02-.../` names the training below the model, and `resolve/main/` in an address the
    revision. "unnamed" where nothing tells it.
    """
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    if stem not in ("scores", "full_attention_heads"):
        return printable(stem) or "unnamed"
    above = path.parts[:-1]
    names = (
        part
        for i, part in reversed(list(enumerate(above)))
        if "=" not in part
        and part.strip("/.")
        and part not in _NO_MODEL
        and not _REVISION & {*above[max(0, i - 1) : i]}
    )
    return printable(next(names, "unnamed"))


def kind(content: bytes, shown: str) -> Kind:
    """Which of the three formats it is. ValueError, one sentence, for none."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{shown} is larger than 64 MiB: that is no set of scores")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{shown} is not text: {_WANTED}")
    first = re.search(r"\S+", text)
    if first is None:
        raise ValueError(f"{shown} is empty: {_WANTED}")
    if first[0][0] in "{[":
        return "scores"
    if first[0][0] == "<":
        raise ValueError(f"{shown} is a web page: give the address of the file itself")
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"{shown} is larger than 256 KiB: that is no list and no table of heads")
    if re.search(r"^[\"']?[A-Za-z_]\w*[\"']?[ \t]*:", text, re.MULTILINE):
        return "list"
    if first[0][0] == "#" or _NUMBER.fullmatch(first[0]) or "\t" in text:
        return "gates"
    raise ValueError(f"{shown} is none that can be read: {_WANTED}")


def _from_list(text: str, name: str, shown: str) -> Content:
    """A QRHead list."""
    fields = _yaml_texts(text, shown)
    listed = fields.get("attn_head_set", "").strip()
    if not listed:
        raise ValueError(f'{shown} has no attn_head_set: a list of heads is such as attn_head_set: "13-18,13-21"')
    if listed == "full_heads":
        raise ValueError(f"{shown} names all heads (full_heads): there is no ranking in it")
    heads: dict[HeadId, int] = {}
    for part in listed.split(","):
        match = _HEAD.fullmatch(part.strip())
        if match is None or max(int(match[1]), int(match[2])) >= _MOST:
            raise ValueError(f"{shown}: {part.strip()[:40]!r} is not a head: write layer-head, such as 13-18")
        head = HeadId(int(match[1]), int(match[2]))
        if head in heads:
            raise ValueError(f"{shown} lists {head} twice: each head may stand once")
        heads[head] = len(heads)
    model = short(fields.get("model_name_or_path", "").strip()) or model_of(name)
    kin = family(model) or family(fields.get("model_base_class", ""))
    grid = known_grid(model)
    beyond = next((head for head in heads if grid and not grid.has(head)), None)
    notes = (f"it names {beyond}, and {model[:60]} has {grid} heads: it may be of another model",) if beyond else ()
    smallest = Grid(max(head.layer for head in heads) + 1, max(head.head for head in heads) + 1)
    fits = grid is not None and beyond is None
    scores = _ranked(list(heads), grid if grid and fits else smallest, model)
    return Content(scores, kin=kin, grid_known=fits, notes=notes)


def _ranked(heads: Sequence[HeadId], grid: Grid, model: str) -> HeadScores:
    """Heads in order as scores that mean this order alone."""
    values = np.zeros((1, grid.n_layers, grid.n_heads))
    for place, head in enumerate(heads):
        values[0, *head] = (len(heads) - place) / len(heads)
    return HeadScores(model, values, "ranking", grid.n_kv_heads)


def _yaml_texts(text: str, shown: str) -> dict[str, str]:
    """The texts at the top of a YAML mapping, by key. Nothing is built but these, so no alias can blow up."""
    import yaml  # type: ignore[import-untyped]

    texts: dict[str, str] = {}
    depth, key = 0, None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{shown} has YAML aliases: write its list out")
            if isinstance(event, yaml.CollectionStartEvent):
                if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                    break
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _DEEPEST:
                raise ValueError(f"{shown} is nested too deeply to be a list of heads")
            if isinstance(event, yaml.DocumentEndEvent):
                break
            if depth == 1 and isinstance(event, yaml.ScalarEvent):
                if key is None:
                    key = event.value
                    if key in texts:
                        raise ValueError(f"{shown}: key {key[:40]!r} stands twice: each may stand once")
                else:
                    texts[key], key = event.value, None
            elif depth == 1 and isinstance(event, yaml.CollectionEndEvent):
                key = None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise ValueError(f"{shown} is not YAML ({problem}): {_WANTED}") from None
    except OverflowError:  # a character's number in an escape
        raise ValueError(f"{shown} is not YAML (a character that there is not): {_WANTED}") from None
    return texts


def _from_table(text: str, name: str, shown: str) -> Content:
    """DuoAttention's gates; what bfloat16 leaves a hair outside of 0 to 1 is clipped, and said."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{shown} is empty: {_WANTED}")
    first = lines[0].count("\t") + 1
    if len(lines) > _MOST or first > _MOST:
        raise ValueError(
            f"{shown} has {len(lines)} rows of {first} columns: a row is a layer, a column a key/value head"
        )
    rows = [[_gate(cell, f"{shown}, row {n}") for cell in line.split("\t")] for n, line in enumerate(lines, start=1)]
    short = next((n for n, row in enumerate(rows, start=1) if len(row) != first), None)
    if short:
        raise ValueError(f"{shown} is ragged: row {short} has {len(rows[short - 1])} columns and row 1 has {first}")
    read = np.array([rows])
    values = np.clip(read, 0, 1)
    model = model_of(name)
    scores = HeadScores(model, values, "gates")
    return Content(scores, level="kv", kin=family(model), notes=_clipped(np.abs(read - values)))


def _clipped(by: Float[np.ndarray, "trial layer head"]) -> tuple[str, ...]:
    """What to say of gates that lay outside of 0 to 1, by so much each."""
    n = int((by > 0).sum())
    if not n:
        return ()
    gates = f"{n} gate{'s' * (n > 1)} lay outside 0 to 1 by up to {by.max():.1g}"
    return (f"{gates}, as rounding in bfloat16 leaves them, and {'count' if n > 1 else 'counts'} as 0 or 1",)


def _gate(cell: str, where: str) -> float:
    cell = cell.strip()
    value = float(cell) if _NUMBER.fullmatch(cell) else None
    if value is None or not -_SLACK <= value <= 1 + _SLACK:
        raise ValueError(f"{where} holds {cell[:20]!r}, which is no gate: gates are numbers from 0 to 1")
    return value
