"""Results into a function of the user's."""

from __future__ import annotations

from collections.abc import Callable

from ..streams.result import StreamResult
from .base import Sink


class CallbackSink(Sink):
    """Calls ``function`` with each `StreamResult`, from one thread, which is not the caller's.

    An exception of the function ends the run with that exception. A slow function holds a lossless run back,
    and makes frames drop in a live one.
    """

    name = "callback"
    restarts = False

    def __init__(self, function: Callable[[StreamResult], object]) -> None:
        self._function = function

    def write(self, result: StreamResult) -> None:
        self._function(result)

    def close(self) -> None:
        """Nothing is held open."""
