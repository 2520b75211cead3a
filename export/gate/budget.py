"""What an exported file may cost. No torch: a wrong budget is told at once."""

from __future__ import annotations

from dataclasses import dataclass

from cpsl_deploy.contract import PRECISIONS
from cpsl_deploy.errors import InputError

_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95}
_RESIZED_AGREEMENT = 0.97
_DROPS = {True: (1.0, 2.0), False: (5.0, 10.0)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an export may cost. Raises InputError for a value outside its range."""

    min_agreement: float
    """Least share of pixels with the torch model's label, 0 to 1."""
    max_iou_drop: float = 1.0
    """Most points (0 to 100) of mean IoU that may be lost."""
    max_class_iou_drop: float = 2.0
    """Most points of IoU that any one class may lose."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise InputError(
                f"the least agreement is a share from 0 to 1, for example 0.999; got {self.min_agreement}"
            )
        for name in ("max_iou_drop", "max_class_iou_drop"):
            if not 0 <= (value := getattr(self, name)) <= 100:
                raise InputError(f"{name} is in points of IoU, 0 to 100, for example 1.0; got {value}")

    @classmethod
    def for_precision(cls, precision: str, *, labelled: bool = True, resizes: bool = False) -> Budget:
        """The default for a file of "fp32", "fp16" or "int8". Raises InputError for another precision.

        Agreement counts harmless changes, too, so it only guards against what is plainly another model: two
        float32 implementations differ on about 2 in 100,000 pixels; half precision was seen to change about 2
        in 1,000, and 8 bits up to some in 100, nearly all of them close to ties. What it costs is told by the
        IoU: 1 point of the mean and 2 of any one class where there are labels. Without labels
        (``labelled`` False) the torch model's own are in their place. Every changed pixel then counts as a
        loss, though near a tie it is as often a gain, so 5 and 10 points are allowed; float32 files have no
        such changes and keep 1 and 2.

        A file that resizes frames by itself (``resizes``) is compared with the model at the model's own size.
        It interpolates bilinearly, in float, where training averages areas and rounds: at the model's own
        size 0.3 to 1.5 in 100 pixels were seen to change, so 3 may, and no file counts as free of such
        changes. A smaller inner size changes more, and that is a loss to be allowed knowingly.
        """
        if precision not in PRECISIONS:
            raise InputError(f"a precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
        overall, one_class = _DROPS[labelled or (precision == "fp32" and not resizes)]
        agreement = min(_AGREEMENT[precision], _RESIZED_AGREEMENT) if resizes else _AGREEMENT[precision]
        return cls(min_agreement=agreement, max_iou_drop=overall, max_class_iou_drop=one_class)
