"""The method on the real built-in models: equal to a plain loop, and true about the heads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from retmask.bench import plain_answer, plain_score
from retmask.files import shipped
from retmask.heads import HeadMask
from retmask.jobs import DetectConfig
from retmask.model import LensModel
from retmask.needle import NeedleTask, load_haystack, load_needles
from retmask.retrieval import run_trials
from retmask.scores import HeadScores
from retmask.weights import resolve

LENGTHS = {"smollm": (256, 384), "gemma": (256, 768)}  # 768 is past Gemma's sliding window of 512


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_scores_equal_the_plain_loop(name: str, request: pytest.FixtureRequest) -> None:
    """Batched on a shared trunk and read in one pass = prefilled alone and read step by step."""
    model: LensModel = request.getfixturevalue(name)
    config = DetectConfig(lengths=LENGTHS[name], depths=(0.0, 1.0), n_needles=1 if name == "gemma" else 2)
    tasks, haystack = config.tasks(), load_haystack()
    hf = AutoModelForCausalLM.from_pretrained(resolve(model.name).folder, dtype=torch.float32)  # nothing of ours in it
    trials = [trial for batch in run_trials(model, tasks, haystack, batch_size=4) for trial in batch]
    assert len(trials) == len(tasks)
    assert sum(trial.success for trial in trials) >= 2
    for trial in trials:
        prompt = next(task for task in tasks if task.key == trial.key).render(model.tokenizer, haystack)
        plain = plain_answer(hf, prompt.token_ids, 50, model.stop_ids)
        assert plain.token_ids == trial.response_ids
        np.testing.assert_allclose(trial.dense(model.grid), plain_score(plain, prompt), atol=1e-6)


def test_long_context_is_refused_past_the_models_length(smollm: LensModel) -> None:
    config = DetectConfig(lengths=(9000,), depths=(0.5,), n_needles=1)
    with pytest.raises(ValueError, match="reads 8,192 tokens and 9,000 were asked for"):
        list(run_trials(smollm, config.tasks(), load_haystack()))


def test_masked_heads_lose_the_needle_and_random_ones_do_not(smollm: LensModel) -> None:
    """The shipped map's top 5 % of heads carry the answer; as many others do not."""
    scores = HeadScores.load(shipped("maps", "smollm2-135m"))
    scores.check_grid(smollm.grid, smollm.name)
    best = HeadMask.of(scores.top_share())
    controls = [HeadMask.random(smollm.grid, len(best), seed, excluding=best.heads) for seed in (1, 2)]
    tasks = DetectConfig(lengths=(256,), depths=(0.7,), n_needles=8).tasks()

    def recall(mask: HeadMask) -> float:
        with smollm.masked([mask]):
            trials = [trial for batch in run_trials(smollm, tasks, load_haystack(), batch_size=8) for trial in batch]
        return sum(trial.recall for trial in trials) / len(trials)

    unmasked, without, random = recall(HeadMask()), recall(best), sum(map(recall, controls)) / len(controls)
    print(f"recall unmasked {unmasked:.2f}, masked {without:.2f}, random {random:.2f}")
    assert unmasked > 0.5
    assert without < unmasked / 2
    assert random > 2 * without


def test_warm_model_has_both_views_in_agreement(smollm: LensModel, gemma: LensModel) -> None:
    assert smollm.parity < 1e-3
    assert gemma.parity < 1e-3
    assert (smollm.dtype_name, smollm.attention) == ("float32", "sdpa") or torch.cuda.is_available()
    assert str(smollm.grid) == "30 x 9"
    assert str(gemma.grid) == "18 x 4"


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_every_length_can_be_met_exactly(name: str, request: pytest.FixtureRequest) -> None:
    """Also where a character more makes two tokens more, which Gemma's tokenizer has at (violin, 2,000, 0.5)."""
    tokenizer = request.getfixturevalue(name).tokenizer
    for needle in load_needles():
        for length in (500, 1250, 2000, 2750):
            prompt = NeedleTask(needle, length, 0.5).render(tokenizer, load_haystack())
            assert len(prompt.token_ids) == length - 50
            assert needle.answer in tokenizer.decode(prompt.token_ids[slice(*prompt.needle_span)])
            assert abs(prompt.char_depth - 0.5) < 0.2


def test_two_processes_convert_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(tmp_path))
    code = "from retmask.weights import resolve; print(resolve('smollm2-135m').folder)"
    racing = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=300)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0]
    (folder,) = folders
    assert Path(folder, "model.safetensors").is_file()
    assert [file.name for file in (tmp_path / "models").iterdir() if file.is_dir()] == [Path(folder).name]
