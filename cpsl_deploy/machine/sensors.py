"""All that a machine tells of itself while it works, in one reading."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .cpu_clock import find_cpu_clock
from .cpu_throttling import find_cpu_throttling
from .jetson import find_jetson
from .jetson_sensors import find_jetson_sensors
from .memory import find_process_memory, find_shared_memory
from .nvml import find_nvml
from .probe import Found, Probe, Unavailable, failure
from .rapl import find_rapl
from .run_queue import find_run_queue
from .thermal import find_temperatures

log = logging.getLogger(__name__)

_EVERYWHERE = (
    find_rapl,
    find_cpu_clock,
    find_temperatures,
    find_cpu_throttling,
    find_run_queue,
    find_process_memory,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the sensors said at one moment. A value that could not be read is not there."""

    power_w: Mapping[str, float] = field(default_factory=dict)
    """By rail. Of a rail that counts energy alone: the mean since the reading before."""
    energy_j: Mapping[str, float] = field(default_factory=dict)
    """By rail, of those that count it; only differences mean something."""
    clock_mhz: Mapping[str, float] = field(default_factory=dict)
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    process_bytes: int | None = None
    """Memory of this process that is resident."""
    device_bytes: int | None = None
    """In use on the GPU, by every process; on a Jetson, whose GPU has none of its own, of the board."""
    throttle_reasons: tuple[str, ...] = ()
    """Why clocks are lower now than they could be."""
    throttle_counts: Mapping[str, float] = field(default_factory=dict)
    """Events since some moment, by kind; one more means that clocks were lowered in between."""
    lost_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds without a processor since some moment, by cause: a quota, other virtual machines."""
    waited_s: float | None = None
    """Seconds since some moment for which threads of this process were ready and had no core, added up."""


class Sensors:
    """Reads every probe of a machine. Close it, or use it in a ``with`` block: NVML holds the driver open."""

    def __init__(
        self,
        found: Found,
        *,
        clock: Callable[[], float] = time.monotonic,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over what was found. ``clock`` gives seconds."""
        self._probes = tuple(found.probes)
        self._unavailable = {one.sensor: one for one in found.unavailable}
        self._clock = clock
        self._close = close
        self._energy_before: tuple[float, dict[str, float]] | None = None

    @classmethod
    def find(cls, root: Path = Path("/"), *, gpu: bool = True) -> Sensors:
        """The sensors of this machine. ``gpu``: whether an NVIDIA GPU is asked, as for a model that runs on
        it; a GPU that does something else says nothing of a run on the CPU."""
        found, close = find_nvml() if gpu else (Found(), lambda: None)
        if find_jetson(root) is not None:
            found.add(find_jetson_sensors(root))
            if not any(probe.quantity == "device_bytes" for probe in found.probes):
                found.add(find_shared_memory(root))
        for find in _EVERYWHERE:
            found.add(find(root))
        return cls(found, close=close)

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """Sensors that are not to be had, and those that failed since, with the first reason."""
        return tuple(self._unavailable.values())

    @property
    def temperature_limits_c(self) -> dict[str, float]:
        """Where known, the temperature at which hardware or driver slows down."""
        return {name: limit for probe in self._probes for name, limit in probe.limits_c.items()}

    def read(self) -> Reading:
        """Read all of them, some milliseconds. One that fails is left out and listed as unavailable."""
        values: dict[str, dict[str, float]] = {}
        for probe in self._probes:
            try:
                values.setdefault(probe.quantity, {}).update(probe.read())
            except (OSError, ValueError) as error:
                self._note(probe, error)
        energy = values.get("energy_j", {})
        return Reading(
            power_w={**self._mean_power(energy), **values.get("power_w", {})},
            energy_j=energy,
            clock_mhz=values.get("clock_mhz", {}),
            temperature_c=values.get("temperature_c", {}),
            process_bytes=_sum(values.get("process_bytes")),
            device_bytes=_sum(values.get("device_bytes")),
            throttle_reasons=tuple(values.get("throttle_reasons", {})),
            throttle_counts=values.get("throttle_counts", {}),
            lost_s=values.get("lost_s", {}),
            waited_s=values.get("waited_s", {}).get("process"),
        )

    def _note(self, probe: Probe, error: Exception) -> None:
        if probe.sensor not in self._unavailable:
            reason = f"failed during the run: {failure(error)}"
            log.warning("sensor %s %s", probe.sensor, reason)
            self._unavailable[probe.sensor] = Unavailable(sensor=probe.sensor, reason=reason)

    def _mean_power(self, energy: dict[str, float]) -> dict[str, float]:
        now, before = self._clock(), self._energy_before
        self._energy_before = now, energy
        if before is None or now <= before[0]:
            return {}
        passed = now - before[0]
        return {rail: (energy[rail] - before[1][rail]) / passed for rail in energy if rail in before[1]}

    def close(self) -> None:
        """Let go of the driver. Closing twice is fine."""
        self._close()
        self._close = lambda: None

    def __enter__(self) -> Sensors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _sum(values: dict[str, float] | None) -> int | None:
    return int(sum(values.values())) if values else None
