"""Addresses to listen on, and which of them only this machine reaches."""

from __future__ import annotations

import ipaddress

from ..errors import InputError


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT, [HOST]:PORT or PORT; without a host 127.0.0.1. Raises InputError."""
    host, _, port = text.rpartition(":") if ":" in text else ("127.0.0.1", "", text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets: which part is the port?
    if not (host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InputError(
            f"the address of the preview is HOST:PORT with a port from 0 to 65535; got {text!r}. For this "
            "machine alone: 127.0.0.1:8080; for everybody who can reach it: 0.0.0.0:8080"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's name for itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
