"""How a stream is run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError
from ..sources.backoff import ReconnectOptions
from ..sources.base import InputLimits
from ..sources.live_options import LiveOptions
from .inbox import POLICIES, Policy
from .region import Region
from .smoothing import Smoothing
from .tiling import Tiling


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What a stream does with its frames. Raises InputError if a value breaks its rule."""

    policy: Policy | None = None
    """``lossless``: every frame, in order; the source waits. ``latest``: the newest; frames the model has
    no time for are dropped and counted; a video file is played at its own speed. None: ``latest`` for cameras
    and network streams, ``lossless`` for the rest."""
    every: int = 1
    """Of so many frames one is segmented, beginning with the first."""
    roi: Region | str | None = None
    """The part of the frame that is segmented: ``X,Y,WIDTH,HEIGHT`` in pixels, or in parts of the frame."""
    tile: Tiling | str | float | None = None
    """Frames larger than the model sees are segmented in tiles that overlap by this part of a tile."""
    smooth: Smoothing | str | None = None
    """``logits:ALPHA`` or ``majority:N``."""
    batch: int | None = None
    """Most frames in one inference, of files with a free batch. None: one, or with several sources as many
    as there are if a measurement at the start finds that faster."""
    max_frames: int | None = None
    """Frames, all sources together, after which the stream ends."""
    max_seconds: float | None = None
    """Seconds after which the stream ends."""
    limits: InputLimits | None = None
    """What is accepted as a frame. None: up to 2^27 pixels from files, 7680 x 4320 from live sources."""
    reconnect: ReconnectOptions = field(default_factory=ReconnectOptions)
    """When a live source counts as stalled, and how it is connected again."""
    live: LiveOptions = field(default_factory=LiveOptions)
    """What only some kinds of live source need."""

    def __post_init__(self) -> None:
        for name, kind in (("roi", Region), ("tile", Tiling), ("smooth", Smoothing)):
            value = getattr(self, name)
            if kind is Tiling and isinstance(value, (int, float)):
                value = str(value)
            if isinstance(value, str):
                object.__setattr__(self, name, kind.parse(value))  # type: ignore[attr-defined]
            elif value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is a {kind.__name__} or the text of one; got {value!r}")
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
