"""CPU time of a process by thread: where the time of a pipeline goes, on Linux.

The scheduler counts what each thread ran, and what it waited for a core although it could have run
(``/proc/PID/task/TID/schedstat``, nanoseconds). Threads of libraries have no name in Python: they are told by
the system's, the decoder's apart, the inference's and the encoder's together.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from pathlib import Path

TASKS = Path("/proc/self/task")
_EVERY_S = 0.05


class ThreadTimes:
    """Looks at the threads while a ``with`` block runs; a thread that ends is known to within 50 ms."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="thread-times", daemon=True)
        self._before: dict[int, tuple[int, int]] = {}
        self._after: dict[int, tuple[int, int]] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> ThreadTimes:
        self._look(self._before)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look(self._after)

    def _look_on(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._look(self._after)

    def _look(self, seen: dict[int, tuple[int, int]]) -> None:
        known = {thread.native_id: thread.name for thread in threading.enumerate()}
        for task in os.listdir(TASKS):
            try:
                ran, waited, *_ = (TASKS / task / "schedstat").read_text().split()
                name = (TASKS / task / "comm").read_text().strip()
            except OSError:  # it ended
                continue
            seen[int(task)] = int(ran), int(waited)
            if int(task) in known:
                self._names[int(task)] = known[int(task)]
            else:  # perhaps one that Python has just let go of
                self._names.setdefault(int(task), name if ":" in name else "of libraries")

    def table(self, frames: int) -> dict[str, dict[str, float]]:
        """Milliseconds a frame by thread, most first: ``cpu``, and ``waited`` for a core."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for task, (ran, waited) in self._after.items():
            ran_before, waited_before = self._before.get(task, (0, 0))
            totals[self._names[task]][0] += (ran - ran_before) / 1e6 / frames
            totals[self._names[task]][1] += (waited - waited_before) / 1e6 / frames
        totals.pop(self._thread.name, None)
        ordered = sorted(totals.items(), key=lambda item: -item[1][0])
        return {name: {"cpu": round(cpu, 3), "waited": round(wait, 3)} for name, (cpu, wait) in ordered}
