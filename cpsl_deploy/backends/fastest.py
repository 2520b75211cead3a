"""The fastest allowed way of running a model file on this machine: measured once, then remembered."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import CpslError
from .base import Backend
from .onnx_file import read_onnx_metadata
from .remembered import Measured, recall, remember
from .ways import ONNXRUNTIME, PASSED_KEY, PREFERRED_KEY, Way, allowed_ways, is_installed

_log = logging.getLogger(__name__)

ROUNDS = 9
BUDGET_S = 1.0
"""After it no further round is begun; one is always run, however slow the network."""
AS_FAST = 0.95
"""Share of the fastest one's speed within which an earlier one is as fast: timing alone varies by that, and
exact ways come before those that round."""
_SLOW_S = 0.1
"""An inference that takes longer is not slowed to speak of by the caches that another one left."""

Open = Callable[[Path, Way], Backend]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file of the model and a way of running it."""

    name: str
    path: Path
    way: Way


def open_fastest(
    path: Path, others: Sequence[Path], *, threads: int | None, open_way: Open, clock: Callable[[], float]
) -> Backend:
    """Open ``path``, or one of ``others`` that is the same model, in the fastest way that is allowed here.

    Nothing is measured where there is only one way. ``open_way`` opens a file in one way; what it raises as
    CpslError leaves a candidate out, and is raised if none is left: that of the first. ``clock``: seconds.
    """
    files = [path, *_same_model(path, others)]
    candidates = [
        Candidate(name=way.name if file == path else f"{way.name} of {file.name}", path=file, way=way)
        for file in files
        for way in allowed_ways(read_onnx_metadata(file))
        if is_installed(way.backend)
    ] or [Candidate(name=ONNXRUNTIME.name, path=path, way=ONNXRUNTIME)]
    if len(candidates) == 1:
        return open_way(candidates[0].path, candidates[0].way)
    by_name = {candidate.name: candidate for candidate in candidates}
    facts = _facts(files, list(by_name), threads)
    measured = recall(facts)
    if measured is not None and measured.picked in by_name:
        picked = by_name[measured.picked]
        try:
            opened = open_way(picked.path, picked.way)
        except CpslError as error:
            _log.debug("%s was the fastest and cannot be opened any more: %s", picked.name, error)
        else:
            return _chosen(opened, picked, measured, f"measured here on {measured.on}")
    began = clock()
    opened, picked, measured = _measured(candidates, open_way, clock)
    kept = remember(facts, measured)
    took = f"measured now in {clock() - began:.1f} s"
    return _chosen(opened, picked, measured, f"{took}, kept in {kept}" if kept else took)


def measure(runs: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of one run of each, in turns, so that a busy machine is busy for all of them.

    What ends with a CpslError is left out. Raises the last of these if nothing is left.
    """
    began, running = clock(), dict(runs)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(1 + ROUNDS):
        names = list(running)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            try:
                spent = _run_s(running[name], clock)
                if turn and spent < _SLOW_S:
                    spent = _run_s(running[name], clock)
            except CpslError as error:
                _log.debug("%s is left out: %s", name, error)
                del running[name]
                if not running:
                    raise
                continue
            if turn:  # the first run is the one in which libraries choose kernels and take memory
                times[name].append(spent)
        if turn and clock() - began > BUDGET_S:
            break
    return {name: 1e3 * float(np.median(times[name])) for name in running}


def _run_s(run: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began


def _measured(
    candidates: Sequence[Candidate], open_way: Open, clock: Callable[[], float]
) -> tuple[Backend, Candidate, Measured]:
    """The opened winner; the others are closed again."""
    _log.debug("measuring %s", ", ".join(candidate.name for candidate in candidates))
    opened: dict[str, Backend] = {}
    problems: list[CpslError] = []
    try:
        for candidate in candidates:
            try:
                backend = open_way(candidate.path, candidate.way)
            except CpslError as error:
                _log.debug("%s is left out: %s", candidate.name, error)
                problems.append(error)
                continue
            # Frames that come in another number at once would not be the same work.
            if opened and backend.batch != next(iter(opened.values())).batch:
                backend.close()
            else:
                opened[candidate.name] = backend
        if not opened:
            raise problems[0]
        times = measure(
            {name: partial(backend.infer, _frames(backend)) for name, backend in opened.items()}, clock
        )
        fastest = min(times.values())
        picked = next(c for c in candidates if c.name in times and AS_FAST * times[c.name] <= fastest)
        return opened.pop(picked.name), picked, Measured.today(picked.name, times)
    finally:
        for backend in opened.values():
            backend.close()


def _frames(backend: Backend) -> np.ndarray:
    """uint8 (N, H, W, 3) at the model's own size: patches of colour, for the cost of labels depends on how
    many borders they have, and a blank frame has none."""
    height, width = backend.static_size or backend.spec.size
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    frame = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.stack([frame] * (backend.batch or 1))


def _same_model(path: Path, others: Sequence[Path]) -> list[Path]:
    """Those of ``others`` that an export made of the same weights, that take and give the same in another
    precision, and that carry all that ``path`` carries, such as a drift reference."""
    mine, found = _Origin.of(path), []
    for other in others if mine.weights is not None else ():
        if other == path:
            continue
        try:
            theirs = _Origin.of(other)
        except CpslError as error:
            _log.debug("%s is left out: %s", other, error)
            continue
        if theirs.weights == mine.weights and theirs.gives == mine.gives and theirs.keys >= mine.keys:
            found.append(other)
    return found


@dataclass(frozen=True, kw_only=True)
class _Origin:
    weights: str | None
    gives: tuple[str | None, ...]
    keys: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> _Origin:
        metadata = read_onnx_metadata(path)
        said = PASSED_KEY in metadata
        return cls(
            weights=metadata.get("weights_sha256") if said else None,
            gives=tuple(metadata.get(key) for key in ("colour_order", "outputs", "output_stride")),
            keys=frozenset(metadata) - {PREFERRED_KEY},
        )


def _facts(files: Sequence[Path], names: Sequence[str], threads: int | None) -> dict[str, Any]:
    """All that the fastest way may depend on. The size of the frames is the file's own. Hashing a large file
    would cost more than it is worth: its size, time and metadata stand for it."""
    from ..machine.cores import usable_cores
    from ..machine.cpu_name import cpu_name

    return {
        "files": [_file_facts(file) for file in files],
        "ways": list(names),
        "threads": threads,
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "libraries": {library: _versions(library) for library in ("onnxruntime", "openvino")},
    }


def _file_facts(file: Path) -> list[Any]:
    told, metadata = file.stat(), json.dumps(read_onnx_metadata(file), sort_keys=True)
    return [file.name, told.st_size, told.st_mtime_ns, hashlib.sha256(metadata.encode()).hexdigest()]


def _versions(package: str) -> list[str]:
    """What is installed of a package, such as onnxruntime_gpu-1.23.0.dist-info: `importlib.metadata` says the
    same, and importing it takes 50 ms."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(found.name for found in Path(spec.origin).parents[1].glob(f"{package}*-info"))


def _chosen(backend: Backend, picked: Candidate, measured: Measured, when: str) -> Backend:
    shown = sorted(measured.milliseconds.items(), key=lambda item: item[1])
    backend.choice = f"the fastest of {len(shown)} ways that keep the export's accuracy, {when}"
    _log.info(
        "%s: run with %s, %s (%s). Another: --backend NAME, with openvino --precision",
        picked.path,
        picked.way.name,
        backend.choice,
        ", ".join(f"{name} {time:.1f} ms" for name, time in shown),
    )
    return backend
