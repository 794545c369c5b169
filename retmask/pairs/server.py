"""Answers of models that OpenAI-compatible servers hold (vLLM, llama.cpp and others): nothing is loaded here.

Preference pairs can come from two servers, one with the model as it is and one with an exported masked checkpoint.
"""

import json
import os
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.pool import ThreadPool
from time import monotonic, sleep
from typing import Any, Literal, NamedTuple

import httpx

from retmask.text.chat import NO_THINKING
from retmask.text.sampling import Sampling

Messages = Sequence[tuple[str, str]]  # (role, content), roles as the server's template knows them: system, user, ...
Request = tuple[Messages, int, Sampling]  # the messages, the longest answer in tokens, how tokens are chosen

KEY_ENV = "OPENAI_API_KEY"  # goes to the origin of BASE_ENV, by default OpenAI's, and to no other
BASE_ENV = "OPENAI_BASE_URL"
_HERE = ("localhost", "127.0.0.1", "::1")
KEYS_ENV = "RETMASK_SERVER_KEYS"  # host:port=key, several with blanks between them: each key for its own host
_OPENAI = "https://api.openai.com/v1"
TIMEOUT = 600.0  # seconds for one answer: a long one from a busy server takes minutes
DELAYS = (0.5, 2.0, 5.0)  # seconds before each retry
LONGEST_WAIT = 30.0  # seconds, where the server names a time itself
LARGEST = 16 * 2**20  # bytes of one response
_NAMED = 8  # models that an error lists
_ENDINGS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}


class Reply(NamedTuple):
    """An answer: its text, its length in tokens (0 where the server does not say), and what ended it."""

    text: str
    tokens: int
    ended: Literal["stop", "length"]


class ServerLost(ValueError):
    """A server that was there no longer answers, or answers with errors of its own, after all retries."""


class Refused(ValueError):
    """A server takes requests, but not this one: its template knows no such role, or the prompt is too long for it."""


class _Passing(NamedTuple):
    """A failure that may be over in a moment, and for how many seconds the server asks to be left alone."""

    says: str
    wait: float = 0.0


@dataclass(frozen=True)
class Server:
    """A model on a server, asked over one pool of connections, from as many threads as you like.

    `url` is `http://host:8000/v1` or https, `/v1` added where it is missing; `model` the served name; `timeout` the
    seconds that one answer may take. The key is read from the environment each time and kept nowhere: from the variable
    `key_env`, which says by being named here that its key is for this server; else the one that `key_for` finds.
    ValueError for an address with a user, a password or a query, or one that is none. `connect` also looks whether the
    server is there.

    Thinking is switched off, as it is for a model that is loaded here. A server that refuses to hear of it is asked
    without, and `thinks` is True from then on.
    """

    url: str
    model: str = ""
    key_env: str = ""
    timeout: float = TIMEOUT
    _client: httpx.Client = field(init=False, repr=False, compare=False)
    _takes: threading.Event = field(init=False, repr=False, compare=False, default_factory=threading.Event)
    _refuses: threading.Event = field(init=False, repr=False, compare=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", address(self.url))
        object.__setattr__(self, "_client", _client(self.url))

    @classmethod
    def connect(cls, url: str, model: str = "", key_env: str = "", timeout: float = TIMEOUT) -> "Server":
        """The server at that address, with the only model it lists, or the one named: that is asked for a token.

        ValueError where nothing answers, where several models are served and none is named, or the named one is not.
        """
        with cls(url, model, key_env, timeout) as asked:
            if model:  # not looked up in the list: `transformers serve FOLDER` lists other models than its own
                body = asked._body([("user", "Hello")], 1, Sampling())
                asked._reply(asked._unthinking(body, lambda body: asked._now("POST", "/chat/completions", body)))
            else:
                model = _only(asked.url, asked.models())
        return cls(asked.url, model, key_env, timeout)

    def models(self) -> list[str]:
        """The names of the models that the server lists. ValueError, without retries, where it does not answer."""
        match self._now("GET", "/models", None):
            case {"data": list(entries)}:
                ids = [entry.get("id") for entry in entries if isinstance(entry, Mapping)]
                return list(dict.fromkeys(name for name in ids if isinstance(name, str)))
        raise ValueError(f"{self.url} lists no models as an OpenAI-compatible server does: correct the address")

    def answer(self, messages: Messages, max_new_tokens: int, sampling: Sampling) -> Reply:
        """The model's answer to a conversation of (role, content).

        The server renders the messages with the chat template of *its* model folder, and adds what else that folder or
        its own settings ask for, such as a repetition penalty (`--generation-config vllm` keeps vLLM from it): start
        two servers that are compared alike. A seed repeats an answer on one server, not across two; `transformers
        serve` draws at all only where the folder's generation_config.json says do_sample.

        A failure that may pass (no connection, no answer in time, 429, 5xx) is tried again after each of `DELAYS`, or
        later if the server says so; then `ServerLost`. `Refused` where it does not take this request (400, 413, 422);
        ValueError where it takes none (another 4xx) or answers something else than a reply.
        """
        body = self._body(messages, max_new_tokens, sampling)
        return self._reply(self._unthinking(body, lambda body: self._retried("/chat/completions", body)))

    @property
    def thinks(self) -> bool:
        """Whether the server has refused to switch thinking off, so that its model may think before it answers."""
        return self._refuses.is_set()

    def _unthinking(self, body: Mapping[str, Any], ask: Callable[[Mapping[str, Any]], Any]) -> Any:
        """What `ask` gets for a request that switches thinking off, or without that from a server that refuses it.

        Once it has taken one such request, what it refuses is the prompt.
        """
        if self.thinks:
            return ask(body)
        try:
            answer = ask({**body, **NO_THINKING})
        except Refused:
            if self._takes.is_set():
                raise
            answer = ask(body)
            if not self._takes.is_set():  # another thread may have found out that it does take them
                self._refuses.set()
            return answer
        self._takes.set()
        return answer

    def close(self) -> None:
        """Close the connections; the server cannot be asked afterwards."""
        self._client.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _body(self, messages: Messages, max_new_tokens: int, sampling: Sampling) -> dict[str, Any]:
        """What a chat completion is asked with. ValueError where the sampling is out of range."""
        temperature, top_p, seed = sampling.check()
        return {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        }

    def _now(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON answered to one request. ValueError for every failure, also one that may pass."""
        answer = self._once(method, path, body)
        if isinstance(answer, _Passing):
            remedy = "start the server, or correct the address" + ("" if body else ", or name its model")
            raise ValueError(f"{self.url} does not answer ({answer.says}): {remedy}")
        return answer

    def _retried(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answered to a POST, after retries if need be. ServerLost, ValueError as `answer` has them."""
        for delay in (*DELAYS, None):
            answer = self._once("POST", path, body)
            if not isinstance(answer, _Passing):
                return answer
            if delay is not None:
                sleep(max(delay, answer.wait))
        raise ServerLost(
            f"{self.url} failed {len(DELAYS) + 1} times ({answer.says}): what is collected is kept, "
            "and the same command goes on from there once the server is back"
        )

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON answered to one request, or how it failed for now. ValueError where asking again would not help."""
        headers = {"Accept-Encoding": "identity"}  # what unpacks to more than the largest response never starts to
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        patience = self.timeout if body else min(self.timeout, 30.0)
        limits, until = httpx.Timeout(patience, connect=min(patience, 10.0), pool=None), monotonic() + patience
        try:
            with self._client.stream(method, self.url + path, json=body, headers=headers, timeout=limits) as response:
                content = self._content(response, until)
        except httpx.TimeoutException:
            return _Passing(f"no answer within {patience:g} s")
        except httpx.TransportError as error:
            return _Passing(self._shown(str(error)) or type(error).__name__)
        if response.status_code == 429 or response.status_code >= 500:
            return _Passing(f"{response.status_code}: {self._message(content)}", _wait(response))
        return self._json(response, content)

    def _content(self, response: httpx.Response, until: float) -> bytes:
        """The whole body. ValueError where it is too large; httpx.ReadTimeout where it trickles for too long."""
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST:
                raise ValueError(f"{self.url} answered with more than {LARGEST >> 20} MiB: is it a model's server?")
            if monotonic() > until:
                raise httpx.ReadTimeout("", request=response.request)
        return bytes(content)

    def _json(self, response: httpx.Response, content: bytes) -> Any:
        """The JSON of a response that is final. ValueError for a redirect, a refusal, and what is no JSON."""
        status = response.status_code
        if response.is_redirect:
            where = self._shown(response.headers["location"])
            raise ValueError(f"{self.url} points to {where} ({status}): give the address that answers itself")
        if not response.is_success:
            remedy = f": {self._key_remedy}" if status in (401, 403) else ""
            kind = Refused if status in (400, 413, 422) else ValueError
            raise kind(f"{self.url} refused the request ({status}: {self._message(content)}){remedy}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise ValueError(f"{self.url} did not answer in JSON: is it an OpenAI-compatible server?") from None

    def _reply(self, answer: Any) -> Reply:
        """The first choice of a chat completion. ValueError where there is none, or it ended in another way."""
        match answer:
            case {"choices": [{"message": {**message}, "finish_reason": str(reason)}, *_]}:
                text = message.get("content") or ""  # null where a model only thought, and for the empty answer
            case _:
                raise ValueError(f"{self.url} answered without message or finish_reason: is it OpenAI-compatible?")
        if not isinstance(text, str):
            raise ValueError(f"{self.url} answered with something else than text: choose a model that writes text")
        ended = _ENDINGS.get(reason)
        if ended is None:
            raise ValueError(f"{self.url} ended an answer with {self._shown(reason)!r}, not with stop or length")
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair could not be written to a file
        return Reply(whole, _tokens(answer.get("usage")), ended)

    def _key(self) -> str:
        """The key, empty for none. ValueError, that does not show it, where it cannot be sent."""
        name, key = (self.key_env, os.environ.get(self.key_env, "").strip()) if self.key_env else key_for(self.url)
        if not (key.isascii() and key.isprintable()):  # httpx would show it in its error
            raise ValueError(f"{name} holds characters that a key cannot have: set it anew")
        return key

    @property
    def _key_remedy(self) -> str:
        """What to set so that a server that wants a key gets one."""
        if self.key_env:
            return f"set {self.key_env} to a key that it takes"
        where = httpx.URL(self.url).netloc.decode()
        return f"set {KEYS_ENV}={where}=KEY to a key that it takes ({KEY_ENV} goes to {BASE_ENV} alone)"

    def _message(self, content: bytes) -> str:
        """What a server says about a failure."""
        said = content[:10_000].decode(errors="replace")
        try:
            match json.loads(content):
                case {"error": {"message": str(text)}} | {"error": str(text)}:
                    said = text
                case {"message": str(text)} | {"detail": str(text)}:  # older vLLM; FastAPI
                    said = text
        except (ValueError, RecursionError):
            pass
        return self._shown(said) or "nothing"

    def _shown(self, text: str) -> str:
        """A server's words on one line of 200 characters at most, without the key should it repeat that."""
        key = self._key()
        return _line(text.replace(key, "***") if key else text, 200)


def answer_all(server: Server, requests: Sequence[Request], at_once: int = 8) -> list[Reply]:
    """The replies to all requests in their order, `at_once` of them under way at a time.

    The first failure, as `Server.answer` has it, ends the whole as soon as it happens: nothing new is asked.
    """
    if at_once < 1:
        raise ValueError(f"{at_once} requests at once are too few: use at least 1")
    if not requests:
        return []

    def ask(place: int) -> tuple[int, Reply]:
        return place, server.answer(*requests[place])

    # Not an Executor: that would hold Ctrl-C and the first failure until the other answers under way had come.
    with ThreadPool(min(at_once, len(requests))) as pool:
        replies = dict(pool.imap_unordered(ask, range(len(requests))))
    return [replies[place] for place in range(len(requests))]


def key_for(url: str) -> tuple[str, str]:
    """The variable and the key in it that were given for a server's host; empty texts for none.

    RETMASK_SERVER_KEYS holds `host:port=key`, several with blanks between them, the port left out for the usual one:
    443 by https, and on this machine 80 by http, so that no key crosses a network in clear unless a port says so.
    OPENAI_API_KEY is for the origin (scheme, host and port) of OPENAI_BASE_URL, by default https://api.openai.com.
    """
    asked = httpx.URL(url)
    for part in os.environ.get(KEYS_ENV, "").split():
        host, _, key = part.partition("=")
        if _is_for(host, asked):
            return KEYS_ENV, key
    try:
        base = httpx.URL(address(os.environ.get(BASE_ENV) or _OPENAI))
    except ValueError:
        raise ValueError(f"{BASE_ENV} is not a server's address: write it like {_OPENAI}") from None
    if (base.scheme, base.host, _port(base)) != (asked.scheme, asked.host, _port(asked)):
        return "", ""
    return KEY_ENV, os.environ.get(KEY_ENV, "").strip()


def _is_for(host: str, asked: httpx.URL) -> bool:
    """Whether `host` or `host:port` means the server that is asked."""
    plain = asked.scheme == "http" and asked.host in _HERE and asked.port is None
    try:
        named = httpx.URL(f"{'http' if plain else 'https'}://{host}")
    except httpx.InvalidURL:
        return False
    if named.port is None and named.scheme != asked.scheme:
        return False
    return (named.host, _port(named)) == (asked.host, _port(asked))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def address(url: str) -> str:
    """A server's address as it is asked: ending in `/v1`, without a slash after it. ValueError where it is none."""
    try:
        parsed = httpx.URL(url.strip())
        known = parsed.scheme in ("http", "https") and parsed.host.encode("idna") != b"" and (parsed.port or 0) < 2**16
    except (httpx.InvalidURL, UnicodeError):
        known = False
    if not known or parsed.userinfo or parsed.query or "?" in url or "#" in url:
        shown = repr(url[:100]) if url.strip() and not set("@?#") & set(url) else "this"  # it may hold a password
        raise ValueError(
            f"{shown} is not a server's address: write it like http://127.0.0.1:8000/v1, with http or https "
            "and without user, password or query"
        )
    base = str(parsed).rstrip("/")
    return base if base.endswith("/v1") else base + "/v1"


def _only(url: str, served: Sequence[str]) -> str:
    """The one model that is served. ValueError, that names some, where there are several, or none."""
    if not served:
        raise ValueError(f"{url} lists no model: name the one it serves")
    if len(served) > 1:
        names = ", ".join(_line(name, 100) for name in served[:_NAMED])
        names += f" and {len(served) - _NAMED} more" if len(served) > _NAMED else ""
        raise ValueError(f"{url} serves {len(served)} models and none is named: choose {names}")
    return served[0]


def _client(url: str) -> httpx.Client:
    """Connections through the proxies of the environment, except to this machine: those would not find it."""
    local = httpx.URL(url).host in _HERE
    try:
        return httpx.Client(verify=_tls(), trust_env=not local, limits=httpx.Limits(max_connections=None))
    except (ImportError, ValueError, httpx.InvalidURL):
        raise ValueError(
            "the proxy in the environment cannot be used: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY take http://host:port"
        ) from None


@cache
def _tls() -> ssl.SSLContext:
    """What certificates are held against: made once, as reading them takes longer than a short answer."""
    return httpx.create_ssl_context()


def _wait(response: httpx.Response) -> float:
    """The seconds of Retry-After, `LONGEST_WAIT` at most; 0 for none and for a date, which such servers do not send."""
    named = response.headers.get("retry-after", "").strip()
    return min(float(named), LONGEST_WAIT) if named.isascii() and named.isdigit() else 0.0


def _tokens(usage: Any) -> int:
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return tokens if isinstance(tokens, int) else 0


def _line(text: str, longest: int) -> str:
    """A text from elsewhere on one line, without control characters, cut."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(line.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
