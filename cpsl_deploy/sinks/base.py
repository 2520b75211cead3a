"""What every sink is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..streams.result import StreamResult


class Sink(ABC):
    """Takes the results of one or several sources, in the order of each source, from one thread.

    Nothing is opened before the first result. A sink that raises an OutputError or OSError from `write` has
    let go of what it could not finish, and of that alone: what it has begun of other sources goes on with the
    next `write`. It is not aborted then.
    """

    name: str
    """For logs, the health endpoint and errors: "overlay", "labels", "areas", ..."""
    restarts: bool = True
    """Whether it makes sense to go on after an OutputError or OSError of `write`; if not, it ends the run."""
    lost: int = 0
    """Results that `write` took and that are gone all the same, with a file that could not be finished."""

    def check(self) -> None:  # noqa: B027  most sinks have nothing to check
        """Raise UnavailableError or OutputError if this cannot work.

        Called once the sources are connected, before the first frame.
        """

    @abstractmethod
    def write(self, result: StreamResult) -> None:
        """Take one result. Raises OutputError if it cannot be stored."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was begun, so that it can be read. Closing twice is fine.

        Raises OutputError if it cannot be finished.
        """

    def abort(self) -> None:  # noqa: B027  most sinks hold nothing unfinished
        """Let go of what was begun, leaving nothing unfinished, and count it in `lost`. Never raises."""

    def snapshot(self) -> dict[str, object]:
        """What is to be known of it besides its state, for the health endpoint: ready for JSON."""
        return {}

    def interrupt(self) -> None:  # noqa: B027  most sinks wait for nobody
        """Make a `write` that waits for somebody give up. The one method that another thread may call."""
