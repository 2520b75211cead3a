"""Label maps as palette PNG files, whose pixel values are the labels."""

from __future__ import annotations

import os
from pathlib import Path

from ..overlay import write_label_png
from ..streams.result import StreamResult
from .base import Sink
from .place import prepare_folder, safe_name


class LabelSink(Sink):
    """``labels/NAME-FRAME.png`` in ``folder`` for sources that move, ``NAME.labels.png`` for images.

    8 bits, indexed: the pixel values are the labels, and viewers show their colours. Every file is whole or
    absent. ``several_sources``: images go into a folder named after their source.
    """

    name = "labels"

    def __init__(self, folder: str | os.PathLike[str], *, several_sources: bool = False) -> None:
        self._folder, self._several = Path(folder), several_sources

    def check(self) -> None:
        """Raise OutputError if the folder cannot be written."""
        prepare_folder(self._folder)

    def write(self, result: StreamResult) -> None:
        name = safe_name(result.frame.name)
        if result.time_s is not None:
            path = self._folder / "labels" / f"{name}.png"
        else:
            folder = self._folder / safe_name(result.source) if self._several else self._folder
            path = folder / f"{name}.labels.png"
        write_label_png(path, result.labels, result.classes)

    def close(self) -> None:
        """Nothing is held open."""
