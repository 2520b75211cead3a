"""How a stream is run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError
from ..sources.base import InputLimits
from .inbox import POLICIES, Policy


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the engine does with frames. Raises InputError if a value breaks its rule."""

    policy: Policy | None = None
    """``lossless`` or ``latest``; None chooses by the kind of each source (`Feed.live`)."""
    every: int = 1
    """Of so many frames one is segmented, beginning with the first."""
    batch: int | None = None
    """Most frames in one inference, of files with a free batch. None: one, or with several sources as many
    as there are if a measurement at the start finds that faster."""
    max_frames: int | None = None
    """Frames, all sources together, after which the stream ends."""
    max_seconds: float | None = None
    """Seconds after which the stream ends."""
    limits: InputLimits = field(default_factory=InputLimits)

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in POLICIES:
            raise InputError(f"a policy is {' or '.join(POLICIES)}; got {self.policy!r}")
        if self.every < 1:
            raise InputError(f"every n-th frame is segmented with n of 1 or more; got {self.every}")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"a batch has 1 frame or more; got {self.batch}")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"max_frames is 1 or more; got {self.max_frames}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"max_seconds is above 0; got {self.max_seconds}")
