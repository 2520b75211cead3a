"""Passwords, tokens and user names are taken out of every text that may be read by someone else.

Of an address everything goes that may be a secret: what stands before the last @, and the value of every
parameter, whatever its name is (``p=``, ``sig=``, ``streamid=``), apart from a few that are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"

_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+:/+)([^\s'\"<>]*)")
"""Within other text. With one slash it is mistyped, and its password is one all the same."""
_WHOLE = re.compile(r"((?:[^\w/]*[A-Za-z][\w+.-]+:/+)?)(.*)", re.DOTALL)
_NAMELESS = re.compile(r"[^\s/'\"<>:]+:(?![/\\])[^\s'\"<>]*@")
"""``user:password@`` without a scheme before it."""
_SECRET_NAMES = r"token|pass|pwd|pw\b|secret|auth|sig|cred|session|sid\b|key\b|user|usr|login"
_SECRET_VALUE = re.compile(
    rf"((?<![A-Za-z0-9])[\w.%-]*?(?:{_SECRET_NAMES})[\w.%-]*?\s*=\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s&;,'\"#<>]+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(rf"(?:.*(?:{_SECRET_NAMES}|api).*|[a-z]{{1,2}})", re.IGNORECASE | re.DOTALL)
_HARMLESS = re.compile(
    r"(?:channel|subtype|stream|camera|cam|profile|resolution|fps|width|height)=\d{1,4}(?:x\d{1,4})?",
    re.IGNORECASE,
)
"""What tells the pictures of one recorder apart."""
_PARAMETERS = re.compile(r"([?&;])")


def redact(text: str) -> str:
    """``text`` with user names, passwords and parameters of addresses, and the values of ``token=``,
    ``password=``, ``key=`` and the like anywhere, replaced by ``***``.

    >>> redact("cannot open 'rtsp://me:secret@10.0.0.5/drive?t=abc&channel=1'")
    "cannot open 'rtsp://***@10.0.0.5/drive?t=***&channel=1'"
    """
    text = _ADDRESS.sub(lambda found: found.group(1) + _without_secrets(found.group(2)), text)
    return _SECRET_VALUE.sub(_hide_value, _NAMELESS.sub(f"{HIDDEN}@", text))


def redact_address(text: str) -> str:
    """`redact` for a text that is one address and nothing else: secrets may hold blanks and quotes."""
    scheme, rest = _WHOLE.fullmatch(text).groups()  # type: ignore[union-attr]
    return redact(scheme + _without_secrets(rest))


def secrets_of(reference: str) -> tuple[str, ...]:
    """What is hidden in a reference, as written and with ``%40`` and the like resolved, longest first.

    Replacing these as well catches a message that repeats a password without the URL around it.
    """
    found = [match.group(2).strip("\"'") for match in _SECRET_VALUE.finditer(reference)]
    rest = _WHOLE.fullmatch(reference).group(2)  # type: ignore[union-attr]
    if "@" in rest:
        user, _, password = rest.rpartition("@")[0].partition(":")
        found += [f"{user}:{password}", password or user]
    for name, value in _hidden_parameters(rest):
        # Words such as "high" and "live" are in many messages.
        if _SECRET_NAME.fullmatch(name) or len(value) >= 8:
            found.append(value)
    found += [unquote(secret) for secret in found]
    # Short ones would turn every message into stars, and tell more by it than they hide.
    return tuple(sorted({secret for secret in found if len(secret) >= 3}, key=len, reverse=True))


def told_apart_by(reference: str) -> str:
    """Of what is hidden in an address, that which may tell two streams apart and is no password."""
    rest = _WHOLE.fullmatch(reference).group(2).rpartition("@")[2]  # type: ignore[union-attr]
    return "&".join(
        f"{name}={value}"
        for name, value in _hidden_parameters(rest)
        if name and value != HIDDEN and not _SECRET_NAME.fullmatch(name)
    )


def _without_secrets(rest: str) -> str:
    """Of an address, what comes after its scheme. The last @ counts, as a password may hold any of ``/?#@``,
    and hiding too much does no harm."""
    _, at, address = rest.rpartition("@")
    parts = _PARAMETERS.split(address)
    parts[::2] = [
        part if name is None else f"{name}={HIDDEN}" if name else HIDDEN for part, name in _parameters(parts)
    ]
    return (HIDDEN + at if at else "") + "".join(parts)


def _hidden_parameters(rest: str) -> Iterator[tuple[str, str]]:
    """(name, value) of what `_without_secrets` hides; a value alone has an empty name."""
    for part, name in _parameters(_PARAMETERS.split(rest)):
        if name is not None:
            yield name.rpartition("/")[2], part[len(name) + 1 :] if name else part


def _parameters(parts: list[str]) -> Iterator[tuple[str, str | None]]:
    """Every second part with the name whose value is hidden: None if nothing is, empty if all of it is."""
    begun = False
    for at, part in enumerate(parts[::2]):
        begun = begun or (at > 0 and parts[2 * at - 1] == "?")
        name, equals, value = part.partition("=")
        if not part or _HARMLESS.fullmatch(part.rpartition("/")[2]) or (equals and not value):
            yield part, None
        elif equals:
            yield part, name
        else:
            # Not a name: perhaps what follows a separator within a password, perhaps a token by itself.
            yield part, "" if begun else None
        begun = begun or bool(equals)


def _hide_value(found: re.Match[str]) -> str:
    """In a path, ``/data/session=5/drive.mp4``, a value ends with its folder."""
    name, value = found.groups()
    in_path = found.string[: found.start()].endswith("/") and ":/" not in found.string[: found.start()]
    folder, slash, rest = value.partition("/")
    return name + HIDDEN + (slash + rest if in_path and folder else "")
