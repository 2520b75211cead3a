"""Frames kept on disk while there is an alarm: a bounded folder of photos, ready to adapt to.

Nothing is ever stored unless a folder is named for it: frames of a street show people.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError, OutputError
from ..files import as_output_error, atomic_path, put_unused
from ..sinks.place import prepare_folder

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9]{8}T[0-9]{9}Z-[A-Za-z0-9._-]{1,80}\.jpg")
_QUALITY = 92
MOST_BEFORE_BYTES = 32 << 20
"""Memory for the frames from before an alarm."""


class FrameRing:
    """A folder of JPEG files, ``20261122T192504123Z-SOURCE.jpg``: the newest ones, within limits.

    ``offer`` every frame; those from just before an alarm are kept, too, encoded, in memory until there is
    one. Safe to use from several threads, and several processes may share the folder: the limits hold for the
    files in it, whoever wrote them. Files of other names are left alone.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_files: int = 500,
        max_mib: float = 512,
        interval_s: float = 1.0,
        before: int = 5,
    ) -> None:
        """``max_files``, ``max_mib``: beyond either the oldest files are removed. ``interval_s``: seconds
        between two frames of a source. ``before``: frames from before the alarm, so far apart, too.

        Raises InputError for limits that make no sense. Nothing is written yet.
        """
        if not (
            max_files >= 1 and 0 < max_mib < 1 << 30 and 0 <= interval_s < 1 << 30 and 0 <= before <= 100
        ):
            raise InputError(
                "a ring of frames has 1 file or more, above 0 MiB, an interval of 0 s or more and 0 to 100 "
                f"frames from before; got {max_files}, {max_mib}, {interval_s}, {before}"
            )
        self.folder = Path(folder)
        self._max_files, self._max_bytes = max_files, int(max_mib * 2**20)
        self._interval_s, self._before = interval_s, before
        self._latest: dict[str, float] = {}
        self._waiting: dict[str, deque[tuple[str, bytes]]] = {}
        self._prepared = False
        self._sizes: dict[str, int] = {}
        """Name to bytes of the files in the folder when it was last looked at."""
        self._alarmed: set[str] = set()
        self.kept = 0
        """Frames written, those removed since then, too."""
        self.stopped = ""
        """Why nothing is kept any more; empty while all is well."""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises OutputError if the folder cannot be written into."""
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(
                f"frames are kept in a folder, and {self.folder} is a file. Choose another name."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_output_error(error, self.folder) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write into {self.folder}. Choose a writable place.")

    def offer(self, source: str, image: np.ndarray, time_s: float, *, alarm: bool) -> None:
        """Take a frame BGR uint8 (H, W, 3) of a source if it is time for one. ``time_s``: of any clock.

        With ``alarm`` it is written; without, it waits in memory for one. A disk that is full, or any other
        error of writing, is logged once and ends the keeping until the next alarm; nothing is raised.
        """
        with self._lock:
            began = alarm and source not in self._alarmed
            (self._alarmed.add if alarm else self._alarmed.discard)(source)
            if began:
                self.stopped = ""
                self._write_all(self._waiting.pop(source, deque()))
            since = time_s - self._latest.get(source, -float("inf"))
            if 0 <= since < self._interval_s - 1e-6 or (alarm and self.stopped):
                return
            if not alarm and not self._before:
                return
            self._latest[source] = time_s
            frame = (self._name(source), _encoded(image))
            if alarm:
                self._write_all([frame])
            else:
                self._wait(source, frame)

    def snapshot(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        with self._lock:
            sizes = self._sizes
            return {
                "folder": str(self.folder),
                "kept": self.kept,
                "files": len(sizes),
                "bytes": sum(sizes.values()),
                "stopped": self.stopped,
            }

    def _name(self, source: str) -> str:
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", source)[:60] or "frames"
        return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{safe}.jpg"

    def _wait(self, source: str, frame: tuple[str, bytes]) -> None:
        waiting = self._waiting.setdefault(source, deque(maxlen=self._before))
        waiting.append(frame)
        queues = self._waiting.values()
        while sum(len(data) for queue in queues for _, data in queue) > MOST_BEFORE_BYTES and any(queues):
            max(queues, key=lambda queue: sum(len(data) for _, data in queue)).popleft()

    def _write_all(self, frames: deque[tuple[str, bytes]] | list[tuple[str, bytes]]) -> None:
        for name, data in frames:
            if self.stopped:
                return
            try:
                self._write(name, data)
            except OutputError as error:
                self.stopped = error.reason
                log.warning("no more drift frames are kept until the next alarm: %s", self.stopped)

    def _write(self, name: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            raise OutputError(
                f"a frame of {len(data) / 2**20:.1f} MiB is above the limit of the ring, "
                f"{self._max_bytes / 2**20:g} MiB. Allow more."
            )
        if not self._prepared:
            prepare_folder(self.folder)
            self._prepared = True
        try:
            self._make_room(1, len(data))
            # Two frames in a millisecond are NAME and NAME_2.
            with atomic_path(self.folder / name, put=lambda new, at: put_unused(new, at, mark="_")) as new:
                new.write_bytes(data)
            self._make_room(0, 0)  # others may have written meanwhile
        except OSError as error:
            raise as_output_error(error, self.folder / name) from error
        self.kept += 1

    def _make_room(self, files: int, size: int) -> None:
        """Remove the oldest files until so many more, of ``size`` bytes, are within the limits."""
        self._sizes = sizes = self._look()
        held = sum(sizes.values())
        for oldest in sorted(sizes):
            if len(sizes) + files <= self._max_files and held + size <= self._max_bytes:
                return
            (self.folder / oldest).unlink(missing_ok=True)
            held -= sizes.pop(oldest)

    def _look(self) -> dict[str, int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, int] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # another process has removed it
                        sizes[entry.name] = self._sizes.get(entry.name) or entry.stat().st_size
        return sizes


def _encoded(image: np.ndarray) -> bytes:
    written, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not written:
        raise InputError(f"OpenCV could not encode a frame of shape {image.shape} as JPEG")
    return data.tobytes()
