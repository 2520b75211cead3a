"""Passwords, tokens and user names are taken out of every text that may be read by someone else."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

_USER_INFO = re.compile(r"([A-Za-z][\w+.-]*://)[^\s'\"<>]*@")
"""Up to the last @, wherever it is: a password may hold any of ``/?#@``, and hiding too much does no harm."""
_SECRET_NAMES = r"token|pass|pwd|pw\b|secret|auth|sig|cred|session|sid\b|key\b|user|usr|login"
_SECRET_VALUE = re.compile(
    rf"((?<![A-Za-z0-9])[\w.%-]*?(?:{_SECRET_NAMES})[\w.%-]*?\s*=\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s&;,'\"#<>]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """``text`` with user names and passwords of URLs, and the values of ``token=``, ``password=``, ``key=``
    and the like, replaced by ``***``.

    >>> redact("cannot open 'rtsp://me:secret@10.0.0.5/drive?token=abc&channel=1'")
    "cannot open 'rtsp://***@10.0.0.5/drive?token=***&channel=1'"
    """
    return _SECRET_VALUE.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", text))


def secrets_of(reference: str) -> tuple[str, ...]:
    """What `redact` hides in a reference, as written and with ``%40`` and the like resolved, longest first.

    Replacing these as well catches a message that repeats a password without the URL around it.
    """
    found = [match.group(2).strip("\"'") for match in _SECRET_VALUE.finditer(reference)]
    _, separator, rest = reference.partition("://")
    if separator and "@" in rest:
        user, _, password = rest.rpartition("@")[0].partition(":")
        found += [f"{user}:{password}", password or user]
    found += [unquote(secret) for secret in found]
    # Short ones would turn every message into stars, and tell more by it than they hide.
    return tuple(sorted({secret for secret in found if len(secret) >= 3}, key=len, reverse=True))
