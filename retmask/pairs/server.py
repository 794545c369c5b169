"""A model on an OpenAI-compatible server (vLLM, llama.cpp and others): asked here, and nothing is loaded.

Requests, retries and timeouts are those of the `openai` client. It would follow redirects, read an answer of any size,
and send any server what the environment holds for OpenAI alone; `_connections` keeps it from that.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, DefaultHttpxClient, OpenAI, OpenAIError, Timeout

from retmask.pairs.addresses import address, is_here, key_for, key_remedy
from retmask.pairs.pair import Answer
from retmask.text.chat import NO_THINKING
from retmask.text.sampling import Sampling
from retmask.text.template import Turn

TIMEOUT = 600.0  # seconds for one answer: a long one from a busy server takes minutes
RETRIES = 3  # after half a second, one and two, or when the server says, if that is within two minutes
LARGEST = 16 * 2**20  # bytes of one response
_QUICK = 30.0  # seconds for what is not tried again: a look whether it is there
_NAMED = 8  # models that an error lists
_ENDINGS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_SENT = {"host", "accept", "connection", "content-type", "content-length", "user-agent"}  # headers of the client's
_MAY_PASS = (408, 409, 429)  # beside 5xx: what the client tries again


class Refused(ValueError):
    """A server takes requests, but not this one: its template knows no such role, or the prompt is too long for it."""


class Server:
    """A model on a server, asked over one pool of connections, from as many threads as you like.

    `url` is `http://host:8000/v1` or https, `/v1` added where it is missing; `model` the served name. The key that
    `key_for` finds is read from the environment each time and kept nowhere. ValueError for an address with a user, a
    password or a query, or one that is none. `connect` also looks whether the server is there.

    Thinking is switched off, as it is for a model that is loaded here. A server that refuses to hear of it is asked
    without, and `thinks` is True from then on.
    """

    def __init__(self, url: str, model: str = "") -> None:
        self.url, self.model = address(url), model
        self._client = OpenAI(base_url=self.url, api_key="-", http_client=_connections(self.url))
        self._takes_switch: bool | None = None  # that of thinking; None until the server has answered once

    @classmethod
    def connect(cls, url: str, model: str = "") -> "Server":
        """The server at that address, with the only model it lists, or the one named: that is asked for a token.

        ValueError where nothing answers, where several models are served and none is named, or the named one is not.
        """
        server = cls(url, model)
        if model:  # not looked up in the list: `transformers serve FOLDER` lists other models than its own
            server.answer([("user", "Hello")], 1, Sampling(), retries=0)
        else:
            server.model = _only(server.url, server.models())
        return server

    def models(self) -> list[str]:
        """The names of the models that the server lists. ValueError, without retries, where it does not answer."""
        match self._asked(None, retries=0):
            case {"data": list(entries)}:
                names = [entry.get("id") for entry in entries if isinstance(entry, Mapping)]
                return list(dict.fromkeys(name for name in names if isinstance(name, str)))
        raise ValueError(f"{self.url} lists no models as an OpenAI-compatible server does: correct the address")

    def answer(
        self, messages: Sequence[Turn], max_new_tokens: int, sampling: Sampling, retries: int | None = None
    ) -> Answer:
        """The model's answer to a conversation of (role, content); 0 tokens where the server does not count them.

        The server renders the messages with the chat template of *its* model folder, and adds what else that folder or
        its own settings ask for, such as a repetition penalty (`--generation-config vllm` keeps vLLM from it): start
        two servers that are compared alike. A seed repeats an answer on one server, not across two; `transformers
        serve` draws at all only where the folder's generation_config.json says do_sample.

        A failure that may pass (no connection, no answer in time, 408, 409, 429, 5xx) is tried again, by default
        `RETRIES` times. `Refused` where the server does not take this request (400, 413, 422); ValueError where it does
        not answer, takes no request (another 4xx), or answers something else than a reply.
        """
        temperature, top_p, seed = sampling.check()
        body = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        }
        return self._reply(self._unthinking(body, RETRIES if retries is None else retries))

    @property
    def thinks(self) -> bool:
        """Whether the server has refused to switch thinking off, so that its model may think before it answers."""
        return self._takes_switch is False

    def _unthinking(self, body: Mapping[str, Any], retries: int) -> Any:
        """What is answered to a request that switches thinking off, or without that by a server that refuses it.

        Once it has taken one such request, what it refuses is the prompt.
        """
        if self.thinks:
            return self._asked(body, retries)
        try:
            answer = self._asked({**body, **NO_THINKING}, retries)
        except Refused:
            if self._takes_switch:
                raise
            answer = self._asked(body, retries)
            if self._takes_switch is None:  # another thread may have found out that it does take it
                self._takes_switch = False
            return answer
        if self._takes_switch is None:
            self._takes_switch = True
        return answer

    def _asked(self, body: Mapping[str, Any] | None, retries: int) -> Any:
        """The JSON that the server answers to a chat, or for None to what its models are. ValueError as `answer`."""
        patience = TIMEOUT if retries else min(TIMEOUT, _QUICK)
        timeout = Timeout(patience, connect=min(patience, 10.0), pool=None)
        client = self._client.with_options(max_retries=retries, timeout=timeout)
        try:
            if body is None:
                response = client.get("/models", cast_to=httpx2.Response)
            else:
                response = client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except APIStatusError as error:
            failure = self._status(error)
        except APITimeoutError:
            failure = f"no answer within {patience:g} s"
        except APIConnectionError as error:
            failure = self._shown(str(error.__cause__)) or type(error.__cause__).__name__
        except OpenAIError as error:  # of `_bounded`
            raise ValueError(f"{self.url} {error}") from None
        else:
            return self._json(response)
        remedy = "start the server, or correct the address" + ("" if body else ", or name its model")
        if retries:
            remedy = "what is collected is kept, and the same command goes on from there once the server is back"
        raise ValueError(f"{self.url} does not answer ({failure}): {remedy}")

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            raise ValueError(f"{self.url} did not answer in JSON: is it an OpenAI-compatible server?") from None

    def _status(self, error: APIStatusError) -> str:
        """A failure that may pass, in a few words. ValueError for a redirect and a refusal."""
        status, message = error.status_code, self._message(error)
        if status in _MAY_PASS or status >= 500:
            return f"{status}: {message}"
        if error.response.has_redirect_location:
            where = self._shown(error.response.headers["location"])
            raise ValueError(f"{self.url} points to {where} ({status}): give the address that answers itself") from None
        remedy = f": {key_remedy(self.url)}" if status in (401, 403) else ""
        kind = Refused if status in (400, 413, 422) else ValueError
        raise kind(f"{self.url} refused the request ({status}: {message}){remedy}") from None

    def _message(self, error: APIStatusError) -> str:
        """What a server says about a failure."""
        match error.body:
            case {"message": str(text)} | {"detail": str(text)} | str(text):  # OpenAI's and older vLLM's; FastAPI's
                return self._shown(text) or "nothing"
        return self._shown(error.response.text) or "nothing"

    def _reply(self, completion: Any) -> Answer:
        """The first choice of a chat completion. ValueError where there is none, or it ended in another way."""
        match completion:
            case {"choices": [{"message": {**message}, "finish_reason": str(reason)}, *_]}:
                text = message.get("content") or ""  # null where a model only thought, and for the empty answer
            case _:
                raise ValueError(f"{self.url} answered without message or finish_reason: is it OpenAI-compatible?")
        if not isinstance(text, str):
            raise ValueError(f"{self.url} answered with something else than text: choose a model that writes text")
        if reason not in _ENDINGS:
            raise ValueError(f"{self.url} ended an answer with {self._shown(reason)!r}, not with stop or length")
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair could not be written to a file
        return Answer(whole, _tokens(completion.get("usage")), _ENDINGS[reason])

    def _shown(self, text: str) -> str:
        """A server's words on one line of 200 characters at most, without the key should it repeat that."""
        _, key = key_for(self.url)
        return _line(text.replace(key, "***") if key else text, 200)


def _connections(url: str) -> httpx2.Client:
    """What the client asks with: through the environment's proxies, but not to this machine; no redirect is followed.

    A request holds the key of its host and no other header of a person's; a response is `LARGEST` at most.
    """
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [_only_its_key], "response": [_bound]}
    try:
        return DefaultHttpxClient(trust_env=not is_here(url), follow_redirects=False, event_hooks=hooks)
    except (ImportError, ValueError, httpx2.InvalidURL):
        raise ValueError(
            "the proxy in the environment cannot be used: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY take http://host:port"
        ) from None


def _only_its_key(request: httpx2.Request) -> None:
    """Keep organisations, projects and headers from the environment (OPENAI_CUSTOM_HEADERS) to OpenAI's own hosts."""
    for name in set(request.headers) - _SENT:
        del request.headers[name]
    request.headers["Accept-Encoding"] = "identity"
    if key := key_for(str(request.url))[1]:
        request.headers["Authorization"] = f"Bearer {key}"


def _bound(response: httpx2.Response) -> None:
    """Let no response be larger than `LARGEST`, packed ones left as they are, or longer under way than its timeout."""
    response.headers.pop("content-encoding", None)
    patience = response.request.extensions["timeout"]["read"]
    response.stream = _Bounded(response.stream, monotonic() + patience)  # type: ignore[arg-type]


class _Bounded(httpx2.SyncByteStream):
    """A body that ends with an error where it is too large, or trickles until after the moment `until`."""

    def __init__(self, stream: httpx2.SyncByteStream, until: float) -> None:
        self.stream, self.until = stream, until

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self.stream:
            size += len(chunk)
            if size > LARGEST:
                raise OpenAIError(f"answered with more than {LARGEST >> 20} MiB: is it a model's server?")
            if monotonic() > self.until:
                raise httpx2.ReadTimeout("the answer trickles")
            yield chunk

    def close(self) -> None:
        self.stream.close()


def _only(url: str, served: Sequence[str]) -> str:
    """The one model that is served. ValueError, that names some, where there are several, or none."""
    if not served:
        raise ValueError(f"{url} lists no model: name the one it serves")
    if len(served) > 1:
        names = ", ".join(_line(name, 100) for name in served[:_NAMED])
        names += f" and {len(served) - _NAMED} more" if len(served) > _NAMED else ""
        raise ValueError(f"{url} serves {len(served)} models and none is named: choose {names}")
    return served[0]


def _tokens(usage: Any) -> int:
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return tokens if isinstance(tokens, int) else 0


def _line(text: str, longest: int) -> str:
    """A text from elsewhere on one line, without control characters, cut."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:10_000])
    line = " ".join(line.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
