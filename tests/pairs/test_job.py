"""Making pairs on a tiny model: alone or in a batch, broken off or in shards, the same pairs come out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import Canned, OpenAIServer
from tiny import tiny_folder, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from retmask.cli.main import app
from retmask.cli.runs import work
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule
from retmask.heads.scores import HeadScores
from retmask.model import fit as memory
from retmask.model.cache import stack, starts
from retmask.model.lens import LensModel
from retmask.pairs import local, remote
from retmask.pairs.files import read_rows
from retmask.pairs.gate import faults
from retmask.pairs.job import PAIR, PairsSettings, sends
from retmask.pairs.join import join
from retmask.pairs.local import answer_both
from retmask.pairs.pair import read_items
from retmask.runs import processes
from retmask.runs.run import Run
from retmask.runs.settings import from_record
from retmask.runs.worker import Cancelled
from retmask.text.sampling import Sampling

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


def config(folder: Path, prompts: str, **changes: object) -> PairsSettings:
    values = {"prompts": prompts, "max_new_tokens": 6, "batch": 4, "seed": 3, "allow": ("cut", "ratio"), **changes}
    return PairsSettings(model=str(folder), rule=MaskRule(heads="L1H2,L2H0"), **values)  # type: ignore[arg-type]


def test_a_run_that_was_broken_off_makes_the_same_pairs(folder: Path, prompts: str, tmp_path: Path) -> None:
    whole = PAIR.new(config(folder, prompts), tmp_path / "whole")
    steps = list(PAIR.work(whole))
    assert [step.done for step in steps] == [4, 8, 12]
    assert whole.record["done"] == 12
    assert whole.record["seconds_a_token"] > 0

    broken = PAIR.new(config(folder, prompts), tmp_path / "broken")
    work = PAIR.work(broken)
    next(work)
    with pytest.raises(Cancelled):
        work.throw(Cancelled())
    assert broken.status == "cancelled"
    lines = (broken.path / "items.jsonl").read_text().splitlines()
    assert len(lines) == 4
    (broken.path / "items.jsonl").write_text("\n".join(lines[:3]) + "\n")  # as if it had died in the middle of a block
    list(PAIR.work(PAIR.new(config(folder, prompts), tmp_path / "broken")))
    assert read_items(broken.path) == read_items(whole.path)
    assert (broken.path / "pairs.jsonl").read_bytes() == (whole.path / "pairs.jsonl").read_bytes()


def test_shards_make_every_pair_once(folder: Path, prompts: str, tmp_path: Path) -> None:
    whole = PAIR.new(config(folder, prompts), tmp_path / "whole")
    list(PAIR.work(whole))
    parts = [tmp_path / f"shard{i}" for i in range(2)]
    for number, part in enumerate(parts):
        list(PAIR.work(PAIR.new(config(folder, prompts, shards=2, shard=number), part)))
    assert sum(len(read_items(part)) for part in parts) == 12
    first = Run.open(parts[0])
    rule = {name: value for name, value in first.config["rule"].items() if value}
    first.update(config=first.config | {"rule": rule})  # as versions before wrote it
    for order in (parts, parts[::-1]):
        joined = join(order, tmp_path / f"joined, {order[0].name} first")
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
    run = PAIR.new(config(folder, prompts), tmp_path / "out")
    list(PAIR.work(run))
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
        ({"max_new_tokens": 0}, "new tokens 0 is outside 1 to 65,536"),
        ({"shard": 2, "shards": 2}, "no shard 2 of 2"),
        ({"temperature": 9.0}, "temperature 9 is outside"),
        ({"server": "http://a"}, "servers come in pairs"),
        ({"allow": ("nothing",)}, "gate rule 'nothing' is unknown"),
        ({"rule": MaskRule()}, "say which heads to mask"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], says: str) -> None:
    values = {"model": "m", "prompts": "p.txt", "rule": MaskRule(heads="L0H0"), **changes}
    with pytest.raises(ValueError, match=says):
        PairsSettings(**values)  # type: ignore[arg-type]


def test_the_command_does_the_same() -> None:
    rule = MaskRule(share=0.05, scores="smollm2-135m")
    made = PairsSettings(model="smollm2-135m", rule=rule, generate="grounded", count=30, allow=("cut", "ratio"))
    words = (
        "retmask pairs smollm2-135m --share 0.05 --scores smollm2-135m --generate grounded --count 30 --allow cut,ratio"
    )
    assert made.command == words.split()


def test_a_record_comes_back(folder: Path, prompts: str, tmp_path: Path) -> None:
    made = config(folder, prompts, allow=("cut",))
    run = PAIR.new(made, tmp_path / "out")
    assert from_record(PairsSettings, json.loads((run.path / "run.json").read_text())["config"]) == made


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OpenAIServer]]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
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
    monkeypatch.setattr(remote, "AT_ONCE", 1)
    normal, masked = servers
    settings = PairsSettings(model="some/model", prompts=prompts, server=normal.url, masked_server=masked.url)
    both = (normal.url, masked.url)
    whole = PAIR.new(settings, tmp_path / "whole")
    list(PAIR.work(whole, servers=both))
    assert len(read_items(whole.path)) == 12
    for pair in read_items(whole.path):
        assert (pair.chosen.text.split()[0], pair.rejected.text.split()[0]) == ("normal", "masked")
        assert pair.chosen.text.split()[-1] == pair.rejected.text.split()[-1], "both draw with one seed"

    run = PAIR.new(settings, tmp_path / "out")
    answers, said = masked.answers, count(1)

    def answer_some(prompt: str, seed: int) -> str:
        if next(said) == 6:
            masked.fail(500, for_good=True)
        assert answers
        return answers(prompt, seed)

    masked.answers = answer_some
    with pytest.raises(ValueError, match="same command goes on"):
        list(PAIR.work(run, servers=both))
    assert run.status == "error"
    assert len(read_items(run.path)) == 6
    masked.fail()
    list(PAIR.work(PAIR.new(settings, tmp_path / "out"), servers=both))
    assert read_items(run.path) == read_items(whole.path)
    assert run.record["thinking"] == "off"


def test_a_server_that_nobody_has_named_is_not_contacted(
    prompts: str, tmp_path: Path, fresh_home: Path, servers: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the run's folder says: in this process, as a worker, and on the command line."""
    normal, masked = servers
    run = PAIR.new(
        PairsSettings(model="m", prompts=prompts, server=normal.url, masked_server=masked.url), tmp_path / "out"
    )
    monkeypatch.setenv("RETMASK_SERVERS", normal.url)
    for do in (lambda: list(PAIR.work(run)), lambda: list(PAIR.work(run, servers=[normal.url])), lambda: work(run)):
        with pytest.raises(ValueError, match="name these servers again") as caught:
            do()
        assert prompts in str(caught.value)
        assert masked.url in str(caught.value)
        assert run.recorded == "queued", "it has not stood in line"
    named = f"sends the prompts in {prompts} to {normal.url} and {masked.url}: if that is what you want, name them"
    found = CliRunner().invoke(app, ["runs", "resume", str(run.path), "--server", normal.url])
    assert named in str(found.exception)
    hostile = dict(run.config) | {"prompts": "\x1b[2Jx.txt"}
    other = Run.create("pairs", hostile, tmp_path / "other")
    assert sends(other).startswith("other sends the prompts in \ufffd[2Jx.txt to ")
    assert not normal.requests + masked.requests
    monkeypatch.setenv("RETMASK_SERVERS", f"{normal.url} {masked.url}")
    work(run)
    assert len(read_items(run.path)) == 12


def test_a_resumed_worker_is_told_which_servers_are_meant(
    prompts: str, tmp_path: Path, fresh_home: Path, servers: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    normal, masked = servers
    run = PAIR.new(
        PairsSettings(model="m", prompts=prompts, server=normal.url, masked_server=masked.url), tmp_path / "out"
    )
    started: list[object] = []
    monkeypatch.setattr(processes.subprocess, "Popen", lambda *_, env, **__: started.append(env) or _Gone())
    for names in ([normal.url, masked.url], [normal.url.removesuffix("/v1"), masked.url + "/"]):
        run.update(status="cancelled", pid=None, spawned=0)
        command = ["runs", "resume", str(run.path), *(part for name in names for part in ("--server", name))]
        assert CliRunner().invoke(app, command).exit_code == 0
    assert [env["RETMASK_SERVERS"] for env in started] == [f"{normal.url} {masked.url}"] * 2  # type: ignore[index]


def test_a_server_is_confirmed_in_whichever_way_its_address_is_written(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the record, which may come from elsewhere, has it without /v1."""
    monkeypatch.setattr(processes.subprocess, "Popen", lambda *_, **__: _Gone())
    run = Run.create("pairs", {"model": "m", "server": "http://a:9", "masked_server": "http://a:9"}, tmp_path / "out")
    run.update(status="cancelled")
    done = CliRunner().invoke(app, ["runs", "resume", str(run.path), "--server", "http://a:9"])
    assert done.exit_code == 0, done.exception


class _Gone:
    pid = 2**30

    def wait(self) -> None:
        """It has ended."""


def test_a_prompt_that_a_server_refuses_ends_only_itself(
    prompts: str, tmp_path: Path, fresh_home: Path, servers: list[OpenAIServer]
) -> None:
    normal, masked = servers
    refusal = Canned(400, b'{"error": {"message": "System role not supported"}}')
    settings = PairsSettings(model="m", prompts=prompts, server=normal.url, masked_server=masked.url, batch=4)
    run = PAIR.new(settings, tmp_path / "out")
    work = PAIR.work(run, servers=(normal.url, masked.url))
    next(work)
    masked.fail(refusal)
    list(work)
    found = [pair for pair in read_items(run.path) if pair.unanswered]
    assert len(found) == 1
    assert "refused the request (400: System role not supported)" in found[0].unanswered
    assert faults(found[0], ("identical",)) == ["empty"]
    assert len(read_rows(run.path / "pairs.jsonl")) == 11

    masked.fail(refusal, for_good=True)
    run = PAIR.new(settings, tmp_path / "all")
    with pytest.raises(ValueError, match="System role not supported"):
        list(PAIR.work(run, servers=(normal.url, masked.url)))
    assert read_items(run.path) == [], "where it refuses all, it may be something else than the prompts"


def test_a_server_that_refuses_on_a_resume_what_it_answered_before_has_changed(
    prompts: str, tmp_path: Path, fresh_home: Path, servers: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompts are not given up then; those that alone are refused are."""
    normal, masked = servers
    refusal = Canned(400, b'{"error": {"message": "max_model_len is 8"}}')
    settings = PairsSettings(model="m", prompts=prompts, server=normal.url, masked_server=masked.url, batch=4)
    run = PAIR.new(settings, tmp_path / "out")
    work = PAIR.work(run, servers=(normal.url, masked.url))
    next(work)
    work.close()
    masked.fail(Canned(200, b'{"data": [{"id": "masked"}]}'), refusal, for_good=True)  # it lists its models still
    with pytest.raises(ValueError, match="max_model_len is 8"):
        list(PAIR.work(run, servers=(normal.url, masked.url)))
    assert len(read_items(run.path)) == 4
    masked.fail()
    sound, block = masked.response, ("number 4", "number 5", "number 6", "number 7")
    monkeypatch.setattr(
        masked, "response", lambda asked: refusal if any(map(str(asked.body).count, block)) else sound(asked)
    )
    list(PAIR.work(run, servers=(normal.url, masked.url)))
    assert [bool(pair.unanswered) for pair in read_items(run.path)] == [False] * 4 + [True] * 4 + [False] * 4
    assert run.status == "success"


def test_a_run_whose_servers_think_all_at_once_is_not_mixed(
    prompts: str, tmp_path: Path, fresh_home: Path, servers: list[OpenAIServer]
) -> None:
    normal, masked = servers
    both = (normal.url, masked.url)
    settings = PairsSettings(model="m", prompts=prompts, server=normal.url, masked_server=masked.url, batch=4)
    run = PAIR.new(settings, tmp_path / "left")
    work = PAIR.work(run, servers=both)
    next(work)
    with pytest.raises(Cancelled):
        work.throw(Cancelled())
    assert run.record["thinking"] == "off"
    run.update(thinking="left to the server")
    with pytest.raises(ValueError, match="began with thinking left to the server, and it is off now"):
        list(PAIR.work(run, servers=both))
    assert len(read_items(run.path)) == 4

    masked.answers = None
    other = PAIR.new(settings, tmp_path / "refuses")
    masked.refuses = "chat_template_kwargs"
    list(PAIR.work(other, servers=both))
    assert other.record["thinking"] == "left to the server"
    assert len(read_items(other.path)) == 12


def test_a_password_in_an_address_is_written_nowhere(prompts: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match="address"):
        PairsSettings(model="m", prompts=prompts, server="http://me:secret@host/v1", masked_server="http://host/v1")
    assert not (fresh_home / "runs").exists()


def test_a_prompt_that_is_too_long_stops_nothing(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("short\n" + "long " * 200 + "\nshort too\n")
    run = PAIR.new(config(folder, str(path)), tmp_path / "out")
    list(PAIR.work(run))
    found = read_items(run.path)
    assert len(found) == 3
    assert "empty" in faults(found[1])
    assert found[1].unanswered == "the prompt has 999 tokens, and with 6 new ones the model reads 512 at most"
    assert found[1].prompt_tokens == 999
    assert found[0].chosen.tokens > 0
    assert found[2].chosen.tokens > 0


STRICT = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% for one in messages %}[{{ one.role }}]{{ one.content }}{% endfor %}[a]"
)


def test_a_prompt_whose_roles_the_template_refuses_ends_only_itself(folder: Path, tmp_path: Path) -> None:
    tiny_tokenizer(STRICT).save_pretrained(folder)
    ask, said = {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}
    path = tmp_path / "roles.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": turns}) for turns in ([ask], [said, ask], [ask, said, ask])))
    run = PAIR.new(config(folder, str(path)), tmp_path / "out")
    list(PAIR.work(run))
    one, refused, other = read_items(run.path)
    assert one.chosen.tokens > 0
    assert other.chosen.tokens > 0
    assert refused.unanswered == (
        "the chat template of this model fails on prompt roles-2: Roles must alternate user/assistant"
    )
    path.write_text(json.dumps({"prompt": [said, ask]}))
    with pytest.raises(ValueError, match="Roles must alternate"):
        list(PAIR.work(PAIR.new(config(folder, str(path)), tmp_path / "all")))


def test_prompts_are_those_of_the_chat(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One moment for all prompts of a run, also when it goes on another day."""
    tiny_tokenizer("{{ strftime_now('%Y') }}" + STRICT).save_pretrained(folder)
    path = tmp_path / "p.txt"
    path.write_text("why")
    run = PAIR.new(config(folder, str(path)), tmp_path / "out")
    run.update(clock="1999-05-04T10:00:00")
    asked: list[list[int]] = []
    both = local.answer_both
    monkeypatch.setattr(local, "answer_both", lambda *given: asked.extend(given[1]) or both(*given))
    list(PAIR.work(run))
    assert "".join(map(chr, asked[0])) == "1999[user]why[a]"
    assert run.record["clock"] == "1999-05-04T10:00:00"
    assert run.record["thinking"] == "none"


def test_little_memory_at_one_moment_makes_no_empty_pair(
    folder: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rows are tried, then the prompt is left for another time; the same pairs come out in the end."""
    whole = PAIR.new(config(folder, prompts), tmp_path / "whole")
    list(PAIR.work(whole))
    real, free = memory.free_bytes, [0]
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda device: free[0] or real(device))
    run = PAIR.new(config(folder, prompts), tmp_path / "out")
    work = PAIR.work(run)
    next(work)
    free[0] = 1
    next(work)
    free[0] = 0
    with pytest.raises(ValueError, match=r"^4 prompts of up to \d+ tokens with the answer found too little"):
        list(work)
    assert run.status == "error"
    assert len(read_items(run.path)) == 8, "none is written down as done"
    list(PAIR.work(PAIR.new(config(folder, prompts), tmp_path / "out")))
    assert read_items(run.path) == read_items(whole.path)
    assert run.status == "success"


def test_a_known_prompt_that_finds_no_memory_leaves_nothing_to_do(
    folder: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is only answered once more so that its block stays together."""
    run = PAIR.new(config(folder, prompts), tmp_path / "out")
    list(PAIR.work(run))
    whole, file = read_items(run.path), run.path / "items.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3] + lines[4:]))
    run.update(status="error")
    both, fits = local.answer_both, iter([False, False, False, True])

    def narrow(model: LensModel, asked: list[list[int]], *given: Any) -> Any:
        if len(asked) > 1 or not next(fits):
            raise MemoryError
        return both(model, asked, *given)

    monkeypatch.setattr(local, "answer_both", narrow)
    list(PAIR.work(run))
    assert run.status == "success"
    assert {pair.id for pair in read_items(run.path)} == {pair.id for pair in whole}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_batch_that_does_not_fit_is_tried_with_fewer_rows(
    error: Exception, folder: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, sizes = local.answer_both, []

    def narrow(model: LensModel, asked: list[list[int]], *given: Any) -> Any:
        sizes.append(len(asked))
        if len(asked) > 1:
            raise error
        return both(model, asked, *given)

    monkeypatch.setattr(local, "answer_both", narrow)
    run = PAIR.new(config(folder, prompts), tmp_path / "out")
    list(PAIR.work(run))
    assert sizes[:4] == [4, 2, 1, 3]
    assert len(read_items(run.path)) == 12
    assert not any(pair.unanswered for pair in read_items(run.path))


def test_what_a_random_mask_leaves_out_is_recorded(folder: Path, prompts: str, tmp_path: Path) -> None:
    values = np.full((1, 3, 4), 0.001)
    values[0, 1, 2] = 0.5
    HeadScores("tiny", values).save(tmp_path / "scores.json")
    rule = MaskRule(random=11, scores=str(tmp_path / "scores.json"))
    run = PAIR.new(replace(config(folder, prompts, count=1), rule=rule), tmp_path / "out")
    list(PAIR.work(run))
    assert run.record["excluded"] == ["L1H2"]
    assert "L1H2" not in run.record["mask"]
    assert len(run.record["mask"].split(",")) == 11


def test_what_was_passed_over_is_recorded(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": " "}\n{"prompt": "b", "redacted": true}')
    run = PAIR.new(config(folder, str(path)), tmp_path / "out")
    assert run.record["passed_over"] == "2 rows passed over: 1 without text, 1 redacted"
