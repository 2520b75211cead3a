"""Label maps as palette PNG files, whose pixel values are the labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..files import as_output_error
from ..overlay import write_label_png
from ..streams.result import StreamResult
from .base import Sink
from .place import (
    check_piece_s,
    make_unused_folder,
    of_source,
    piece_stamp,
    prepare_folder,
    require_room,
    safe_name,
)


class LabelSink(Sink):
    """``labels/NAME-FRAME.png`` in ``folder`` for sources that move, ``NAME.labels.png`` for images.

    8 bits, indexed: the pixel values are the labels, and viewers show their colours. Every file is whole or
    absent. ``several_sources``: images go into a folder named after their source. With ``piece_s``, one value
    or one for each source by its name, there is a folder for so many seconds of the sources of that length,
    named by the UTC of its first frame (``labels-20261122T193000Z/NAME-FRAME.png``): frames of a live source
    are counted anew in every run, and a later run leaves the files of an earlier one alone. Pieces leave room
    on the disk for other sinks to finish theirs.

    Raises InputError for a length of pieces that is not positive.
    """

    name = "labels"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        several_sources: bool = False,
        piece_s: float | Mapping[str, float | None] | None = None,
    ) -> None:
        check_piece_s(piece_s)
        self._folder, self._several, self._piece_s = Path(folder), several_sources, piece_s
        self._pieces: dict[float, tuple[Path, float]] = {}
        """By length: the folder, and the capture of its first frame."""

    def check(self) -> None:
        """Raise OutputError if the folder cannot be written."""
        prepare_folder(self._folder)

    def write(self, result: StreamResult) -> None:
        name = safe_name(result.frame.name)
        if result.time_s is not None:
            path = self._folder_of(result) / f"{name}.png"
        else:
            folder = self._folder / safe_name(result.source) if self._several else self._folder
            path = folder / f"{name}.labels.png"
        write_label_png(path, result.labels, result.classes)

    def _folder_of(self, result: StreamResult) -> Path:
        length = of_source(self._piece_s, result.source)
        if length is None:
            return self._folder / "labels"
        captured_s = result.frame.captured_s
        folder, began_s = self._pieces.get(length, (None, 0.0))
        try:
            require_room(self._folder)
            if folder is None or captured_s - began_s >= length:
                folder = make_unused_folder(self._folder / f"labels-{piece_stamp(result.frame)}")
                self._pieces[length] = (folder, captured_s)
        except OSError as error:
            raise as_output_error(error, self._folder / "labels") from error
        return folder

    def close(self) -> None:
        """Nothing is held open."""
