"""A few target images before and after: the image, what each network sees in it, the truth if known."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from cpsl_deploy.classes import IGNORE, ClassSpace
from cpsl_deploy.data import Dataset
from cpsl_deploy.overlay import blend

from ..evaluation.network_score import label_map
from ..models import Segmenter
from ..samples import WorkingImages
from .figures import DPI, FONT, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNT = 5
"""Images shown."""
_CELL_WIDTH = 440
"""Pixels."""
_OPACITY = 0.6


def evenly_spaced(count: int, most: int = COUNT) -> list[int]:
    """At most so many of ``count`` images: the middle one of each of that many equal parts."""
    most = min(count, most)
    return [int((i + 0.5) * count / most) for i in range(most)]


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet."""

    picture: np.ndarray
    """(h, w, 3) uint8 RGB."""
    below: str = ""


def write_before_after(
    networks: dict[str, Segmenter],
    dataset: Dataset,
    size: tuple[int, int],
    device: torch.device,
    path: Path,
    *,
    with_truth: bool,
) -> None:
    """Draw evenly spaced images of a target split, a row each: image, every network's labels, the truth.

    ``networks``: by column title; they are put in eval mode and moved to ``device``. ``dataset``: in the
    class space of the networks. ``size``: (height, width) in pixels at which they work. ``with_truth``: show
    the dataset's labels, too. Raises DataError for an image or label that cannot be read, MissingExtraError
    without matplotlib.
    """
    assert dataset.classes is not None
    images = WorkingImages(dataset, size)
    for network in networks.values():
        network.eval().to(device)
    rows = {
        i: picture_row(networks, images, i, device, with_truth=with_truth)
        for i in evenly_spaced(len(dataset))
    }
    titles = ["image", *networks, *(["truth (uncoloured: no label)"] if with_truth else [])]
    where = f"{dataset.name} ({dataset.split})"
    _draw_sheet({dataset.names[i]: row for i, row in rows.items()}, titles, dataset.classes, where, path)


def picture_row(
    networks: dict[str, Segmenter],
    images: WorkingImages,
    index: int,
    device: torch.device,
    *,
    with_truth: bool,
) -> list[Cell]:
    """The pictures of one image, left to right, each at the width of a cell."""
    image, classes = images.image(index), images.dataset.classes
    assert classes is not None
    truth = images.dataset.label(index) if with_truth else None
    cells = [Cell(_shrunk(image))]
    for network in networks.values():
        labels = label_map(network, image, image.shape[:2] if truth is None else truth.shape, device)
        cells.append(Cell(_coloured(image, labels, classes), _share_right(labels, truth)))
    if truth is not None:
        cells.append(Cell(_coloured(image, truth, classes)))
    return cells


def _share_right(labels: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None or not (counted := truth != IGNORE).any():
        return ""
    return f"{100 * (labels == truth)[counted].mean():.1f} % of the labelled pixels right"


def _coloured(image: np.ndarray, labels: np.ndarray, classes: ClassSpace) -> np.ndarray:
    """The image under the colours of labels of any size, at the cell's size, RGB."""
    small = _shrunk(image)
    fitted = cv2.resize(labels, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(blend(small[..., ::-1], fitted, classes, _OPACITY)[..., ::-1])


def _shrunk(image: np.ndarray) -> np.ndarray:
    height = max(1, round(image.shape[0] * _CELL_WIDTH / image.shape[1]))
    method = cv2.INTER_AREA if image.shape[1] > _CELL_WIDTH else cv2.INTER_LINEAR
    return cv2.resize(image, (_CELL_WIDTH, height), interpolation=method)


def _draw_sheet(
    rows: dict[str, list[Cell]], titles: list[str], classes: ClassSpace, where: str, path: Path
) -> None:
    """Rows of cells under column titles; below them the legend, which hides no picture."""
    cell, gap, caption = _CELL_WIDTH / DPI, 0.06, 0.4
    heights = [cell * row[0].picture.shape[0] / row[0].picture.shape[1] for row in rows.values()]
    width = len(titles) * (cell + gap) + 0.2
    per_line = max(1, int(width / 1.6))
    header, footer = 0.95, 0.3 * -(-len(classes) // per_line) + 0.15
    height = header + sum(heights) + caption * len(rows) + footer
    figure = new_figure(width, height)
    top = height - header
    for number, (name, row) in enumerate(rows.items()):
        bottom = top - heights[number]
        for column, content in enumerate(row):
            left = 0.1 + column * (cell + gap)
            place = (left / width, bottom / height, cell / width, heights[number] / height)
            below = content.below if column else textwrap.shorten(name, 48, placeholder="...")
            _show(figure.add_axes(place), content.picture, "" if number else titles[column], plain(below))
        top = bottom - caption
    _legend(figure, classes, per_line)
    title = f"Evenly spaced images of {plain(where)}, before and after the adaptation"
    figure.suptitle(title, fontsize=FONT + 6, y=1 - 0.15 / height)
    save(figure, path)


def _legend(figure: Figure, classes: ClassSpace, per_line: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=f"#{bytes(colour).hex()}", edgecolor="#555555", linewidth=0.5, label=plain(name))
        for name, colour in zip(classes.names, classes.palette, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=min(per_line, len(handles)),
        frameon=False,
        fontsize=FONT + 3,
        columnspacing=1.6,
    )


def _show(axes: Axes, picture: np.ndarray, title: str, below: str) -> None:
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=FONT + 4)
    axes.set_xlabel(below, fontsize=FONT + 2, color="#333333", labelpad=3)
