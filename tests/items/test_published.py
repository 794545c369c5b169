"""Result files of other suites, in the shape that each writes, become items and answers; what is none is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from retmask.items.published import read_published

HELMET: dict[str, Any] = {
    "args": {"model_name_or_path": "/models/smol", "datasets": "json_kv", "input_max_length": 8192},
    "data": [{"question": "k1", "answer": "v1", "output": "v1"}, {"question": "k2", "answer": ["v2"], "output": "no"}],
    "metrics": {"substring_exact_match": [True, 0.0], "exact_match": [0, 0], "input_len": [8000, 8001]},
    "averaged_metrics": {"substring_exact_match": 50.0, "exact_match": 0.0, "input_len": 8000.5},
}
OLMO: dict[str, Any] = {
    "experiment_id": "abc",
    "timestamp": "2026-01-01",
    "config": {"provider": {"model": "org/smol", "kind": "vllm"}},
    "tasks": [
        {"task": "qa:3shot", "task_hash": "0123456789ab", "primary_metric": "accuracy:exact", "num_instances": 2}
        | {"metrics": {"accuracy": {"exact": 0.5}}},
        {"task": "text", "primary_metric": "bpb:bits", "metrics": {"bpb": {"bits": 1.0}}},
    ],
}
LM_EVAL: dict[str, Any] = {
    "results": {
        "arc": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.1},
        "wiki": {"word_perplexity,none": 20},
    },
    "configs": {},
    "config": {"model": "hf", "model_args": "pretrained=org/smol,dtype=float32"},
    "higher_is_better": {"arc": {"acc": True}, "wiki": {"word_perplexity": False}},
}


def _write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def _scores(path: Path) -> dict[str, float]:
    published = read_published(path)
    assert [item.id for item in published.items] == [line["item"] for line in published.lines]
    return {line["item"]: line["score"] for line in published.lines}


def test_helmet(tmp_path: Path) -> None:
    """A document at a time; what a judge or ALCE scores as a mean."""
    published = read_published(_write(tmp_path / "a.json", HELMET))
    assert (published.suite, published.model) == ("HELMET", "/models/smol")
    assert [(item.tokens, item.question, item.gold) for item in published.items] == [
        (8192, "k1", ("v1",)),
        (8192, "k2", ('["v2"]',)),
    ]
    assert _scores(tmp_path / "a.json") == {"json_kv-8192-0": 1.0, "json_kv-8192-1": 0.0}
    alce = HELMET | {"args": HELMET["args"] | {"datasets": "alce_asqa"}}
    _write(tmp_path / "b.json", alce)
    _write(tmp_path / "b.json.score", {"str_em": 30.0, "citation_rec": 20.0, "citation_prec": 10.0})
    assert _scores(tmp_path / "b.json.score") == {"alce_asqa-8192": 0.2}
    judged = HELMET | {"args": HELMET["args"] | {"datasets": "narrativeqa"}, "averaged_metrics": {"gpt-4-score": 1.5}}
    assert _scores(_write(tmp_path / "c-gpt4eval_o.json", judged)) == {"narrativeqa-8192": 0.5}


def test_olmo_eval(tmp_path: Path) -> None:
    """By document where the predictions lie beside it, else the mean; bits per byte as a probability."""
    path = _write(tmp_path / "metrics.json", OLMO)
    assert read_published(path).model == "org/smol"
    assert _scores(path) == {"qa:3shot": 0.5, "text": 0.5}
    lines = [
        {"native_id": f"q{i}", "label": "x", "final_output": "y", "instance_metrics": {"accuracy": {"exact": i}}}
        for i in (0, 1)
    ]
    predictions = tmp_path / "predictions" / "org_smol" / "qa_3shot_6789ab-predictions.jsonl"
    predictions.parent.mkdir(parents=True)
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _scores(path) == {"qa:3shot-q0": 0.0, "qa:3shot-q1": 1.0, "text": 0.5}


def test_lm_eval(tmp_path: Path) -> None:
    """By document where the samples lie beside it, of the first filter; a perplexity as 1 / perplexity."""
    path = _write(tmp_path / "results_2026.json", LM_EVAL)
    assert read_published(path).model == "org/smol"
    assert _scores(path) == {"arc": 0.25, "wiki": 0.05}
    lines = [
        {"doc_id": i, "target": "2", "filtered_resps": ["a"], "filter": filtered, "acc": float(i == 1)}
        for filtered in ("none", "other")
        for i in (0, 1)
    ]
    (tmp_path / "samples_arc_2026.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _scores(path) == {"arc-0": 0.0, "arc-1": 1.0, "wiki": 0.05}


WRONG: list[tuple[Any, str]] = [
    ([1], "holds no JSON object"),
    ({"results": {}}, "is no result file: give"),
    (HELMET | {"args": {"datasets": "json_kv"}}, "does not say which model it is of"),
    (HELMET | {"args": HELMET["args"] | {"datasets": "weather"}}, "dataset 'weather' is unknown"),
    (HELMET | {"metrics": {"substring_exact_match": [1]}}, "no substring_exact_match for each document"),
    (HELMET | {"metrics": {"substring_exact_match": [70, 1]}}, "the score 70 in json_kv, which is not from 0 to 1"),
    (HELMET | {"metrics": {"substring_exact_match": [float("nan"), 1]}}, "for each document"),
    (HELMET | {"args": HELMET["args"] | {"datasets": "narrativeqa"}}, "another model judges"),
    (OLMO | {"tasks": [{"task": "a", "metrics": {}}]}, "does not say a's primary metric"),
    (OLMO | {"tasks": []}, "does not say its scores"),
    (LM_EVAL | {"higher_is_better": {"arc": {"ter": False}}}, "no metric that is better when higher"),
]


@pytest.mark.parametrize(("value", "sentence"), WRONG)
def test_what_is_no_result_file_is_refused(value: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_published(_write(tmp_path / "a.json", value))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for name, sentence in (("a.json", "holds no JSON object"), ("b.json.score", "cannot be read")):
        with pytest.raises(ValueError, match=sentence):
            read_published(tmp_path / name)
