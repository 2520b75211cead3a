"""What each frame shows, as JSON lines: the share of every class, the latency, the age."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TextIO

from ..files import as_output_error, atomic_path, put_unused
from ..streams.result import StreamResult
from .base import Sink
from .place import captured_at, check_piece_s, piece_stamp, prepare_folder, require_room


class _Abandoned(Exception):
    """Tells `atomic_path` to leave nothing."""


class AreasSink(Sink):
    """``areas.jsonl`` in ``folder``: one JSON object a line and frame, in the order of the results.

    Its members: ``frame`` (place in the source), ``source`` (name, with ``several_sources`` alone), ``name``
    (of the frame), ``time_s`` (but for images), ``areas`` (share of the pixels by class name),
    ``latency_ms`` and ``age_ms`` (0 where nothing stamped the result); with ``piece_s`` also ``time``, when
    the frame was captured, in UTC: ``2026-11-22T19:30:00.123+00:00``.

    The file appears whole when it is finished; until then every line is at once in the hidden
    ``.areas.N.PID.tmp.jsonl`` beside it, for ``tail -f``. With ``piece_s`` there is one file for so many
    seconds, named by the UTC of its first frame: ``areas-20261122T193000Z.jsonl``. A disk that is nearly full
    ends a piece while it can still be finished.

    Raises InputError for a length of pieces that is not positive.
    """

    name = "areas"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        several_sources: bool = False,
        piece_s: float | None = None,
    ) -> None:
        check_piece_s(piece_s)
        self.files: list[Path] = []
        """Finished so far."""
        self._folder, self._several, self._piece_s = Path(folder), several_sources, piece_s
        self._place = contextlib.ExitStack()
        self._path = self._folder / "areas.jsonl"
        self._lines: TextIO | None = None
        self._count = 0
        """Lines in the unfinished file."""
        self._began_s = 0.0

    def check(self) -> None:
        """Raise OutputError if the folder cannot be written."""
        prepare_folder(self._folder)

    def write(self, result: StreamResult) -> None:
        """Add one line. Raises OutputError; the unfinished file is then gone."""
        captured_s = result.frame.captured_s
        if self._piece_s is not None and captured_s - self._began_s >= self._piece_s:
            self.close()
        if self._piece_s is not None:
            try:
                require_room(self._folder)
            except OSError as error:
                self.close()
                raise as_output_error(error, self._folder / "areas.jsonl") from error
        if self._lines is None:
            self._begin(result)
        try:
            assert self._lines is not None
            self._lines.write(json.dumps(self._line(result)) + "\n")
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise as_output_error(error, self._path) from error
            raise
        self._count += 1

    def _begin(self, result: StreamResult) -> None:
        self._path = self._folder / "areas.jsonl"
        if self._piece_s is not None:
            self._path = self._folder / f"areas-{piece_stamp(result.frame)}.jsonl"
        self._began_s = result.frame.captured_s
        try:
            put = None if self._piece_s is None else self._put_unused
            temporary = self._place.enter_context(atomic_path(self._path, put=put))
            self._lines = temporary.open("w", encoding="utf-8", buffering=1)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise as_output_error(error, self._path) from error
            raise

    def _put_unused(self, new: Path, path: Path) -> None:
        self._path = put_unused(new, path)

    def close(self) -> None:
        if self._lines is None:
            return
        try:
            self._lines.close()
            self._place.close()
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise as_output_error(error, self._path) from error
            raise
        self._lines, self._count = None, 0
        self.files.append(self._path)

    def abort(self) -> None:
        lines, self._lines = self._lines, None
        if lines is not None:
            with contextlib.suppress(OSError):  # what could not be written before cannot be now
                lines.close()
        abandoned = _Abandoned()
        with contextlib.suppress(Exception):
            self._place.__exit__(_Abandoned, abandoned, None)
        self.lost, self._count = self.lost + self._count, 0

    def _line(self, result: StreamResult) -> dict[str, object]:
        line: dict[str, object] = {"frame": result.index}
        if self._several:
            line["source"] = result.source
        line["name"] = result.frame.name
        if self._piece_s is not None:
            line["time"] = captured_at(result.frame).isoformat(timespec="milliseconds")
        if result.time_s is not None:
            line["time_s"] = round(result.time_s, 4)
        line["areas"] = {name: round(share, 6) for name, share in result.areas().items()}
        line["latency_ms"] = round(result.latency_ms, 3)
        line["age_ms"] = round(result.age_ms, 3)
        return line
