"""What an evaluation says of each condition, in a sentence. No widget."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retmask.heads.intervals import span

NOT_SHOWN = "No gain is shown"


def base_of(results: Mapping[str, Any]) -> str:
    """The condition that others are compared with."""
    names = [row["condition"] for row in results["conditions"] if row["role"] == "base"]
    return str((names or [row["condition"] for row in results["conditions"]] or [""])[0])


def marks(results: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The differences that hold against the best control, "gain" or "loss", by condition and category (or overall)."""
    rows = (row for row in results["verdicts"] if row["says"] in ("gain", "loss"))
    return {(row["condition"], row["name"]): row["says"] for row in rows}


def sentences(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of every treatment its name, what is said of it overall (a verdict's `says`), and that as a sentence.

    Where nothing counts overall, as with the guard alone, it is of the categories.
    """
    overall = {row["condition"]: row for row in results["verdicts"] if row["level"] == "overall"}
    for condition in dict.fromkeys(row["condition"] for row in results["verdicts"]):
        differences = [row for row in results["differences"] if row["condition"] == condition]
        verdict, by_category = overall.get(condition), _categories(results, condition)
        whole = _overall(verdict, differences, base_of(results)) if verdict else ""
        text = " ".join(filter(None, [whole, by_category])) or f"{NOT_SHOWN} in any category."
        yield condition, verdict["says"] if verdict else "", text


def _overall(verdict: Mapping[str, Any], differences: Sequence[Mapping[str, Any]], base: str) -> str:
    rows = {row["against"]: row for row in differences if row["level"] == "overall"}
    if base not in rows:
        return f"{NOT_SHOWN}: it has answered nothing that {base} has."
    to_base, control = rows[base], rows.get(verdict["control"])
    over = f"overall {_signed(to_base)} against {base}"
    beside = f"{_signed(control)} against the best control, {verdict['control']}" if control else ""
    match verdict["says"]:
        case "gain" | "loss" as says:
            return f"A {says}: {over}, and {beside}."
        case "as the control":
            return f"{NOT_SHOWN}: {over}, but {beside}, which may be chance. {_smallest(control or to_base)}"
        case "no control":
            return f"{NOT_SHOWN}: {over}, but there is no control: add one, such as random=top:5%:seed0."
        case _:
            return f"{NOT_SHOWN}: {over}, which may be chance. {_smallest(to_base)}"


def _signed(row: Mapping[str, Any]) -> str:
    interval = "no interval" if row["low"] is None else f"95 % {span(row['low'], row['high'], '+.2f')}"
    return f"{row['mean']:+.2f} ({interval})"


def _smallest(row: Mapping[str, Any]) -> str:
    documents = f"{row['clusters']:,} document{'s' * (row['clusters'] != 1)}"
    items = f"{row['items']:,} item{'s' * (row['items'] != 1)} from {documents}"
    if row["low"] is None:
        return f"There are {items}: some task has too few for an interval, which takes 3."
    if row["smallest"] is None:
        return f"There are {items}, and all differ alike."
    return f"With {items}, a true difference of {row['smallest']:.2f} would have been shown in 80 of 100 evaluations."


def _categories(results: Mapping[str, Any], condition: str) -> str:
    """In which categories a difference holds against the best control."""
    says = {name: word for (of, name), word in marks(results).items() if of == condition and name != "overall"}
    parts = [f"{word} in {_listed([name for name in says if says[name] == word])}" for word in ("gain", "loss")]
    parts = [part for part, word in zip(parts, ("gain", "loss"), strict=True) if word in says.values()]
    return f"By category: {', '.join(parts)}." if parts else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
