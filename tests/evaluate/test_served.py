"""Conditions on a server: asked as a model here is, lost and found again, not asked what it cannot say."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from openai_server import Canned, OpenAIServer, Recorded, without_keys
from tiny import tiny_folder, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from app.evaluate.table import by_condition, rows_of
from retmask.cli.main import app
from retmask.compare.conditions import Condition, named, parse
from retmask.evaluate import backends
from retmask.evaluate.answers import _stored, read_answers
from retmask.evaluate.engine import Asked, ask
from retmask.evaluate.job import EVALUATE, EvaluateSettings, _ready, contacted, sends
from retmask.evaluate.results import FLOORS, not_served, results_of
from retmask.heads.masks import HeadMask
from retmask.items.item import Item
from retmask.items.published import read_published
from retmask.pairs.server import Server
from retmask.runs.job import Work
from retmask.runs.run import Run
from retmask.runs.settings import record
from retmask.text.chat import Chat

ROOM = 48  # tokens of an answer to one's own items


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


@pytest.fixture
def there() -> Iterator[OpenAIServer]:
    """A server with the model of `tiny_folder`, which answers greedily as it does here."""
    model, lock = tiny_model("llama"), Lock()
    model.tokenizer = tiny_tokenizer()
    chat = Chat(model.tokenizer)

    def answer(prompt: str, _: int) -> str:
        text = chat.text([("user", prompt.removeprefix("user: "))])
        with lock:
            [[given]] = ask(model, [Asked(tuple(chat.encode(text).ids), (), ROOM)], [HeadMask()])
        return chat.answer(given.token_ids)

    with OpenAIServer("tiny", answers=answer) as server:
        yield server


def settings_of(folder: Path, *conditions: str, rows: int = 6, **changes: Any) -> EvaluateSettings:
    """So many items of one's own, two to a context, whose answers begin with `prefix`."""
    prefix = changes.pop("prefix", "")
    path = folder / "items.jsonl"
    lines = [
        {"context": f"Kim has 2 red hats. Ann has 3. {i // 2}", "question": f"Who has 2? {'x' * i}", "gold": "Kim"}
        | {"distractors": ["Ann"], "prefix": prefix, "task": f"t{i % 2}"}
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = folder / "model" if (folder / "model").is_dir() else tiny_folder(folder)
    return EvaluateSettings(model=str(model), suite=str(path), condition=conditions, floors=False, **changes)


def finished(settings: EvaluateSettings, out: Path) -> Run:
    run = EVALUATE.new(settings, out)
    list(EVALUATE.work(run, servers=contacted(run)))
    return run


def results(run: Run) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((run.path / "results.json").read_text())
    return made


def test_a_model_on_a_server_scores_as_it_does_here(tmp_path: Path, fresh_home: Path, there: OpenAIServer) -> None:
    """The null check of both ways to ask: the same answers, all differences exactly 0. What answers is recorded."""
    run = finished(settings_of(tmp_path, "masked=L1H0", f"served here: server={there.url}"), tmp_path / "out")
    answers = read_answers(run.path)
    asked = [item for name, item in answers if name == "served here"]
    assert len(asked) == 6
    for item in asked:
        here, served = answers["unmasked", item], answers["served here", item]
        assert (served["response"], served["score"]) == (here["response"].strip(), here["score"])
        assert served.keys() == {"item", "condition", "response", "score"}
    made = results(run)
    gaps = [row for row in made["differences"] if row["condition"] == "served here"]
    assert {(row["level"], row["mean"]) for row in gaps} == {(level, 0) for level in ("task", "category", "overall")}
    assert made["conditions"][2] == {
        "condition": "served here",
        "text": f"served here: server={there.url}",
        "role": "treatment",
        "server": {"url": there.url, "model": "tiny", "thinking": "off"},
    }
    bodies = [request.body for request in there.requests if request.body]
    assert len(bodies) == 6
    assert all((body["temperature"], body["max_tokens"]) == (0, ROOM) for body in bodies)


def test_the_beginning_of_an_answer_cannot_be_given_and_may_be_repeated(tmp_path: Path, fresh_home: Path) -> None:
    """It is asked for, there is room for it, and what comes after it is the answer, as it is of a model here."""
    replies = ["The one is\n Ann, not Kim", "the one is Kim", "Kim", "No: the one is Kim", "", "The one island"]

    def answer(prompt: str, _: int) -> str:
        return replies[prompt.count("x")]

    with OpenAIServer(answers=answer) as server:
        run = finished(settings_of(tmp_path, f"server={server.url}", prefix="The one is"), tmp_path / "out")
        lines = [line for (name, _), line in read_answers(run.path).items() if name != "unmasked"]
        lines = [line for line in lines if line["condition"].startswith("server=")]
        given = {line["response"] for line in lines}
        assert given == {"Ann, not Kim", "Kim", "No: the one is Kim", "", "The one island"}
        bodies = [request.body for request in server.requests if request.body]
    assert {body["max_tokens"] for body in bodies} == {ROOM + backends.SLACK}
    asked = [body["messages"][0]["content"] for body in bodies]
    assert all(text.endswith("\n\nBegin your answer with: The one is") for text in asked)
    assert [text.count("The one is") for text in asked] == [1] * 6


def test_a_server_that_does_as_it_is_asked_scores_as_it_does_here() -> None:
    """The label counts at the beginning of an answer: asked to begin so, it is right; without a beginning as it is."""
    item = Item.of(an_item(0, "icl", "icl").record | {"gold": ["lima"], "distractors": ["oslo"]})

    def answer(prompt: str, _: int) -> str:
        _, asked, beginning = prompt.partition("Begin your answer with: ")
        return f"{beginning} lima" if asked else "lima"

    with OpenAIServer(answers=answer) as there:
        server = Server.connect(there.url)
        for prefix in ("The label is", ""):
            line = backends._line(server, ("served", replace(item, prefix=prefix)))
            assert line == {"item": item.id, "condition": "served", "response": "lima", "score": 1.0}


def test_an_item_that_a_server_has_no_room_for_is_asked_again_with_less_and_then_named(
    tmp_path: Path, fresh_home: Path
) -> None:
    """A window of the suite's length has no room for the beginning of an answer; a longer one lets the run go on."""
    window = ROOM

    class Narrow(OpenAIServer):
        def response(self, request: Recorded) -> Canned:
            too_long = request.body.get("max_tokens", 0) > window
            return Canned(400, b'{"error": {"message": "too long"}}') if too_long else super().response(request)

    with Narrow() as server:
        run = finished(settings_of(tmp_path, f"server={server.url}", prefix="The one is"), tmp_path / "out")
        assert run.status == "success"
        assert {request.body["max_tokens"] for request in server.requests if request.body} == {ROOM + 32, ROOM}
        window = ROOM - 1
        run = EVALUATE.new(settings_of(tmp_path, f"server={server.url}", prefix="The one is"), tmp_path / "less")
        says = r"\(400: too long\): own-\d has \d+ characters: serve it with a longer window, or leave it out$"
        with pytest.raises(ValueError, match=says):
            list(EVALUATE.work(run, servers=[server.url]))
        window = ROOM
        list(EVALUATE.work(run, servers=[server.url]))
        assert run.status == "success"


def test_lost_in_the_middle_it_goes_on_and_ends_the_same(
    tmp_path: Path, fresh_home: Path, there: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is on disk, also of those that were asked at once; away, it says so and loses nothing."""
    monkeypatch.setattr(backends, "AT_ONCE", 2)
    settings = settings_of(tmp_path, f"server={there.url}", rows=5)
    whole = finished(settings, tmp_path / "whole")
    run = EVALUATE.new(settings, tmp_path / "out")
    there.requests.clear()
    answer, asked = there.answers, count(1)

    def some(prompt: str, seed: int) -> str:
        if next(asked) == 3:
            there.fail(500, for_good=True)
        assert answer
        return answer(prompt, seed)

    there.answers = some
    with pytest.raises(ValueError, match=r"does not answer .*what is collected is kept, and the same command goes on"):
        list(EVALUATE.work(run, servers=[there.url]))
    before = (run.path / "answers.jsonl").read_bytes()
    served = [item for name, item in read_answers(run.path) if name.startswith("server=")]
    assert 2 <= len(served) < 5
    assert not (run.path / "results.json").exists()
    with pytest.raises(ValueError, match=r"does not answer \(500: told to fail\): start the server"):
        list(EVALUATE.work(run, servers=[there.url]))
    assert (run.path / "answers.jsonl").read_bytes() == before
    there.fail()
    there.requests.clear()
    monkeypatch.setattr("retmask.evaluate.answers.load", None)  # what is answered here needs no loading
    *_, last = EVALUATE.work(run, servers=[there.url])
    assert sum(bool(request.body) for request in there.requests) == 5 - len(served)
    assert (last.done, last.total) == (10, 10)
    assert (run.path / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()


def test_what_a_server_was_not_given_is_said_below_the_table(tmp_path: Path, fresh_home: Path) -> None:
    """Also that it may have thought, where it did not take the switch."""
    with OpenAIServer(answers=lambda *_: "") as server:
        server.refuses = "chat_template_kwargs"
        run = finished(settings_of(tmp_path, f"s: server={server.url}"), tmp_path / "out")
    says = not_served(results(run))
    assert says.startswith("A server cannot be given the beginning of an answer, so a gap to a model here may come")
    assert says.endswith("; s may think first, which takes of the few tokens of an answer and may leave none for it")
    assert (run.path / "results.md").read_text().endswith(f" |\n\n{says}.\n")
    assert not not_served({"conditions": [{"condition": "unmasked"}]})


def test_another_model_behind_the_address_is_not_mixed_in(
    tmp_path: Path, fresh_home: Path, there: OpenAIServer
) -> None:
    settings = settings_of(tmp_path, f"server={there.url}")
    run = EVALUATE.new(settings, tmp_path / "out")
    work = EVALUATE.work(run, servers=[there.url])
    next(work)
    work.close()
    there.models = ("other",)
    with pytest.raises(ValueError, match=r"began with server of .*'other'.*: choose another --out"):
        list(EVALUATE.work(run, servers=[there.url]))


def test_a_server_is_not_asked_where_log_probabilities_alone_count(
    tmp_path: Path, fresh_home: Path, there: OpenAIServer
) -> None:
    """Nor what was read. The work that is left and the steps count only what it is asked."""
    (tmp_path / "read.json").write_text(json.dumps(READ))
    settings = settings_of(tmp_path, f"server={there.url}", read=(str(tmp_path / "read.json"),))
    run = EVALUATE.new(settings, tmp_path / "out")
    own = [an_item(i, "own", "recall") for i in range(3)]
    scored = [an_item(i, "rerank_scored", "rerank") for i in range(3)]
    list(_stored(run, [*own, *scored, *read_published(tmp_path / "read.json").items]))
    *_, last = EVALUATE.work(run, servers=[there.url])
    assert (last.done, last.total) == (6 + 3 + 1, 10), "unmasked, the server, and what was read"
    assert sum(bool(request.body) for request in there.requests) == 3
    made = results(run)
    assert made["not_served"] == ["rerank_scored"]
    assert "not asked rerank_scored, so it has no mean in their categories.\n" in (run.path / "results.md").read_text()
    server = list(settings.conditions())[1]
    assert {(row["level"], row["name"]) for row in made["means"] if row["condition"] == server} == {
        ("task", "own"),
        ("category", "recall"),
    }


READ = {
    "args": {"model_name_or_path": "model", "datasets": "json_kv"},
    "data": [{"question": "k1", "answer": "v1", "output": "v1"}],
    "metrics": {"substring_exact_match": [True]},
    "averaged_metrics": {},
}


def an_item(number: int, task: str, category: Any) -> Item:
    texts = {"context": f"Kim has {number}.", "question": "Who?", "gold": ("1",), "distractors": ("2", "3")}
    of: dict[str, Any] = {"task": task, "cluster": f"{task}-{number}", "tokens": 0, "depth": None}
    return Item(id=f"{task}-{number}", category=category, data={"grades": {"1": 2, "2": 1}}, **of, **texts)


def test_a_mean_is_not_held_against_one_of_other_tasks() -> None:
    """Base is right in all but the task that the server lacks, the server in all it has: neither is overall better."""
    server, base = "server=h", "unmasked"
    conditions = named([Condition(), *parse("server=http://h/v1"), *parse("masked=L0H1")])
    kinds = (("own", "recall"), ("rerank_scored", "rerank"), ("rerank_text", "rerank"))
    items = [an_item(i, task, category) for task, category in kinds for i in range(8)]
    scores = {base: 1.0, server: 0.5, "masked=L0H1": 0.0}
    lines = [
        {"item": item.id, "condition": name, "response": "1", "score": 0.0 if item.task == "rerank_scored" else score}
        for item in items
        for name, score in scores.items()
        if (name, item.task) != (server, "rerank_scored")
    ]
    made = results_of(items, lines, conditions, {}, 200)
    means = {(row["name"], row["condition"]): row["mean"] for row in made["means"]}
    assert {name for name, condition in means if condition == server} == {"own", "rerank_text", "recall"}
    assert (means["rerank", base], means["overall", base]) == (0.5, 0.75)
    assert (means["recall", base], means["recall", server]) == (1, 0.5)
    gaps = {(row["name"], row["condition"]): row["mean"] for row in made["differences"] if row["against"] == base}
    assert {name: gap for (name, condition), gap in gaps.items() if condition == server} == {
        "own": -0.5,
        "rerank_text": -0.5,
        "recall": -0.5,
    }
    assert (gaps["overall", "masked=L0H1"], gaps["rerank", "masked=L0H1"]) == (-0.75, -0.5)
    floor = {"level": "overall", "name": "overall", "condition": "no context", "mean": 0.1, "low": None}
    rows = rows_of(made | {"floors": [floor | {"items": 1, "clusters": 1}]}, "means")
    shown = by_condition(rows, {}, FLOORS)
    assert shown.index(base) < shown.index(server) < shown.index("no context"), "also where it has no overall mean"
    says = {(row["name"], row["condition"]): row for row in made["verdicts"]}
    assert {name for name, condition in says if condition == server} == {"recall"}
    alone = results_of(items, [line for line in lines if line["condition"] != "masked=L0H1"], conditions, {}, 200)
    [recall] = [row for row in alone["verdicts"] if row["condition"] == server]
    assert says["recall", server]["p_base"] == recall["p_base"], "a category that is not there does not count"
    [recall] = [row for row in alone["differences"] if (row["name"], row["condition"]) == ("recall", server)]
    assert recall["adjusted"] == recall["p"]


def test_what_cannot_be_asked_is_one_sentence_and_no_run(tmp_path: Path, fresh_home: Path) -> None:
    with OpenAIServer("a", "b") as two:
        with pytest.raises(ValueError, match="serves 2 models and none is named: choose a, b"):
            EVALUATE.new(settings_of(tmp_path, f"server={two.url}"), tmp_path / "out")
        finished(settings_of(tmp_path, f"server={two.url}+served=b", f"server={two.url}+served=a"), tmp_path / "both")
        assert {request.body["model"] for request in two.requests if request.body} == {"a", "b"}
    with pytest.raises(ValueError, match=r"does not answer .*: start the server, or correct the address"):
        EVALUATE.new(settings_of(tmp_path, f"server={two.url}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for refused in ({"suite": "needles"}, {"harness": ("niah_single_1",)}):
        with pytest.raises(ValueError, match="a server is asked a suite or your own items only"):
            EvaluateSettings(model="m", condition=("server=http://h/v1",), **refused)  # type: ignore[arg-type]
    for secret in ("http://me:secret@h/v1", "http://h/v1?key=secret", "http://h:99999/v1"):
        with pytest.raises(ValueError, match="server's address") as caught:
            EvaluateSettings(model="m", condition=(f"server={secret}",))
        assert "secret" not in str(caught.value)


def test_no_time_left_is_made_up_of_another_pace(tmp_path: Path, fresh_home: Path, there: OpenAIServer) -> None:
    """What a server takes is not known by what a model takes here: nothing is left here, then nothing at all."""
    run = EVALUATE.new(settings_of(tmp_path, f"server={there.url}", rows=12), tmp_path / "out")
    steps = [step for step in EVALUATE.work(run, servers=[there.url]) if "condition" in step.facts]
    here = [step for step in steps if step.facts["condition"] == "unmasked"]
    assert here[0].eta
    assert (here[-1].eta, here[-1].done, here[-1].total) == (0, 12, 24)
    assert steps[-1].eta == 0


def test_a_server_that_nobody_has_named_is_not_contacted(tmp_path: Path, fresh_home: Path, there: OpenAIServer) -> None:
    """A run's folder may come from anybody."""
    settings = settings_of(tmp_path, f"server={there.url.removesuffix('/v1')}")
    run = EVALUATE.new(settings, tmp_path / "out")
    there.requests.clear()
    says = f"out sends the prompts in {settings.suite} to {there.url}"
    assert sends(run) == says
    with pytest.raises(ValueError, match="name these servers again") as caught:
        list(EVALUATE.work(run, servers=["http://other/v1"]))
    assert str(caught.value).startswith(says)
    refused = CliRunner().invoke(app, ["runs", "resume", str(run.path)])
    assert f"name them: --server {there.url}" in str(refused.exception)
    work = Work(run, settings, False, frozenset())  # whatever the record says: its own settings count
    run.update(config=run.config | {"condition": dict.fromkeys(run.config["condition"], 1)})
    assert not contacted(run)
    with pytest.raises(ValueError, match="name these servers again"):
        _ready(work)
    with pytest.raises(ValueError, match="no list under condition"):
        list(EVALUATE.work(run))
    run.update(config=record(settings))
    assert not there.requests
    assert run.recorded == "queued"
    asked = CliRunner().invoke(app, [*settings.command[1:], "--out", str(run.path)])
    assert asked.exit_code == 0, asked.output
    assert run.status == "success"
