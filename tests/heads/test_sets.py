"""Score sets: what they are, what they say of themselves, and how they are kept."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from published import DUO, GATES, LIST, PUBLISHED, with_published

from retmask.files import shipped
from retmask.heads.formats import short
from retmask.heads.grid import Grid, HeadId, known_grid, model_grid
from retmask.heads.scores import HeadScores
from retmask.heads.sets import ScoreSet, head_scores, keep_set, labels, read_scores, read_set, read_text, strangers
from retmask.runs.run import Run


def detection(values: list[list[list[float]]], counting: str = "set", **record: object) -> Run:
    """A run of the kind "detect" with these scores."""
    config = {"model": "hub/Tiny-1", **record}
    run = Run.create("detect", config, name="tiny")
    HeadScores("tiny", np.array(values)).save(run.path / "scores.json")
    grid = {"n_layers": len(values[0]), "n_heads": len(values[0][0]), "n_kv_heads": 1}
    run.update(model=config["model"], counting=counting, head_grid=grid, status="success")
    return run


def trials(n: int) -> list[list[list[float]]]:
    return [[[0.1 + i / 100, 0.0]] for i in range(n)]


def test_a_shipped_map() -> None:
    found = read_set("smollm2-135m")
    assert (found.model, found.family, found.level, found.counting) == ("smollm2-135m", "SmolLM", "query", "set")
    assert found.label == "smollm2-135m · copying · shipped"
    assert found.scores.grid == Grid(30, 9, 3)
    assert (found.n_trials, len(found.trials()), found.warnings) == (40, 45, [])
    assert found.path == shipped("maps", "smollm2-135m", "scores.json")
    assert read_set(str(found.path)).label == found.label


def test_a_run_by_its_id_its_folder_and_its_file(fresh_home: Path) -> None:
    run = detection(trials(12), counting="query")
    found = read_set(run.id)
    assert found.label == f"Tiny-1 · query · {run.record['created'][5:19].replace('T', ' ')}"
    assert (found.counting, found.record["kind"], found.warnings) == ("query", "detect", [])
    for source in (str(run.path), str(run.path / "scores.json")):
        again = read_set(source)
        assert (again.label, again.source, again.path) == (found.label, source, found.path)


def test_a_tuned_model_says_so(fresh_home: Path, tmp_path: Path) -> None:
    by_adapter = read_set(detection(trials(12), adapter="runs/train/adapter").id)
    assert (by_adapter.model, by_adapter.tuned) == ("Tiny-1", True)
    assert by_adapter.label.startswith("Tiny-1 tuned · copying")
    whole = tmp_path / "checkpoint"
    whole.mkdir()
    (whole / "retmask.json").write_text(json.dumps({"base": "google/gemma-3-270m"}))
    merged = read_set(detection(trials(12), model=str(whole)).id)
    assert (merged.model, merged.family, merged.tuned) == ("gemma-3-270m", "Gemma", True)


def test_a_list_on_the_grid_of_its_model() -> None:
    found = read_text(LIST.replace(b"meta-llama/Llama-3.1-8B-Instruct", b"a-model"), "x.yaml")
    assert (found.grid, found.scores.grid) == (None, Grid(21, 23))
    assert found.warnings[-1] == "the model's grid is not known, so no map is drawn"
    wide = found.on(Grid(32, 32, 8))
    assert wide.grid == Grid(32, 32, 8)
    assert wide.scores.top(4) == found.scores.top(4)
    assert wide.on(Grid(32, 32)).scores is wide.scores
    with pytest.raises(ValueError, match="names L20H3 and does not fit on a grid of 20 x 32"):
        found.on(Grid(20, 32))
    with pytest.raises(ValueError, match="does not fit"):
        read_set("smollm2-135m").on(Grid(32, 32))


def test_gates_count_for_the_query_heads_that_share_them() -> None:
    gates = read_text(GATES, DUO)
    np.testing.assert_array_equal(
        head_scores(gates, Grid(3, 4, 2)).mean, [[0.605, 0.605, 0, 0], [1, 1, 0, 0], [0.25, 0.25, 1, 1]]
    )
    np.testing.assert_array_equal(head_scores(gates, Grid(3, 2)).mean, gates.scores.mean)
    with pytest.raises(ValueError, match="has 3 x 2 key/value heads and the model 32 x 8"):
        head_scores(gates)  # a Mistral-7B, by its name
    full = read_text(("\t".join(["0.5"] * 8) + "\n").encode() * 32, DUO)
    assert head_scores(full).grid == Grid(32, 32, 8)


def test_heads_of_an_unknown_grid_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(LIST.replace(b"meta-llama/Llama-3.1-8B-Instruct", b"a-model"))
    (tmp_path / "y.tsv").write_bytes(GATES)
    for name in ("x.yaml", "y.tsv"):
        with pytest.raises(ValueError, match="the grid of its model's heads is not known"):
            read_scores(str(tmp_path / name))
    assert read_scores(str(tmp_path / "x.yaml"), Grid(32, 32)).top(40) == (
        HeadId(14, 22),
        HeadId(13, 16),
        HeadId(20, 3),
        HeadId(14, 0),
    )
    with pytest.raises(ValueError, match="is not fetched here"):
        read_scores("https://example.org/scores.json")


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", Grid(32, 32, 8)),
        ("Llama-3-8B-Instruct-Gradient-1048k", Grid(32, 32, 8)),
        ("Llama-2-7B-32K-Instruct", Grid(32, 32, 32)),
        ("Llama-3.2-3B-Instruct_qr_head_NQ", Grid(28, 24, 8)),
        ("Qwen3-Embedding-8B", Grid(36, 32, 8)),
        ("Qwen3-80B", None),
        ("MyLlama-3-8B", None),
        ("", None),
    ],
)
def test_grids_of_published_models(name: str, grid: Grid | None) -> None:
    assert known_grid(name) == grid


def test_the_grid_in_a_models_folder(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    others = [("n_layer", "n_head"), ("n_layers", "n_heads"), ("num_layers", "num_heads")]  # GPT-2, MPT, GPT-Neo
    known = [(sizes, 2), ({"text_config": sizes}, 2), *(({layers: 3, heads: 4}, 4) for layers, heads in others)]
    for config, grid in ((config, Grid(3, 4, kv)) for config, kv in known):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert model_grid(str(tmp_path)) == grid
    for text in ("{}", "[" * 100_000, '{"num_hidden_layers": "x"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"the head grid of .* is not known"):
            model_grid(str(tmp_path))


def test_a_folder_of_gates(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2-7B" / "lr=0.02"
    folder.mkdir(parents=True)
    (folder / "full_attention_heads.tsv").write_bytes(GATES)
    found = read_set(str(folder))
    assert (found.model, found.path) == ("Qwen2-7B", folder / "full_attention_heads.tsv")


@with_published
@pytest.mark.parametrize(("name", "n", "distinct"), [("Llama-3.1-8B-Instruct", 342, 59), ("Qwen3-8B", 600, 98)])
def test_published_files_repeat_most_trials(name: str, n: int, distinct: int) -> None:
    found = read_set(str(PUBLISHED / f"{name}.json"))
    assert (found.model, found.n_trials, found.distinct) == (name, n, distinct)
    assert found.label == f"{name} · score file"
    assert found.warnings[0].startswith(f"only {distinct} of {n} trials differ in their scores")
    assert any("pass 1" in line for line in found.warnings) == (name == "Qwen3-8B")


@pytest.mark.parametrize(
    ("values", "counting", "says"),
    [
        (trials(1), "set", ["only 1 trial: "]),
        (trials(9), "set", ["only 9 trials: "]),
        (trials(10), "set", []),
        (trials(5) * 2, "set", []),
        (trials(4) * 3, "set", ["only 4 of 12 trials differ"]),
        (trials(12), "steps", ["per-step counting"]),
    ],
)
def test_warnings(fresh_home: Path, values: list[list[list[float]]], counting: str, says: list[str]) -> None:
    found = read_set(detection(values, counting).id).warnings
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


def test_a_detection_that_is_not_over_says_so(fresh_home: Path) -> None:
    run = detection(trials(12))
    run.update(status="cancelled")
    assert read_set(run.id).warnings == ["its detection is not finished (cancelled): these are the trials so far"]


@pytest.mark.parametrize(
    "record",
    [
        {"head_grid": {"n_kv_heads": "x"}},
        {"head_grid": {"n_kv_heads": -3}},
        {"config": 7},
        {"config": {"model": 3}},
        {"created": None},
        {"created": [1]},
        {"status": {}},
        {"counting": ["x"], "head_grid": {}},
        {"head_grid": 5},
        {"config": {"model": "~nobody-of-that-name/x"}},
        {"head_grid": {"n_kv_heads": True}},
        {"head_grid": {"n_kv_heads": 1.5}},
    ],
)
def test_a_damaged_record_does_no_harm(fresh_home: Path, record: dict[str, object]) -> None:
    run = detection(trials(12))
    run.update(**record)
    found = read_set(run.id)
    assert found.label
    assert isinstance(found.warnings, list)
    for scores in (found.scores, HeadScores.load(run.path)):
        assert scores.grid.kv_group(HeadId(0, 1)) in (None, 0)


def test_a_deeply_nested_card_says_nothing_of_a_base(fresh_home: Path, tmp_path: Path) -> None:
    (tmp_path / "retmask.json").write_text("[" * 100_000)
    assert not read_set(detection(trials(12), model=str(tmp_path)).id).tuned


def test_labels_are_all_different() -> None:
    sets = [read_text(GATES, DUO), read_text(GATES, DUO), read_set("smollm2-135m")]
    assert labels(sets) == [sets[0].label, f"{sets[0].label} (2)", sets[2].label]
    plain = ScoreSet("x", HeadScores("m", np.ones((1, 1, 2)), "gates"))
    numbered = ScoreSet("x", HeadScores("m", np.ones((1, 1, 2)), "ranking"), path=Path("m-a.yaml"))
    twin = ScoreSet("x", HeadScores("m", np.ones((1, 1, 2)), "ranking"), path=Path("m-a (2).yaml"))
    assert twin.label == f"{numbered.label} (2)"
    assert len(set(labels([plain, numbered, numbered, twin, twin, twin, numbered]))) == 7


def test_trials_in_which_no_head_scored_are_no_copies(fresh_home: Path) -> None:
    blank = [[[0.0, 0.0]]]
    found = read_set(detection(trials(6) + blank * 20).id)
    assert (found.n_trials, found.blank, found.distinct, found.warnings) == (26, 20, 7, [])
    copied = read_set(detection(trials(2) * 5 + blank * 2).id)
    assert copied.warnings[0].startswith("only 3 of 12 trials differ")


def test_scores_below_zero_of_a_file_alone(fresh_home: Path) -> None:
    """Our own maps of a signed detector, taken away from their run.json."""
    kept = keep_set("Qwen3-8B.json", json.dumps({"0-0": [-0.25, *range(11)], "0-1": [0.1] * 12}).encode())
    found = read_set(kept)
    assert found.scores.values.min() == -0.25
    assert any(line.startswith("some scores are below 0") for line in found.warnings)
    with pytest.raises(ValueError, match="cannot be negative"):
        HeadScores.load(kept)
    signed = [[[-0.25, 0.5]], *trials(11)]
    assert read_set(detection(signed, counting="query").id).warnings == []
    with pytest.raises(ValueError, match="cannot be negative"):
        read_set(detection(signed, counting="set").id)


def test_sets_of_different_models_are_strangers() -> None:
    def of(model: str, kin: str = "") -> ScoreSet:
        return ScoreSet("x", HeadScores(model, np.ones((1, 2, 2))), family=kin)

    assert not strangers(of("Qwen/Qwen3-8B", "Qwen"), of("qwen3-8b"))
    assert strangers(of("Qwen3-8B", "Qwen"), of("Llama-3.1-8B", "Llama"))
    assert strangers(of("a"), of("b"))
    assert strangers(of("scores", "Qwen"), of("scores", "Llama"))


def test_a_kept_file_without_a_model_is_not_named_by_its_hash(fresh_home: Path) -> None:
    kept = keep_set("/scores.json", b'{"0-0": [0.5]}')
    assert Path(kept).name == "unnamed.json"
    assert read_set(kept).model == "unnamed"


def test_foreign_names_send_nothing_to_the_terminal(fresh_home: Path) -> None:
    assert short("hub/Tiny\x1b[2J") == "Tiny�[2J"
    run = detection(trials(12), model="hub/Tiny\x1b[2J", counting="a\x07")
    run.update(created="2026-\x1b[31m-11T10", status="\x1bc")
    found = read_set(run.id)
    assert all(text.isprintable() for text in (found.model, found.label, found.counting, *found.warnings))


def test_a_model_without_a_name_is_not_looked_for_here(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "retmask.json").write_text(json.dumps({"base": "google/gemma-3-270m"}))
    monkeypatch.chdir(tmp_path)
    run = detection(trials(12))
    run.update(config={})
    assert not read_set(run.id).tuned


@pytest.mark.parametrize(
    "source",
    [
        "",
        " ",
        "nothing-here",
        "/no/such/file",
        "~nobody-of-that-name/x",
        "a" * 5000,
        "a/" * 3000,
        "x\0y",
        "/dev/zero",
        "train-1",
    ],
)
def test_no_such_set(fresh_home: Path, source: str) -> None:
    (fresh_home / "runs" / "train-1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no score set|name a score set|cannot be read|is not known") as caught:
        read_set(source)
    assert len(str(caught.value)) < 250


def test_an_upload_is_kept_under_its_model(fresh_home: Path) -> None:
    kept = keep_set(DUO, GATES)
    digest = hashlib.sha256(GATES).hexdigest()[:12]
    assert kept == str(fresh_home / "opened" / digest / "Mistral-7B-Instruct-v0.2.tsv")
    assert Path(kept).read_bytes() == GATES
    assert read_set(kept).model == "Mistral-7B-Instruct-v0.2"
    listed = Path(keep_set("Llama-3.1-8B-Instruct_qr_head_NQ.yaml", LIST))
    assert listed.name == "Llama-3.1-8B-Instruct_qr_head_NQ.yaml"
    assert read_set(str(listed)).label == "Llama-3.1-8B-Instruct · QRHead list · qr_head_NQ"
    assert Path(keep_set("../../../../etc/Llama 3.1-8B", b'{"0-0": [0.5]}')).name == "Llama-3.1-8B.json"
    with pytest.raises(ValueError, match="is not JSON"):
        keep_set("x.json", b"{")
    assert len(list((fresh_home / "opened").iterdir())) == 3


def test_many_sets_are_light() -> None:
    """Reading the shapes and labels of twelve sets computes no interval and no mean."""
    values = np.random.default_rng(0).random((600, 36, 32))
    sets = [ScoreSet("x", HeadScores(f"m{i}", values)) for i in range(12)]
    assert len(set(labels(sets))) == 12
    assert all(one.distinct == 600 for one in sets)
    assert not any({"interval", "mean"} & set(vars(one.scores)) for one in sets)
