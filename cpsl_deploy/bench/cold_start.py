"""What a user waits for who starts a program: from nothing to the first labels, in fresh processes.

Every run is a Python process of its own, which imports the package, loads the model and segments one frame.
Program and model files lie in the page cache from the second run on, or from the work before: how fast the
disk is, is not measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..errors import CpslError, DataError, InputError, UnavailableError

if TYPE_CHECKING:
    from .frames import EncodedFrame
    from .latency import Progress

TIMEOUT_S = 900.0
"""Of one run. The TensorRT provider builds engines for minutes, if they are not kept already."""

_BEGIN = (
    "import time; began_ns = time.monotonic_ns(); import sys; sys.path[:] = sys.argv[2:]; "
    "import cpsl_deploy.segmenter; imported_ns = time.monotonic_ns(); "
    "from cpsl_deploy.bench.cold_start import main; main(sys.argv[1], began_ns, imported_ns)"
)
"""Not `-m`, which looks into the current folder first: the child finds modules where this process does. The
times are of `time.monotonic_ns`, which all processes of a machine share."""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Milliseconds of each run, in their order. The four parts add up to ``to_first_labels_ms``."""

    runs: int
    process_ms: tuple[float, ...]
    """Starting the process until Python runs its first line."""
    import_ms: tuple[float, ...]
    """Importing what `cpsl_deploy.load` needs, NumPy and OpenCV among it."""
    load_ms: tuple[float, ...]
    """`cpsl_deploy.load`, which imports the backend's library, opens the file and prepares it."""
    first_frame_ms: tuple[float, ...]
    """The first frame, from its file to labels."""
    to_first_labels_ms: tuple[float, ...]
    """All of it, without what measuring it adds."""

    def to_json(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


def measure_cold_start(
    model: str | os.PathLike[str],
    frame: EncodedFrame,
    *,
    runs: int = 3,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress | None = None,
) -> ColdStart:
    """Load ``model`` and segment ``frame`` in ``runs`` fresh processes, one after the other.

    ``model`` and the arguments after ``runs``: as `cpsl_deploy.load` takes them. What that raises in a child
    is raised here, in the same class; a child that dies or takes longer than ``timeout_s`` is an
    UnavailableError, fewer than one run an InputError.
    """
    if runs < 1:
        raise InputError(f"cold starts are 1 or more; got {runs}")
    arguments = {"backend": backend, "device": device, "threads": threads, "precision": precision}
    rows = []
    with tempfile.TemporaryDirectory(prefix="cpsl-cold-start-") as folder:
        image = Path(folder) / "frame"
        image.write_bytes(frame.read())
        job = {
            "model": os.path.abspath(model),
            "image": str(image),
            "name": frame.origin or frame.name,
            "upright": frame.upright,
            "load": arguments,
        }
        for i in range(runs):
            if progress:
                progress("cold start", i, runs)
            rows.append(_run_once(job, timeout_s))
    if progress:
        progress("cold start", runs, runs)
    parts = {name: tuple(row[name] for row in rows) for name in rows[0]}
    return ColdStart(runs=runs, **parts)


def _run_once(job: dict[str, Any], timeout_s: float) -> dict[str, float]:
    """Milliseconds by part."""
    path = [os.path.abspath(entry) for entry in sys.path]
    command = [sys.executable, "-c", _BEGIN, json.dumps(job), *path]
    started_ns = time.monotonic_ns()
    try:
        # Ctrl-C and the timeout end the child, too.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"a cold start of {job['model']} was not done after {timeout_s:g} s. Load it once before, so "
            "that what is built is kept, or leave cold starts out"
        ) from error
    except OSError as error:
        raise UnavailableError(f"a fresh Python process cannot be started: {error.strerror}") from error
    answer = _answer(done, job["model"])
    parts = {
        "process_ms": (answer["began_ns"] - started_ns) / 1e6,
        "import_ms": (answer["imported_ns"] - answer["began_ns"]) / 1e6,
        "load_ms": answer["load_ns"] / 1e6,
        "first_frame_ms": answer["first_frame_ns"] / 1e6,
    }
    return {**parts, "to_first_labels_ms": sum(parts.values())}


def _answer(done: subprocess.CompletedProcess[bytes], model: str) -> dict[str, Any]:
    """What the child told on its last line. Raises what it tells of."""
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        answer = json.loads(lines[-1])
        failure = answer.get("error")
    except (IndexError, ValueError, AttributeError):
        raise UnavailableError(
            f"a fresh process that loads {model} {_how_it_ended(done)}. Load it by hand to see why: "
            f'python -c "import cpsl_deploy; cpsl_deploy.load({model!r})"'
        ) from None
    if failure is not None:
        raise _error(failure, answer["message"])
    return answer


def _error(name: str, message: str) -> CpslError:
    kind = getattr(errors, name, CpslError)
    # It makes its message of a package's name; here the message is there already.
    return UnavailableError(message) if kind is errors.MissingExtraError else kind(message)


def _how_it_ended(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else ""
    if done.returncode < 0:
        try:
            return f"was ended by {signal.Signals(-done.returncode).name}{last}"
        except ValueError:
            pass
    return f"ended with exit code {done.returncode} and no labels{last}"


def main(job: str, began_ns: int, imported_ns: int) -> None:
    """The child: does a job of `measure_cold_start` and tells the times, or the error, on its last line."""
    try:
        answer = _load_and_segment(json.loads(job))
    except CpslError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps({"began_ns": began_ns, "imported_ns": imported_ns, **answer}), flush=True)


def _load_and_segment(job: dict[str, Any]) -> dict[str, Any]:
    import cv2

    from ..segmenter import labels_of, load

    began_ns = time.monotonic_ns()
    with load(job["model"], **job["load"]) as segmenter:
        loaded_ns = time.monotonic_ns()
        flags = cv2.IMREAD_COLOR if job["upright"] else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imread(job["image"], flags)
        if image is None:
            raise DataError(
                f"{job['name']} is not an image that OpenCV can decode. Replace or remove the file."
            )
        labels_of(segmenter, image)
        labelled_ns = time.monotonic_ns()
    return {"load_ns": loaded_ns - began_ns, "first_frame_ns": labelled_ns - loaded_ns}
