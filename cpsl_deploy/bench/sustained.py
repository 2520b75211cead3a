"""Minutes of inference without a pause: does the speed last, at what power, and does memory grow?

A reading of the sensors is taken beside frames, from a thread of its own, so that it tells of a machine at
work: a board's power read between two frames is that of an idle GPU. Frames that run beside a reading count
as frames, and for energy and rate; their latency is left out, because the reading takes part of a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import InputError
from ..machine.probe import Unavailable
from ..machine.sensors import Reading
from .frames import EncodedFrame
from .latency import Progress, no_progress
from .sustained_result import Interval, Sustained

if TYPE_CHECKING:
    from ..segmenter import Segmenter

INTERVALS = 120
"""Of a run whose interval is not given."""
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 1.0, 30.0


class SensorReader(Protocol):
    """What is asked of sensors; `cpsl_deploy.machine.Sensors` is one."""

    @property
    def unavailable(self) -> Sequence[Unavailable]:
        """Sensors that are not to be had."""

    @property
    def temperature_limits_c(self) -> Mapping[str, float]:
        """Temperatures at which hardware or driver slows down."""

    def read(self) -> Reading:
        """Values of this moment."""


def measure_sustained(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    minutes: float,
    sensors: SensorReader,
    interval_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    executor: Executor | None = None,
    progress: Progress = no_progress,
) -> Sustained:
    """Run frames one after the other for ``minutes``, going round ``frames``, and read the sensors meanwhile.

    A frame's latency is the wall clock from reading its bytes to its label map; nothing is encoded. Warm up
    before: the first interval is what the others are held against.

    ``interval_s``: between readings; without it 120 of them, at least a second and at most half a minute
    long. ``clock`` gives seconds. ``executor``: runs the readings; a thread of its own without. Ctrl-C ends
    the run, and what was measured until then is returned; with not a frame measured it is raised. Raises
    InputError for no frames or for times that are not above 0, DataError for a frame that does not decode.
    """
    if not frames:
        raise InputError("a sustained run needs at least one frame; there are none.")
    length = 60 * minutes
    step = interval_s or min(max(length / INTERVALS, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)
    if not (0 < length < float("inf") and 0 < step < float("inf")):
        raise InputError(f"minutes and interval are numbers above 0; got {minutes} and {interval_s}")
    with _thread(executor) as beside:
        run = _Run(segmenter, frames, sensors, clock, beside)
        interrupted = False
        try:
            while (now := run.elapsed_s) < length:
                progress("sustained", int(now), int(length))
                run.interval(min(now + step, length))
            progress("sustained", int(length), int(length))
        except KeyboardInterrupt:
            interrupted = True
            run.close_interval(sensors.read)
            if not run.intervals:
                raise
    return Sustained(
        seconds=run.intervals[-1].t_s,
        interval_s=step,
        intervals=tuple(run.intervals),
        before=run.before,
        temperature_limits_c=dict(sensors.temperature_limits_c),
        unavailable=tuple(sensors.unavailable),
        interrupted=interrupted,
    )


class _Run:
    """The state of a run between its frames."""

    def __init__(
        self,
        segmenter: Segmenter,
        frames: Sequence[EncodedFrame],
        sensors: SensorReader,
        clock: Callable[[], float],
        beside: Executor,
    ) -> None:
        self._segmenter, self._frames, self._sensors = segmenter, frames, sensors
        self._clock, self._beside = clock, beside
        self._next = 0
        self.intervals: list[Interval] = []
        self.before = sensors.read()
        self._start = self._opened = clock()
        self._latencies_ms: list[float] = []
        self._count = 0

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    def interval(self, until_s: float) -> None:
        """Frames until the given time after the start, one at least, and then some beside a reading."""
        while not self._latencies_ms or self.elapsed_s < until_s:
            self._latencies_ms.append(self._frame())
        reading = self._beside.submit(self._sensors.read)
        self._frame()
        while not reading.done():
            self._frame()
        self.close_interval(reading.result)

    def close_interval(self, reading: Callable[[], Reading]) -> None:
        """Keep what was measured since the last interval, if anything was."""
        if not self._latencies_ms:
            return
        taken = reading()
        now = self._clock()
        p50, p99 = np.percentile(self._latencies_ms, [50, 99])
        interval = Interval(
            t_s=now - self._start,
            frames=self._count,
            p50_ms=float(p50),
            p99_ms=float(p99),
            fps=self._count / (now - self._opened),
            reading=taken,
        )
        # Emptied before it is kept: Ctrl-C between the two loses an interval and never counts one twice.
        self._opened, self._latencies_ms, self._count = now, [], 0
        self.intervals.append(interval)

    def _frame(self) -> float:
        """Milliseconds from reading a frame's bytes to its label map."""
        frame = self._frames[self._next % len(self._frames)]
        started = self._clock()
        self._segmenter.predict(frame.decode(frame.read()))
        ended = self._clock()
        self._next += 1
        self._count += 1
        return 1e3 * (ended - started)


@contextmanager
def _thread(executor: Executor | None) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(1, "sensors") as own:
        yield own
