"""What a plan says: every piece of work of an adaptation with its cost, and what the whole of it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cpsl_deploy.machine import Machine

from ..recipe import Recipe
from .published_sets import Counts
from .rehearsal import Measured


@dataclass(frozen=True, kw_only=True)
class Work:
    """One line of a plan: a stage's steps, or a pass over images."""

    name: str
    is_stage: bool
    network: str
    """Registry name; empty where none is needed."""
    count: int
    """Steps, or images."""
    batch: int | None = None
    size: tuple[int, int] | None = None
    """(height, width) of crops, or of whole images."""
    each: Measured | None = None
    """Seconds per step or image as measured; None where it could not be."""
    batch_seconds: float | None = None
    """Seconds per step that the threads making batches need at least."""
    memory_bytes: int | None = None
    """Peak: see ``PeakMemory.bytes``."""
    same_as: str = ""
    """The stage that was measured in its place, because its steps cost the same."""
    does_not_fit: str = ""
    """What ran out of memory, and what to lower."""

    @property
    def seconds_each(self) -> float | None:
        """What one will take: as measured, or as long as its batch takes to make if that is longer."""
        return None if self.each is None else max(self.each.median, self.batch_seconds or 0.0)

    @property
    def waits_for_batches(self) -> bool:
        return self.each is not None and (self.batch_seconds or 0.0) > self.each.median

    @property
    def seconds(self) -> float | None:
        return None if self.seconds_each is None else self.count * self.seconds_each


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What a run writes, in bytes, at its most at one time."""

    models: int
    """Of every stage, and the one to deploy."""
    checkpoint: int
    """The largest stage's, three times: the last two stay until the new one is whole."""
    soft_labels: int
    free: int
    """Where the run folder will be."""

    @property
    def needed(self) -> int:
        return self.models + self.checkpoint + self.soft_labels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an adaptation will take. Times are seconds, memory is bytes."""

    recipe: Recipe
    device: str
    machine: Machine
    torch_version: str
    threads: int
    """Of torch, on the CPU."""
    images: Counts
    work: tuple[Work, ...]
    """In the order of the run."""
    cache_bytes: int
    """Decoded images that will be kept in memory, beside what the stages need."""
    bank_bytes: int
    """The memory bank's part of the self-labelling's memory."""
    disk: Disk
    shrunk_by: int
    """Sides of crops and images were divided by this for measuring; times are scaled back by its square."""
    notes: tuple[str, ...]
    """What a reader must know before believing a figure."""

    @property
    def seconds(self) -> float | None:
        """The total; None if a stage does not fit."""
        parts = [work.seconds for work in self.work]
        return None if None in parts else sum(part for part in parts if part is not None)

    @property
    def memory_bytes(self) -> int | None:
        """The largest stage's; None where it was not measured."""
        return max((work.memory_bytes for work in self.work if work.memory_bytes is not None), default=None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the run cannot go through here, and what to change; empty if it can."""
        found = [work.does_not_fit for work in self.work if work.does_not_fit]
        if self.disk.needed > self.disk.free:
            found.append(
                f"a run writes {self.disk.needed / 2**30:.1f} GiB, and {self.disk.free / 2**30:.1f} GiB are "
                "free. Free some space or choose another --output"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        work = [
            asdict(each) | {"seconds_each": each.seconds_each, "seconds": each.seconds} for each in self.work
        ]
        return {
            "recipe": self.recipe.name,
            "device": self.device,
            "precision": self.recipe.compute.precision,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "cache_bytes": self.cache_bytes,
            "bank_bytes": self.bank_bytes,
            "disk_bytes": asdict(self.disk) | {"needed": self.disk.needed},
            "images": asdict(self.images),
            "work": work,
            "shrunk_by": self.shrunk_by,
            "machine": asdict(self.machine) | {"torch": self.torch_version, "threads": self.threads},
            "problems": list(self.problems),
            "notes": list(self.notes),
        }
