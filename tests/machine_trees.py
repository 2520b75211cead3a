"""Trees of /sys, /proc, /etc and /var as machines show them, written into a folder.

Written from documentation and from what owners of such boards posted: NVIDIA's Jetson Linux Developer Guide
(R32.7.5, R36.3), github.com/rbonghi/jetson_stats, the kernel on hwmon, powercap, cpufreq.
"""

from __future__ import annotations

from pathlib import Path

NVPMODEL = """\
# FORMAT:
# < POWER_MODEL ID=id_num NAME=mode_name >
# < PM_CONFIG DEFAULT=default_mode >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID={first} >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID={second} >
CPU_ONLINE CORE_0 1
# mandatory section to configure the default power mode
< PM_CONFIG DEFAULT={default} >
"""


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write each text to its path below root; gives root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def rail(root: Path, chip: str, channel: int, label: str, millivolts: int, milliamperes: int) -> None:
    """A channel of an INA3221 as the kernel's hwmon driver shows it (JetPack 5 and later)."""
    folder = f"sys/bus/i2c/drivers/ina3221/{chip}"
    write_tree(
        root,
        {
            f"{folder}/in{channel}_label": f"{label}\n",
            f"{folder}/in{channel}_input": f"{millivolts}\n",
            f"{folder}/curr{channel}_input": f"{milliamperes}\n",
        },
    )


def zone(root: Path, number: int, kind: str, millidegrees: int | str, passive: int | None = None) -> None:
    """A thermal zone with a trip point of a fan and, where given, one where the kernel lowers clocks."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    files = {"type": f"{kind}\n", "temp": f"{millidegrees}\n"}
    files |= {"trip_point_0_type": "active\n", "trip_point_0_temp": "46000\n"}
    if passive is not None:
        files |= {"trip_point_1_type": "passive\n", "trip_point_1_temp": f"{passive}\n"}
        files |= {"trip_point_2_type": "critical\n", "trip_point_2_temp": "104500\n"}
    write_tree(root, {f"{folder}/{name}": text for name, text in files.items()})


def proc_stat(steal: int) -> str:
    """/proc/stat of two cores, each of which lost that many ticks to other virtual machines."""
    core = "5 0 5 50 0 0 0"
    return f"cpu  10 0 10 100 0 0 0 {2 * steal} 0 0\ncpu0 {core} {steal} 0 0\ncpu1 {core} {steal} 0 0\n"


def orin(root: Path) -> Path:
    """Jetson AGX Orin 64GB on its developer kit, JetPack 6.1, mode 30 W."""
    write_tree(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
            "etc/nv_tegra_release": (
                "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri\n"
                "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
            ),
            "var/lib/dpkg/status": (
                "Package: nvidia-jetpack-runtime\nStatus: install ok installed\nVersion: 9.9+b1\n\n"
                "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\n"
                "Source: nvidia-jetpack (6.1)\nVersion: 6.1+b123\n\n"
                "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.0-20240912212859\n"
            ),
            "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
            "etc/nvpmodel.conf": NVPMODEL.format(first="0 NAME=MAXN", second="2 NAME=MODE_30W", default=2),
            "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
            "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
            "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
            "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon2/oc2_event_cnt": "4\n",
            "sys/class/hwmon/hwmon2/oc3_event_cnt": "17\n",
            "sys/class/hwmon/hwmon2/oc3_throt_en": "1\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1728000\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
            "proc/meminfo": "MemTotal:       64349752 kB\nMemFree: 1 kB\nMemAvailable:   54349752 kB\n",
            "proc/self/statm": "90000 25000 3000 1 0 20000 0\n",
            "proc/self/task/41/schedstat": "9000000000 1500000000 77\n",
            "proc/self/task/42/schedstat": "8000000000 250000000 5\n",
            "proc/stat": proc_stat(steal=0),
        },
    )
    first, second = "1-0040/hwmon/hwmon3", "1-0041/hwmon/hwmon4"
    rail(root, first, 1, "VDD_GPU_SOC", 19072, 520)
    rail(root, first, 2, "VDD_CPU_CV", 19072, 240)
    rail(root, first, 3, "VIN_SYS_5V0", 5032, 880)
    rail(root, first, 7, "sum of shunt voltages", 3, 1)
    rail(root, second, 1, "NC", 0, 0)
    rail(root, second, 2, "VDDQ_VDD2_1V8AO", 5032, 200)
    zone(root, 0, "cpu-thermal", 52968, passive=99000)
    zone(root, 1, "gpu-thermal", 48500, passive=99000)
    zone(root, 10, "tj-thermal", 52968)
    return root


def nano(root: Path) -> Path:
    """Jetson Nano developer kit, JetPack 4.6.1, its mode never changed."""
    chip = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write_tree(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,tegra210\0",
            "etc/nv_tegra_release": (
                "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: Sat\n"
            ),
            "var/lib/dpkg/status": (
                "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 4.5-b129\n\n"
                "Package: bash\nStatus: install ok installed\nVersion: 4.4\n"
            ),
            "etc/nvpmodel.conf": NVPMODEL.format(first="0 NAME=MAXN", second="1 NAME=5W", default=0),
            f"{chip}/rail_name_0": "POM_5V_IN\n",
            f"{chip}/in_power0_input": "2420\n",
            f"{chip}/rail_name_1": "POM_5V_GPU\n",
            f"{chip}/in_power1_input": "330\n",
            f"{chip}/rail_name_2": "POM_5V_CPU\n",
            f"{chip}/in_power2_input": "737\n",
            "sys/class/devfreq/57000000.gpu/cur_freq": "921600000\n",
            "sys/kernel/debug/clk/emc/clk_rate": "1600000000\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1479000\n",
        },
    )
    zone(root, 1, "CPU-therm", 38500, passive=97000)
    zone(root, 4, "PMIC-Die", 100000)
    return root


def xeon(root: Path) -> Path:
    """A server with one Intel processor in a container that has a quota (cgroups version 2)."""
    package = "sys/class/powercap/intel-rapl:0"
    write_tree(
        root,
        {
            "sys/class/powercap/intel-rapl/enabled": "1\n",
            f"{package}/name": "package-0\n",
            f"{package}/energy_uj": "262143000000\n",
            f"{package}/max_energy_range_uj": "262143328850\n",
            "sys/class/powercap/intel-rapl:0:0/name": "dram\n",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "1000000\n",
            "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "65712999613\n",
            "sys/class/powercap/intel-rapl-mmio:0/name": "package-0\n",
            "sys/class/powercap/intel-rapl-mmio:0/energy_uj": "5\n",
            "sys/class/powercap/intel-rapl-mmio:0/max_energy_range_uj": "262143328850\n",
            "sys/class/hwmon/hwmon0/name": "nvme\n",
            "sys/class/hwmon/hwmon0/temp1_input": "40000\n",
            "sys/class/hwmon/hwmon1/name": "coretemp\n",
            "sys/class/hwmon/hwmon1/temp1_label": "Package id 0\n",
            "sys/class/hwmon/hwmon1/temp1_input": "61000\n",
            "sys/class/hwmon/hwmon1/temp1_max": "80000\n",
            "sys/class/hwmon/hwmon1/temp1_crit": "100000\n",
            "sys/class/hwmon/hwmon1/temp2_label": "Core 0\n",
            "sys/class/hwmon/hwmon1/temp2_input": "60000\n",
            "proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2400.000\n\nprocessor : 1\ncpu MHz\t\t: 3600.000\n",
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 9\nuser_usec 5\n",
            "sys/fs/cgroup/pod/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500000\n",
            "sys/fs/cgroup/pod/box/cpu.stat": "usage_usec 9\nnr_throttled 7\nthrottled_usec 2000000\n",
            "proc/self/statm": "90000 25000 3000 1 0 20000 0\n",
            "proc/self/task/41/schedstat": "9000000000 1500000000 77\n",
            "proc/self/task/42/schedstat": "8000000000 250000000 5\n",
            "proc/stat": proc_stat(steal=200),
        },
    )
    for core, events in ((0, 2), (1, 5)):
        folder = f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        write_tree(
            root,
            {f"{folder}/core_throttle_count": f"{events}\n", f"{folder}/package_throttle_count": "9\n"},
        )
    zone(root, 0, "x86_pkg_temp", 61000, passive=0)
    return root
