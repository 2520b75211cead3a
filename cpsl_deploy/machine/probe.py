"""A probe: one thing that a machine tells of itself, found once and read again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Quantity = Literal[
    "power_w",
    "energy_j",
    "clock_mhz",
    "temperature_c",
    "process_bytes",
    "device_bytes",
    "throttle_reasons",
    "throttle_counts",
    "lost_s",
    "waited_s",
]
"""Each is a field of `cpsl_deploy.machine.sensors.Reading`, which says what it means."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Reads one or more values of one quantity."""

    sensor: str
    """For whom reads of a failure: "RAPL package-0", "thermal zone cpu-thermal"."""
    quantity: Quantity
    read: Callable[[], dict[str, float]]
    """Values by name, in the quantity's unit. Raises OSError or ValueError if there is none now. A reason
    for throttling is there, with any value, or is not."""
    limits_c: dict[str, float] = field(default_factory=dict)
    """Temperatures by name, in degrees Celsius, at which the hardware or its driver slows down."""


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """A sensor that this machine does not have or does not show, and why."""

    sensor: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Ready for a record."""
        return {"sensor": self.sensor, "reason": self.reason}


@dataclass(kw_only=True)
class Found:
    """What one look at a machine brought."""

    probes: list[Probe] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)

    def miss(self, sensor: str, reason: str) -> Found:
        """Note a sensor that is not to be had; gives itself."""
        self.unavailable.append(Unavailable(sensor=sensor, reason=reason))
        return self

    def try_probe(self, probe: Probe, remedy: str = "") -> bool:
        """Keep a probe if it can be read now, else note why not; ``remedy`` is for one that may not be."""
        try:
            probe.read()
        except (OSError, ValueError) as error:
            self.miss(probe.sensor, failure(error, remedy))
            return False
        self.probes.append(probe)
        return True

    def add(self, other: Found) -> None:
        """Take over what another look brought."""
        self.probes += other.probes
        self.unavailable += other.unavailable


def failure(error: Exception, remedy: str = "") -> str:
    """Why a reading failed, in a sentence; ``remedy`` follows where permission is what lacks."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    where = getattr(error, "filename", None)
    sentence = f"{reason}: {where}" if where else str(reason)
    return f"{sentence}. {remedy}" if remedy and isinstance(error, PermissionError) else sentence


def read_number(path: Path) -> float:
    """The number a file of /sys holds. Raises OSError, or ValueError if it holds none."""
    text = path.read_text(errors="replace").strip()
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        raise ValueError(f"{path} holds no number but {text[:40]!r}") from None


def read_words(path: Path) -> str | None:
    """The text of a small file without blanks and the NUL of a device tree around it; None without the file
    or the right to read it."""
    try:
        return path.read_text(errors="replace").strip(" \n\t\0") or None
    except OSError:
        return None


def paths(folder: Path, pattern: str) -> Iterator[Path]:
    """What matches in a folder, numbers in the order of numbers; nothing without it or the right to look."""
    try:
        yield from sorted(folder.glob(pattern), key=_natural)
    except OSError:
        return


def _natural(path: Path) -> tuple[str, int, str]:
    name = path.name
    stem = name.rstrip("0123456789")
    return str(path.parent / stem), int(name[len(stem) :] or 0), name
