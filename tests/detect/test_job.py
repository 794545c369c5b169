"""A detection from its settings to its record, on a model of a few thousand weights."""

import json
from pathlib import Path

from tiny import tiny_hf, tiny_tokenizer

from retmask.detect.job import DETECT, DetectSettings, same_prompts_sentence
from retmask.heads.trials import read_trials
from retmask.runs.run import Run

CLOCK = "{{ strftime_now('%Y-%m-%d %H:%M:%S') }} {% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"


def settings(path: Path) -> DetectSettings:
    """Ten depths in a text of three long sentences, two needles of which one does not hold its answer verbatim."""
    tiny_hf("llama").save_pretrained(path / "model")
    tiny_tokenizer(CLOCK).save_pretrained(path / "model")
    (path / "texts").mkdir()
    sentence = "A sentence " + "goes on and on, " * 12 + "and ends. "
    (path / "texts" / "a.txt").write_text(sentence * 5)
    needles = [
        {"needle": "The owl eats blue cheese.", "question": "What does it eat?", "answer": "blue cheese"},
        {"needle": "The cow drank milk.", "question": "What does it drink?", "answer": "drinks milk"},
    ]
    (path / "needles.json").write_text(json.dumps(needles))
    return DetectSettings(
        model=str(path / "model"),
        lengths=(400,),
        depths=(0.0, 0.25, 0.5, 0.75, 1.0),
        n_needles=2,
        needles=str(path / "needles.json"),
        haystack=str(path / "texts"),
        keep_prompts=True,
    )


def shown(trial: object) -> str:
    return "".join(map(chr, trial.prompt_ids))  # type: ignore[attr-defined]


def test_no_prompt_counts_twice_and_all_are_of_one_moment(fresh_home: Path, tmp_path: Path) -> None:
    run = DETECT.new(settings(tmp_path), tmp_path / "out")
    steps = DETECT.work(run)
    next(steps)
    steps.close()  # broken off; the rest is asked later
    clock = run.record["clock"]
    *_, last = DETECT.work(Run(run.path))
    trials = read_trials(run.path)
    prompts = [trial.prompt_ids for trial in trials]
    assert len(set(prompts)) == len(prompts) == last.total
    record = run.record
    assert record["same_prompts"] == 10 - len(prompts) > 0
    assert f"{record['same_prompts']} trials were left out" in same_prompts_sentence(record)
    assert record["clock"] == clock
    assert {shown(trial)[:19] for trial in trials} == {clock.replace("T", " ")}


def test_the_record_says_what_was_scored(fresh_home: Path, tmp_path: Path) -> None:
    run = DETECT.new(settings(tmp_path), tmp_path / "out")
    list(DETECT.work(run))
    assert run.record["scored"] == "mixed"
    assert {(trial.answer, trial.scored) for trial in read_trials(run.path)} == {
        ("blue cheese", "answer"),
        ("drinks milk", "needle"),
    }
