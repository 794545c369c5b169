"""lm-eval's tasks become items that every condition answers, in the same tables, and go on where they were."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_folder

from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.items.item import Item
from retmask.items.metrics import string_match_all
from retmask.tasks.recall import numbers, score, uuids


def _item(gold: tuple[str, ...]) -> Item:
    return Item("a", "recall_multivalue", "recall", "a", 0, None, "", "", gold)


ANSWERS = ("1234567", "The numbers are 1234567, 7654321.", "ABC 12345678", "", "none", "abc and 1234567\nand 7654321")


def test_their_measure_by_hand() -> None:
    """RULER's: the share of the values that stand in the answer, case aside, also within a longer number."""
    gold = ("1234567", "Abc")
    assert [string_match_all(answer, gold) for answer in ANSWERS] == [0.5, 0.5, 1.0, 0.0, 0.0, 1.0]
    assert [score(_item(gold), answer) for answer in ANSWERS] == [0.5, 0.5, 1.0, 0.0, 0.0, 1.0]


def test_without_lm_eval_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.evaluate.job.find_spec", lambda name: None)
    settings = EvaluateSettings(model=str(tiny_folder(tmp_path)), harness=("niah_single_1",))
    assert settings.suite == "none"
    with pytest.raises(ValueError, match=r"not installed: pip install -e '.\[eval\]'"):
        EVALUATE.new(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_needles_and_tasks_of_others_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"--suite needles takes no --harness or --read, or choose another"):
        EvaluateSettings(model="m", suite="needles", harness=("ruler_vt",))
    with pytest.raises(ValueError, match=r"--suite none asks nothing: add --harness or --read"):
        EvaluateSettings(model="m", suite="none")


pytest.importorskip("lm_eval", reason="pip install -e '.[eval]'")


def _settings(tmp_path: Path, **changes: Any) -> EvaluateSettings:
    """Of a model that reads far enough: a token is one character."""
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    given: dict[str, Any] = {"harness": ("niah_single_1", "niah_multikey_3"), "items": 2, "lengths": (1500, 1200)}
    return EvaluateSettings(model=str(folder), condition=("masked=L1H0",), **given | changes)


def test_our_wording_and_measure_are_theirs() -> None:
    """Numbers of seven digits and UUIDs as they make them; answers are worth what they say."""
    from lm_eval.tasks.ruler.common_utils import process_results
    from lm_eval.tasks.ruler.prepare_niah import generate_random_number, generate_random_uuid

    rng = random.Random(0)
    for ours, theirs in ((numbers(rng, 1)[0], generate_random_number()), (uuids(rng, 1)[0], generate_random_uuid())):
        assert [len(part) for part in ours.split("-")] == [len(part) for part in theirs.split("-")]
        assert ours.isdigit() == theirs.isdigit()
    for gold in (("1234567", "7654321"), ("abc",), ("1234567", "Abc")):
        for answer in ANSWERS:
            doc = {"max_length": 4096, "outputs": list(gold)}
            assert process_results(doc, [answer])["4096"] == score(_item(gold), answer)


def test_conditions_answer_their_tasks_and_go_on_where_they_were(tmp_path: Path, fresh_home: Path) -> None:
    """Cut short after three steps, with other random numbers in force, the results are those of a run left alone."""
    settings, files = _settings(tmp_path), ("results.json", "results.csv", "results.md", "items.jsonl", "answers.jsonl")
    whole, short = (EVALUATE.new(settings, tmp_path / name) for name in ("whole", "short"))
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()
    list(EVALUATE.work(whole))
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    random.seed()
    steps = EVALUATE.work(short)
    for _ in range(3):
        next(steps)
    steps.close()
    short.update(status="error")
    assert len((short.path / "answers.jsonl").read_text().splitlines()) == 6, "a document under two conditions a step"
    list(EVALUATE.work(short))
    assert [(whole.path / name).read_bytes() for name in files] == [(short.path / name).read_bytes() for name in files]
    results = json.loads((whole.path / "results.json").read_text())
    means = {(row["level"], row["name"], row["condition"]): row for row in results["means"]}
    assert {row["items"] for key, row in means.items() if key[0] == "task"} == {4}, "two of each length"
    assert set(results["external"]) == {"niah_single_1", "niah_multikey_3"}
    assert not any(level == "overall" for level, _, _ in means)
    items = [Item.of(json.loads(line)) for line in (whole.path / "items.jsonl").read_text().splitlines()]
    assert {item.tokens for item in items} == {1200, 1500}
    assert all(item.gold[0] in item.question for item in items)
    assert set(whole.record["results"]) == {"unmasked", "masked=L1H0"}


def test_an_unknown_task_is_refused_before_anything_begins(tmp_path: Path, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match="niah_single_9"):
        EVALUATE.new(_settings(tmp_path, harness=("niah_single_9",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_length_beyond_the_model_is_refused(tmp_path: Path, fresh_home: Path) -> None:
    run = EVALUATE.new(_settings(tmp_path, lengths=(9000,), harness=("niah_single_1",)), tmp_path / "out")
    with pytest.raises(ValueError, match=r"reads 4,096 tokens"):
        list(EVALUATE.work(run))
