"""Names that came from outside, made fit for file names, logs and terminals.

A file may be called anything its file system allows: with newlines, terminal escapes, a leading dash, bytes
that are no UTF-8, or characters that turn the direction of writing.
"""

from __future__ import annotations

import hashlib

from .redaction import redact

LONGEST_NAME = 120
"""Bytes of UTF-8. File systems take 255; the rest is for what outputs add: a frame's number, suffixes."""
_SEPARATORS = frozenset('/\\:*?"<>|')
"""Of paths and wildcards, on any system that a folder of results is copied to."""


def safe_name(text: str) -> str:
    """``text`` as one part of a path: no separator, control character, leading dash or dot; at most
    `LONGEST_NAME` bytes. Two different texts can become the same name, unless they were cut to the length."""
    name = "".join("_" if c in _SEPARATORS or not c.isprintable() else c for c in text)
    name = name.lstrip("-. ").rstrip(". ") or "unnamed"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return name.encode()[: LONGEST_NAME - 9].decode(errors="ignore") + "~" + digest


def shown(text: str) -> str:
    """``text`` for a message: what cannot be printed as it is, is escaped as in a Python string, and what may
    be a password is hidden: an address that is taken for a path, a file that was named after its address."""
    text = redact(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
