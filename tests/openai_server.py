"""A real server on 127.0.0.1 that speaks the OpenAI protocol, for tests: made-up answers, and every way to fail.

with OpenAIServer("normal") as server:
    server.fail(503, 503)  # the next two requests; then it answers again
    Server.connect(server.url)
"""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

import pytest

WORDS = ("the", "needle", "lies", "under", "an", "old", "oak", "near", "a", "quiet", "river")


class Canned(NamedTuple):
    """A response given instead of an answer."""

    status: int
    body: bytes = b'{"error": {"message": "told to fail"}}'
    headers: Mapping[str, str] = {}


Fault = Literal["drop", "cut", "hang", "die"] | Canned | int
MALFORMED = Canned(200, b'{"choices": [')


class Recorded(NamedTuple):
    """A request as it came; `headers` with lower-case names, `body` empty for GET."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def made_up(model: str, prompt: str, seed: int) -> str:
    """Twelve words that depend on all three and nothing else."""
    digest = hashlib.sha256(f"{model}\0{prompt}\0{seed}".encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:12])


class OpenAIServer:
    """Serves `models` from the start, at `url`; `requests` holds all that came. A word is a token.

    `answers(prompt, seed)` makes the text, by default out of model, prompt and seed. The prompt of a chat is its
    messages, one a line, as `role: content`. With a `key`, requests without it are refused with 401.
    """

    def __init__(self, *models: str, answers: Callable[[str, int], str] | None = None, key: str = "") -> None:
        self.models: Sequence[str] = models or ("tiny",)
        self.answers = answers
        self.key = key
        self.refuses = ""  # a field of a request that it does not know: 422
        self.requests: list[Recorded] = []
        self.dead = threading.Event()
        self._faults: deque[Fault] = deque()
        self._for_good: Fault | None = None
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def fail(self, *faults: Fault, for_good: bool = False) -> None:
        """Meet the next requests with these, one each; with `for_good` the last of them ever after.

        A number is that status with a short message. drop: the connection ends without a word; cut: in the middle of
        the body; hang: nothing comes until the server stops; die: the server is gone from then on.
        """
        with self._lock:
            self._faults.extend(faults)
            self._for_good = faults[-1] if for_good else None

    def stop(self) -> None:
        """Be gone: connections are refused from now on and open ones are dropped."""
        if not self.dead.is_set():
            self.dead.set()
            self._http.shutdown()
            self._http.server_close()

    def __enter__(self) -> "OpenAIServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def take(self, request: Recorded) -> Fault | None:
        """Record a request; the fault to meet it with, if any."""
        with self._lock:
            self.requests.append(request)
            return self._faults.popleft() if self._faults else self._for_good

    def response(self, request: Recorded) -> Canned:
        """What a sound server answers to it."""
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _canned(401, {"error": {"message": f"wrong key {request.headers.get('authorization')}"}})
        if request.path == "/v1/models":
            return _canned(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})
        if request.path not in ("/v1/chat/completions", "/v1/completions"):
            return _canned(404, {"detail": "Not Found"})
        if self.refuses in request.body:
            return _canned(422, {"detail": f"extra field {self.refuses}"})
        if request.body.get("model") not in self.models:
            return _canned(404, {"error": {"message": f"The model `{request.body.get('model')}` does not exist."}})
        return _canned(200, self._completion(request.body, chat=request.path == "/v1/chat/completions"))

    def _completion(self, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        lines = [f"{message['role']}: {message['content']}" for message in body["messages"]] if chat else []
        prompt, seed = "\n".join(lines) if chat else body["prompt"], int(body.get("seed") or 0)
        text = self.answers(prompt, seed) if self.answers else made_up(body["model"], prompt, seed)
        words = text.split()
        room = int(body.get("max_tokens") or 16)
        if len(words) > room:
            text = " ".join(words[:room])
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "object": "chat.completion" if chat else "text_completion",
            "model": body["model"],
            "choices": [{"index": 0, **choice, "finish_reason": "length" if len(words) > room else "stop"}],
            "usage": {"prompt_tokens": len(prompt.split()), "completion_tokens": min(len(words), room)},
        }


def _canned(status: int, body: Any) -> Canned:
    return Canned(status, json.dumps(body).encode())


class _Http(ThreadingHTTPServer):
    daemon_threads = True  # one that hangs keeps nothing waiting
    request_queue_size = 128
    owner: OpenAIServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # else each answer on a kept connection takes 40 ms
    server: _Http

    def do_GET(self) -> None:
        self._meet({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._meet(json.loads(content))

    def _meet(self, body: dict[str, Any]) -> None:
        owner = self.server.owner
        request = Recorded(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        fault = "drop" if owner.dead.is_set() else owner.take(request)
        if fault == "die":
            owner.stop()
        if fault == "hang":
            owner.dead.wait(60)
        if fault in ("die", "drop", "hang"):
            self.close_connection = True
            return
        canned = Canned(fault) if isinstance(fault, int) else fault if isinstance(fault, Canned) else None
        self._send(canned or owner.response(request), missing=100 if fault == "cut" else 0)

    def _send(self, canned: Canned, missing: int) -> None:
        self.send_response(canned.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(canned.body) + missing))
        for name, value in canned.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(canned.body)
        self.close_connection = self.close_connection or bool(missing)

    def log_message(self, *_: object) -> None:
        """Nothing: tests read `requests`."""


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the environment's, and next to no time before a retry."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RETMASK_SERVER_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
