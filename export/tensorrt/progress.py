"""How far a build is, and how it is stopped.

TensorRT builds for minutes inside one call, and tells a monitor about nested phases and their steps, from
threads of its own. An exception, Ctrl-C's too, must not pass through its code. So the build runs in a thread;
the caller's thread waits, shows the progress, and asks for the end at the next step if it is interrupted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import tensorrt

    from cpsl_deploy.train.engine.loop import Watcher

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
OnProgress = Callable[[str, float], None]
"""Called with the phases under way, outermost first, and the share of the outermost that is done, 0 to 1."""

_POLL_S = 0.1
_BUILDING = "TensorRT engine, percent"


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The phases of a build under way. Its methods may be called from any thread, and never raise."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase of ``num_steps`` steps begins, within ``parent_phase`` or on its own."""
        with self._lock:
            self._phases[phase_name] = _Phase(parent_phase, max(num_steps, 1))

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Step ``step`` (from 0) is done. False: stop the build."""
        with self._lock:
            if phase_name in self._phases:
                self._phases[phase_name].done = step + 1
        return not self._cancelled.is_set()

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends, whether or not all its steps were done."""
        with self._lock:
            self._phases.pop(phase_name, None)

    def cancel(self) -> None:
        """Stop the build at the end of its present step."""
        self._cancelled.set()

    def state(self) -> tuple[str, float]:
        """The phases under way, outermost first, and the share of the outermost that is done, 0 to 1."""
        with self._lock:
            names, shares = [], []
            name = next((name for name, phase in self._phases.items() if phase.parent is None), None)
            while name is not None and name not in names:
                names.append(name)
                shares.append(self._phases[name])
                name = next((n for n, phase in self._phases.items() if phase.parent == name), None)
            share = 0.0
            for phase in reversed(shares):
                share = min((phase.done + share) / phase.steps, 1.0)
            return " > ".join(names), share


def monitor_into(trt: ModuleType, progress: BuildProgress) -> tensorrt.IProgressMonitor:
    """A monitor for a builder's configuration. Keep it until the build is over."""

    # Defined here, because its base is there only where TensorRT is.
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.phase_finish(phase_name)

    return Monitor()


class _Work(threading.Thread, Generic[Result]):
    def __init__(self, task: Callable[[], Result]) -> None:
        # A daemon: the second Ctrl-C leaves at once, whatever TensorRT is doing.
        super().__init__(name="tensorrt-build", daemon=True)
        self._task = task
        self.result: list[Result] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.result.append(self._task())
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def watched(task: Callable[[], Result], progress: BuildProgress, on_progress: OnProgress | None) -> Result:
    """Run ``task`` in a thread, and give what it returns or raises.

    An exception in the waiting thread (Ctrl-C, or one of ``on_progress``) cancels ``progress``, waits for the
    task to end, and is raised then. A second Ctrl-C does not wait.
    """
    work = _Work(task)
    work.start()
    try:
        while not work.ended.wait(_POLL_S):
            if on_progress is not None:
                on_progress(*progress.state())
    except BaseException:
        progress.cancel()
        _log.warning("stopping TensorRT at the end of its present step; Ctrl-C again leaves at once")
        while not work.ended.wait(_POLL_S):
            pass
        raise
    if work.error is not None:
        raise work.error
    return work.result[0]


def shown_by(watcher: Watcher) -> OnProgress:
    """What shows a build as a stage of ``watcher``. The stage begins with the build, not with the question
    whether one is needed or possible."""
    begun = False

    def show(phases: str, share: float) -> None:
        nonlocal begun
        if not begun:
            watcher.stage(_BUILDING, 0, 100)
            begun = True
        watcher.step(_BUILDING, round(100 * share), {})

    return show
