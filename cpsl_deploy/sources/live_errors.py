"""What is said of a live source that cannot be had: rule, reason and remedy, never credentials."""

from __future__ import annotations

import os
import sys

from ..errors import DataError
from .reference import SourceReference

_CHECK = "Check the address or the device, and that it can be reached from here"
_TAKES = "It takes JPEG images, or raw frames whose format and size are given"


def cannot_be_opened(source: SourceReference, reason: str) -> DataError:
    """Of the first connection."""
    remedy = _TAKES if source.kind == "stdin" else _CHECK
    return DataError(f"{source.shown} cannot be opened: {reason}. {remedy}")


def nothing_came(source: SourceReference, corrupt: int) -> DataError:
    """Of a source that ended. ``corrupt``: what came and was no frame."""
    if source.kind == "stdin" and not corrupt:
        return DataError(f"standard input is closed: nothing came. {_TAKES}")
    remedy = f". {_TAKES}" if source.kind == "stdin" else ""
    return DataError(f"{source.shown} ended without a single frame that can be decoded{remedy}")


def given_up(source: SourceReference, reason: str, *, after_s: float, was_there: bool) -> DataError:
    """Of a source that was tried for long enough."""
    what = "was lost and could not be reached again" if was_there else "could not be reached"
    return DataError(
        f"{source.shown} {what} within {after_s:g} s; at last: {reason}. {_CHECK}, or try for longer "
        "(give_up_after_s, or --give-up-after)"
    )


def is_closed(descriptor: int) -> bool:
    """Whether there is nothing to read from. What was closed at the start may be another file by now."""
    if descriptor == 0 and sys.__stdin__ is None:
        return True
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
