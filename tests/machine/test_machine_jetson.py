"""A Jetson is recognised and its sensors read, on trees of /sys and /proc as such boards show them."""

from __future__ import annotations

import json
from pathlib import Path

import machine_trees as trees
import pytest

from cpsl_deploy.machine import Sensors, describe_machine, find_jetson
from cpsl_deploy.machine.jetson_sensors import EMC_REMEDY, find_jetson_sensors


def test_orin_with_jetpack_6(tmp_path: Path) -> None:
    found = find_jetson(trees.orin(tmp_path))
    assert found is not None
    assert json.loads(json.dumps(found.to_json())) == {
        "board": "NVIDIA Jetson AGX Orin Developer Kit",
        "module": "Jetson AGX Orin 64GB",
        "l4t": "36.4.0",
        "jetpack": "6.1+b123",
        "power_mode": "MODE_30W",
        "power_mode_id": 2,
        "rails": ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"],
    }


def test_nano_with_jetpack_4_whose_mode_was_never_changed(tmp_path: Path) -> None:
    found = find_jetson(trees.nano(tmp_path))
    assert found is not None
    assert found.to_json() == {
        "board": "NVIDIA Jetson Nano Developer Kit",
        "module": "Jetson Nano (developer kit)",
        "l4t": "32.7.1",
        "jetpack": None,  # removed: dpkg still lists its configuration
        "power_mode": "MAXN",
        "power_mode_id": 0,
        "rails": ["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"],
    }


def test_in_a_container_only_the_device_tree_is_there(tmp_path: Path) -> None:
    compatible = "nvidia,p9999-0000+p8888-0001\0nvidia,tegra234\0"
    root = trees.write_tree(
        tmp_path, {"proc/device-tree/model": "A Carrier\0", "proc/device-tree/compatible": compatible}
    )
    found = find_jetson(root)
    assert found is not None and found.module == "p8888-0001"
    assert found.l4t is found.jetpack is found.power_mode is found.power_mode_id is None


def test_release_comes_from_the_package_where_its_file_is_missing(tmp_path: Path) -> None:
    root = trees.orin(tmp_path)
    (root / "etc/nv_tegra_release").unlink()
    found = find_jetson(root)
    assert found is not None and found.l4t == "36.4.0"


def test_other_machines_are_none(tmp_path: Path) -> None:
    assert find_jetson(trees.xeon(tmp_path)) is None
    pi = {"proc/device-tree/model": "Raspberry Pi 5\0", "proc/device-tree/compatible": "brcm,bcm2712\0"}
    assert find_jetson(trees.write_tree(tmp_path / "pi", pi)) is None
    assert describe_machine().jetson == find_jetson()


def test_orin_sensors(tmp_path: Path) -> None:
    with Sensors.find(trees.orin(tmp_path), gpu=False) as sensors:
        reading = sensors.read()
    assert reading.power_w == pytest.approx(
        {
            "VDD_GPU_SOC": 19.072 * 0.520,
            "VDD_CPU_CV": 19.072 * 0.240,
            "VIN_SYS_5V0": 5.032 * 0.880,
            "VDDQ_VDD2_1V8AO": 5.032 * 0.200,
        }
    )
    assert reading.clock_mhz == {"gpu": 612.0, "emc": 3199.0, "cpu_fastest": 1728.0, "cpu_mean": 1228.8}
    assert reading.temperature_c == {"cpu-thermal": 52.968, "gpu-thermal": 48.5, "tj-thermal": 52.968}
    assert sensors.temperature_limits_c == {"cpu-thermal": 99.0, "gpu-thermal": 99.0}
    assert reading.throttle_counts == {
        "under-voltage": 0,
        "average over-current": 4,
        "instantaneous over-current": 17,
    }
    assert reading.device_bytes == 10_000_000 * 1024, "the board's memory in use: its GPU has none of its own"
    assert {one.sensor for one in sensors.unavailable} == {
        "RAPL",
        "CPU throttle counts",
        "container's CPU quota",
    }


def test_nano_sensors(tmp_path: Path) -> None:
    found = find_jetson_sensors(trees.nano(tmp_path))
    values = {name: value for probe in found.probes for name, value in probe.read().items()}
    assert values == pytest.approx(
        {"POM_5V_IN": 2.42, "POM_5V_GPU": 0.33, "POM_5V_CPU": 0.737, "gpu": 921.6, "emc": 1600.0}
    )
    assert [one.sensor for one in found.unavailable] == ["over-current events"]


def test_clock_of_the_memory_is_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = trees.orin(tmp_path), Path.read_text

    def guarded(path: Path, *args: object, **kwargs: object) -> str:
        if "kernel/debug" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", guarded)
    found = find_jetson_sensors(root)
    assert ("EMC clock", EMC_REMEDY) in [(one.sensor, one.reason) for one in found.unavailable]
