"""A prompt answered side by side: the whole of it on a tiny model."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import MASK, tiny_model, tiny_tokenizer

from retmask.compare.comparison import Column, Comparison, Prompt
from retmask.compare.side_by_side import compare
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.decoding import logprobs
from retmask.model.lens import LensModel
from retmask.text.sampling import Sampling

COLUMNS = [Column("unmasked", HeadMask()), Column("masked", MASK), Column("random", HeadMask.of([HeadId(1, 2)]))]


@pytest.fixture(scope="module")
def model() -> LensModel:
    found = tiny_model("llama")
    found.stop_ids = frozenset()
    return found


@pytest.fixture(scope="module")
def done(model: LensModel) -> Comparison:
    *_, last = compare(model, Prompt.of_text(model.tokenizer, "Copy this, please: abcabcabc"), COLUMNS, 12)
    return last


def test_snapshots_grow_by_a_token_and_end_with_what_was_found(model: LensModel) -> None:
    snapshots = list(compare(model, Prompt.of_text(model.tokenizer, "abc"), COLUMNS, 5))
    assert [now.stage for now in snapshots] == ["reading"] * 2 + ["answering"] * 5 + ["judging"] * 4 + ["done"]
    assert [len(now.token_ids[0]) for now in snapshots] == [0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]
    assert [now.read_tokens for now in snapshots[:3]] == [0, 2, 2]  # of three, the last is read with the first step
    assert snapshots[-1].ended == ("length",) * 3
    assert all(later.text(1).startswith(now.text(1)) for now, later in pairwise(snapshots))


def test_columns_say_what_they_say_alone(model: LensModel, done: Comparison) -> None:
    for i, column in enumerate(COLUMNS):
        *_, alone = compare(model, done.prompt, [column], 12)
        assert alone.token_ids[0] == done.token_ids[i]
        assert alone.traces[0] == done.traces[i]
        assert alone.forced[0][0].logprobs == pytest.approx(done.forced[i][i].logprobs, abs=1e-4)
    assert len(set(done.token_ids)) == 3


@torch.no_grad()
def test_forced_log_probabilities_and_divergence(model: LensModel, done: Comparison) -> None:
    """Equal to passes over prompt and text under each mask; the divergence from itself is 0."""
    prompt, text = done.prompt.token_ids, done.token_ids[1]
    ids = torch.tensor([[*prompt, *text]])
    log = []
    for column in COLUMNS:
        with model.masked([column.mask]):
            log.append(model.native(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1))
    for i in range(3):
        own = log[i].gather(-1, torch.tensor(text)[:, None])[:, 0]
        assert done.forced[1][i].logprobs == pytest.approx(own.tolist(), abs=1e-3)
        divergence = (log[1].exp() * (log[1] - log[i])).sum(-1)
        assert done.forced[1][i].kl == pytest.approx(divergence.tolist(), abs=1e-3)


def test_sampled_columns_with_one_seed(model: LensModel, done: Comparison) -> None:
    def texts(columns: list[Column], seed: int) -> tuple[tuple[int, ...], ...]:
        *_, last = compare(model, done.prompt, columns, 12, Sampling(1.0, 0.9, seed))
        return last.token_ids

    assert texts(COLUMNS, 4) == texts(COLUMNS, 4)
    assert texts(COLUMNS, 4)[1] == texts(COLUMNS[1:2], 4)[0]
    assert texts(COLUMNS, 4) != texts(COLUMNS, 5)


def test_plain_data(done: Comparison) -> None:
    data = done.to_json()
    assert [column["name"] for column in data["columns"]] == ["unmasked", "masked", "random"]
    assert data["columns"][1]["mask"] == "L0H1,L1H0:2,L2H3:0.5"
    assert set(data["columns"][0]["kl"]) == {"unmasked", "masked", "random"}
    assert data["model"]["name"] == "tiny-llama"
    assert json.loads(json.dumps(data)) is not None
    assert "".join(data["columns"][0]["tokens"]).strip() == data["columns"][0]["text"]


@pytest.fixture(scope="module")
def tuned() -> LensModel:
    """Other weights on the same grid, with the same tokenizer."""
    found = tiny_model("llama", seed=3)
    found.name, found.stop_ids = "tiny-tuned", frozenset()
    return found


def test_columns_of_a_second_model_say_what_that_model_says(model: LensModel, tuned: LensModel) -> None:
    """Also under a mask, and whatever stands between them: unmasked | masked | tuned | random | tuned and masked."""
    prompt = Prompt.of_text(model.tokenizer, "Copy this, please: abcabcabc")
    columns = [*COLUMNS[:2], Column("tuned", HeadMask(), tuned), COLUMNS[2], Column("both", MASK, tuned)]
    *_, last = compare(model, prompt, columns, 12)
    for own, rows in ((model, (0, 1, 3)), (tuned, (2, 4))):
        *_, alone = compare(own, prompt, [columns[row]._replace(model=None) for row in rows], 12)
        assert alone.token_ids == tuple(last.token_ids[row] for row in rows)
        assert alone.traces == tuple(last.traces[row] for row in rows)
        for i, row in enumerate(rows):
            assert [forced.logprobs for forced in alone.forced[i]] == [last.forced[row][j].logprobs for j in rows]
    for i, text in enumerate(last.token_ids):
        for j, column in enumerate(columns):
            own = logprobs(column.model or model, prompt.token_ids, text, column.mask)
            assert last.forced[i][j].logprobs == pytest.approx(own, abs=1e-3)
        assert last.forced[i][i].kl == (0.0,) * len(text)
    assert len(set(last.token_ids)) == 5


def test_two_models_stream_together_and_nothing_of_them_is_kept(model: LensModel, tuned: LensModel) -> None:
    columns = [COLUMNS[0], Column("tuned", HeadMask(), tuned)]
    snapshots = list(compare(model, Prompt.of_text(model.tokenizer, "abc"), columns, 3))
    assert [now.stage for now in snapshots] == ["reading"] * 3 + ["answering"] * 3 + ["judging"] * 3 + ["done"]
    assert [now.read_tokens for now in snapshots[:3]] == [0, 1, 2]
    assert [list(map(len, now.token_ids)) for now in snapshots[3:6]] == [[1, 1], [2, 2], [3, 3]]
    assert all(column.model is None for column in snapshots[-1].columns)
    data = snapshots[-1].to_json()
    assert [column["model"]["name"] for column in data["columns"]] == ["tiny-llama", "tiny-tuned"]


def test_a_column_that_ends_early_leaves_the_other_model_to_go_on(model: LensModel, tuned: LensModel) -> None:
    prompt = Prompt.of_text(model.tokenizer, "abc")
    *_, free = compare(model, prompt, COLUMNS[:1], 6)
    short = replace(model, stop_ids=frozenset(free.token_ids[0][2:3]))
    columns = [COLUMNS[0], Column("tuned", HeadMask(), tuned)]
    *_, last = compare(short, prompt, columns, 6)
    assert last.token_ids[0] == free.token_ids[0][: free.token_ids[0].index(free.token_ids[0][2])]
    assert (last.ended, len(last.token_ids[1])) == (("stop", "length"), 6)


def test_logits_in_pieces_of_other_sizes_go_through_the_steps_together(
    model: LensModel, tuned: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [*COLUMNS, Column("tuned", HeadMask(), tuned)]
    prompt = Prompt.of_text(model.tokenizer, "abcab")
    *_, whole = compare(model, prompt, columns, 9)
    monkeypatch.setattr("retmask.model.decoding.LOGITS", 3 * 2 * 128)  # two steps of three rows, six of one
    *_, pieces = compare(model, prompt, columns, 9)
    for one, other in zip(whole.forced, pieces.forced, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
            assert a.kl == pytest.approx(b.kl, abs=1e-4)


def test_a_model_that_cannot_stand_beside_it_is_refused(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt.of_text(model.tokenizer, "abc")

    def beside(other: LensModel) -> None:
        compare(model, prompt, [COLUMNS[0], Column("other", HeadMask(), other)], 5)

    smaller = replace(tiny_model("llama"), name="smaller")
    smaller.native.config.num_hidden_layers = 2
    with pytest.raises(ValueError, match=r"smaller has 2 x 4 heads and tiny-llama 3 x 4"):
        beside(smaller)
    foreign = replace(model, name="foreign", tokenizer=tiny_tokenizer())
    foreign.tokenizer.add_tokens(["abc"])
    with pytest.raises(ValueError, match="foreign has another vocabulary than tiny-llama"):
        beside(foreign)
    twin = replace(model, name="twin", tokenizer=tiny_tokenizer())
    beside(twin)
    row = 2 * 3 * 2 * 16 * 8 * 4  # keys and values, layers, KV heads, d_head, tokens, bytes
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda _: math.ceil(4 * row / 0.8))
    beside(twin)
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda _: math.floor(3.9 * row / 0.8))
    with pytest.raises(ValueError, match="4 caches of 8 tokens need"):  # a row and a spare one for each of the two
        beside(twin)


def test_what_cannot_be_compared_is_said_before_anything_is_computed(model: LensModel) -> None:
    prompt = Prompt.of_text(model.tokenizer, "abc")
    with pytest.raises(ValueError, match="reads 512 tokens and 603 were asked for"):
        compare(model, prompt, COLUMNS, 600)
    with pytest.raises(ValueError, match="L7H0 is outside"):
        compare(model, prompt, [Column("masked", HeadMask.of([HeadId(7, 0)]))], 5)
    with pytest.raises(ValueError, match="0 new tokens are too few"):
        compare(model, prompt, COLUMNS, 0)
    with pytest.raises(ValueError, match="temperature -1"):
        compare(model, prompt, COLUMNS, 5, Sampling(-1))
    with pytest.raises(ValueError, match="the prompt is empty"):
        Prompt.of_text(model.tokenizer, " \n ")
    with pytest.raises(ValueError, match="no chat template: choose plain"):
        Prompt.of_text(model.tokenizer, "abc", "chat")


@pytest.mark.parametrize(
    ("template", "says"), [("{{ missing.thing() }}", "template of this model fails"), ("hello", "changes the prompt")]
)
def test_templates_that_fail(template: str, says: str) -> None:
    tokenizer = tiny_tokenizer(template)
    with pytest.raises(ValueError, match=says):
        Prompt.of_text(tokenizer, "abc")
    assert Prompt.of_text(tokenizer, "abc", "plain").template == "plain"
