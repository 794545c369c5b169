"""Making pairs on a tiny model: alone or in a batch, broken off or in shards, the same pairs come out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_server import OpenAIServer
from tiny import tiny_folder, tiny_model

from retmask import pairing
from retmask.cache import stack, starts
from retmask.heads import HeadId, HeadMask
from retmask.masks import MaskRule
from retmask.model import LensModel
from retmask.pairing import PairsConfig, answer_both, join, new_pairs, pairs
from retmask.pairs import PreferencePair, faults, read_items, read_rows
from retmask.runs import Cancelled
from retmask.sampling import Sampling

MASK = HeadMask.of([HeadId(1, 2), HeadId(2, 0)])
PROMPTS = ["tell me", "what is the name of it?", "why", "a much longer one, with a comma and an end."]
DRAWS = [Sampling(0.8, 0.95, seed) for seed in range(4)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return tiny_model(request.param)


def test_prompts_of_different_lengths_are_answered_as_alone(model: LensModel) -> None:
    """Also past Gemma's sliding window of 8 tokens."""
    ids = [model.tokenizer(text)["input_ids"] for text in PROMPTS]
    together = answer_both(model, ids, MASK, DRAWS, 12)
    alone = [answer_both(model, [one], MASK, [draw], 12)[0] for one, draw in zip(ids, DRAWS, strict=True)]
    assert together == alone
    assert any(chosen != rejected for chosen, rejected in together), "the mask changes something"


def test_rows_that_begin_late_have_the_logits_of_rows_that_do_not(model: LensModel) -> None:
    ids = [model.tokenizer(text)["input_ids"] for text in PROMPTS]
    caches = [model.prefill(one[:-1], len(one)) for one in ids]
    lengths = [len(one) - 1 for one in ids]
    together = model.forward([[one[-1]] for one in ids], stack(caches, max(lengths)), begin=starts(lengths))
    for row, one in zip(together, ids, strict=True):
        alone = model.forward([[one[-1]]], model.prefill(one[:-1], len(one)))[0]
        assert (row - alone).abs().max() < 1e-4


@pytest.fixture
def folder(tmp_path: Path, fresh_home: Path) -> Path:
    return tiny_folder(tmp_path)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"{text} number {number}" for number, text in enumerate(PROMPTS * 3)))
    return str(path)


def config(folder: Path, prompts: str, **changes: object) -> PairsConfig:
    values = {"prompts": prompts, "max_new_tokens": 6, "batch": 4, "seed": 3, "allow": ("cut", "ratio"), **changes}
    return PairsConfig(str(folder), MaskRule(heads="L1H2,L2H0"), **values)  # type: ignore[arg-type]


def test_a_run_that_was_broken_off_makes_the_same_pairs(folder: Path, prompts: str, tmp_path: Path) -> None:
    whole = new_pairs(config(folder, prompts), tmp_path / "whole")
    steps = list(pairs(whole))
    assert [step.done for step in steps] == [4, 8, 12]
    assert whole.record["done"] == 12

    broken = new_pairs(config(folder, prompts), tmp_path / "broken")
    work = pairs(broken)
    next(work)
    with pytest.raises(Cancelled):
        work.throw(Cancelled())
    assert broken.status == "cancelled"
    lines = (broken.path / "items.jsonl").read_text().splitlines()
    assert len(lines) == 4
    (broken.path / "items.jsonl").write_text("\n".join(lines[:3]) + "\n")  # as if it had died in the middle of a block
    list(pairs(new_pairs(config(folder, prompts), tmp_path / "broken")))
    assert read_items(broken.path) == read_items(whole.path)
    assert (broken.path / "pairs.jsonl").read_bytes() == (whole.path / "pairs.jsonl").read_bytes()


def test_shards_make_every_pair_once(folder: Path, prompts: str, tmp_path: Path) -> None:
    whole = new_pairs(config(folder, prompts), tmp_path / "whole")
    list(pairs(whole))
    parts = [tmp_path / f"shard{i}" for i in range(2)]
    for number, part in enumerate(parts):
        list(pairs(new_pairs(config(folder, prompts, shards=2, shard=number), part)))
    assert sum(len(read_items(part)) for part in parts) == 12
    joined = join(parts, tmp_path / "joined")
    assert read_items(joined.path) == read_items(whole.path)
    assert (joined.path / "pairs.jsonl").read_bytes() == (whole.path / "pairs.jsonl").read_bytes()
    for wrong, says in (
        ([parts[0]], "shards 0 are there and 0 to 1"),
        ([*parts, parts[0]], "shards 0, 0, 1 are there"),
    ):
        with pytest.raises(ValueError, match=says):
            join(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_the_rows_name_their_model_and_the_run_its_mask(folder: Path, prompts: str, tmp_path: Path) -> None:
    run = new_pairs(config(folder, prompts), tmp_path / "out")
    list(pairs(run))
    rows = read_rows(run.path / "pairs.jsonl")
    assert {row["model"] for row in rows} == {"model"}
    assert run.record["mask"] == "L1H2,L2H0"
    assert run.record["chat"] is False
    assert rows[0]["prompt"] == f"{PROMPTS[0]} number 0"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": ""}, "say in one way what to ask"),
        ({"generate": "chat", "count": 3}, "say in one way what to ask"),
        ({"prompts": "", "generate": "chat"}, "say how many prompts"),
        ({"max_new_tokens": 0}, "0 new tokens are not possible"),
        ({"shard": 2, "shards": 2}, "no shard 2 of 2"),
        ({"temperature": 9.0}, "temperature 9 is outside"),
        ({"server": "http://a"}, "servers come in pairs"),
        ({"allow": ("nothing",)}, "is no rule of the gate"),
        ({"rule": MaskRule()}, "say which heads to mask"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], says: str) -> None:
    values = {"model": "m", "prompts": "p.txt", "rule": MaskRule(heads="L0H0"), **changes}
    with pytest.raises(ValueError, match=says):
        PairsConfig(**values)  # type: ignore[arg-type]


def test_the_command_does_the_same() -> None:
    rule = MaskRule(share=0.05, scores="smollm2-135m")
    made = PairsConfig("smollm2-135m", rule, generate="grounded", count=30, allow=("cut", "ratio"))
    words = (
        "retmask pairs smollm2-135m --share 0.05 --scores smollm2-135m --generate grounded --count 30 --allow cut,ratio"
    )
    assert made.command == words.split()


def test_a_record_comes_back(folder: Path, prompts: str, tmp_path: Path) -> None:
    made = config(folder, prompts, allow=("cut",))
    run = new_pairs(made, tmp_path / "out")
    assert PairsConfig.from_record(json.loads((run.path / "run.json").read_text())["config"]) == made


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OpenAIServer]]:
    monkeypatch.setattr("retmask.servers.DELAYS", (0.01, 0.01, 0.01))
    made = [
        OpenAIServer(name, answers=lambda prompt, seed, name=name: f"{name} {prompt[-2:]} {seed % 100}")
        for name in ("normal", "masked")
    ]
    yield made
    for one in made:
        one.stop()


def test_two_servers_one_of_which_is_lost(
    prompts: str, fresh_home: Path, tmp_path: Path, servers: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered before is on disk, in the middle of a block too; the same command goes on with the rest."""
    monkeypatch.setattr(pairing, "AT_ONCE", 1)
    normal, masked = servers
    settings = PairsConfig("some/model", prompts=prompts, server=normal.url, masked_server=masked.url)
    whole = new_pairs(settings, tmp_path / "whole")
    list(pairs(whole))
    assert len(read_items(whole.path)) == 12
    for pair in read_items(whole.path):
        assert (pair.chosen.text.split()[0], pair.rejected.text.split()[0]) == ("normal", "masked")
        assert pair.chosen.text.split()[-1] == pair.rejected.text.split()[-1], "both draw with one seed"

    run = new_pairs(settings, tmp_path / "out")
    enter = pairing._Book.enter

    def enter_some(book: pairing._Book, number: int, pair: PreferencePair) -> None:
        enter(book, number, pair)
        if book.run.path == run.path and number == 4:
            masked.fail(500, for_good=True)

    monkeypatch.setattr(pairing._Book, "enter", enter_some)
    with pytest.raises(ValueError, match="same command goes on"):
        list(pairs(run))
    assert run.status == "error"
    assert 5 <= len(read_items(run.path)) < 12
    masked.fail()
    monkeypatch.setattr(pairing._Book, "enter", enter)
    list(pairs(new_pairs(settings, tmp_path / "out")))
    assert read_items(run.path) == read_items(whole.path)


def test_a_password_in_an_address_is_written_nowhere(prompts: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match="address"):
        PairsConfig("m", prompts=prompts, server="http://me:secret@host/v1", masked_server="http://host/v1")
    assert not (fresh_home / "runs").exists()


def test_a_prompt_that_is_too_long_stops_nothing(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("short\n" + "long " * 200 + "\nshort too\n")
    run = new_pairs(config(folder, str(path)), tmp_path / "out")
    list(pairs(run))
    found = read_items(run.path)
    assert len(found) == 3
    assert "empty" in faults(found[1])
    assert found[1].prompt_tokens == 999
    assert found[0].chosen.tokens > 0
    assert found[2].chosen.tokens > 0
