"""What guards the pages: no traceback is shown on one, and none is served to the whole network by accident."""

import ipaddress
import os

import streamlit as st

PUBLIC = "RETMASK_PUBLIC"  # set to 1: whoever starts the app wants it to listen beyond this machine


def refusal() -> str:
    """Why the app is not served as it was started; empty where it is safe. It knows no passwords.

    Its settings lie in `app/.streamlit/config.toml`: Streamlit finds them from any folder.
    """
    address, hosts = st.get_option("server.address"), st.get_option("server.allowedHosts")
    how = "start it with `retmask app`"
    why = ""
    if not hosts or any(host.strip().startswith("*") for host in hosts):
        why = f"any web page could reach it (server.allowedHosts {'holds a wildcard' if hosts else 'is empty'}): {how}"
    elif not st.get_option("server.enableCORS"):  # the Origin of whoever opens a WebSocket is not looked at then
        why = (
            "any web page could drive it (server.enableCORS is false): switch it on, and name a proxy's address in "
            "server.corsAllowedOrigins"
        )
    elif not _is_local(address) and os.environ.get(PUBLIC) != "1":
        why = (
            f"it listens on {address or 'every address'} and knows no passwords: {how}, or set {PUBLIC}=1 if something "
            "else guards it"
        )
    return f"the app is not served, because {why}" if why else ""


def _is_local(address: str | None) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:  # another name: it may lead anywhere
        return False
