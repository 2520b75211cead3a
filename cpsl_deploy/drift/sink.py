"""The drift detector as a sink of a stream: one detector for each source, one folder of kept frames."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from ..errors import InputError, ModelFileError, OutputError
from ..files import as_output_error
from ..segmenter import Segmenter
from ..sinks.base import Sink
from ..streams.result import StreamResult
from .detector import DriftDetector, DriftPolicy, DriftState
from .reference import DriftReference, names_of
from .ring import FrameRing
from .statistics import FrameStatistics

LOG_NAME = "drift.jsonl"
IMAGE_S = 1.0
"""Seconds that a photo counts for: images have no times, and the reference's own are photos, too."""


class DriftSink(Sink):
    """Notices when what the model sees is no longer what it was adapted to.

    ``snapshot()`` is for health endpoints and metrics. With ``log``, a folder, a line of ``drift.jsonl`` is
    written for each window, and when an alarm goes on or off: about 300 bytes each, 2.5 MB a day at a window
    of 10 s. With ``keep``, a folder or a `FrameRing`, frames are stored while there is an alarm, and a few
    from before; without it no frame is ever stored.
    """

    name = "drift"

    def __init__(
        self,
        reference: DriftReference,
        *,
        policy: DriftPolicy | None = None,
        log: str | os.PathLike[str] | None = None,
        keep: str | os.PathLike[str] | FrameRing | None = None,
    ) -> None:
        self.reference, self.policy = reference, policy or DriftPolicy()
        self.detectors: dict[str, DriftDetector] = {}
        self.ring = keep if isinstance(keep, FrameRing) or keep is None else FrameRing(keep)
        self._note = "no frame is kept: --keep FOLDER would"
        if self.ring is not None:
            self._note = f"frames are kept in {self.ring.folder}"
        self._log = Path(log) / LOG_NAME if log is not None else None
        self._file: IO[str] | None = None
        self._logged_s: dict[str, float] = {}

    @classmethod
    def for_model(
        cls,
        segmenter: Segmenter,
        *,
        reference: str | os.PathLike[str] | None = None,
        policy: DriftPolicy | None = None,
        log: str | os.PathLike[str] | None = None,
        keep: str | os.PathLike[str] | FrameRing | None = None,
    ) -> DriftSink:
        """With the reference of an opened model file, or of a JSON file of ``cpsl-drift --calibrate``.

        Raises ModelFileError if there is none.
        """
        return cls(require_reference(segmenter, reference), policy=policy, log=log, keep=keep)

    def check(self) -> None:
        if self.ring is not None:
            self.ring.check()
        if self._log is not None:
            try:
                self._log.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise as_output_error(error, self._log) from error
            if not os.access(self._log.parent, os.W_OK):
                raise OutputError(f"cannot write into {self._log.parent}. Choose a writable place.")

    def write(self, result: StreamResult) -> None:
        detector = self.detectors.get(result.source)
        if detector is None:
            detector = DriftDetector(self.reference, self.policy, name=result.source, note=self._note)
            self.detectors = {**self.detectors, result.source: detector}  # others look at it meanwhile
        time_s = result.time_s if result.time_s is not None else result.index * IMAGE_S
        if detector.wants(time_s):
            state = detector.update(FrameStatistics.of(result.prediction), time_s)
            if state is not None and self._log is not None:
                self._tell(result, detector, state)
        if self.ring is not None:
            self.ring.offer(result.source, result.image, time_s, alarm=detector.alarm)

    def snapshot(self) -> dict[str, object]:
        """For each source its score, alarm and causes, and what is kept, ready for JSON."""
        sources = {name: detector.snapshot() for name, detector in self.detectors.items()}
        return {"sources": sources, "ring": self.ring.snapshot() if self.ring else None}

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                raise as_output_error(error, self._log or LOG_NAME) from error

    def abort(self) -> None:
        try:
            self.close()
        except OutputError as error:
            logging.getLogger(__name__).debug("%s", error)

    def _tell(self, result: StreamResult, detector: DriftDetector, state: DriftState) -> None:
        since = state.time_s - self._logged_s.get(result.source, -math.inf)
        if 0 <= since < self.policy.window_s - 1e-6 and not state.changed:
            return
        self._logged_s[result.source] = state.time_s
        now = datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
        line = {
            "time": now,
            "source": result.source,
            "index": result.index,
            "time_s": round(state.time_s, 3),
            "score": round(state.score, 4),
            "parts": {part: round(value, 4) for part, value in state.parts.items()},
            "alarm": state.alarm,
            "changed": state.changed,
            "causes": [cause.words for cause in detector.causes()],
        }
        assert self._log is not None
        try:
            if self._file is None:
                self._file = self._log.open("a", encoding="utf-8", buffering=1)
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            self.abort()
            raise as_output_error(error, self._log) from error


def require_reference(segmenter: Segmenter, path: str | os.PathLike[str] | None = None) -> DriftReference:
    """The reference in a JSON file, else the model file's own. Raises ModelFileError if there is none or it
    is of another model, InputError if the file cannot be read."""
    if path is None:
        stored = DriftReference.stored_in(segmenter)
        if stored is not None:
            return stored
        raise ModelFileError(
            f"{segmenter.origin} has no drift reference: it was exported where the target's images were "
            "not at hand, or by an earlier version. Export it again with them, or make one of photos of its "
            f"own roads: cpsl-drift {segmenter.origin} --calibrate PHOTOS"
        )
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the drift reference {path}: {error}. Check the path.") from error
    reference = DriftReference.from_json(text, str(path))
    reference.require_fits(names_of(segmenter))
    return reference
