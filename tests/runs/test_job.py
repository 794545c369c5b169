"""The one mechanism of a job: what the fields of its settings make, and how its run begins, goes on and ends."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from retmask.cli.main import app
from retmask.cli.options import made, takes
from retmask.cli.runs import JOBS
from retmask.compare.ablate import AblateSettings
from retmask.compare.dose import DoseSettings
from retmask.detect.job import DetectSettings
from retmask.evaluate.job import EvaluateSettings
from retmask.heads.rules import MaskRule
from retmask.pairs.job import PairsSettings
from retmask.runs.job import Job, Progress, Start, Work
from retmask.runs.processes import LOCK
from retmask.runs.run import Run
from retmask.runs.settings import (
    command_line,
    from_preset,
    from_record,
    record,
    same,
    setting,
    shared,
    whole,
)
from retmask.runs.turns import turn
from retmask.train.settings import PRESETS, TrainSettings

SMOL = "smollm2-135m"
HELD_OUT = str(Path(__file__).parents[2] / "retmask" / "data" / "needles_held_out.json")
DRAWN = MaskRule(random=3, seed=7, scale=0.25)
CASES: list[tuple[str, Any]] = [
    ("detect", DetectSettings()),
    ("detect", from_preset(DetectSettings, "paper", model="m", counting="steps", keep_prompts=True)),
    ("detect", DetectSettings(lengths=(300, 400), depths=(0.5, 1), device="cuda:1", detector="copy")),
    ("detect", from_preset(DetectSettings, "quick", needles=HELD_OUT)),
    ("detect", from_preset(DetectSettings, "quick", needles=HELD_OUT, n_needles=3)),
    ("dose", DoseSettings(model="m", scores=SMOL, ks=(4, 2), layer_matched=True, exclude="5%", prose="p.txt")),
    ("ablate", AblateSettings(model="m", out="o", rule=MaskRule(heads="L0H1:0.5"), adapter="a")),
    ("ablate", AblateSettings(model="m", out="o", rule=DRAWN)),
    ("pairs", PairsSettings(model="m", rule=DRAWN, prompts="p.txt", seed=2, allow=("cut", "ratio"))),
    ("pairs", PairsSettings(model="m", generate="chat", count=9, server="http://a", masked_server="http://b")),
    ("train", TrainSettings(model="m", pairs="p")),
    ("train", TrainSettings(model="m", pairs="p", max_steps=16, epochs=2.0, any_pairs=True)),
    ("train", from_preset(TrainSettings, "gpu", model="m", pairs="p", gradient_checkpointing=False, epochs=0.5)),
    ("evaluate", EvaluateSettings(model="m", tuned=("a", "b=/c"), also=("x=L0H1,L1H0",), rule=DRAWN)),
]


def parsed(command: list[str]) -> Any:
    """The settings that the command line makes of a command."""
    _, word, *arguments = command
    group: Any = typer.main.get_command(app)
    context = group.commands[word].make_context(word, arguments)
    return made(JOBS[word].settings, context.params)


@pytest.mark.parametrize(("kind", "told"), CASES)
def test_the_command_that_is_shown_makes_the_same_settings(kind: str, told: Any) -> None:
    assert told.command[:2] == ["retmask", kind]
    assert parsed(told.command) == told


@pytest.mark.parametrize(("kind", "told"), CASES)
def test_a_record_reads_back_and_matches(kind: str, told: Any) -> None:
    kept = json.loads(json.dumps(record(told)))
    assert from_record(JOBS[kind].settings, kept) == told
    assert same(told, kept)
    assert same(whole(told), kept)
    newer = {**kept, "a setting of a later version": 3}
    assert from_record(JOBS[kind].settings, newer) == told
    assert not same(told, {**kept, "model": "another"})
    assert not same(told, newer)
    for name in kept.keys() & {"rule"}:
        assert not same(told, {**kept, name: {**kept[name], "a setting of a later version": 3}})


def test_a_preset_is_told_where_it_saves_and_a_grid_only_as_a_whole() -> None:
    quick: Any = from_preset(DetectSettings, "quick", model="m")
    gpu: Any = from_preset(TrainSettings, "gpu", model="m", pairs="p", rank=3)
    for told, command in (
        (quick, "detect m --preset quick"),
        (replace(quick, n_needles=2), "detect m --lengths 384,768 --depths 0,0.5,1 --n-needles 2"),
        (replace(quick, lengths=(300,), n_needles=2), "detect m --lengths 300 --depths 0,0.5,1 --n-needles 2"),
        (DetectSettings(model="m", n_needles=2), "detect m --n-needles 2"),
        (gpu, "train m --pairs p --preset gpu --rank 3"),
    ):
        assert " ".join(told.command) == f"retmask {command}"


def a_value(field: Any) -> some.SearchStrategy[Any]:
    """Values that the marks of a field allow."""
    if "choices" in field.metadata:
        return some.sampled_from(list(field.metadata["choices"]))
    low, high = field.metadata.get("min"), field.metadata.get("max")
    if field.type is bool:
        return some.booleans()
    if field.type is str:
        return some.text("ab/. =", min_size=1, max_size=9)
    return some.integers(low, high) if field.type is int else some.floats(low, high)


@given(some.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
def test_every_setting_of_a_training_survives_its_command(data: some.DataObject) -> None:
    names = data.draw(some.lists(some.sampled_from([f.name for f in fields(TrainSettings)]), max_size=4, unique=True))
    values = {f.name: data.draw(a_value(f)) for f in fields(TrainSettings) if f.name in {*names, "model", "pairs"}}
    try:
        told = from_preset(TrainSettings, data.draw(some.sampled_from(list(PRESETS))), **values)
    except ValueError:  # a batch that is no multiple of the micro-batch
        return
    assert parsed(told.command) == told
    assert from_record(TrainSettings, record(told)) == told


def test_a_record_with_no_list_where_one_is_due_is_refused_in_a_sentence() -> None:
    """The keys of an object would be taken for what nobody has looked at."""
    for value in ({"server=http://evil/v1": 1}, "server=http://evil/v1", 3, None):
        with pytest.raises(ValueError, match="the settings have no list under condition: start a new run"):
            from_record(EvaluateSettings, {"model": "m", "condition": value})


def test_settings_outside_their_range_or_choices_are_refused_in_a_sentence() -> None:
    for changes, says in (
        ({"rank": 0}, "rank 0 is outside 1 to 1,024: change it"),
        ({"learning_rate": float("nan")}, "learning rate nan is outside 1e-08 to 0.01"),
        ({"max_steps": 10**400}, "max steps 1000"),
        ({"loss": "best"}, "loss 'best' is unknown: choose sigmoid, ipo, hinge"),
    ):
        with pytest.raises(ValueError, match=says):
            TrainSettings(model="m", pairs="p", **changes)  # type: ignore[arg-type]


def test_a_list_that_is_none_is_told_with_an_example() -> None:
    with pytest.raises(ValueError, match="--depths '0,x' is not a list of numbers: write them with commas, such as 0"):
        parsed(["retmask", "detect", "--depths", "0,x"])


OLD: list[tuple[str, dict[str, Any], Any]] = [  # as versions before wrote them
    (
        "ablate",
        {"model": "m", "heads": "L0H1", "out": "/o", "revision": "", "adapter": ""},
        AblateSettings(model="m", out="/o", rule=MaskRule(heads="L0H1")),
    ),
    (
        "pairs",
        {"model": "m", "rule": {"heads": "L0H1", "seed": 0}, "prompts": "p", "allow": []},
        PairsSettings(model="m", rule=MaskRule(heads="L0H1"), prompts="p"),
    ),
    ("evaluate", {"model": "m", "tuned": [], "rule": {}, "trials": 9}, EvaluateSettings(model="m", trials=9)),
    ("train", {"model": "m", "pairs": "/p", "revision": "", "rank": 8}, TrainSettings(model="m", pairs="/p", rank=8)),
    (
        "detect",
        {"model": "m", "lengths": [300], "n_needles": 2},
        DetectSettings(model="m", lengths=(300,), n_needles=2),
    ),
]


@pytest.mark.parametrize(("kind", "config", "meant"), OLD)
def test_records_of_before_are_read_and_go_on(kind: str, config: dict[str, Any], meant: Any) -> None:
    assert from_record(JOBS[kind].settings, config) == meant
    assert same(meant, config)


@dataclass(frozen=True)
class Inside:
    """Settings inside others."""

    scores: str = setting("", "a file", names="path")
    seed: int = setting(0, "of a draw")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Settings of a job that counts."""

    model: str = shared("model", "m")
    needles: str = setting("", "a file", names="path")
    haystack: str = setting("pydoc", "a folder", names="folder", but=("pydoc",))
    inside: Inside = setting(Inside(), "a part", flags={"seed": "inside-seed"})
    steps: int = setting(3, "how far")
    patient: bool = setting(False, "of no matter to what comes out", matched=False)

    @property
    def command(self) -> list[str]:
        """The command line."""
        return command_line("count", self)


def count(work: Work[Counting]) -> Iterator[Progress]:
    """Count to the end, from where it was."""
    for number in range(int(work.run.record.get("at", 0)), work.settings.steps):
        if work.trust_remote_code:
            raise ValueError("it is not to be trusted")
        work.run.update(at=number + 1)
        yield Progress(number + 1, work.settings.steps, 1.234, {"sum": number})
    work.run.update(over=True)


def check(told: Counting, *_: Any) -> Start[Counting]:
    """Nothing is wrong with it but a step too many."""
    if told.steps > 9:
        raise ValueError(f"{told.steps} steps are too many")
    return Start(whole(told), prepare=lambda run: run.update(prepared=True))


COUNT = Job("count", Counting, check, count, unit="numbers")


def test_a_job_goes_on_where_it_was_and_is_skipped_when_it_is_finished(fresh_home: Path, tmp_path: Path) -> None:
    run = COUNT.new(Counting(), tmp_path / "out")
    assert (run.status, run.record["prepared"]) == ("error", True)
    assert run.command == shlex.join(["retmask", "count", "m", "--out", str(tmp_path / "out")]), "it does the same here"
    assert COUNT.new(Counting()).command == "retmask count m"
    steps = COUNT.work(run)
    assert next(steps) == Progress(1, 3, 1.234, {"sum": 0})
    steps.close()
    assert run.status == "cancelled"
    (line,) = run.progress
    line.pop("time")
    assert line == {"stage": "numbers", "done": 1, "total": 3, "eta": 1.2, "sum": 0}
    again = COUNT.new(Counting(patient=True), tmp_path / "out")
    assert again.path == run.path
    assert [step.done for step in COUNT.work(again)] == [2, 3]
    assert (run.status, run.record["over"]) == ("success", True)
    assert list(COUNT.work(run)) == []


def test_what_may_not_be_done_is_refused_before_there_is_a_run(fresh_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 steps are too many"):
        COUNT.new(Counting(steps=10), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run = COUNT.new(Counting(), tmp_path / "out")
    with pytest.raises(ValueError, match="not to be trusted"):
        list(COUNT.work(run, trust_remote_code=True))
    assert (run.status, run.record["error"]) == ("error", "it is not to be trusted")
    for other in (Counting(steps=4), Counting(inside=Inside(seed=1))):
        with pytest.raises(ValueError, match="other settings: choose another --out"):
            COUNT.new(other, tmp_path / "out")
    other_kind = replace(COUNT, kind="other")
    with pytest.raises(ValueError, match="other settings"):
        other_kind.new(Counting(), tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("detect", {"model": "m", "haystack": "/nowhere"}, "there is no haystack folder /nowhere"),
        ("detect", {"model": "m", "needles": "/nowhere.json"}, "/nowhere.json"),
        ("dose", {"model": "m", "scores": SMOL, "haystack": "/nowhere"}, "there is no haystack folder /nowhere"),
        ("dose", {"model": "m", "scores": SMOL, "prose": "/nowhere.txt"}, "/nowhere.txt"),
        ("evaluate", {"model": "m", "haystack": "/nowhere"}, "there is no haystack folder /nowhere"),
        ("evaluate", {"model": "m", "needles": "/nowhere.json"}, "/nowhere.json"),
        ("pairs", {"model": "m", "rule": {"heads": "L0H1"}, "prompts": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        (
            "pairs",
            {"model": "m", "generate": "chat", "count": 1, "server": "http://a", "masked_server": "http://b"},
            "name these servers again",
        ),
        ("train", {"model": "m", "pairs": "p", "rank": 0}, "rank 0 is outside"),
    ],
)
def test_a_run_whose_needs_are_gone_does_not_stand_in_line(
    kind: str, config: dict[str, Any], says: str, fresh_home: Path, tmp_path: Path
) -> None:
    run = Run.create(kind, config, tmp_path / "out")
    run.update(status="cancelled")
    before = run.record
    with turn("cpu", "somebody"), turn("servers", "somebody"), pytest.raises((ValueError, OSError), match=says):
        list(JOBS[kind].work(run))
    assert (run.record, run.status) == (before, "cancelled")
    assert not (run.path / LOCK).exists(), "nobody has taken it"


def test_what_a_crash_leaves_where_a_run_was_about_to_be_made_is_no_obstacle(fresh_home: Path, tmp_path: Path) -> None:
    for name in (".record.lock", ".run.json.0a1b2c3d"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    assert COUNT.new(Counting(), tmp_path / "out").command.startswith("retmask count m ")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        COUNT.new(Counting(), tmp_path / "other")


def test_a_run_that_kept_names_as_typed_goes_on(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That was so before whole paths were kept; the record is older than some settings too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.json").touch()
    for folder in ("hay", "pydoc"):
        (tmp_path / folder).mkdir()
    before = {"model": "m", "needles": "n.json", "haystack": "hay", "inside": {"scores": "n.json"}}
    run = Run.create("count", before, tmp_path / "out")
    here = Counting(
        needles=str(tmp_path / "n.json"), haystack=str(tmp_path / "hay"), inside=Inside(str(tmp_path / "n.json"))
    )
    assert COUNT.new(here, tmp_path / "out").path == run.path
    assert list(COUNT.alike(here)) == [], "it does not lie where runs lie"
    changes: list[dict[str, Any]] = [{"needles": "m.json"}, {"haystack": "pydoc"}, {"inside": Inside("m.json")}]
    for other in changes:
        with pytest.raises(ValueError, match="other settings"):
            COUNT.new(replace(here, **other), tmp_path / "out")
    named = Run.create("count", {"model": "m", "haystack": "pydoc"}, tmp_path / "named")
    with pytest.raises(ValueError, match="other settings"):  # the one that comes with the project is no folder
        COUNT.new(Counting(haystack=str(tmp_path / "pydoc")), named.path)


def test_a_command_takes_the_settings_and_what_is_its_own() -> None:
    seen: list[Any] = []

    def counts(settings: Counting, loud: bool = False) -> None:
        """Count."""
        seen.extend((settings, loud))

    program = typer.Typer()
    program.command()(takes(Counting, counts))
    command: Any = typer.main.get_command(program)
    assert {"--inside-seed", "--scores", "--steps", "--loud"} < {text for each in command.params for text in each.opts}
    command(["m2", "--inside-seed", "4", "--steps", "1", "--loud"], standalone_mode=False)
    assert seen == [Counting(model="m2", steps=1, inside=Inside(seed=4)), True]
