"""Views of an image: one affine map carries image, labels, valid mask and soft labels alike.

The weak view is a random scale, crop and flip; the strong view changes the weak one's geometry a little more,
and its colours, sharpness and parts (CPSL section 3.1). A map is a 3x3 matrix that takes pixel centres of the
view to pixel coordinates of what it was cut from; maps compose by matrix product, whatever the order of the
operations that made them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import RecipeError

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """Strengths of the colour changes; 0 switches one off."""

    brightness: float = 0.0
    """Largest relative change, as are the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Largest shift, as a share of the colour circle."""
    blur: float = 0.0
    """Probability of a Gaussian blur of 0.1 to 1.5 pixels."""
    cutout: int = 0
    """Number of rectangles, each up to a fifth of a side, that are greyed out."""
    noise: float = 0.0
    """Largest standard deviation of added noise, on the 0..255 scale."""

    def __post_init__(self) -> None:
        _require_not_negative(self, "brightness", "contrast", "saturation", "hue", "blur", "cutout", "noise")


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Strengths of a view's change of geometry, about its centre."""

    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random zoom: 2 shows things twice as large."""
    flip: bool = True
    rotation: float = 0.0
    """Largest rotation in degrees."""
    translation: float = 0.0
    """Largest shift as a share of the view's height and width, each by its own side."""
    shear: float = 0.0
    """Largest shear in degrees."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high:
            raise RecipeError(
                f"a view's scale is two numbers above 0, low and high; got {self.scale}. Change it in the "
                "recipe."
            )
        _require_not_negative(self, "rotation", "translation", "shear")


def _require_not_negative(settings: Photometric | Geometric, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise RecipeError(
                f"a view's {name} is 0 or more; got {getattr(settings, name)}. Change it in the recipe."
            )


UNCHANGED = Geometric(scale=(1, 1), flip=False)


def crop_matrix(rng: np.random.Generator, image: Size, crop: Size, geometry: Geometric) -> np.ndarray:
    """Map of a random zoomed, flipped crop to the image (3x3 float64). The crop lies inside where it fits."""
    zoom = _log_uniform(rng, geometry.scale)
    spans = [side / zoom for side in crop]
    centres = []
    for side, span in zip(image, spans, strict=True):
        low, high = min(span, side) / 2, side - min(span, side) / 2
        centres.append(rng.uniform(low, high) if high > low else side / 2)
    mirror = -1.0 if geometry.flip and rng.random() < 0.5 else 1.0
    return _about_centres(np.diag([mirror / zoom, 1 / zoom, 1.0]), crop, centres)


def jitter_matrix(rng: np.random.Generator, size: Size, geometry: Geometric) -> np.ndarray:
    """Map of a view to another of the same size: rotation, shear, zoom, flip and shift about the centre."""
    angle = np.deg2rad(rng.uniform(-1, 1) * geometry.rotation)
    shear = np.tan(np.deg2rad(rng.uniform(-1, 1) * geometry.shear))
    zoom = _log_uniform(rng, geometry.scale)
    mirror = -1.0 if geometry.flip and rng.random() < 0.5 else 1.0
    shift = rng.uniform(-1, 1, 2) * geometry.translation * np.array(size)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    slant = np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1.0]])
    linear = turn @ slant @ np.diag([mirror / zoom, 1 / zoom, 1.0])
    return _about_centres(linear, size, [size[0] / 2 + shift[0], size[1] / 2 + shift[1]])


def _about_centres(linear: np.ndarray, view: Size, centre: list[float]) -> np.ndarray:
    """The view's centre goes to ``centre`` (y, x) of the image; pixel centres lie at half integers."""
    to_origin = np.array([[1, 0, 0.5 - view[1] / 2], [0, 1, 0.5 - view[0] / 2], [0, 0, 1.0]])
    to_image = np.array([[1, 0, centre[1] - 0.5], [0, 1, centre[0] - 0.5], [0, 0, 1.0]])
    return to_image @ linear @ to_origin


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def warp_image(
    image: np.ndarray, matrix: np.ndarray, size: Size, out: np.ndarray | None = None
) -> np.ndarray:
    """Cut the view out of an image, (H, W, 3) uint8; what lies outside is the mirrored image.

    When the map shrinks the image it is averaged first, so that the view does not alias. ``out``: where the
    view is written, (*size, 3) uint8.
    """
    shrink = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if shrink > 1.4:
        matrix, image = _halve(matrix, image, shrink)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view: np.ndarray = cv2.warpAffine(
        image, matrix[:2], size[::-1], dst=out, flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return view


def _halve(matrix: np.ndarray, image: np.ndarray, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(1, round(width / shrink)), max(1, round(height / shrink))), interpolation=cv2.INTER_AREA
    )
    return _resize_matrix((height, width), small.shape[:2]) @ matrix, small


def _resize_matrix(old: Size, new: Size) -> np.ndarray:
    """Map of pixel coordinates at one size to the same image at another (pixel centres at half integers)."""
    sy, sx = new[0] / old[0], new[1] / old[1]
    return np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1.0]])


def warp_labels(
    labels: np.ndarray, matrix: np.ndarray, size: Size, out: np.ndarray | None = None
) -> np.ndarray:
    """Cut the view out of a label map (H, W) uint8, nearest neighbour; IGNORE outside the image.

    ``out``: where the view is written, of ``size``, uint8.
    """
    flags, border = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT
    view: np.ndarray = cv2.warpAffine(
        labels, matrix[:2], size[::-1], dst=out, flags=flags, borderMode=border, borderValue=IGNORE
    )
    return view


def inside(matrix: np.ndarray, view: Size, full: Size) -> np.ndarray:
    """(*view) bool: which pixels of a view lie in what it was cut from, as ``warp_labels`` has it."""
    within: np.ndarray = warp_labels(np.zeros(full, np.uint8), matrix, view) != IGNORE
    return within


def lies_inside(matrix: np.ndarray, view: Size, full: Size) -> bool:
    """Whether a view lies wholly in what it was cut from, half a pixel or more from its edge: then all of
    ``inside`` is true, and so it is of every view of that view where that is inside."""
    right, bottom = view[1] - 0.5, view[0] - 0.5
    corners = np.array([[-0.5, right, -0.5, right], [-0.5, -0.5, bottom, bottom], [1, 1, 1, 1]])
    x, y, _ = matrix @ corners
    return bool(x.min() >= 0 and y.min() >= 0 and x.max() <= full[1] - 1 and y.max() <= full[0] - 1)


def warp_maps(
    maps: Tensor, matrices: Tensor, full: tuple[float, float], view: Size, out: Size | None = None
) -> tuple[Tensor, Tensor]:
    """Cut views out of dense maps (features, probabilities) that are kept at a lower resolution.

    maps: (N, C, h, w) of what is ``full`` (height, width) pixels large, a part of a pixel included. matrices:
    (N, 3, 3) of views of size ``view`` to ``full``, in pixels of full resolution. ``out``: the result's size;
    without it the maps' own stride is kept. Bilinear. Returns (N, C, h', w') and the mask (N, h', w') of
    positions inside the image. Coordinates are computed in float64, which autocast leaves alone: in bfloat16
    they would be off by pixels.
    """
    if out is None:
        height, width = (max(1, round(v * s / f)) for v, s, f in zip(view, maps.shape[2:], full, strict=True))
        out = (height, width)
    ys, xs = torch.meshgrid(
        (torch.arange(out[0], device=maps.device) + 0.5) * view[0] / out[0] - 0.5,
        (torch.arange(out[1], device=maps.device) + 0.5) * view[1] / out[1] - 0.5,
        indexing="ij",
    )
    points = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1).reshape(-1, 3)
    there = points.double() @ matrices.double().transpose(1, 2)
    half_pixels = torch.tensor([full[1] / 2, full[0] / 2], device=maps.device)
    grid = ((there[..., :2] + 0.5) / half_pixels - 1).reshape(len(maps), *out, 2).float()
    valid = (grid.abs() <= 1).all(dim=-1)
    warped = F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, valid


def change_colours(
    rng: np.random.Generator, image: np.ndarray, strength: Photometric, out: np.ndarray | None = None
) -> np.ndarray:
    """A colour-jittered, perhaps blurred, noisy or partly greyed copy of an RGB image (H, W, 3) uint8.

    ``out``: where the copy is written, an array of the image's shape and type that does not overlap it.
    Where colours alone change, they do so in OpenCV's fixed point: one value in ten at most differs from the
    exact result, rounded, and by one level.
    """
    out = np.empty_like(image) if out is None else out
    colours = _colour_map(rng, image, strength)
    blur = rng.uniform(0.1, 1.5) if rng.random() < strength.blur else 0.0
    if blur or strength.noise:
        # A blur is a mean, which an affine map of colours leaves one: the blur may come first.
        exact = _blurred(image, blur) if blur else image.astype(np.float32)
        exact = exact if colours is None else cv2.transform(exact, colours)
        if strength.noise:
            noise = rng.standard_normal(exact.shape, np.float32)
            noise *= np.float32(rng.uniform(0, strength.noise))
            exact += noise
        cv2.add(exact, np.zeros(4), dst=out, dtype=cv2.CV_8U)  # rounds and saturates
    elif colours is not None:
        cv2.transform(image, colours, dst=out)
    else:
        out[:] = image
    for _ in range(strength.cutout):
        height, width = (rng.integers(1, max(2, side // 5)) for side in out.shape[:2])
        top, left = rng.integers(0, out.shape[0] - height + 1), rng.integers(0, out.shape[1] - width + 1)
        out[top : top + height, left : left + width] = 127
    return out


def _colour_map(rng: np.random.Generator, image: np.ndarray, strength: Photometric) -> np.ndarray | None:
    """Brightness, contrast about the image's mean, saturation and hue as one affine map, (3, 4) float32; None
    if all of them are off."""
    brightness = 1 + rng.uniform(-1, 1) * strength.brightness
    contrast = 1 + rng.uniform(-1, 1) * strength.contrast
    turn = _turn_of_colours(rng, strength) if strength.saturation or strength.hue else np.eye(3)
    if not (strength.brightness or strength.contrast or strength.saturation or strength.hue):
        return None
    mean = np.mean(cv2.mean(image)[:3])
    # The turn leaves grey, which the mean is added as, where it is.
    shift = np.full((3, 1), brightness * (1 - contrast) * mean)
    return np.hstack([brightness * contrast * turn, shift]).astype(np.float32)


def _turn_of_colours(rng: np.random.Generator, strength: Photometric) -> np.ndarray:
    """Saturation and hue as one 3x3 matrix: a rotation about the grey axis and a stretch away from it."""
    angle = rng.uniform(-1, 1) * strength.hue * 2 * np.pi
    stretch = 1 + rng.uniform(-1, 1) * strength.saturation
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return grey + stretch * (np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of uint8 (H, W, 3), float32, out to four sigma."""
    kernel = cv2.getGaussianKernel(round(8 * sigma + 1) | 1, sigma, cv2.CV_32F)
    blurred: np.ndarray = cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel)
    return blurred
