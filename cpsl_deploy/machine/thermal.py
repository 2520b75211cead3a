"""Temperatures, and the limits at which hardware or driver begins to slow down.

Thermal zones: ``temp`` in thousandths of a degree Celsius; a ``passive`` trip point is where the kernel
begins to lower clocks (Documentation/driver-api/thermal/sysfs-api.rst of the Linux kernel). Sensors within
x86 processors: ``temp1_input`` and ``temp1_crit`` of the drivers coretemp, k10temp and zenpower, same unit
(Documentation/hwmon/coretemp.rst: at ``crit`` the processor slows down by itself).
"""

from __future__ import annotations

from pathlib import Path

from .probe import Found, Probe, paths, read_number, read_words

_PACKAGE = ("Package id", "Tctl", "Tdie", "Tccd")
"""Labels of a whole package or die; a server has a hundred cores with labels of their own."""
_PROCESSORS = ("coretemp", "k10temp", "zenpower")


def find_temperatures(root: Path = Path("/")) -> Found:
    """Thermal zones by their type, and the sensors of processor packages."""
    found = Found()
    names: set[str] = set()
    for zone in paths(root / "sys/class/thermal", "thermal_zone*"):
        name = _unique(read_words(zone / "type") or zone.name, names)
        _try(found, f"thermal zone {name}", name, zone / "temp", _passive_trip(zone))
    for chip in paths(root / "sys/class/hwmon", "hwmon*"):
        driver = read_words(chip / "name")
        if driver not in _PROCESSORS:
            continue
        for entry in paths(chip, "temp*_input"):
            stem = entry.name.removesuffix("_input")
            label = read_words(chip / f"{stem}_label") or stem
            if not label.startswith(_PACKAGE):
                continue
            name = _unique(f"{driver} {label}", names)
            _try(found, f"temperature {name}", name, entry, _number(chip / f"{stem}_crit"))
    if not found.probes and not found.unavailable:
        found.miss("temperature", "the kernel shows no thermal zone and no sensor of the processor")
    return found


def _try(found: Found, sensor: str, name: str, path: Path, limit_c: float | None) -> None:
    limits = {} if limit_c is None else {name: limit_c}
    found.try_probe(
        Probe(
            sensor=sensor,
            quantity="temperature_c",
            read=lambda: {name: read_number(path) / 1e3},
            limits_c=limits,
        )
    )


def _passive_trip(zone: Path) -> float | None:
    """The lowest passive trip point, degrees Celsius; one of zero or less is not set."""
    trips = (
        _number(trip.with_name(trip.name.replace("_type", "_temp")))
        for trip in paths(zone, "trip_point_*_type")
        if read_words(trip) == "passive"
    )
    return min((trip for trip in trips if trip is not None and trip > 0), default=None)


def _number(path: Path) -> float | None:
    try:
        return read_number(path) / 1e3
    except (OSError, ValueError):
        return None


def _unique(name: str, names: set[str]) -> str:
    """The name, numbered if it was given before: two packages have two zones of one type."""
    number, free = 1, name
    while free in names:
        number += 1
        free = f"{name} {number}"
    names.add(free)
    return free
