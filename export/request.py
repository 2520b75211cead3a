"""What an export is asked for: the file's form, what it is compared on, and what it may cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.spec import ModelSpec

from .candidates import Candidate, candidates_here
from .gate.budget import Budget
from .precision.insertion import SCHEMES
from .tensorrt.profile import Profile, workspace_bytes

CALIBRATION_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Raises InputError for a value that breaks its rule or does not go with the others."""

    contract: Contract = dataclasses.field(default_factory=Contract)
    """What the file takes and gives, and its precision."""
    size: tuple[int, int] | None = None
    """(height, width) of frames in pixels, fixed in the file; None leaves it free. Where the size must be
    fixed (INT8, ``auto``, ``trt``) None is the profile's, or what the network saw in training."""
    batch: int | None = 1
    """Frames at once, fixed in the file; None leaves it free."""
    auto: bool = False
    """Try everything that this machine can run, and keep the fastest that passes. The precision is then
    free."""
    scheme: str | None = None
    """Of INT8: "cpu" or "tensorrt"; None is tensorrt with ``trt``, else cpu."""
    frames: str | Path | None = None
    """Dataset, folder of photos or video to compare file and model on; None: see
    `gate.frames.open_frames`."""
    calibration: str | Path | None = None
    """The same for calibrating INT8; None is the images that the run trained on."""
    calibration_frames: int = CALIBRATION_FRAMES
    min_agreement: float | None = None
    """0 to 1; this and the next two replace values of `Budget.for_precision`."""
    max_iou_drop: float | None = None
    """Points of mean IoU."""
    max_class_iou_drop: float | None = None
    """Points of IoU of any one class."""
    trt: bool = False
    """Build a TensorRT engine of the file for this machine's GPU, too, and hold it against the same
    budget."""
    profile: Profile | None = None
    """Of the engine; None is what the file fixes."""
    workspace_gib: float | None = None
    """GPU memory for the engine's scratch space; None is all."""
    drift: bool = True
    """Store what the file sees on the images that the run trained on, if they are at hand, for noticing
    later that it sees something else."""

    def __post_init__(self) -> None:
        if self.auto and self.contract.precision != "fp32":
            raise InputError(
                f"auto chooses the precision, and {self.contract.precision} is asked for. Leave one out."
            )
        if self.scheme not in (None, *SCHEMES):
            raise InputError(f"INT8 is made for {' or '.join(SCHEMES)}; got {self.scheme!r}")
        if self.scheme is not None and self.contract.precision != "int8":
            raise InputError(
                f"what INT8 is made for ({self.scheme}) goes with the precision int8; got "
                f"{'auto, which chooses both' if self.auto else self.contract.precision}. Leave it out."
            )
        if self.calibration is not None and not (self.auto or self.contract.precision == "int8"):
            raise InputError(
                f"calibration is for INT8, and a file in {self.contract.precision} has none. Leave it out, "
                "or ask for the precision int8."
            )
        if self.calibration_frames < 1:
            raise InputError(f"INT8 is calibrated on 1 frame or more; got {self.calibration_frames}")
        if self.auto and self.trt:
            raise InputError(
                "auto tries TensorRT engines by itself where there is a GPU, and trt builds one whatever is "
                "chosen. Leave one."
            )
        if self.trt and self.scheme == "cpu":
            raise InputError(
                "TensorRT takes no INT8 file that is made for the CPU, and trt builds an engine of it. Leave "
                "one out."
            )
        self._check_profile()
        self.budget("fp32", labelled=True)

    def _check_profile(self) -> None:
        """Now rather than when the engine is built, which is minutes later."""
        if not (self.trt or self.auto) and (self.profile is not None or self.workspace_gib is not None):
            given = "profile" if self.profile is not None else "limit of the workspace"
            raise InputError(f"a {given} is for building a TensorRT engine. Give --trt, or leave it out.")
        workspace_bytes(self.workspace_gib)
        if self.profile is None:
            return
        self.profile.require_fit((self.batch, *(self.size or (None, None))), "the exported file")
        fixed = "auto" if self.auto else "INT8" if self.contract.precision == "int8" else ""
        if fixed and self.profile.size is None:
            raise InputError(
                f"with {fixed} the file has one frame size, and the profile {self.profile} has several. Give "
                "a profile with one height and width."
            )

    def candidates(self, *, served: bool = False) -> list[Candidate]:
        """What is made and tried, the one asked for first. ``served``: by Triton, which has no OpenVINO of
        its own for these files."""
        if self.auto:
            return [c for c in candidates_here() if not (served and c.backend == "openvino")]
        scheme = self.scheme or ("tensorrt" if self.trt else "cpu")
        return [Candidate(precision=self.contract.precision, scheme=scheme)]

    def file_size(self, spec: ModelSpec) -> tuple[int, int] | None:
        """(height, width) of the file's frames; None if free."""
        if self.size is not None:
            return self.size
        if self.profile is not None:
            return self.profile.size
        fixed = self.auto or self.trt or self.contract.precision == "int8"
        return spec.size if fixed else None

    def budget(self, precision: str, *, labelled: bool) -> Budget:
        """What a file of a precision may cost. Labels coarser than the frame cost as those of INT8 may."""
        kind = "int8" if self.contract.output_stride > 1 else precision
        resizes = self.contract.network_size is not None
        usual = Budget.for_precision(kind, labelled=labelled, resizes=resizes)
        given = {
            "min_agreement": self.min_agreement,
            "max_iou_drop": self.max_iou_drop,
            "max_class_iou_drop": self.max_class_iou_drop,
        }
        return dataclasses.replace(usual, **{key: value for key, value in given.items() if value is not None})
