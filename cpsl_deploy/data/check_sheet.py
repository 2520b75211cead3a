"""A contact sheet: what the labels of a dataset look like over its images."""

from __future__ import annotations

import cv2
import numpy as np

from .. import overlay
from ..classes import IGNORE, ClassSpace
from ..errors import DataError
from .check_report import CheckReport
from .dataset import Dataset

_COLUMNS = 4
_CELL_WIDTH = 400
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def dataset_sheet(dataset: Dataset, report: CheckReport, indices: list[int]) -> np.ndarray:
    """Images of a split under their labels, with a legend, as one BGR uint8 (H, W, 3) picture.

    Ignored pixels are darkened. An image that cannot be read is an empty cell that says so.
    """
    cells, titles = [], []
    for index in indices:
        cell, remark = _cell(dataset, index)
        cells.append(cell)
        titles.append(_shortened(dataset.names[index]) + remark)
    if dataset.has_labels and dataset.classes:
        height = round(_CELL_WIDTH * cells[0].shape[0] / cells[0].shape[1])
        cells.append(_legend(dataset.classes, report, height))
        titles.append("share of the labelled pixels; ignored pixels are dark")
    return overlay.contact_sheet(cells, titles=titles, columns=_COLUMNS, cell_width=_CELL_WIDTH)


def _cell(dataset: Dataset, index: int) -> tuple[np.ndarray, str]:
    try:
        image = cv2.cvtColor(dataset.image(index), cv2.COLOR_RGB2BGR)
        label = dataset.label(index) if dataset.has_labels else None
    except DataError:
        return np.full((3 * _CELL_WIDTH // 4, _CELL_WIDTH, 3), 60, np.uint8), " (unreadable)"
    if label is None or dataset.classes is None:
        return image, ""
    if label.shape != image.shape[:2]:
        return image, f" (label is {label.shape[0]}x{label.shape[1]})"
    image[label == IGNORE] //= 3
    return overlay.blend(image, label, dataset.classes, 0.55), ""


def _legend(classes: ClassSpace, report: CheckReport, height: int) -> np.ndarray:
    """Every class with its colour and share, in as many columns as fit the height."""
    line = 22
    rows = max(1, (height - 8) // line)
    columns = -(-len(report.classes) // rows)
    width = max(_CELL_WIDTH, 190 * columns)
    panel = np.full((round(height * width / _CELL_WIDTH), width, 3), 32, np.uint8)
    for i, known in enumerate(report.classes):
        left, base = 8 + 190 * (i // rows), 20 + line * (i % rows)
        red, green, blue = classes.palette[i]
        cv2.rectangle(panel, (left, base - 13), (left + 20, base + 3), (blue, green, red), cv2.FILLED)
        text = f"{known.name} {100 * known.share:.3g} %" if known.images else f"{known.name}: never"
        colour = (120, 200, 255) if known.is_tail else (235, 235, 235)
        cv2.putText(panel, text, (left + 28, base), _FONT, 0.5, colour, 1, cv2.LINE_AA)
    return panel


def _shortened(name: str) -> str:
    return name if len(name) <= 36 else "..." + name[-33:]
