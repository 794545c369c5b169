"""The detectors beside copying: against passes written out the long way, on tiny models, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CONFIGS, tiny_hf, tiny_model, tiny_tokenizer

from retmask.detect.job import DetectSettings
from retmask.detect.passes import attention_on, head_scores, losses
from retmask.detect.trials import run_trials
from retmask.heads.detectors import DETECTORS, attention_mass, query_focus
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.model.cache import Trunk, longest_shared
from retmask.model.fit import cache_bytes
from retmask.model.lens import LensModel
from retmask.text.haystack import Haystack
from retmask.text.needle import Needle, NeedlePrompt, NeedleTask

IDS = (5, 17, 99, 3, 42, 8, 64, 64, 12, 77, 23, 1, 90, 5, 33, 21, 70, 71, 72, 73)
ANSWER = (9, 10, 11)
EMPTY = (*IDS[:14], 44, 45)
PROMPT = NeedlePrompt(IDS, (4, 7), "answer", "plain", 0.5, whole_span=(3, 9), query_at=14)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LensModel:
    return tiny_model(request.param)


def eager(model: LensModel, ids: tuple[int, ...]) -> np.ndarray:
    """All attention patterns [layer, head, query, key] of transformers' own eager attention."""
    hf = tiny_hf(model.name.removeprefix("tiny-"))
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        out = hf(torch.tensor([list(ids)]), output_attentions=True)
    return torch.stack([layer[0] for layer in out.attentions]).numpy()


def test_attention_is_the_mass_on_the_answers_tokens_over_the_answers_steps(model: LensModel) -> None:
    whole = eager(model, (*IDS, *ANSWER))
    steps = whole[:, :, len(IDS) - 1 : len(IDS) + len(ANSWER) - 1, 4:7]  # the last prompt token is the first step
    found = head_scores(model, "attention", PROMPT, ANSWER, (), Trunk())
    assert np.allclose(found, steps.sum(-1).mean(-1), atol=1e-5)
    assert found.max() > 0.05


def test_query_is_the_question_less_the_empty_question(model: LensModel) -> None:
    asked, empty = (eager(model, ids)[:, :, 14:, 3:9] for ids in (IDS, EMPTY))
    found = head_scores(model, "query", PROMPT, ANSWER, EMPTY, Trunk())
    assert np.allclose(found, query_focus(asked, empty), atol=1e-5)


@pytest.mark.parametrize("forks", [True, False])
def test_causal_is_the_loss_with_each_head_masked_alone_after_the_context(model: LensModel, forks: bool) -> None:
    model.forks = model.forks and forks
    found = head_scores(model, "causal", PROMPT, ANSWER, (), Trunk())

    def mean_logprob(mask: HeadMask) -> float:
        cache = model.prefill(IDS[:14], 64)
        logits = model.forward([[*IDS[14:], *ANSWER[:-1]]], cache, [mask], keep=3)[0].log_softmax(-1)
        return float(sum(logits[i, token] for i, token in enumerate(ANSWER)) / 3)

    whole = mean_logprob(HeadMask())
    by_hand = [[whole - mean_logprob(HeadMask.of([HeadId(i, h)])) for h in range(4)] for i in range(3)]
    assert np.allclose(found, by_hand, atol=1e-4)
    assert np.abs(found).max() > 0.01


def test_chunks_change_nothing(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = model.prefill(IDS[:14], 64)
    whole = losses(model, cache, IDS[14:], ANSWER), attention_on(model, cache, IDS[14:], (3, 9))
    monkeypatch.setattr("retmask.detect.passes.LOGITS", 1)
    monkeypatch.setattr("retmask.model.lens.READ_CELLS", 1)
    cache.crop(14 - cache.get_seq_length())
    single = losses(model, cache, IDS[14:], ANSWER), attention_on(model, cache, IDS[14:], (3, 9))
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(whole, single, strict=True))


def test_no_more_rows_than_fit(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = model.prefill(IDS[:14], 64)
    whole = losses(model, cache, IDS[14:], ANSWER)
    seen: list[int] = []
    row = cache_bytes(model.native.config, 14 + len(IDS) - 14 + len(ANSWER) - 1, model.native.dtype)
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda device: 4 * 3 * row)  # three rows in a quarter of it
    forward = LensModel.forward

    def watched(self: LensModel, token_ids: object, rows: object, masks: list[HeadMask], **more: object) -> object:
        seen.append(len(masks))
        return forward(self, token_ids, rows, masks, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LensModel, "forward", watched)
    assert np.allclose(losses(model, cache, IDS[14:], ANSWER), whole, atol=1e-5)
    assert max(seen) == 3
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda device: row)
    with pytest.raises(ValueError, match="choose a shorter prompt"):
        losses(model, cache, IDS[14:], ANSWER)


def test_a_shared_beginning_changes_nothing(model: LensModel) -> None:
    trunk = longest_shared([IDS, (*IDS[:10], 1, 2)])
    alone = head_scores(model, "causal", PROMPT, ANSWER, (), Trunk())
    assert np.allclose(alone, head_scores(model, "causal", PROMPT, ANSWER, (), trunk), atol=1e-4)


def test_an_empty_answer_scores_nothing(model: LensModel) -> None:
    assert not head_scores(model, "attention", PROMPT, (), (), Trunk()).any()


def test_arithmetic_by_hand() -> None:
    # one layer, one head, two steps, two tokens: (0.1 + 0.2 + 0.3 + 0.4) / 2 steps
    assert attention_mass(np.array([[[[0.1, 0.2], [0.3, 0.4]]]])) == pytest.approx(0.5)
    # two query tokens, one null token: means 0.3, 0.4 less 0.1, 0.1
    assert query_focus(np.array([[[[0.2, 0.3], [0.4, 0.5]]]]), np.full((1, 1, 1, 2), 0.1)) == pytest.approx(0.5)


def test_a_token_far_below_the_others_is_left_out() -> None:
    asked = np.full((1, 1, 1, 10), 0.1)
    empty = np.zeros((1, 1, 1, 10))
    empty[..., 3] = 5.0  # -4.9 there, 0.1 elsewhere: mean -0.4, deviation 1.5
    assert query_focus(asked, empty) == pytest.approx(0.9)


def test_the_deviation_is_that_of_a_sample() -> None:
    """Mean -1/60; the floor is -1.03 with the deviation of a sample (as in QRHead's code), -0.94 with that of all."""
    gaps = np.array([0.1, 0.1, 0.1, 0.1, 0.5, -1.0])
    assert query_focus(gaps.reshape(1, 1, 1, 6), np.zeros((1, 1, 1, 6))) == pytest.approx(-0.1)
    assert query_focus(np.full((1, 1, 1, 1), 0.3), np.full((1, 1, 1, 1), 0.1)) == pytest.approx(0.2)


def test_the_places_in_a_rendered_prompt() -> None:
    needle = Needle("The key is under the red mat.", "Where is the key?", "under the red mat")
    haystack = Haystack("words", "This is a sentence about nothing. " * 60)
    tokenizer = tiny_tokenizer()
    task = NeedleTask(needle, 400, 0.5)
    prompt = task.render(tokenizer, haystack)
    text = "".join(map(chr, prompt.token_ids))  # a token a character
    assert text[slice(*prompt.whole_span)] == needle.needle
    assert text[slice(*prompt.needle_span)] == needle.answer
    assert text[prompt.query_at :].startswith("</book>")
    assert "<book>" in text[: prompt.query_at]
    empty = "".join(map(chr, task.asking("N/A", prompt, tokenizer, haystack)))
    assert empty == text.replace("Where is the key?", "N/A")


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer counts as found: a model of random weights finds nothing."""
    monkeypatch.setattr("retmask.detect.trials.recall", lambda *_: 1.0)


@pytest.mark.usefixtures("sure")
@pytest.mark.parametrize("detector", ["attention", "query", "causal"])
def test_trials_keep_what_was_copied_and_score_by_the_detector(detector: str) -> None:
    model = tiny_model("llama")
    needle = Needle("The key is under the red mat.", "Where is the key?", "under the red mat")
    haystack = Haystack("words", "This is a sentence about nothing. " * 60)
    tasks = [NeedleTask(needle, 300, depth, answer_tokens=5) for depth in (0.0, 0.5)]
    plain = [trial for batch in run_trials(model, tasks, haystack) for trial in batch]
    found = [trial for batch in run_trials(model, tasks, haystack, detector=detector) for trial in batch]  # type: ignore[arg-type]
    assert [replace(trial, scores={}) for trial in found] == [replace(trial, scores={}) for trial in plain]
    dense = np.stack([trial.dense(model.grid) for trial in found])
    assert (dense != 0).mean() > 0.9
    assert DETECTORS[detector].signed == bool((dense < 0).any())


def test_negative_scores_are_kept_where_the_detector_has_them() -> None:
    scores = HeadScores("m", np.array([[[0.5, -0.25]]]), "causal")
    assert HeadScores.from_json(scores.to_json(), "m", signed=True).values.min() == -0.25
    with pytest.raises(ValueError, match="scores cannot be negative"):
        HeadScores.from_json(scores.to_json(), "m")


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="detector 'magic' is unknown: choose copy, attention, query, causal"):
        DetectSettings(detector="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the detector query counts no copies"):
        DetectSettings(detector="query", counting="steps")
    assert DetectSettings(detector="causal").command[-2:] == ["--detector", "causal"]
    assert DetectSettings(counting="steps").measure == "steps"
    assert DetectSettings(detector="query").measure == "query"
