"""A file from the web: https only, from public addresses only, no more than so many bytes. Nothing is run."""

import ipaddress
import socket
import time
from http import HTTPStatus
from multiprocessing import TimeoutError as LateError
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import httpx

MOST = 64 * 2**20  # bytes of a file
HOPS = 5  # redirects that are followed
SECONDS = 60.0  # for all of it
_MOVED = (301, 302, 303, 307, 308)
_PATIENCE = 10.0  # seconds for a connection, or for the next bytes
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # its addresses stand for IPv4 ones
_CLOSED = (  # networks that `ipaddress` takes for public
    ipaddress.ip_network("fec0::/10"),  # of one site, as was (RFC 3879)
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637)
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4, as were (RFC 7526)
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's own service, from within its machines
)


def fetch(url: str, most: int = MOST, seconds: float = SECONDS) -> bytes:
    """What an https address holds, at most `most` bytes, within `seconds` in all.

    The host's addresses are looked up once and all of them must be public; the connection then goes to one of these
    very addresses, and its certificate must be the host name's. Up to 5 redirects are followed, each looked at in the
    same way. A proxy that the environment names is not used, since it would look the host up anew; `SSL_CERT_FILE` is.
    ValueError, one sentence, for anything else.
    """
    until = time.monotonic() + seconds
    with ThreadPool(1) as pool:  # a thread, since neither a look-up nor a slow header knows a limit in all
        try:
            return pool.apply_async(_fetch, (url, most, until)).get(seconds)
        except LateError:
            raise _late(url) from None


class _Hop(NamedTuple):
    """Where a redirect goes, or the content."""

    to: httpx.URL | None
    content: bytes = b""


def _fetch(url: str, most: int, until: float) -> bytes:
    address = _checked(url)
    for _ in range(HOPS + 1):
        hop = _get(address, most, until)
        if hop.to is None:
            return hop.content
        address = _checked(str(hop.to))
    raise ValueError(f"{url[:80]} redirects more than {HOPS} times: give the address that it ends at")


def _checked(url: str) -> httpx.URL:
    """The parts of an https address. ValueError for any other, and for a page about a file."""
    try:
        address = httpx.URL(url.strip())
        host = address.host
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter for a name that stands for no letters
        raise ValueError(f"{url[:80]!r} is no address ({_said(error)}): check how it is written") from None
    if address.scheme != "https" or not host:
        raise ValueError(f"{url[:80]!r} is not opened: only https addresses are, such as https://host/scores.json")
    if not 0 < (address.port or 443) < 2**16:
        raise ValueError(f"{url[:80]!r} has no port that there is: ports go up to 65535")
    if address.userinfo:
        raise ValueError("an address with a user or a password is not opened: take them out, or download the file")
    if host in ("github.com", "www.github.com") and "/blob/" in address.path:
        raw = address.path.replace("/blob/", "/", 1)
        raise ValueError(f"that is GitHub's page about the file: take https://raw.githubusercontent.com{raw}")
    if host == "huggingface.co" and "/blob/" in address.path:
        file = address.path.replace("/blob/", "/resolve/", 1)
        raise ValueError(f"that is the Hub's page about the file: take https://huggingface.co{file}")
    return address


def _get(address: httpx.URL, most: int, until: float) -> _Hop:
    """One request, to the first public address of the host that answers."""
    host = address.raw_host.decode("ascii").strip("[]")
    error: Exception | None = None
    for public in _public(host, address.port or 443):
        try:
            return _ask(address, host, public, most, until)
        except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
            error = failure
        except httpx.HTTPError as failure:
            raise ValueError(f"{host} broke off ({_said(failure)}): try again, or download the file") from None
    raise ValueError(f"{host} cannot be reached ({_said(error)}): check the address, or download the file") from None


def _ask(address: httpx.URL, host: str, public: str, most: int, until: float) -> _Hop:
    """Ask one checked address for what lies there: the name goes into the Host header and the TLS handshake.

    httpcore hands `sni_hostname` on as the handshake's `server_hostname`, which the certificate is checked against.
    """
    headers = {"Host": address.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "retmask"}
    patience = max(0.01, min(_PATIENCE, until - time.monotonic()))
    # a client for each request: a connection that is kept would serve another host name at the same address
    with (
        httpx.Client(verify=httpx.create_ssl_context(), trust_env=False, timeout=patience) as client,
        client.stream(
            "GET", address.copy_with(host=public), headers=headers, extensions={"sni_hostname": host}
        ) as response,
    ):
        if response.status_code in _MOVED and "location" in response.headers:
            return _Hop(address.join(response.headers["location"]))
        if response.status_code != HTTPStatus.OK:
            raise ValueError(
                f"{host} answered {response.status_code} {response.reason_phrase[:40]}: check the address in a browser"
            )
        return _Hop(None, _content(response, host, most, until))


def _content(response: httpx.Response, host: str, most: int, until: float) -> bytes:
    """The body, read no further than `most` bytes and `until`."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ValueError(f"{host} sends the file compressed though it was not asked to: download and unpack it")
    length = response.headers.get("content-length", "")
    large = ValueError(f"{host} has more than {most:,} bytes there: that is no set of scores")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise large
    parts, size = [], 0
    for part in response.iter_raw(2**16):
        parts.append(part)
        size += len(part)
        if size > most:
            raise large
        if time.monotonic() > until:
            raise _late(host)
    return b"".join(parts)


def _public(host: str, port: int) -> list[str]:
    """The addresses of a host. ValueError if it has none, or any that is not public."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(f"there is no host {host[:80]}: check the address, and that this machine is online") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    for address in addresses:
        if not _allowed(address):
            raise ValueError(f"{host[:80]} is not on the public internet ({address}): download the file and open that")
    return addresses


def _allowed(address: str) -> bool:
    """Whether an address is public; for an IPv6 one that stands for an IPv4 address, whether that is."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return _allowed(str(inner))
    closed = ip.is_multicast or ip.is_reserved or any(ip in network for network in _CLOSED)
    return ip.is_global and not closed


def _said(error: Exception | None) -> str:
    """What a library's error says, in one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _late(url: str) -> ValueError:
    return ValueError(f"{url[:80]} takes too long: try again, or download the file and open that")
