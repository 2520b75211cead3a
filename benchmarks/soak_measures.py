"""What `soak.py` measures: memory and its slope, ages, the preview, the pieces of recordings."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from camera_faults import DAMAGED, Judge, Site, reader_processes

WARM_UP = 0.25
"""Share of a run, from its start, that slopes leave out."""
BLOCKS = 12
T_975 = {10: 2.228}
"""Student's t of two-sided 95 % by degrees of freedom: a line through `BLOCKS` means."""
_AGE_EDGES_MS = np.concatenate([[0.0], np.geomspace(1, 1e6, 481)])


class Every:
    """Does something every so many seconds, in a thread. A context manager."""

    period_s = 1.0

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__.lower())

    def _run(self) -> None:
        try:
            while not self._end.wait(self.period_s):
                self.step()
        except BaseException as error:
            self.error = error

    def step(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Every:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def slope(times_s: Sequence[float], values: Sequence[float]) -> dict[str, float] | None:
    """Of a line through the means of `BLOCKS` stretches of equal length, per hour, with its 95 % interval.

    Neighbouring samples are alike, so that a line through them all would be too sure of itself. None for
    fewer than two samples a block.
    """
    if len(times_s) < 2 * BLOCKS:
        return None
    hours = [float(np.mean(part)) / 3600 for part in np.array_split(times_s, BLOCKS)]
    means = [float(np.mean(part)) for part in np.array_split(values, BLOCKS)]
    centred = np.array(hours) - np.mean(hours)
    spread = float((centred**2).sum())
    rise = float((centred * means).sum()) / spread
    rest = np.array(means) - np.mean(means) - rise * centred
    error = T_975[BLOCKS - 2] * math.sqrt(float((rest**2).sum()) / (BLOCKS - 2) / spread)
    return {"slope": round(rise, 3), "low": round(rise - error, 3), "high": round(rise + error, 3)}


def _course(values: Sequence[float]) -> dict[str, Any]:
    blocks = [round(float(np.mean(part)), 1) for part in np.array_split(values, BLOCKS) if len(part)]
    return {"means": blocks, "most": round(max(values), 1)}


class Memory(Every):
    """Resident memory of this process and of its readers."""

    def __init__(self) -> None:
        super().__init__()
        self._process = psutil.Process()
        self._samples: list[tuple[float, float, float, int]] = []

    def step(self) -> None:
        readers = 0
        for pid in reader_processes():
            try:
                readers += psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue  # it ended meanwhile
        own = self._process.memory_info().rss
        self._samples.append((time.monotonic(), own / 2**20, readers / 2**20, self._process.num_fds()))

    def figures(self) -> dict[str, Any]:
        kept = self._samples[int(WARM_UP * len(self._samples)) :]
        if not kept:
            return {"memory_slope_mib_per_hour": None, "memory_mib": None}
        times, own, readers, descriptors = zip(*kept, strict=True)
        return {
            "memory_slope_mib_per_hour": {"process": slope(times, own), "readers": slope(times, readers)},
            "memory_mib": {
                "process": _course(own),
                "readers": _course(readers),
                "samples": len(kept),
                "left_out_s": round(kept[0][0] - self._samples[0][0], 1),
            },
            "most_descriptors": max(descriptors),
        }


class Tally:
    """Ages as told and true, and frames that should not have come."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._judges = {f"-{place.relay.port}-": Judge(place.camera) for place in sites}
        self._last: dict[str, float] = {}
        self.frames = 0
        self._told, self._true = (np.zeros(len(_AGE_EDGES_MS) + 1, np.int64) for _ in range(2))
        self._oldest = [0.0, 0.0]
        self._wrong: Counter[str] = Counter()

    def count(self, result: Any) -> None:
        self.frames += 1
        (judge,) = (judge for port, judge in self._judges.items() if port in result.source)
        seen = judge.see(result)
        self._add(0, self._told, seen.age_ms)
        if seen.damage > DAMAGED:
            self._wrong["damaged"] += 1
            return
        if seen.true_age_ms is None or seen.sent_s is None:
            self._wrong["unknown"] += 1
            return
        self._add(1, self._true, seen.true_age_ms)
        if seen.sent_s <= self._last.get(result.source, 0.0):
            self._wrong["not_newer"] += 1
        self._last[result.source] = seen.sent_s

    def _add(self, which: int, ages: np.ndarray, age_ms: float) -> None:
        ages[np.searchsorted(_AGE_EDGES_MS, age_ms)] += 1
        self._oldest[which] = max(self._oldest[which], age_ms)

    def _percentiles(self, which: int, ages: np.ndarray) -> dict[str, float] | None:
        total = int(ages.sum())
        if not total:
            return None
        places = np.searchsorted(np.cumsum(ages), [total * p / 100 for p in (50, 90, 99)])
        most = self._oldest[which]
        edges = [float(min(_AGE_EDGES_MS[min(at, len(_AGE_EDGES_MS) - 1)], most)) for at in places]
        named = zip(("p50", "p90", "p99", "max"), [*edges, most], strict=True)
        return {name: round(edge, 1) for name, edge in named}

    def figures(self) -> dict[str, Any]:
        return {
            "age_ms": self._percentiles(0, self._told),
            "true_age_ms": self._percentiles(1, self._true),
            **{name: self._wrong[name] for name in ("damaged", "not_newer", "unknown")},
        }


class Poller(Every):
    """Asks the preview for its health, its metrics and a picture, as a monitor and a person would."""

    def __init__(self, preview: Any) -> None:
        super().__init__()
        self._preview = preview
        self._answers: Counter[str] = Counter()

    def step(self) -> None:
        for path in ("health", "metrics", ""):
            try:
                with urllib.request.urlopen(self._preview.address + path, timeout=5) as answer:
                    answer.read()
                    self._answers[f"/{path} {answer.status}"] += 1
            except urllib.error.HTTPError as error:
                self._answers[f"/{path} {error.code}"] += 1
                error.close()
            except OSError as error:
                self._answers[f"/{path} {type(error).__name__}"] += 1

    def figures(self) -> dict[str, int]:
        return dict(sorted(self._answers.items()))


class Pieces(Every):
    """Reads every finished piece of the recordings, then deletes it: a night of them would fill the disk."""

    period_s = 5.0

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        folder.mkdir()
        self._counts: Counter[str] = Counter()
        self._unreadable: list[str] = []

    def step(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith("."):
                continue
            try:
                self._counts[f"{path.suffix[1:]}_frames"] += self._read(path)
                self._counts[f"{path.suffix[1:]}_files"] += 1
            except Exception as error:
                self._unreadable.append(f"{path.name}: {error}")
            path.unlink()

    @staticmethod
    def _read(path: Path) -> int:
        if path.suffix == ".jsonl":
            return sum(1 for line in path.read_text().splitlines() if json.loads(line)["areas"])
        import av

        with av.open(str(path)) as video:
            return sum(1 for _ in video.decode(video=0))

    def figures(self) -> dict[str, Any]:
        self.step()
        left = [path.name for path in self.folder.iterdir()]
        return {**self._counts, "unreadable": self._unreadable, "unfinished": left}
