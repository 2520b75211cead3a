"""RTP packets that did not come, as FFmpeg tells of them: in its log alone.

A picture that misses its last packet is decoded without an error, its rest made up.
"""

from __future__ import annotations

import logging


class PacketLoss(logging.Handler):
    """Counts what FFmpeg logs of missing RTP packets. For a reader process: FFmpeg's log is one for all."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told = 0
        """Times that packets were missing."""

    def listen(self) -> None:
        """From now on, in place of whoever listened."""
        import av.logging

        log = logging.getLogger("libav")
        log.handlers, log.propagate = [self], False
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("RTP: missed"):
            self.told += 1
