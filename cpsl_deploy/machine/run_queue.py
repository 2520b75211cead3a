"""Time for which this process was ready to run and had no core.

The second figure of each /proc/self/task/*/schedstat, in nanoseconds (Documentation/scheduler/sched-stats.rst
of the Linux kernel). It grows where other programs want the same cores, and where a process has more threads
than cores: no throttling, yet it slows a run as much.
"""

from __future__ import annotations

from pathlib import Path

from .probe import Found, Probe, paths


def find_run_queue(root: Path = Path("/")) -> Found:
    """Seconds, added up over the threads of this process that live now."""
    tasks = root / "proc/self/task"

    def read() -> dict[str, float]:
        waited = [figure for path in paths(tasks, "*/schedstat") if (figure := _waited_s(path)) is not None]
        if not waited:
            raise ValueError("the kernel does not count it (/proc/self/task/*/schedstat)")
        return {"process": sum(waited)}

    found = Found()
    found.try_probe(Probe(sensor="run queue", quantity="waited_s", read=read))
    return found


def _waited_s(path: Path) -> float | None:
    """None for a thread that ended meanwhile."""
    try:
        return int(path.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
