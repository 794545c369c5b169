"""Fetching score sets: what is refused, by real addresses, and a real TLS server on this machine."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retmask.heads import web
from retmask.heads.sets import read_set
from retmask.heads.web import fetch

SCORES = json.dumps({"0-0": [0.5, 0.25], "0-1": [0.0, 0.0]})


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `asked` keeps the Host headers, and `enough` ends what goes on for ever."""

    asked: list[str]
    enough = threading.Event()

    def do_GET(self) -> None:
        Handler.asked.append(self.headers["Host"])
        what, _, rest = self.path.strip("/").partition("/")
        with contextlib.suppress(OSError):  # the reader may have gone
            getattr(self, f"answer_{what.split('.')[0]}", self.answer_missing)(rest)

    def start(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_tiny(self, rest: str) -> None:
        self.start(200, Content_Length=str(len(SCORES)))
        self.wfile.write(SCORES.encode())

    def answer_missing(self, rest: str) -> None:
        self.start(404)

    def answer_to(self, rest: str) -> None:
        self.start(302, Location=rest)

    def answer_hop(self, rest: str) -> None:
        left = int(rest)
        self.start(307, Location=f"/hop/{left - 1}" if left > 1 else "/tiny.json")

    def answer_told(self, rest: str) -> None:
        self.start(200, Content_Length="100000")
        self.wfile.write(b" " * 100_000)

    def answer_untold(self, rest: str) -> None:
        self.start(200)
        for _ in range(1000):
            self.wfile.write(b" " * 100_000)

    def answer_packed(self, rest: str) -> None:
        self.start(200, Content_Encoding="gzip")
        self.wfile.write(b"\x1f\x8b")

    def answer_slow(self, rest: str) -> None:
        self.start(200)
        while not self.enough.wait(0.05):
            self.wfile.write(b" ")

    def answer_silent(self, rest: str) -> None:
        self.enough.wait()

    def answer_page(self, rest: str) -> None:
        self.start(200)
        self.wfile.write(b"<!doctype html><title>Sign in</title>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for the name localhost, and for no address."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on the PATH to make a certificate")
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{file}.key", "-out", str(file)]
    subprocess.run(made, check=True, capture_output=True)
    return file


@pytest.fixture(scope="module")
def port(certificate: Path) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def here(port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address, for once allowed and its certificate trusted."""
    Handler.asked = []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(web, "_allowed", lambda address: address in ("127.0.0.1", "::1"))
    return f"https://localhost:{port}"


def only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow what the first look-up finds, and then only what is public."""
    public, known = web._allowed, web._public

    def look(host: str, at: int) -> list[str]:
        found = known(host, at)
        monkeypatch.setattr(web, "_allowed", PUBLIC)
        return found

    assert public is not PUBLIC
    monkeypatch.setattr(web, "_public", look)


PUBLIC = web._allowed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.org/scores.json", "only https"),
        ("file:///etc/passwd", "only https"),
        ("ftp://example.org/x", "only https"),
        ("data:,x", "only https"),
        ("https:///scores.json", "only https"),
        ("https://", "only https"),
        ("", "only https"),
        ("https://127.0.0.1/x", "not on the public internet"),
        ("https://localhost/x", "not on the public internet"),
        ("https://[::1]/", "not on the public internet"),
        ("https://[::ffff:10.0.0.1]/", "not on the public internet"),
        ("https://169.254.169.254/latest/meta-data", "not on the public internet"),
        ("https://10.0.0.1", "not on the public internet"),
        ("https://0x7f.1/", "not on the public internet"),
        ("https://2130706433/", "not on the public internet"),
        ("https://0/", "not on the public internet"),
        ("https://user:word@example.org/", "a user or a password"),
        ("https://user@example.org/", "a user or a password"),
        ("https://nosuch.invalid/x", "no host nosuch.invalid"),
        ("https://" + "a" * 70 + ".org/", "no host"),
        ("https://1.1.1.1:99999/", "no port"),
        ("https://exam\x00ple.org/", "is no address"),
        ("https://[::1/", "is no address"),
        ("https://xn--a/", "'https://xn--a/' is no address"),
        ("https://github.com/a/b/blob/main/c/s.json", "https://raw.githubusercontent.com/a/b/main/c/s.json$"),
        ("https://huggingface.co/a/b/blob/main/s.json", "https://huggingface.co/a/b/resolve/main/s.json$"),
    ],
)
def test_refused_addresses_get_one_sentence(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        fetch(url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert "word@" not in str(caught.value), "no password is repeated"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::101:101", True),  # 1.1.1.1 in a network that has only IPv6
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("::127.0.0.1", False),
        ("::", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("198.18.0.1", False),
        ("224.0.1.1", False),
        ("239.1.1.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("fec0::1", False),
        ("3fff:1::1", False),
        ("192.88.99.1", False),
        ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False),
        ("64:ff9b::a83f:8110", False),
    ],
)
def test_public_addresses(address: str, allowed: bool) -> None:
    assert web._allowed(address) is allowed


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with pytest.raises(ValueError, match=r"not on the public internet \(10.0.0.1\)"):
        fetch("https://example.org/scores.json")


def test_a_file_is_fetched_by_its_host_name(here: str) -> None:
    assert fetch(f"{here}/tiny.json").decode() == SCORES
    assert Handler.asked == [here.removeprefix("https://")]


def test_the_name_is_looked_up_once(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer that differs could lead anywhere."""
    asked, real = [], socket.getaddrinfo

    def look(host: str, *args: object, **options: object) -> object:
        asked.append(host)
        return real(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    fetch(f"{here}/tiny.json")
    assert asked.count("localhost") == 1
    assert set(asked) <= {"localhost", "127.0.0.1", "::1"}


def test_a_certificate_of_another_name_is_refused(here: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        fetch(here.replace("localhost", "127.0.0.1") + "/tiny.json")
    assert Handler.asked == [], "nothing was asked before the certificate was seen"


def test_a_certificate_of_nobody_is_refused(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ValueError, match="certificate"):
        fetch(f"{here}/tiny.json")
    assert Handler.asked == []


def test_no_proxy_is_used(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert fetch(f"{here}/tiny.json").decode() == SCORES


def test_redirects_are_followed_up_to_five(here: str) -> None:
    assert fetch(f"{here}/hop/5").decode() == SCORES
    with pytest.raises(ValueError, match="more than 5 times"):
        fetch(f"{here}/hop/6")


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("https://127.0.0.1/x", "not on the public internet"),
        ("//169.254.169.254/x", "not on the public internet"),
        ("/tiny.json", "not on the public internet"),  # the same host, looked up and looked at again
        ("http://example.org/x", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://a:b@example.org/", "a user or a password"),
        ("https://[::1/", "broke off .Invalid URL in location"),
    ],
)
def test_each_redirect_is_looked_at(here: str, monkeypatch: pytest.MonkeyPatch, to: str, says: str) -> None:
    only_once(monkeypatch)
    with pytest.raises(ValueError, match=says):
        fetch(f"{here}/to/{to}")
    assert len(Handler.asked) == 1


@pytest.mark.parametrize("path", ["told", "untold"])
def test_too_large(here: str, path: str) -> None:
    with pytest.raises(ValueError, match="more than 50,000 bytes"):
        fetch(f"{here}/{path}", most=50_000)


def test_exactly_as_large_as_allowed(here: str) -> None:
    assert len(fetch(f"{here}/told", most=100_000)) == 100_000


@pytest.mark.parametrize("path", ["slow", "silent"])
@pytest.mark.timeout(60)
def test_too_slow(here: str, path: str) -> None:
    """It is given up while the server goes on, which would be for ever."""
    Handler.enough.clear()
    try:
        with pytest.raises(ValueError, match=r"takes too long|broke off"):
            fetch(f"{here}/{path}", seconds=0.5)
    finally:
        Handler.enough.set()


def test_what_a_server_may_answer_besides(here: str) -> None:
    with pytest.raises(ValueError, match="localhost answered 404"):
        fetch(f"{here}/nothing")
    with pytest.raises(ValueError, match="compressed"):
        fetch(f"{here}/packed")
    with pytest.raises(ValueError, match="is a web page"):
        read_set(f"{here}/page")


def test_nobody_answers(here: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="localhost cannot be reached"):
            fetch(f"https://localhost:{free.getsockname()[1]}/")


def test_a_set_at_an_address_is_kept(here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(tmp_path))
    found = read_set(f"{here}/tiny.json")
    assert (found.model, found.n_trials, found.source) == ("tiny", 2, f"{here}/tiny.json")
    assert found.path is not None
    assert found.path.parent.parent == tmp_path / "opened"
    assert read_set(f"{here}/tiny.json").path == found.path
    assert len(Handler.asked) == 2, "the same address is fetched again"

    monkeypatch.setattr(web, "fetch", lambda url: pytest.fail("the kept file needs no network"))
    kept = read_set(str(found.path))
    assert (kept.model, kept.scores.to_json()) == ("tiny", found.scores.to_json())
