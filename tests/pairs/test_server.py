"""Answers from servers: in order, checked, tried again where that may help, and said plainly where it does not."""

import gzip
import json
from collections.abc import Iterator
from itertools import count

import httpx
import pytest
from openai_server import MALFORMED, Canned, Fault, OpenAIServer, made_up, without_keys

from retmask.pairs import server as servers
from retmask.pairs.addresses import address, key_for
from retmask.pairs.pair import Answer
from retmask.pairs.server import Refused, Server
from retmask.text.sampling import Sampling

KEY = "sk-very-secret-1234"
HELLO = (("system", "Be brief."), ("user", "Where is the needle?"))
PROMPT = "system: Be brief.\nuser: Where is the needle?"
DRAWN = Sampling(0.7, 0.9, 5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


@pytest.fixture
def there() -> Iterator[OpenAIServer]:
    with OpenAIServer("tiny") as server:
        yield server


@pytest.fixture
def asked(there: OpenAIServer) -> Server:
    server = Server.connect(there.url)
    there.requests.clear()
    return server


def replying(**choice: object) -> Canned:
    """A chat completion with one choice of that content."""
    return Canned(200, json.dumps({"choices": [choice]}).encode())


def test_two_servers_answer_each_with_its_model() -> None:
    with OpenAIServer("normal") as one, OpenAIServer("masked") as other:
        asked = (Server.connect(one.url), Server.connect(other.url.removesuffix("/v1")))
        texts = [server.answer(HELLO, 64, DRAWN) for server in asked]
        assert texts == [Answer(made_up(name, PROMPT, 5), 12, "stop") for name in ("normal", "masked")]
        assert [request.path for request in one.requests] == ["/v1/models", "/v1/chat/completions"]
        assert one.requests[1].body == {
            "model": "normal",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Where is the needle?"},
            ],
            "max_tokens": 64,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 5,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert other.requests[1].body["model"] == "masked"


def test_the_local_server_completes_plain_prompts_too(there: OpenAIServer) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 64, "seed": 5}
    answer = httpx.post(there.url + "/completions", json=body, trust_env=False).json()
    assert answer["choices"][0]["text"] == made_up("tiny", PROMPT, 5)


def test_an_answer_without_room_ends_by_length(asked: Server) -> None:
    reply = asked.answer(HELLO, 3, DRAWN)
    assert reply == Answer(" ".join(made_up("tiny", PROMPT, 5).split()[:3]), 3, "length")


@pytest.mark.parametrize("fault", ["drop", "cut", 500, 503, 429])
def test_a_passing_failure_is_tried_again(fault: Fault, there: OpenAIServer, asked: Server) -> None:
    there.fail(fault, fault, fault)
    assert asked.answer(HELLO, 64, DRAWN).text == made_up("tiny", PROMPT, 5)
    assert len(there.requests) == 4


def test_a_server_that_asks_to_be_left_alone_for_long_is_not_waited_for(there: OpenAIServer, asked: Server) -> None:
    there.fail(Canned(429, headers={"Retry-After": "3600"}))
    with pytest.raises(ValueError, match=r"does not answer \(429: told to fail\): what is collected is kept"):
        asked.answer(HELLO, 64, DRAWN)
    assert len(there.requests) == 1


def test_a_server_that_hangs_is_lost_after_all_tries(
    there: OpenAIServer, asked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "TIMEOUT", 0.05)
    there.fail("hang", for_good=True)
    with pytest.raises(ValueError, match=r"does not answer \(no answer within 0.05 s\): what is collected is kept"):
        asked.answer(HELLO, 64, DRAWN)
    assert len(there.requests) == 4


def test_a_look_at_a_server_that_hangs_takes_no_longer_than_a_list(
    there: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the look is an answer of a named model."""
    monkeypatch.setattr(servers, "_QUICK", 0.05)
    there.fail("hang", for_good=True)
    for model in ("", "tiny"):
        with pytest.raises(ValueError, match=r"does not answer \(no answer within 0.05 s\): start the server"):
            Server.connect(there.url, model)


def test_a_server_that_died_is_lost_and_says_how_to_go_on(there: OpenAIServer, asked: Server) -> None:
    there.fail("die")
    with pytest.raises(ValueError, match="does not answer") as lost:
        asked.answer(HELLO, 64, DRAWN)
    assert str(lost.value).startswith(f"{there.url} does not answer (")
    assert "refused" in str(lost.value)
    assert str(lost.value).endswith(
        "what is collected is kept, and the same command goes on from there once the server is back"
    )


def test_a_refusal_is_not_tried_again(there: OpenAIServer, asked: Server) -> None:
    asked.answer(HELLO, 64, DRAWN)
    there.requests.clear()
    there.fail(Canned(400, json.dumps({"error": {"message": "The maximum\n context \x1b[31m" + "is " * 500}}).encode()))
    with pytest.raises(ValueError, match=r"refused the request \(400: The maximum context \[31mis is") as refused:
        asked.answer(HELLO, 64, DRAWN)
    assert len(str(refused.value)) < 300
    assert len(there.requests) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "flat"}', "400: flat"),
        (b'{"detail": "d"}', "400: d"),
        (b"<h1>\xff", "400: <h1>"),
        (b"", "nothing"),
    ],
)
def test_what_a_server_says_is_found(body: bytes, said: str, there: OpenAIServer, asked: Server) -> None:
    asked.answer(HELLO, 64, DRAWN)
    there.fail(Canned(400, body))
    with pytest.raises(ValueError, match=said):
        asked.answer(HELLO, 64, DRAWN)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (MALFORMED, "did not answer in JSON"),
        (Canned(200, b"[" * 200_000), "did not answer in JSON"),
        (Canned(200, b"[]"), "without message or finish_reason"),
        (Canned(200, b'{"choices": []}'), "without message or finish_reason"),
        (replying(message={"content": "a"}), "without message or finish_reason"),
        (replying(message={"content": ["a"]}, finish_reason="stop"), "something else than text"),
        (replying(message={"content": "a"}, finish_reason="content_filter"), "ended an answer with 'content_filter'"),
        (Canned(307, headers={"Location": "http://127.0.0.1:9/v1"}), r"points to http://127.0.0.1:9/v1 \(307\)"),
    ],
)
def test_what_is_no_reply_is_said(fault: Fault, said: str, there: OpenAIServer, asked: Server) -> None:
    there.fail(fault)
    with pytest.raises(ValueError, match=said) as wrong:
        asked.answer(HELLO, 64, DRAWN)
    assert "what is collected" not in str(wrong.value)
    assert there.url in str(wrong.value)
    assert len(there.requests) == 1


def test_a_response_that_is_too_large_is_not_read_on(
    there: OpenAIServer, asked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LARGEST", 2**20)
    there.fail(Canned(200, b" " * (2**20 + 1)))
    with pytest.raises(ValueError, match="more than 1 MiB"):
        asked.answer(HELLO, 64, DRAWN)


def test_a_packed_response_is_not_unpacked(there: OpenAIServer, asked: Server) -> None:
    """A few bytes could become any number; the client asks for none."""
    there.fail(Canned(200, gzip.compress(b'{"choices": []}'), {"Content-Encoding": "gzip"}))
    with pytest.raises(ValueError, match="did not answer in JSON"):
        asked.answer(HELLO, 64, DRAWN)
    assert there.requests[-1].headers["accept-encoding"] == "identity"


def test_a_response_that_trickles_is_given_up(
    there: OpenAIServer, asked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "monotonic", count(step=601).__next__)
    with pytest.raises(ValueError, match="no answer within 600 s"):
        asked.answer(HELLO, 64, DRAWN)
    assert len(there.requests) == 4


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), ("", ""), (" as it is\n", " as it is\n"), ("half \ud83d", "half ?")]
)
def test_texts_as_servers_give_them(content: str | None, text: str, there: OpenAIServer, asked: Server) -> None:
    there.fail(replying(message={"content": content}, finish_reason="stop"))
    assert asked.answer(HELLO, 64, DRAWN) == Answer(text, 0, "stop")


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    with OpenAIServer(key=KEY) as there:
        monkeypatch.setenv("OPENAI_BASE_URL", there.url)
        asked = Server.connect(there.url)
        asked.answer(HELLO, 64, DRAWN)
        assert {request.headers["authorization"] for request in there.requests} == {f"Bearer {KEY}"}
        assert KEY not in repr(asked) + repr(vars(asked)) + json.dumps(there.requests[-1].body)
        there.key = "another"  # the refusal repeats what it got
        with pytest.raises(ValueError, match=r"401: wrong key Bearer \*\*\*\): set RETMASK_SERVER_KEYS=127") as refused:
            asked.answer(HELLO, 64, DRAWN)
        assert KEY not in str(refused.value)
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ValueError, match="401: wrong key None"):
            asked.answer(HELLO, 64, DRAWN)


def test_what_the_environment_holds_for_openai_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would send it to any server."""
    for name in ("OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Proxy-Key: {KEY}\nAuthorization: Bearer {KEY}")
    with OpenAIServer() as there:
        Server.connect(there.url, "tiny")
        assert KEY not in str(there.requests)
        assert set(there.requests[0].headers) == {
            *("host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length")
        }


@pytest.mark.parametrize("key", ["sk-secret\nX-Header: 1", "sk-secret\u2019"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str, asked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", asked.url)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters") as refused:
        asked.answer(HELLO, 64, DRAWN)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_a_key_goes_only_to_the_host_that_it_was_given_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_API_KEY to OpenAI or OPENAI_BASE_URL, by scheme, host and port; those of RETMASK_SERVER_KEYS by host."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer() as there:
        asked = Server.connect(there.url)
        asked.answer(HELLO, 64, DRAWN)
        assert not any("authorization" in request.headers for request in there.requests)
        monkeypatch.setenv("RETMASK_SERVER_KEYS", f"other=sk-b {there.url.split('/')[2]}=sk-own")
        asked.answer(HELLO, 64, DRAWN)
        assert there.requests[-1].headers["authorization"] == "Bearer sk-own"
        there.fail(Canned(307, headers={"Location": "http://other/v1"}))
        with pytest.raises(ValueError, match="points to"):
            asked.answer(HELLO, 64, DRAWN)
    assert key_for("https://api.openai.com/v1") == ("OPENAI_API_KEY", KEY)
    for url in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "https://api.openai.com:444/v1"):
        assert key_for(url) == ("", "")
    assert key_for("https://other/v1") == ("RETMASK_SERVER_KEYS", "sk-b")
    for url in ("http://other/v1", "http://other:443/v1", "http://other:8000/v1", "https://other:8000/v1"):
        assert key_for(url) == ("", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://mine.example:8443/v1/")
    assert key_for("https://mine.example:8443/v1") == ("OPENAI_API_KEY", KEY)
    assert key_for("https://api.openai.com/v1") == ("", "")


def test_a_key_goes_in_clear_only_to_a_port_that_is_named_and_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETMASK_SERVER_KEYS", "other:443=a other:8000=b 127.0.0.1=c other:x=d")
    urls = ("https://Other/v1", "http://other:443/v1", "http://other:8000/v1", "http://127.0.0.1/v1", "http://other/v1")
    assert [key_for(url)[1] for url in urls] == ["a", "", "b", "c", ""]


def test_a_server_that_does_not_know_thinking_is_asked_without(there: OpenAIServer, asked: Server) -> None:
    assert not asked.thinks
    there.fail(Canned(400, b'{"error": {"message": "Unrecognized request argument: chat_template_kwargs"}}'))
    assert asked.answer(HELLO, 64, DRAWN).text == made_up("tiny", PROMPT, 5)
    assert asked.thinks
    asked.answer(HELLO, 64, DRAWN)
    assert ["chat_template_kwargs" in request.body for request in there.requests] == [True, False, False]


def test_what_a_server_refuses_after_it_has_answered_is_the_prompt(there: OpenAIServer, asked: Server) -> None:
    asked.answer(HELLO, 64, DRAWN)
    there.fail(Canned(400, b'{"error": {"message": "System role not supported"}}'))
    with pytest.raises(Refused, match="System role not supported"):
        asked.answer(HELLO, 64, DRAWN)
    assert len(there.requests) == 2
    assert not asked.thinks
    there.fail(404)
    with pytest.raises(ValueError, match="404") as missing:
        asked.answer(HELLO, 64, DRAWN)
    assert not isinstance(missing.value, Refused)


@pytest.mark.parametrize(
    ("models", "named", "said"),
    [
        (["a", "b"], "", "serves 2 models and none is named: choose a, b$"),
        ([f"m{n}" for n in range(12)], "", "choose m0, m1, m2, m3, m4, m5, m6, m7 and 4 more$"),
        (["a"], "b", r"refused the request \(404: The model `b` does not exist.\)$"),
    ],
)
def test_which_model_must_be_clear(models: list[str], named: str, said: str) -> None:
    with OpenAIServer(*models) as there, pytest.raises(ValueError, match=said):
        Server.connect(there.url, named)


def test_a_named_model_that_is_not_listed(there: OpenAIServer) -> None:
    """`transformers serve FOLDER` lists what lies in the Hub's cache, and fails where that is not there."""
    Server.connect(there.url, "tiny")
    assert [request.path for request in there.requests] == ["/v1/chat/completions"]
    assert there.requests[0].body["max_tokens"] == 1
    there.stop()
    with pytest.raises(ValueError, match="does not answer"):
        Server.connect(there.url, "tiny")


def test_a_named_model_among_several() -> None:
    with OpenAIServer("a", "b") as there:
        assert Server.connect(there.url, "b").answer(HELLO, 64, DRAWN).text == made_up("b", PROMPT, 5)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("drop", r"does not answer \(.+\): start the server, or correct the address"),
        ("die", r"does not answer \(.+\): start the server, or correct the address"),
        (503, r"does not answer \(503: told to fail\)"),
        (Canned(404, b'{"detail": "Not Found"}'), r"refused the request \(404: Not Found\)"),
        (Canned(200, b"<html>"), "did not answer in JSON"),
        (Canned(200, b'{"models": []}'), "lists no models"),
        (Canned(200, b'{"data": [{}, 1]}'), "lists no model: name the one it serves"),
    ],
)
def test_connecting_says_what_is_wrong(fault: Fault, said: str, there: OpenAIServer) -> None:
    there.fail(fault)
    with pytest.raises(ValueError, match=said):
        Server.connect(there.url)
    assert len(there.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "ftp://host/v1",
        "http://user:secret@host/v1",
        "http://host/v1?key=secret",
        "http://host/#secret",
        "http://",
        "host:8000",
        "http://host:99999",
        "http://host:x/v1",
        "http://a..b",
        "http://ho\nst",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="is not a server's address: write it like") as refused:
        Server.connect(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://h:8000", "http://h:8000/", " http://h:8000/v1 ", "http://h:8000/v1/"])
def test_addresses_are_completed(url: str) -> None:
    assert address(url) == "http://h:8000/v1"
    assert address("https://h/openai") == "https://h/openai/v1"


def test_proxies_are_for_other_machines(there: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert Server.connect(there.url).model == "tiny"
    monkeypatch.setenv("ALL_PROXY", "socks4://user:secret@host:1")
    with pytest.raises(ValueError, match="the proxy in the environment cannot be used") as refused:
        Server("http://elsewhere:8000")
    assert "secret" not in str(refused.value)


def test_what_sampling_does_not_allow_is_not_sent(there: OpenAIServer, asked: Server) -> None:
    with pytest.raises(ValueError, match="temperature 9 is outside"):
        asked.answer(HELLO, 64, Sampling(9))
    assert there.requests == []
