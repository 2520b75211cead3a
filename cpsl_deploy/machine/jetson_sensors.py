"""Sensors that only a Jetson has: power rails, clocks of GPU and memory, over-current events.

Sources: NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" (R32.7.5, R35.6, R36.3), the
kernel's Documentation/hwmon/ina3221.rst, the driver of tegra234's soctherm (``oc*_event_cnt``), and the
paths that github.com/rbonghi/jetson_stats reads (jtop/core: power.py, gpu.py, memory.py).

- Rails, JetPack 5 and later, in /sys/bus/i2c/drivers: ina3221/*/hwmon/hwmon*/in{1,2,3}_label, in{n}_input in
  mV, curr{n}_input in mA; channel 7 is a sum, and a channel "NC" is not connected. JetPack 4:
  ina3221x/*/iio:device*/rail_name_{n}, in_power{n}_input in mW.
- GPU: /sys/class/devfreq/17000000.gpu (also .ga10b, .gv11b, .gp10b, 57000000.gpu, gpu-gpc-0) cur_freq in Hz.
- Memory controller (EMC): debugfs, for root alone; devfreq/bwmgr on Thor.
- Over-current and under-voltage: hwmon "soctherm_oc": oc1 under-voltage, oc2 average, oc3 instantaneous
  over-current. The chip lowers its clocks for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .probe import Found, Probe, paths, read_number, read_words

EVENTS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
EMC_REMEDY = "The clock of the memory controller is for root alone: run as root to have it"
_GPU = re.compile(r"gpu|g[vpam]\d\db$")
_EMC = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/class/devfreq/bwmgr/cur_freq",
    "sys/kernel/debug/clk/override.emc/clk_rate",
    "sys/kernel/debug/clk/emc/clk_rate",
)


def find_jetson_sensors(root: Path = Path("/")) -> Found:
    """Rails in W, clocks "gpu" and "emc", counts of over-current events. Ask it on a Jetson only."""
    found = Found()
    for name, power in _rails(root):
        found.try_probe(Probe(sensor=f"rail {name}", quantity="power_w", read=power))
    if not found.probes:
        found.miss("power rails", "the board shows no INA3221 (/sys/bus/i2c/drivers/ina3221)")
    _add_gpu_clock(found, root)
    _add_emc_clock(found, root)
    _add_events(found, root)
    return found


def rail_names(root: Path = Path("/")) -> tuple[str, ...]:
    """Power rails that the board measures."""
    return tuple(name for name, _ in _rails(root))


def _rails(root: Path) -> Iterator[tuple[str, partial[dict[str, float]]]]:
    drivers = root / "sys/bus/i2c/drivers"
    seen: set[str] = set()
    for label in paths(drivers, "ina3221/*/hwmon/hwmon*/in[123]_label"):
        name, channel = read_words(label), label.name[2]
        if name and name != "NC" and name not in seen:
            seen.add(name)
            volts, amperes = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
            yield name, partial(_product_w, name, volts, amperes)
    for label in paths(drivers, "ina3221x/*/iio:device*/rail_name_*"):
        name, channel = read_words(label), label.name.rpartition("_")[2]
        if name and name != "NC" and name not in seen:
            seen.add(name)
            yield name, partial(_scaled, name, label.with_name(f"in_power{channel}_input"), 1e-3)


def _product_w(name: str, millivolts: Path, milliamperes: Path) -> dict[str, float]:
    return {name: read_number(millivolts) * read_number(milliamperes) / 1e6}


def _scaled(name: str, path: Path, factor: float) -> dict[str, float]:
    return {name: factor * read_number(path)}


def _add_gpu_clock(found: Found, root: Path) -> None:
    clocks = [
        folder / "cur_freq"
        for folder in paths(root / "sys/class/devfreq", "*")
        if _GPU.search(folder.name) and "nvd" not in folder.name
    ]
    if clocks:
        read = partial(_scaled, "gpu", clocks[0], 1e-6)
        found.try_probe(Probe(sensor="GPU clock", quantity="clock_mhz", read=read))
    else:
        found.miss("GPU clock", "the board shows no GPU in /sys/class/devfreq")


def _add_emc_clock(found: Found, root: Path) -> None:
    refused = False
    for path in _EMC:
        read = partial(_scaled, "emc", root / path, 1e-6)
        try:
            read()
        except PermissionError:
            refused = True
        except (OSError, ValueError):
            continue
        else:
            found.probes.append(Probe(sensor="EMC clock", quantity="clock_mhz", read=read))
            return
    found.miss("EMC clock", EMC_REMEDY if refused else "the kernel does not show it (debugfs)")


def _add_events(found: Found, root: Path) -> None:
    files = list(paths(root / "sys/class/hwmon", "hwmon*/oc*_event_cnt"))
    if not files:
        found.miss("over-current events", "this release of Jetson Linux does not count them in /sys")
    for file in files:
        channel = file.name.partition("_")[0]
        name = EVENTS.get(channel, f"over-current event {channel}")
        read = partial(_scaled, name, file, 1.0)
        found.try_probe(Probe(sensor=name, quantity="throttle_counts", read=read))
