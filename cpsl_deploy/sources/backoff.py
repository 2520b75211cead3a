"""When to try again after a source was lost."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError

_OPTIONS = {"stall_after_s": "--stall-after", "give_up_after_s": "--give-up-after"}
"""What fields are called on the command line."""


@dataclass(frozen=True, kw_only=True)
class ReconnectOptions:
    """How a live source is watched and brought back. Raises InputError if a value breaks its rule."""

    initial_s: float = 0.5
    """Wait before the first try."""
    factor: float = 2.0
    """The wait grows by this with each try that fails."""
    max_s: float = 30.0
    """Longest wait, jitter included."""
    jitter: float = 0.5
    """Each wait is drawn from this fraction below to this fraction above: many cameras that come back
    together are not asked together."""
    give_up_after_s: float = 3600.0
    """A source that was away for so long has failed; 0 tries for ever."""
    healthy_after_s: float = 5.0
    """Frames for so long end an outage: the next wait is the first one again."""
    stall_after_s: float = 5.0
    """No frame for so long is a stall: the connection is given up and made anew."""
    max_late_s: float = 5.0
    """A connection whose frames come so much later than its first ones is made anew: the network is too
    slow for the camera, and what waits in it grows older and older. 0 bears it; so does ``lossless``."""
    open_timeout_s: float = 10.0
    """A connection that takes longer has failed."""
    wait: bool = False
    """Wait for a source that is not there at the start, as for one that was lost; without it the start fails.
    Not for standard input. A file behind an address that is waited for is taken for a live stream."""

    def __post_init__(self) -> None:
        if not isinstance(self.wait, bool):
            raise InputError(f"wait is True or False; got {self.wait!r}")
        for name in ("initial_s", "max_s", "stall_after_s", "open_timeout_s"):
            self._rule(name, "more than 0", getattr(self, name) > 0)
        for name in ("give_up_after_s", "healthy_after_s", "max_late_s"):
            self._rule(name, "0 or more", getattr(self, name) >= 0)
        self._rule("factor", "1 or more", self.factor >= 1)
        self._rule("jitter", "from 0 to below 1", 0 <= self.jitter < 1)
        self._rule("max_s", f"not below initial_s = {self.initial_s:g}", self.max_s >= self.initial_s)

    def _rule(self, name: str, rule: str, kept: bool) -> None:
        value = getattr(self, name)
        if not (kept and math.isfinite(value)):
            spelling = _OPTIONS.get(name)
            named = f"{name} (or {spelling})" if spelling else name
            raise InputError(
                f"{named} of ReconnectOptions is {rule}; got {value:g}. Give another value, or leave it out"
            )


class Backoff:
    """The waits of one source: exponential with jitter, from the start again after healthy frames."""

    def __init__(
        self,
        options: ReconnectOptions,
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``draw`` gives numbers from 0 to 1, ``clock`` seconds."""
        self._options, self._draw, self._clock = options, draw, clock
        self._tries = 0
        self._lost_s: float | None = None
        self._frames_since_s: float | None = None

    def lost(self) -> float | None:
        """The source is not there (any more): seconds to wait before the next try; None to give up."""
        options = self._options
        now = self._clock()
        self._frames_since_s = None
        self._lost_s = now if self._lost_s is None else self._lost_s
        if options.give_up_after_s and now - self._lost_s >= options.give_up_after_s:
            return None
        # The logarithm, because the power of many tries is no longer a number.
        growth = min(self._tries * math.log(options.factor), math.log(options.max_s / options.initial_s))
        self._tries += 1
        wait = options.initial_s * math.exp(growth) * (1 + options.jitter * (2 * self._draw() - 1))
        if options.give_up_after_s:
            wait = min(wait, self._lost_s + options.give_up_after_s - now)
        return min(wait, options.max_s)

    def frame(self) -> None:
        """A frame came."""
        now = self._clock()
        if self._frames_since_s is None:
            self._frames_since_s = now
        if self._lost_s is not None and now - self._frames_since_s >= self._options.healthy_after_s:
            self._tries, self._lost_s = 0, None
