"""The pairs of domains that the benchmarks adapt between, opened for a seed."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpsl_deploy.data import open_dataset
from cpsl_deploy.data.demo import DEMO_CLASSES, DemoSettings, generate_demo
from cpsl_deploy.data.own import open_own
from cpsl_deploy.train.domains import Domains, join_domains
from cpsl_deploy.train.engine.loop import SilentWatcher

DESCRIPTIONS = Path(__file__).parent / "datasets"
LARGE = ("road", "sidewalk", "building", "tree", "sky", "car")
"""CamVid's six large classes, over 4 % of its pixels each."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source, a target, and what they are adapted with."""

    name: str
    recipe: str
    open: Callable[[int], Domains]
    """The datasets for a seed. The oracle alone reads labels of the target's training split."""
    classes: int
    """How many there are."""
    large: tuple[str, ...] = ()
    """Classes whose mean is given beside the mean of all; none: it is left out."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of the recipe, by key."""


class Lines(SilentWatcher):
    """A line at the start and the end of every stage, with the time."""

    def __init__(self, of: str = "") -> None:
        self.of = f"{of}: " if of else ""

    def stage(self, name: str, done: int, total: int) -> None:
        self.message(f"{name} from {done} to {total}")

    def message(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.of}{text}", flush=True)


def carla_camvid(data: Path, init: str) -> Pair:
    """CARLA (synthetic) to CamVid (real photos), ten classes. ``data`` holds ``carla/`` and ``camvid/``."""

    def open_for(seed: int) -> Domains:
        source = open_dataset(DESCRIPTIONS / "carla.yaml", "train", root=data / "carla", need_labels=True)
        target = open_dataset(DESCRIPTIONS / "camvid.yaml", "train", root=data / "camvid")
        validation = open_dataset(DESCRIPTIONS / "camvid.yaml", "val", root=data / "camvid", need_labels=True)
        return join_domains(source, target, validation)

    return Pair(
        name="carla-camvid",
        recipe="own",
        open=open_for,
        classes=10,
        large=LARGE,
        overrides={"model.init": init},
    )


def demo(folder: Path, settings: DemoSettings | None = None) -> Pair:
    """The built-in demo's generated streets, with labels of the camera's training images for the oracle.

    As in ``cpsl-demo``, a seed is that of the training and of the pictures, which are generated into
    ``folder`` once.
    """
    given = settings or DemoSettings()

    def open_for(seed: int) -> Domains:
        pictures = folder / f"seed-{seed}"
        wanted = DemoSettings(
            seed=seed,
            train=given.train,
            val=given.val,
            size=given.size,
            video_seconds=0,
            oracle_labels=True,
        )
        with claimed(folder / f"seed-{seed}.lock", wait=True):
            generate_demo(pictures, settings=wanted)
        source = open_own(pictures / "rendered.yaml", "train")
        target, validation = (open_own(pictures / "camera.yaml", split) for split in ("train", "val"))
        return join_domains(source, target, validation)

    return Pair(name="demo", recipe="demo", open=open_for, classes=len(DEMO_CLASSES))


@contextmanager
def claimed(lock: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file in the block, among those on this machine.

    The system gives up a process's claim with its end, however it ends: no claim is ever stale.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
