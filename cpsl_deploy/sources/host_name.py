"""Whether the name of a host can be resolved: FFmpeg says only "Input/output error" where it cannot."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

from .redaction import redact

_WITHIN_S = 3.0


def unresolved_host(url: str) -> str:
    """That the host's name cannot be resolved, in words without credentials; empty if it can be."""
    rest = redact(url).partition("://")[2].rpartition("@")[2]
    named = re.match(r"\[([^\]]*)\]|([^/?#:]*)", rest)
    host = (named.group(1) or named.group(2)) if named else ""
    if not host:
        return ""
    resolved = False

    def resolve() -> None:
        nonlocal resolved
        with contextlib.suppress(OSError, UnicodeError):
            resolved = bool(socket.getaddrinfo(host, None))

    thread = threading.Thread(target=resolve, daemon=True)  # nothing ends a resolver that waits
    thread.start()
    thread.join(_WITHIN_S)
    return "" if resolved else f"the host {host} cannot be resolved"
