"""One argument, one source: from what a user names to feeds with names of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from .base import FILE_LIMITS, Feed
from .file_feed import FileFeed
from .live import LiveFeed
from .reference import SourceReference, classify

if TYPE_CHECKING:
    from ..streams.options import StreamOptions

Reference = str | os.PathLike[str] | int
"""What names a source: see `classify`."""


def as_references(source: Reference | Sequence[Reference]) -> list[Reference]:
    """One source or several, as a list. Raises InputError if there is none."""
    several = isinstance(source, Sequence) and not isinstance(source, str)
    references: list[Reference] = list(source) if several else [source]  # type: ignore[arg-type, list-item]
    if not references:
        raise InputError("a stream has one source or more; got none")
    return references


def open_feeds(references: Sequence[Reference], options: StreamOptions) -> list[Feed]:
    """A feed for each reference, none of them started. Sources that would have one name are numbered.

    Raises InputError, DataError or UnavailableError, without credentials, for what cannot be a source:
    standard input can be one of them only. Raises InputError, too, for an option of ``options.live`` that no
    source can use.
    """
    sources = [classify(reference) for reference in references]
    if sum(source.kind == "stdin" for source in sources) > 1:
        raise InputError("standard input is one source; got - more than once")
    schemes = {source.text.partition(":")[0].lower() for source in sources if source.kind == "network"}
    options.live.check_used({source.kind for source in sources}, schemes)
    feeds: list[Feed] = []
    for source in sources:
        taken = {feed.name for feed in feeds}
        feeds.append(_feed(source, taken, options))
    return feeds


def _feed(source: SourceReference, taken: set[str], options: StreamOptions) -> Feed:
    if source.kind == "file":
        limits = options.limits or FILE_LIMITS
        feed = FileFeed(source.text, limits=limits)
        if feed.name in taken:
            feed = FileFeed(source.text, limits=limits, name=_unique(feed.name, taken))
        return feed
    return LiveFeed(
        source,
        name=_unique(source.name, taken),
        reconnect=options.reconnect,
        options=options.live,
        limits=options.limits,
    )


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
