"""A person's review of the pairs of a run: kept, dropped and edited, and the set that comes of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from retmask.files import append_line, check_text, read_lines, sha256
from retmask.pairs.gate import RULES, empty, faults
from retmask.pairs.pair import FACTS, PAIRS, PreferencePair, read_items, write_items, write_pairs
from retmask.runs.record import now
from retmask.runs.run import Run

REVIEW = "review.jsonl"
Verdict = Literal["keep", "drop"]
_EVERYTHING = [name for name in RULES if name != "empty"]  # what a person has kept, no gate takes out again


@dataclass(frozen=True)
class Review:
    """A person's decisions on the pairs of a run: kept or dropped by id, and edited answers by id.

    What is not decided is kept as the gate says. Every decision is a line of review.jsonl, so that nothing is lost.
    """

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    edits: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def keeps(self, pair: PreferencePair, allowed: Iterable[str]) -> bool:
        """Whether a pair is in the set: by the person's word, else by the gate's."""
        verdict = self.verdicts.get(pair.id)
        return verdict == "keep" if verdict else not faults(pair, allowed)

    def edited(self, pair: PreferencePair) -> PreferencePair:
        """The pair with the person's texts in place of the models'."""
        texts = self.edits.get(pair.id)
        if texts is None:
            return pair
        chosen, rejected = (answer._replace(text=text) for answer, text in zip(pair.answers, texts, strict=True))
        return replace(pair, chosen=chosen, rejected=rejected)


def decide(folder: Path, pair_id: str, **decision: Any) -> None:
    """Write a decision down: `verdict` keep, drop or None (undecided), or `edit` (chosen, rejected) or None.

    ValueError for a text that no file can hold.
    """
    for text in decision.get("edit") or ():
        check_text(str(text), "the edited text")
    append_line(folder / REVIEW, {"id": pair_id, **decision})


def read_review(folder: Path) -> Review:
    """The decisions in a run's folder, the last word on each pair."""
    verdicts: dict[str, Verdict] = {}
    edits: dict[str, tuple[str, str]] = {}
    for line in read_lines(folder / REVIEW):
        name = str(line.get("id"))
        if "verdict" in line:
            verdicts.pop(name, None)
            if line["verdict"] in ("keep", "drop"):
                verdicts[name] = line["verdict"]
        if "edit" in line:
            edits.pop(name, None)
            if isinstance(line["edit"], list) and len(line["edit"]) == 2:
                edits[name] = (str(line["edit"][0]), str(line["edit"][1]))
    return Review(verdicts, edits)


def new_version(run: Run, allowed: Sequence[str]) -> Run:
    """The reviewed pairs of a run as a run of their own, with the first as its parent. ValueError if none is left."""
    record, items, review = run.record, read_items(run.path), read_review(run.path)
    kept = [review.edited(pair) for pair in items if review.keeps(pair, allowed)]
    kept = [pair for pair in kept if not empty(pair)]
    if not kept:
        raise ValueError("no pair is left: keep at least one")
    config = {**record.get("config", {}), "allow": _EVERYTHING}
    new = Run.create("pairs", config, name="reviewed", parents=[run.path])
    write_items(new.path, kept)
    write_pairs(new.path, kept, bool(record.get("chat")), str(record.get("model", "")))
    decided = {verdict: list(review.verdicts.values()).count(verdict) for verdict in ("keep", "drop")}
    new.update(
        **{name: record[name] for name in FACTS if name in record},
        status="success",
        ended=now(),
        done=len(items),
        kept=len(kept),
        pairs_sha256=sha256(new.path / PAIRS),
        review={"of": run.id, **decided, "edited": len(review.edits)},
    )
    return new


def collect(source: Run, pair: PreferencePair, chat: bool) -> Run:
    """Add a pair that a person has made of what `source` holds to the pairs collected from it; their run.

    The first pair makes the run, with `source` as its parent. A pair with the id of another takes its place; no rule of
    the gate takes out what a person has chosen. ValueError for a text that no file can hold, or answers that do not
    differ or are empty.
    """
    texts = [answer.text.strip() for answer in pair.answers]
    if not all(texts) or texts[0] == texts[1]:
        raise ValueError("chosen and rejected must be two different texts: choose another answer")
    check_text("".join(texts), "the pair")
    model = str(source.config.get("model", ""))
    config = {"model": model, "prompts": str(source.path), "allow": _EVERYTHING}
    made = next((run for run in source.children if run.record.get("collected_from") == source.reference), None)
    run = made or Run.create("pairs", config, name="collected", parents=[source.path])
    pairs = list(({old.id: old for old in read_items(run.path)} | {pair.id: pair}).values())
    write_items(run.path, pairs)
    write_pairs(run.path, pairs, chat, model)
    facts = {"model": model, "chat": chat, "collected_from": source.reference, "status": "success"}
    run.update(**facts, ended=now(), done=len(pairs), kept=len(pairs), pairs_sha256=sha256(run.path / PAIRS))
    return run
