"""What an engine may take: frames of one size, or a range with the size it is tuned for, and memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from cpsl_deploy.errors import InputError

Frames = tuple[int, int, int]
"""(batch, height, width): frames at once, and their sides in pixels."""
Free = tuple[int | None, int | None, int | None]
"""(batch, height, width) of a model's input, None where the file leaves it free."""

_AXES = ("batch", "height", "width")
_SMALLEST = (1, 16, 16)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The frames an engine takes, from `min` to `max` on each axis; it is tuned for `opt`.

    Raises InputError unless batch is 1 or more, sides are 16 or more, and min <= opt <= max on each axis.
    """

    min: Frames
    opt: Frames
    max: Frames

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            value = getattr(self, name)
            whole = len(value) == 3 and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            if not whole or any(n < least for n, least in zip(value, _SMALLEST, strict=True)):
                raise InputError(
                    f"a profile's {name} is (batch, height, width), batch 1 or more and each side 16 or "
                    f"more; got {value}"
                )
        for axis, least, best, most in zip(_AXES, self.min, self.opt, self.max, strict=True):
            if not least <= best <= most:
                raise InputError(
                    f"a profile has min <= opt <= max on each axis; its {axis} has {least}, {best}, {most}"
                )

    @classmethod
    def fixed(cls, height: int, width: int, batch: int = 1) -> Profile:
        """One size alone, in pixels."""
        frames = (batch, height, width)
        return cls(min=frames, opt=frames, max=frames)

    @classmethod
    def from_text(cls, text: str) -> Profile:
        """``BATCHxHEIGHTxWIDTH``, or three of them with commas: min,opt,max. Raises InputError."""
        parts = [re.fullmatch(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", part) for part in text.split(",")]
        shapes = [(int(part[1]), int(part[2]), int(part[3])) for part in parts if part]
        if len(shapes) != len(parts) or len(shapes) not in (1, 3):
            raise InputError(
                "a profile is written BATCHxHEIGHTxWIDTH, or three of them as MIN,OPT,MAX, for example "
                f"1x544x960,1x544x960,4x1088x1920; got {text!r}"
            )
        return cls(min=shapes[0], opt=shapes[len(shapes) // 2], max=shapes[-1])

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels if there is one alone; None if several are allowed."""
        return self.opt[1:] if self.min[1:] == self.max[1:] else None

    def __str__(self) -> str:
        shapes = ["x".join(map(str, shape)) for shape in (self.min, self.opt, self.max)]
        return shapes[0] if len(set(shapes)) == 1 else ",".join(shapes)

    def require_fit(self, shape: Free, origin: str) -> None:
        """Raise InputError if a model's input is fixed on an axis to something else than this profile."""
        for axis, wanted, *limits in zip(_AXES, shape, self.min, self.opt, self.max, strict=True):
            if wanted is not None and set(limits) != {wanted}:
                asked = " to ".join(map(str, sorted({limits[0], limits[-1]})))
                raise InputError(
                    f"{origin} takes a {axis} of {wanted} only, and the profile asks for {asked}. Export it "
                    f"with a free {axis}, or leave the profile out"
                )


def profile_for(shape: Free, size: tuple[int, int]) -> Profile:
    """What an engine takes if nobody says: what the file fixes, and else batch 1 and ``size`` = (height,
    width) in pixels."""
    batch, height, width = shape
    return Profile.fixed(height or size[0], width or size[1], batch or 1)


def workspace_bytes(gib: float | None) -> int | None:
    """A workspace limit in bytes; None is all there is. Raises InputError unless it is above 0 and up to
    1024 GiB."""
    if gib is None:
        return None
    if not (math.isfinite(gib) and 0 < gib <= 1024):
        raise InputError(f"the workspace limit is above 0 and up to 1024 GiB; got {gib}")
    return int(gib * 2**30)
