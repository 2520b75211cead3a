"""How well a label map follows the outlines: boundary IoU and the boundary F-score, per class.

Both look at a strip along the boundaries alone, where mIoU, which large areas decide, says little.

**Inner band.** The pixels of a class that have a pixel of another class within ``d`` pixels, diagonals
counted as one (the square of side 2d + 1 around the pixel); it lies inside the class. The band 1 pixel wide
is the class's *contour*.

**Boundary IoU** of a class: pixels in the band of the truth and in the band of the prediction, over those in
either. B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021,
whose code erodes by the same square. There ``d`` is a share of the image's diagonal (2 % unless told); here
it is in pixels, as the reader of a benchmark of one camera wants it.

**Boundary F-score** of a class: the harmonic mean of precision, the share of the prediction's contour pixels
with a contour pixel of the class in the truth no further than ``d`` pixels (Euclidean distance), and recall,
the same with truth and prediction exchanged. G. Csurka et al., "What is a good evaluation measure for
semantic segmentation?", BMVC 2013; as in the code of F. Perazzi et al., "A Benchmark Dataset and
Evaluation Methodology for Video Object Segmentation", CVPR 2016, many pixels may be near to one.

Three rules of this file differ from those sources:

- Counts are summed over the images before they are divided, as for IoU, so that an image with little of a
  class weighs little. The sources take means of each image's or object's score.
- Pixels whose label is IGNORE are unknown: in no band, and no other class to their neighbours, in the truth
  or in the prediction. A prediction that is right at every labelled pixel has 1 in both scores. The price: a
  boundary that lies under an ignored strip is not seen, and a predicted one beside the strip counts as wrong.
- Beyond the image's border everything is unknown too: the border is no boundary. (Cheng's code makes it one,
  which every prediction gets right for nothing.)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from ..classes import IGNORE
from ..errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundaryCounts:
    """Pixels along the boundaries of K classes, each (K,) int64. Counts of several images add up."""

    band_hits: np.ndarray
    """In the band of the truth and in that of the prediction."""
    band_labelled: np.ndarray
    """In the band of the truth."""
    band_predicted: np.ndarray
    """In the band of the prediction."""
    contour_labelled: np.ndarray
    """On the contour in the truth."""
    contour_found: np.ndarray
    """Of those, the ones near to the prediction's contour."""
    contour_predicted: np.ndarray
    """On the contour in the prediction."""
    contour_right: np.ndarray
    """Of those, the ones near to the truth's contour."""

    @classmethod
    def zeros(cls, num_classes: int) -> BoundaryCounts:
        """The counts of no image."""
        return cls(**{field.name: np.zeros(num_classes, np.int64) for field in fields(cls)})

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        names = [field.name for field in fields(self)]
        return BoundaryCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def iou(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class without a boundary in truth and prediction."""
        return _ratio(self.band_hits, self.band_labelled + self.band_predicted - self.band_hits)

    @property
    def f_score(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class without a contour in truth and prediction, 0 for one that
        has it in one of them alone."""
        precision = _ratio(self.contour_right, self.contour_predicted)
        recall = _ratio(self.contour_found, self.contour_labelled)
        score = _ratio(2 * precision * recall, precision + recall)
        occurs = self.contour_predicted + self.contour_labelled > 0
        return np.where(occurs, np.nan_to_num(score), np.nan)


def boundary_counts(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, pixels: int
) -> BoundaryCounts:
    """Counts of one image.

    ``labels``, ``predictions``: uint8 (H, W); what is predicted where the label is IGNORE is not looked at.
    ``pixels``: the d above, 1 or more. Its cost hardly depends on the number of classes; it grows with d².

    Raises InputError if the arrays differ in shape or type, a counted value is not a class, or d is under 1.
    """
    if labels.shape != predictions.shape or labels.ndim != 2 or {labels.dtype, predictions.dtype} != _UINT8:
        raise InputError(
            f"labels and predictions are uint8 (H, W) of one shape; got {labels.dtype} {labels.shape} and "
            f"{predictions.dtype} {predictions.shape}"
        )
    if pixels < 1:
        raise InputError(f"a boundary is looked for within 1 pixel or more; got {pixels}")
    ignored = labels == IGNORE
    for kind, label_map in (("label", labels), ("prediction", predictions)):
        _check_classes(kind, label_map, ignored, num_classes)
    predictions = np.where(ignored, np.uint8(IGNORE), predictions)
    truth_band, band = inner_band(labels, pixels), inner_band(predictions, pixels)
    truth_contour, contour = inner_band(labels, 1), inner_band(predictions, 1)
    truth_map = np.where(truth_contour, labels, np.uint8(IGNORE))
    map_ = np.where(contour, predictions, np.uint8(IGNORE))
    contour_labelled = _per_class(labels, truth_contour, num_classes)
    contour_predicted = _per_class(predictions, contour, num_classes)
    return BoundaryCounts(
        band_hits=_per_class(labels, truth_band & band & (labels == predictions), num_classes),
        band_labelled=_per_class(labels, truth_band, num_classes),
        band_predicted=_per_class(predictions, band, num_classes),
        contour_labelled=contour_labelled,
        contour_found=contour_labelled - _far(truth_map, map_, num_classes, pixels),
        contour_predicted=contour_predicted,
        contour_right=contour_predicted - _far(map_, truth_map, num_classes, pixels),
    )


def inner_band(label_map: np.ndarray, pixels: int) -> np.ndarray:
    """Bool (H, W): the inner bands of all classes of a label map uint8 (H, W); a pixel is in its own class's.

    All at once: a pixel has another class near it if the lowest and the highest class near it differ.
    """
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    # IGNORE is the highest value, so it is never the lowest; one up it wraps to 0, and is never the highest.
    # OpenCV's default border of a morphology takes part in neither.
    lowest = cv2.erode(label_map, square)
    highest = cv2.dilate(label_map + np.uint8(1), square) - np.uint8(1)
    return (lowest != highest) & (label_map != IGNORE)


_UINT8 = {np.dtype(np.uint8)}


def _far(contours: np.ndarray, others: np.ndarray, num_classes: int, pixels: int) -> np.ndarray:
    """(K,) int64: pixels of ``contours`` that have none of their class in ``others`` within ``pixels``.

    Both uint8 (H, W), IGNORE off the contours. A contour has few pixels, and most find theirs near, so the
    distances are gone through from the nearest, for the pixels that are left: no map is made per class.
    """
    width = contours.shape[1] + 2 * pixels
    around = np.pad(others, pixels, constant_values=IGNORE).ravel()
    rows, columns = np.nonzero(contours != IGNORE)
    places, classes = (rows + pixels) * width + columns + pixels, contours[rows, columns]
    for down, right in _disk(pixels):
        left = around[places + (down * width + right)] != classes
        places, classes = places[left], classes[left]
    return np.bincount(classes, minlength=num_classes)


def _disk(radius: int) -> list[tuple[int, int]]:
    """(row, column) steps no longer than the radius, the shortest first."""
    side = range(-radius, radius + 1)
    steps = [(row, column) for row in side for column in side if row**2 + column**2 <= radius**2]
    return sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2)


def _per_class(label_map: np.ndarray, where: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(label_map[where], minlength=num_classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _check_classes(kind: str, label_map: np.ndarray, ignored: np.ndarray, num_classes: int) -> None:
    highest = int(np.where(ignored, 0, label_map).max(initial=0))
    if highest >= num_classes:
        raise InputError(
            f"a {kind} is a class from 0 to {num_classes - 1}, or {IGNORE} in labels for pixels to skip; got "
            f"{highest}. Remap the ids before they are scored."
        )
