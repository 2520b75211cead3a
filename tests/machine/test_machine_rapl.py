"""Energy counters of processors."""

from __future__ import annotations

from pathlib import Path

import machine_trees as trees
import pytest

from cpsl_deploy.machine.rapl import REMEDY, find_rapl
from cpsl_deploy.machine.sensors import Sensors

PACKAGE = "sys/class/powercap/intel-rapl:0/energy_uj"


def test_zones_once_each(tmp_path: Path) -> None:
    found = find_rapl(trees.xeon(tmp_path))
    assert [probe.sensor for probe in found.probes] == ["RAPL package-0", "RAPL package-0 dram"]


def test_counter_that_begins_again(tmp_path: Path) -> None:
    package = find_rapl(trees.xeon(tmp_path)).probes[0]
    start = package.read()["package-0"]
    (tmp_path / PACKAGE).write_text("1671150\n")  # 0.328850 J up to the end, then 1.671150 J
    assert package.read()["package-0"] - start == pytest.approx(2.0)
    (tmp_path / PACKAGE).write_text("11671150\n")
    assert package.read()["package-0"] - start == pytest.approx(12.0)


def test_power_is_energy_over_the_time_between_readings(tmp_path: Path) -> None:
    now = iter([10.0, 12.5, 13.5])
    (trees.xeon(tmp_path) / PACKAGE).write_text("0\n")
    sensors = Sensors(find_rapl(tmp_path), clock=lambda: next(now))
    assert sensors.read().power_w == {}
    (tmp_path / PACKAGE).write_text("100000000\n")
    assert sensors.read().power_w == pytest.approx({"package-0": 40.0, "package-0 dram": 0.0})
    (tmp_path / PACKAGE).write_text("110000000\n")
    reading = sensors.read()
    assert reading.power_w["package-0"] == pytest.approx(10.0)
    assert reading.energy_j["package-0"] == pytest.approx(110.0)


def test_refused_counter_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = trees.xeon(tmp_path), Path.read_text

    def guarded(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", guarded)
    found = find_rapl(root)
    assert not found.probes
    assert [one.sensor for one in found.unavailable] == ["RAPL package-0", "RAPL package-0 dram"]
    assert all("Permission denied" in one.reason and REMEDY in one.reason for one in found.unavailable)


def test_no_powercap(tmp_path: Path) -> None:
    assert [one.sensor for one in find_rapl(tmp_path).unavailable] == ["RAPL"]
