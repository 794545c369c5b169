"""What is wrong with a model or a mask is said before a run is made: nothing waits, loads, or stays behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_adapter, tiny_folder

from retmask.cli.main import run_command
from retmask.compare.ablate import ABLATE, AblateSettings
from retmask.compare.dose import DOSE, DoseSettings
from retmask.detect.job import DETECT, DetectSettings
from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.files import home, sha256
from retmask.heads.grid import Grid
from retmask.heads.rules import MaskRule
from retmask.model.gguf import BUILT_IN
from retmask.model.weights import check_there, folder_grid
from retmask.pairs.job import PAIR, PairsSettings
from retmask.runs.settings import from_preset

L0H1 = MaskRule(heads="L0H1")
JOBS: dict[str, Callable[[str, Path], object]] = {
    "detect": lambda model, _: DETECT.new(from_preset(DetectSettings, "quick", model=model)),
    "dose": lambda model, _: DOSE.new(DoseSettings(model=model, scores="smollm2-135m")),
    "pairs": lambda model, _: PAIR.new(PairsSettings(model=model, rule=L0H1, generate="grounded", count=2)),
    "evaluate": lambda model, _: EVALUATE.new(EvaluateSettings(model=model, rule=L0H1)),
    "ablate": lambda model, out: ABLATE.new(AblateSettings(model=model, rule=L0H1, out=str(out))),
    "merge": lambda model, out: ABLATE.new(
        AblateSettings(model=model, adapter=str(out.parent / "adapter"), out=str(out))
    ),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_model_that_is_none_makes_no_run(job: str, tmp_path: Path, fresh_home: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text('{"hello": 1}')
    wrong = {"none": "holds no weights", "missing": "there is no model at", "missing.gguf": "there is no file"}
    for name, says in wrong.items():
        with pytest.raises(ValueError, match=says):
            JOBS[job](str(tmp_path / name), tmp_path / "out")
    assert not (home() / "runs").exists()


def test_weights_that_are_not_installed_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(tmp_path))
    monkeypatch.setattr("retmask.model.gguf.find_spec", lambda name: None)
    for name, says in (("gemma-3-270m", "not installed: make gemma, or pip"), ("smollm2-135m", "not installed: pip")):
        with pytest.raises(ValueError, match=says):
            check_there(name)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"heads": "L40H3"}, "outside this model's 30 x 9 grid"),
        ({"heads": "L17H3:9"}, "outside 0 to 2"),
        ({"mask": "best14"}, "there is no mask best14"),
        ({"top_k": 3, "scores": "gemma-3-270m"}, "18 x 4"),
    ],
)
def test_a_mask_that_does_not_fit_makes_no_run(rule: dict[str, str], says: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match=says):
        PAIR.new(PairsSettings(model="smollm2-135m", rule=MaskRule(**rule), generate="grounded", count=2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=says):
        EVALUATE.new(EvaluateSettings(model="smollm2-135m", rule=MaskRule(**rule)))  # type: ignore[arg-type]
    assert not (home() / "runs").exists()


def test_scores_of_another_grid_make_no_curve(tmp_path: Path, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match="30 x 9 heads and gemma-3-270m has 18 x 4"):
        DOSE.new(DoseSettings(model="gemma-3-270m", scores="smollm2-135m"))


def test_of_a_grid_that_is_not_known_only_what_is_wrong_on_any_is_said(fresh_home: Path) -> None:
    MaskRule(heads="L40H3").check(None)
    with pytest.raises(ValueError, match="there is no mask best14"):
        MaskRule(mask="best14").check(None)
    with pytest.raises(ValueError, match="is not a head"):
        MaskRule(heads="17").check(None)


def test_a_mask_file_whose_grid_is_no_grid_is_none(tmp_path: Path) -> None:
    (tmp_path / "mask.json").write_text(json.dumps({"grid": ["x", 2], "scales": {"0-1": 0.0}}))
    with pytest.raises(ValueError, match="is no mask file"):
        MaskRule(mask=str(tmp_path / "mask.json")).check(None)


def test_the_grid_is_known_for_sure_of_folders_and_built_in_models_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3, "num_attention_heads": 4}')
    assert folder_grid(str(tmp_path)) == Grid(3, 4, 4)
    assert folder_grid("smollm2-135m") == Grid(30, 9, 3)
    assert folder_grid("someone/SmolLM2-135M-pruned") is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prompt", "hi", "--heads", "L40H3"], "30 x 9 grid"),
        (["--prompt", "hi", "--top-p", "7"], "7"),
        (["--prompt", "  "], "the prompt is empty"),
    ],
)
def test_compare_says_what_is_wrong_before_it_loads(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retmask.model.loading.load", lambda *_, **__: pytest.fail("it loaded"))
    assert run_command(["compare", "smollm2-135m", *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["merge", "--adapter", ""], "say which adapter is merged"),
        (["merge", "--adapter", "/no"], "/no is no adapter"),
        (["ablate", "--heads", "L40H3"], "30 x 9 grid"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused_before_it_loads(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retmask.model.loading.load", lambda *_, **__: pytest.fail("it loaded"))
    command, *flags = options
    assert run_command([command, "smollm2-135m", *flags, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err


def other_adapter(folder: Path, **card: object) -> str:
    """An adapter that fits the tiny model, and whose card names other weights as its base."""
    tiny_adapter(folder)
    card = {"base": "another-model", "base_sha256": "ab" * 32} | card
    (folder / "retmask.json").write_text(json.dumps(card))
    return str(folder)


ADAPTED: dict[str, Callable[[str, str, str, Path], object]] = {
    "detect": lambda model, adapter, *_: DETECT.new(from_preset(DetectSettings, "quick", model=model, adapter=adapter)),
    "dose": lambda model, adapter, scores, _: DOSE.new(
        DoseSettings(model=model, adapter=adapter, scores=scores, ks=(1,), random_seeds=0)
    ),
    "pairs": lambda model, adapter, *_: PAIR.new(
        PairsSettings(model=model, adapter=adapter, rule=L0H1, generate="grounded", count=2)
    ),
    "ablate": lambda model, adapter, _, out: ABLATE.new(
        AblateSettings(model=model, adapter=adapter, rule=L0H1, out=str(out))
    ),
    "merge": lambda model, adapter, _, out: ABLATE.new(AblateSettings(model=model, adapter=adapter, out=str(out))),
    "evaluate tuned": lambda model, adapter, *_: EVALUATE.new(EvaluateSettings(model=model, tuned=(adapter,))),
    "evaluate condition": lambda model, adapter, *_: EVALUATE.new(
        EvaluateSettings(model=model, condition=(f"tuned={adapter}+masked=L0H1",))
    ),
    "evaluate checkpoint": lambda model, adapter, *_: EVALUATE.new(
        EvaluateSettings(model="smollm2-135m", condition=(f"model={model}+tuned={adapter}",))
    ),
}
NOT_ITS = "was trained on another-model with SHA-256 abababababab…, and model has .* load it with the model that it was"


@pytest.mark.parametrize("job", ADAPTED)
def test_an_adapter_of_another_model_makes_no_run(job: str, tmp_path: Path, fresh_home: Path, score_file: str) -> None:
    folder, adapter = str(tiny_folder(tmp_path)), other_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=f"the adapter {adapter} {NOT_ITS}"):
        ADAPTED[job](folder, adapter, score_file, tmp_path / "out")
    assert not (home() / "runs").exists()


@pytest.mark.parametrize("flag", ["--adapter", "--tuned"])
def test_compare_refuses_an_adapter_of_another_model_before_it_loads(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retmask.model.loading.load", lambda *_, **__: pytest.fail("it loaded"))
    adapter = other_adapter(tmp_path / "adapter")
    assert run_command(["compare", str(tiny_folder(tmp_path)), "--prompt", "hi", flag, adapter]) == 2
    assert re.search(NOT_ITS, " ".join(capsys.readouterr().err.split()))


def test_the_base_of_an_adapter_is_told_without_converting_it(tmp_path: Path, fresh_home: Path) -> None:
    """A .gguf file is compared by its own SHA-256, as a model that is converted from it is."""
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF")
    adapter = other_adapter(tmp_path / "adapter", base_sha256=sha256(gguf))
    check_there(str(gguf), adapter)
    with pytest.raises(ValueError, match="was trained on another-model with SHA-256"):
        check_there("smollm2-135m", adapter)
    other_adapter(tmp_path / "adapter", base_sha256=BUILT_IN["smollm2-135m"].sha256)
    check_there("smollm2-135m", adapter)
    with pytest.raises(ValueError, match="and tiny has"):
        check_there(str(gguf), adapter)
