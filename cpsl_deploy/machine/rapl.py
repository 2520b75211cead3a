"""Energy of processor packages by their running average power limit (RAPL) counters.

The kernel shows them as zones in /sys/class/powercap: ``intel-rapl:0`` a package, ``intel-rapl:0:0`` a part
of it; AMD's processors are shown under the same name. ``energy_uj`` counts microjoules and begins again at
zero after ``max_energy_range_uj``. Source: Documentation/power/powercap/powercap.rst of the Linux kernel.
Since Linux 5.10 only root may read the counter, for it gives away what is computed (CVE-2020-8694).
"""

from __future__ import annotations

import re
from pathlib import Path

from .probe import Found, Probe, paths, read_number, read_words

REMEDY = "Let it be read until the next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
_ZONE = re.compile(r"intel-rapl(-mmio)?:(\d+)(:\d+)?$")


class EnergyCounter:
    """A counter that begins again at zero; read it more often than it does (minutes, for a package)."""

    def __init__(self, counter: Path, range_uj: float) -> None:
        self._counter = counter
        self._range_uj = range_uj
        self._last_uj: float | None = None
        self._sum_uj = 0.0

    def joules(self) -> float:
        """Energy since the first call. Raises OSError or ValueError if it cannot be read."""
        now = read_number(self._counter)
        if self._last_uj is not None:
            passed = now - self._last_uj
            self._sum_uj += passed if passed >= 0 else passed + self._range_uj
        self._last_uj = now
        return self._sum_uj / 1e6


def find_rapl(root: Path = Path("/")) -> Found:
    """The energy counter of each zone, named "package-0", "package-0 core" and so on."""
    found = Found()
    names: dict[str, str] = {}
    # The zones of a package before its parts, and those of the processor before the same ones by memory.
    for zone in sorted(paths(root / "sys/class/powercap", "intel-rapl*:*"), key=_order):
        match = _ZONE.match(zone.name)
        own = read_words(zone / "name")
        if match is None or own is None:
            continue
        parent = names.get(zone.name.rpartition(":")[0])
        name = f"{parent} {own}" if match[3] and parent else own
        if name in names.values():
            continue
        names[zone.name] = name
        found.try_probe(_probe(zone, name), REMEDY)
    if not names:
        found.miss("RAPL", "the kernel shows no energy counter of the processor (/sys/class/powercap)")
    return found


def _order(zone: Path) -> tuple[bool, int, str]:
    return "-mmio" in zone.name, zone.name.count(":"), zone.name


def _probe(zone: Path, name: str) -> Probe:
    try:
        range_uj = read_number(zone / "max_energy_range_uj")
    except (OSError, ValueError):
        range_uj = float(1 << 32)
    counter = EnergyCounter(zone / "energy_uj", range_uj)
    return Probe(sensor=f"RAPL {name}", quantity="energy_j", read=lambda: {name: counter.joules()})
