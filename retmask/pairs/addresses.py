"""Addresses of servers, and whose key goes to which: a key never reaches a host that it was not given for."""

import os

import httpx

KEY_ENV = "OPENAI_API_KEY"  # goes to the origin of BASE_ENV, by default OpenAI's, and to no other
BASE_ENV = "OPENAI_BASE_URL"
KEYS_ENV = "RETMASK_SERVER_KEYS"  # host:port=key, several with blanks between them: each key for its own host
_OPENAI = "https://api.openai.com/v1"
_HERE = ("localhost", "127.0.0.1", "::1")


def address(url: str) -> str:
    """A server's address as it is asked: ending in `/v1`, without a slash after it. ValueError where it is none."""
    try:
        parsed = httpx.URL(url.strip())
        valid = parsed.scheme in ("http", "https") and parsed.host.encode("idna") != b"" and (parsed.port or 0) < 2**16
    except (httpx.InvalidURL, UnicodeError):
        valid = False
    if not valid or parsed.userinfo or parsed.query or "?" in url or "#" in url:
        shown = repr(url[:100]) if url.strip() and not set("@?#") & set(url) else "this"  # it may hold a password
        raise ValueError(
            f"{shown} is not a server's address: write it like http://127.0.0.1:8000/v1, with http or https "
            "and without user, password or query"
        )
    base = str(parsed).rstrip("/")
    return base if base.endswith("/v1") else base + "/v1"


def is_here(url: str) -> bool:
    """Whether an address is on this machine, where proxies of the environment would not find it."""
    return httpx.URL(url).host in _HERE


def key_for(url: str) -> tuple[str, str]:
    """The variable and the key in it that were given for a server's host; empty texts for none.

    RETMASK_SERVER_KEYS holds `host:port=key`, several with blanks between them, the port left out for the usual one:
    443 by https, and on this machine 80 by http, so that no key crosses a network in clear unless a port says so.
    OPENAI_API_KEY is for the origin (scheme, host and port) of OPENAI_BASE_URL, by default https://api.openai.com.
    ValueError, that does not show the key, where it cannot be sent.
    """
    name, key = _named_for(httpx.URL(url))
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{name} holds characters that a key cannot have: set it anew")
    return name, key


def key_remedy(url: str) -> str:
    """What to set so that a server that wants a key gets one."""
    host = httpx.URL(url).netloc.decode()
    return f"set {KEYS_ENV}={host}=KEY to a key that it takes ({KEY_ENV} goes to {BASE_ENV} alone)"


def _named_for(url: httpx.URL) -> tuple[str, str]:
    for part in os.environ.get(KEYS_ENV, "").split():
        host, _, key = part.partition("=")
        if _is_for(host, url):
            return KEYS_ENV, key
    try:
        base = httpx.URL(address(os.environ.get(BASE_ENV) or _OPENAI))
    except ValueError:
        raise ValueError(f"{BASE_ENV} is not a server's address: write it like {_OPENAI}") from None
    if (base.scheme, base.host, _port(base)) != (url.scheme, url.host, _port(url)):
        return "", ""
    return KEY_ENV, os.environ.get(KEY_ENV, "").strip()


def _is_for(host: str, url: httpx.URL) -> bool:
    """Whether `host` or `host:port` means the server at an address."""
    clear = url.scheme == "http" and url.host in _HERE and url.port is None
    try:
        named = httpx.URL(f"{'http' if clear else 'https'}://{host}")
    except httpx.InvalidURL:
        return False
    if named.port is None and named.scheme != url.scheme:
        return False
    return (named.host, _port(named)) == (url.host, _port(url))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
