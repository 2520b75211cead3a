"""TensorRT's own messages: into the log, and its errors into the error that ends a build."""

from __future__ import annotations

import logging
import threading
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)

_MOST_KEPT = 8
_LONGEST = 500


class Messages:
    """Collects errors, from any thread. Log levels: as TensorRT has them, and what it says about its work
    (hundreds of lines) at INFO if ``verbose``, else at DEBUG."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self._errors: dict[str, None] = {}
        self._lock = threading.Lock()

    def add(self, level: int, message: str) -> None:
        """``level``: one of logging's. Never raises: an exception cannot pass through TensorRT."""
        if level >= logging.ERROR:
            with self._lock:
                if len(self._errors) < _MOST_KEPT:
                    self._errors[message[:_LONGEST]] = None
        elif level < logging.WARNING and self.verbose:
            level = logging.INFO
        elif level == logging.INFO:
            level = logging.DEBUG
        _log.log(level, "TensorRT: %s", message)

    def errors(self) -> str:
        """The different errors so far in one text, the first ones first; "no message" if there were none."""
        with self._lock:
            return "; ".join(self._errors) or "no message"


def logger_into(trt: ModuleType, messages: Messages) -> tensorrt.ILogger:
    """A logger for TensorRT's objects. Keep it for as long as they live."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
    }

    # Defined here, because its base is there only where TensorRT is.
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            messages.add(levels.get(severity, logging.DEBUG), msg)

    return Logger()
