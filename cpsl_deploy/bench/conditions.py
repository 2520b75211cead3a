"""How busy the machine was while each part of a benchmark was measured.

Waiting is added up over the threads that live at the end of a part, so that of threads that end within it is
not in it, and that of a process with more threads than cores is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from ..machine.cpu_throttling import STEAL, find_cpu_throttling
from ..machine.run_queue import find_run_queue

NOTED_SHARE = 0.05
"""A part that waited longer, or lost more to other virtual machines, needs a word."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """At one moment; only differences mean something. None: not readable here."""

    wall_s: float
    cpu_s: float
    """Of this process, all threads."""
    waited_s: float | None
    """For which its threads were ready and had no core, added up."""
    stolen_s: float | None
    """For which other virtual machines had the cores, mean over the cores."""


@dataclass(frozen=True, kw_only=True)
class PartConditions:
    """Of one part."""

    seconds: float
    cpu_cores_used: float
    waited_share: float | None
    """Seconds that threads waited for a core by the part's seconds; above 1 if several waited."""
    stolen_share: float | None


class Conditions:
    """A meter around the parts of a benchmark."""

    def __init__(
        self,
        read: Callable[[], Counters] | None = None,
        load_average: Callable[[], float | None] | None = None,
    ) -> None:
        self._read, self._load = read or counter_reader(), load_average or _load_average
        self._before = self._load()
        self.parts: dict[str, PartConditions] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        start = self._read()
        yield
        end = self._read()
        seconds = max(end.wall_s - start.wall_s, 1e-9)
        self.parts[name] = PartConditions(
            seconds=seconds,
            cpu_cores_used=max(end.cpu_s - start.cpu_s, 0.0) / seconds,
            waited_share=_share(start.waited_s, end.waited_s, seconds),
            stolen_share=_share(start.stolen_s, end.stolen_s, seconds),
        )

    def notes(self) -> Iterator[str]:
        """What a reader must know before believing a part's figures."""
        for name, part in self.parts.items():
            waited = part.waited_share or 0.0
            # Scores take no harm from waiting.
            if waited > NOTED_SHARE and name != "accuracy":
                yield (
                    f"While {name} was measured threads waited for a core for {waited:.2f} of the time, "
                    "added up: other programs wanted the cores, or this one has more threads than there "
                    "are. With other programs, its times are too high."
                )
            if part.stolen_share is not None and part.stolen_share > NOTED_SHARE:
                yield (
                    f"Other virtual machines took {part.stolen_share:.2f} of the cores' time while {name} "
                    "was measured; its times are too high."
                )

    def to_json(self) -> dict[str, Any]:
        """A record's section "conditions"."""
        return {
            "load_average_before": self._before,
            "load_average_after": self._load(),
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }


def counter_reader() -> Callable[[], Counters]:
    """Of this process on this machine."""
    queue = find_run_queue().probes
    steal = [probe for probe in find_cpu_throttling().probes if probe.sensor == "CPU steal"]

    def read() -> Counters:
        return Counters(
            wall_s=time.perf_counter(),
            cpu_s=time.process_time(),
            waited_s=_value(queue, "process"),
            stolen_s=_value(steal, STEAL),
        )

    return read


def _value(probes: list[Any], name: str) -> float | None:
    try:
        return float(probes[0].read()[name]) if probes else None
    except (OSError, ValueError, KeyError):
        return None


def _share(start: float | None, end: float | None, seconds: float) -> float | None:
    # Threads that ended take what they waited with them.
    return None if start is None or end is None else max(end - start, 0.0) / seconds


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
