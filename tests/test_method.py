"""The method on the real built-in models: equal to a plain loop, and true about the heads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from analyses.bench import plain_answer, plain_score
from retmask.compare.checkpoint import export
from retmask.compare.comparison import Column, Prompt
from retmask.compare.side_by_side import compare
from retmask.detect.job import DetectSettings
from retmask.detect.trials import run_trials
from retmask.files import shipped
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule, control
from retmask.heads.scores import HeadScores
from retmask.model.lens import LensModel
from retmask.model.weights import resolve
from retmask.text.haystack import load_haystack
from retmask.text.needle import NeedleTask, known_needle, load_needles

# of each model the contexts and how many needles; 640 tokens are past Gemma's sliding window of 512
ASKED = {"smollm": ((256,), 2), "gemma": ((640,), 1)}


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_scores_equal_the_plain_loop(name: str, request: pytest.FixtureRequest) -> None:
    """Batched on a shared trunk and read in one pass = prefilled alone and read step by step."""
    model: LensModel = request.getfixturevalue(name)
    lengths, n_needles = ASKED[name]
    config = DetectSettings(lengths=lengths, depths=(0.0, 1.0), n_needles=n_needles)
    tasks, haystack = config.tasks(), load_haystack()
    hf = AutoModelForCausalLM.from_pretrained(resolve(model.name).folder, dtype=torch.float32)  # nothing of ours in it
    trials = [trial for batch in run_trials(model, tasks, haystack, batch_size=4) for trial in batch]
    assert len(trials) == len(tasks)
    assert sum(trial.success for trial in trials) >= len(tasks) / 2
    for trial in trials:
        prompt = next(task for task in tasks if task.key == trial.key).render(model.tokenizer, haystack)
        plain = plain_answer(hf, prompt.token_ids, 50, model.stop_ids)
        assert plain.token_ids == trial.response_ids
        np.testing.assert_allclose(trial.dense(model.grid), plain_score(plain, prompt), atol=1e-6)


def test_long_context_is_refused_past_the_models_length(smollm: LensModel) -> None:
    config = DetectSettings(lengths=(9000,), depths=(0.5,), n_needles=1)
    with pytest.raises(ValueError, match="reads 8,192 tokens and 9,000 were asked for"):
        list(run_trials(smollm, config.tasks(), load_haystack()))


def test_masked_heads_lose_the_needle_and_random_ones_do_not(smollm: LensModel) -> None:
    """The shipped map's top 5 % of heads carry the answer; as many others do not."""
    scores = HeadScores.load(shipped("maps", "smollm2-135m"))
    scores.check_grid(smollm.grid, smollm.name)
    best = HeadMask.of(scores.top_share())
    controls = [HeadMask.random(smollm.grid, len(best), seed, excluding=best.heads) for seed in (1, 2)]
    tasks = DetectSettings(lengths=(256,), depths=(0.7,), n_needles=4).tasks()

    def recall(mask: HeadMask) -> float:
        with smollm.masked([mask]):
            trials = [trial for batch in run_trials(smollm, tasks, load_haystack(), batch_size=4) for trial in batch]
        return sum(trial.recall for trial in trials) / len(trials)

    unmasked, without, random = recall(HeadMask()), recall(best), sum(map(recall, controls)) / len(controls)
    print(f"recall unmasked {unmasked:.2f}, masked {without:.2f}, random {random:.2f}")
    assert unmasked > 0.5
    assert without < unmasked / 2
    assert random > 2 * without


def test_masked_column_loses_a_needle_that_the_others_find(smollm: LensModel) -> None:
    """The whole comparison on a needle that detection did not use; the trace shows the masked heads at work."""
    scores = HeadScores.load(shipped("maps", "smollm2-135m"))
    best = HeadMask.of(scores.top_share())
    random = control(best, smollm.grid, 0, scores)
    columns = [Column("unmasked", HeadMask()), Column("masked", best), Column("random control", random)]
    task = NeedleTask(known_needle("glacier"), 384, 0.3)
    prompt = Prompt.of_needle(smollm.tokenizer, task, load_haystack("pydoc-end"))
    *_, last = compare(smollm, prompt, columns, 40)
    found = [last.recall(i) for i in range(3)]
    print("recall", found)
    assert found[0] > 0.8
    assert found[1] < 0.4
    trace = last.traces[0]
    copying = {head for step in range(trace.n_steps) for head in trace.heads_at(step)}
    assert len(copying & set(best.heads)) > len(best) / 2
    assert last.forced[0][1].logprobs != last.forced[0][0].logprobs
    assert sum(last.forced[0][1].kl) > 1


def test_sessions_of_other_masks_do_not_disturb_each_other(smollm: LensModel) -> None:
    """Five at once on the one model, each against itself alone; a sixth leaves halfway."""
    prompt = Prompt.of_text(smollm.tokenizer, "Name the four seasons and say what each of them is like.")
    masks = [HeadMask.random(smollm.grid, 15 * k, k) for k in range(5)]

    def session(mask: HeadMask, steps: int = 99) -> tuple[int, ...]:
        going = compare(smollm, prompt, [Column("masked", mask), Column("unmasked", HeadMask())], 8)
        return [now.token_ids[0] for now, _ in zip(going, range(steps), strict=False)][-1]

    alone = [session(mask) for mask in masks]
    assert len(set(alone)) >= 4
    with ThreadPoolExecutor(6) as pool:
        left = pool.submit(session, masks[4], 4)
        together = list(pool.map(session, masks))
    assert together == alone
    assert 1 < len(left.result()) < 8
    assert left.result() == alone[4][: len(left.result())]
    assert not smollm.lock.locked()


def test_exported_checkpoint_says_what_the_masked_model_says(smollm: LensModel, tmp_path: Path) -> None:
    """Plain transformers on the exported folder, greedily, against the hooks."""
    mask = HeadMask.of(HeadScores.load(shipped("maps", "smollm2-135m")).top_share())
    export("smollm2-135m", MaskRule(scores="smollm2-135m", share=0.05), tmp_path / "out")
    prompt = Prompt.of_text(smollm.tokenizer, "Write a sentence about a lighthouse and repeat it.")
    *_, hooked = compare(smollm, prompt, [Column("masked", mask)], 24)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([prompt.token_ids])
    said = plain.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
    assert tuple(token for token in said if token not in smollm.stop_ids) == hooked.token_ids[0]


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
    code = "from retmask.model.weights import resolve; print(resolve('smollm2-135m').folder)"
    racing = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=300)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0]
    (folder,) = folders
    assert Path(folder, "model.safetensors").is_file()
    assert [file.name for file in (tmp_path / "models").iterdir() if file.is_dir()] == [Path(folder).name]
