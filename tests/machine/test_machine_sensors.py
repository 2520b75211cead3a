"""Temperatures, clocks, lost time and memory of a server, and sensors that fail."""

from __future__ import annotations

import os
from pathlib import Path

import machine_trees as trees
import numpy as np
import pytest

from cpsl_deploy.machine import Sensors, Unavailable
from cpsl_deploy.machine.cpu_clock import GUEST
from cpsl_deploy.machine.cpu_throttling import QUOTA, STEAL
from cpsl_deploy.machine.probe import Found, Probe


def test_a_server(tmp_path: Path) -> None:
    sensors = Sensors.find(trees.xeon(tmp_path), gpu=False)
    reading = sensors.read()
    assert reading.clock_mhz == {"cpu_fastest": 3600, "cpu_mean": 3000}
    assert reading.temperature_c == {"x86_pkg_temp": 61.0, "coretemp Package id 0": 61.0}
    assert sensors.temperature_limits_c == {"coretemp Package id 0": 100.0}, "a trip point of 0 is not set"
    assert reading.throttle_counts == {
        "thermal throttling of the CPU (core)": 7,
        "thermal throttling of the CPU (package)": 9,
    }
    assert reading.lost_s == {QUOTA: 3.5, STEAL: pytest.approx(200 / os.sysconf("SC_CLK_TCK"))}
    assert reading.waited_s == 1.75, "of two threads"
    assert reading.process_bytes == 25000 * os.sysconf("SC_PAGE_SIZE") and reading.device_bytes is None
    assert sensors.unavailable == ()


def test_a_guest_has_no_clock_to_tell(tmp_path: Path) -> None:
    cpuinfo = "processor : 0\ncpu MHz\t\t: 2596.094\nflags\t\t: fpu sse hypervisor lm\n"
    sensors = Sensors.find(trees.write_tree(tmp_path, {"proc/cpuinfo": cpuinfo}), gpu=False)
    assert not sensors.read().clock_mhz
    assert ("CPU clock", GUEST) in [(one.sensor, one.reason) for one in sensors.unavailable]


def test_quota_of_control_groups_version_1(tmp_path: Path) -> None:
    trees.xeon(tmp_path)
    stat = "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.stat"
    trees.write_tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            stat: "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000000\n",
        },
    )
    assert Sensors.find(tmp_path, gpu=False).read().lost_s[QUOTA] == 2.5


def test_two_zones_of_one_type_have_two_names(tmp_path: Path) -> None:
    for number, millidegrees in ((0, 40000), (1, 50000), (10, 70000), (2, 60000)):
        trees.zone(tmp_path, number, "x86_pkg_temp", millidegrees)
    assert Sensors.find(tmp_path, gpu=False).read().temperature_c == {
        "x86_pkg_temp": 40.0,
        "x86_pkg_temp 2": 50.0,
        "x86_pkg_temp 3": 60.0,
        "x86_pkg_temp 4": 70.0,
    }


def test_a_bare_machine_lists_what_it_lacks(tmp_path: Path) -> None:
    sensors = Sensors.find(tmp_path, gpu=False)
    reading = sensors.read()
    assert (reading.process_bytes, reading.device_bytes) == (None, None)
    assert not (reading.power_w or reading.clock_mhz or reading.temperature_c or reading.lost_s)
    assert {one.sensor for one in sensors.unavailable} == {
        "RAPL",
        "CPU clock",
        "temperature",
        "CPU throttle counts",
        "container's CPU quota",
        "CPU steal",
        "run queue",
        "process memory",
    }
    assert all(one.reason for one in sensors.unavailable)


@pytest.mark.parametrize("damage", ["", "not a number\n", None])
def test_a_sensor_that_fails_midway_is_listed(tmp_path: Path, damage: str | None) -> None:
    sensors = Sensors.find(trees.orin(tmp_path), gpu=False)
    assert "gpu-thermal" in sensors.read().temperature_c
    broken = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    broken.unlink()
    if damage is not None:
        broken.write_text(damage)
    before = len(sensors.unavailable)
    for _ in range(2):
        reading = sensors.read()
        assert "gpu-thermal" not in reading.temperature_c and "cpu-thermal" in reading.temperature_c
    assert len(sensors.unavailable) == before + 1, "listed once"
    assert sensors.unavailable[-1].sensor == "thermal zone gpu-thermal"
    assert "failed during the run" in sensors.unavailable[-1].reason
    broken.write_text("45000\n")
    assert sensors.read().temperature_c["gpu-thermal"] == 45.0, "it is asked again"


def test_a_zone_that_does_not_answer_is_listed_at_once(tmp_path: Path) -> None:
    def refuse() -> dict[str, float]:
        raise OSError(11, "Resource temporarily unavailable")

    found = Found()
    assert not found.try_probe(
        Probe(sensor="thermal zone cv0-thermal", quantity="temperature_c", read=refuse)
    )
    assert Sensors(found).unavailable == (
        Unavailable(sensor="thermal zone cv0-thermal", reason="Resource temporarily unavailable"),
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_of_this_process() -> None:
    sensors = Sensors.find(gpu=False)
    before = sensors.read().process_bytes
    held = np.full(64 << 20, 1, np.uint8)  # one allocation, every page of it written
    after = sensors.read().process_bytes
    assert before is not None and after is not None
    assert (60 << 20) < after - before < (80 << 20)
    del held
