"""What guards the pages: no traceback is shown on one, and none is served to the whole network by accident."""

import ipaddress
import os
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import state
import streamlit as st

from retmask import faults

PUBLIC = "RETMASK_PUBLIC"  # set to 1: whoever starts the app wants it to listen beyond this machine
P = ParamSpec("P")


def guarded(draw: Callable[P, None]) -> Callable[P, None]:
    """The same drawing, with a sentence in the place of an exception that nobody has foreseen.

    The traceback goes to the app's log; with RETMASK_DEBUG=1 it is shown on the page.
    """

    @wraps(draw)
    def shown(*args: P.args, **named: P.kwargs) -> None:
        try:
            draw(*args, **named)
        except Exception as error:  # Streamlit's own signals (rerun, stop) are none
            if faults.debugging():
                raise
            traceback.print_exception(error)
            st.error(state.sentence(says(error)))

    return shown


def says(error: Exception) -> str:
    """What the page says of an exception."""
    if faults.is_expected(error):
        return faults.sentence(error)
    return f"something unexpected happened: {faults.sentence(error)}; the traceback is in the app's log"


def refusal() -> str:
    """Why the app is not served as it was started; empty where it is safe. It knows no passwords.

    Its settings lie in `.streamlit/config.toml`, to which `app/.streamlit` leads: Streamlit finds them from any folder.
    """
    address, hosts = st.get_option("server.address"), st.get_option("server.allowedHosts")
    how = "start it from the folder of the repository with `make app` or `streamlit run app/main.py`"
    if not hosts or any(host.strip().startswith("*") for host in hosts):  # Streamlit takes them for any name
        empty = "names every host" if hosts else "is empty"
        return f"the app is not served, because any web page could reach it (server.allowedHosts {empty}): {how}"
    if not st.get_option("server.enableCORS"):  # the Origin of whoever opens a WebSocket is not looked at then
        return f"the app is not served, because any web page could drive it (server.enableCORS is false): {how}"
    if not _is_local(address) and os.environ.get(PUBLIC) != "1":
        return (
            f"the app is not served, because it listens on {address or 'every address'} and knows no "
            f"passwords: {how}, or set {PUBLIC}=1 if something else guards it"
        )
    return ""


def _is_local(address: str | None) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:  # another name: it may lead anywhere
        return False
