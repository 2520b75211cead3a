"""An NVIDIA Jetson: which board, which system, which power mode.

Where each is written, from NVIDIA's Jetson Linux Developer Guide (R32, R35 and R36: "Platform Power and
Performance", "Quick Start") and the files of the boards themselves, as jetson-stats reads them too
(github.com/rbonghi/jetson_stats, jtop/core):

- /proc/device-tree/model and compatible: names that end in NUL; P-numbers of carrier and module;
- /etc/nv_tegra_release: ``# R36 (release), REVISION: 4.0, ...``; without it the package nvidia-l4t-core;
- the package nvidia-jetpack, ``6.1+b123`` or ``4.6-b197``; it is not installed on every board;
- /var/lib/nvpmodel/status: ``pmode:0002``; /etc/nvpmodel.conf: ``< POWER_MODEL ID=2 NAME=MODE_30W >`` and,
  for a board whose mode was never changed, ``< PM_CONFIG DEFAULT=2 >``.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .jetson_sensors import rail_names
from .probe import read_words

MODULES = {
    "p3834-0008": "Jetson T5000",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0005": "Jetson Orin Nano 8GB (developer kit)",
    "p3701-0000": "Jetson AGX Orin (developer kit)",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3668-0000": "Jetson Xavier NX (developer kit)",
    "p3668-0001": "Jetson Xavier NX",
    "p3668-0003": "Jetson Xavier NX 16GB",
    "p2888-0001": "Jetson AGX Xavier 16GB",
    "p2888-0004": "Jetson AGX Xavier 32GB",
    "p2888-0005": "Jetson AGX Xavier 64GB",
    "p2888-0008": "Jetson AGX Xavier Industrial",
    "p3636-0001": "Jetson TX2 NX",
    "p3310-1000": "Jetson TX2",
    "p2180-1000": "Jetson TX1",
    "p3448-0000": "Jetson Nano (developer kit)",
    "p3448-0002": "Jetson Nano",
    "p3448-0003": "Jetson Nano 2GB",
}
"""Names of modules by their P-number (Developer Guide, "Quick Start": Jetson modules and configurations)."""


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """A Jetson board; what could not be read, in a container for example, is None."""

    board: str | None
    """As the device tree calls it: "NVIDIA Jetson AGX Orin Developer Kit"."""
    module: str | None
    """Name of the module, or its P-number if the name is not known here."""
    l4t: str | None
    """Release of Jetson Linux: "36.4.0"."""
    jetpack: str | None
    """Version of the package nvidia-jetpack: "6.1+b123"."""
    power_mode: str | None
    """Name of the nvpmodel mode: "MAXN", "15W". Latency means nothing without it."""
    power_mode_id: int | None
    rails: tuple[str, ...]
    """Power rails that the board measures."""

    def to_json(self) -> dict[str, Any]:
        """Ready for a record."""
        return {**asdict(self), "rails": list(self.rails)}


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson on which this runs; None on any other machine."""
    board = read_words(root / "proc/device-tree/model")
    compatible = (read_words(root / "proc/device-tree/compatible") or "").split("\0")
    if "Jetson" not in (board or "") and not any(one.startswith("nvidia,tegra") for one in compatible):
        return None
    packages = _package_versions(root)
    mode_id = _power_mode_id(root)
    return Jetson(
        board=board,
        module=_module(compatible),
        l4t=_l4t(root, packages),
        jetpack=packages.get("nvidia-jetpack"),
        power_mode=_power_modes(root).get(mode_id) if mode_id is not None else None,
        power_mode_id=mode_id,
        rails=rail_names(root),
    )


def _module(compatible: list[str]) -> str | None:
    numbers = re.findall(r"p\d{4}-\d{4}", " ".join(compatible))
    known = [number for number in numbers if number in MODULES]
    return MODULES[known[0]] if known else (numbers[-1] if numbers else None)


def _l4t(root: Path, packages: dict[str, str]) -> str | None:
    release = read_words(root / "etc/nv_tegra_release") or ""
    if match := re.search(r"R(\d+) \(\w+\), REVISION: ([\d.]+)", release):
        return f"{match[1]}.{match[2]}"
    core = packages.get("nvidia-l4t-core")
    return core.partition("-")[0] if core else None


def _package_versions(root: Path) -> dict[str, str]:
    """Versions of the installed packages that tell something, from dpkg's own list."""
    try:
        listed = (root / "var/lib/dpkg/status").read_text(errors="replace")
    except OSError:
        return {}
    versions = {}
    for entry in listed.split("\n\n"):
        name = re.match(r"\s*Package: (nvidia-jetpack|nvidia-l4t-core)$", entry, re.MULTILINE)
        version = re.search(r"^Version: (\S+)", entry, re.MULTILINE)
        if name and version and re.search(r"^Status: .* installed$", entry, re.MULTILINE):
            versions[name[1]] = version[1]
    return versions


def _power_mode_id(root: Path) -> int | None:
    status = read_words(root / "var/lib/nvpmodel/status") or ""
    configuration = read_words(root / "etc/nvpmodel.conf") or ""
    match = re.search(r"pmode:(\d+)", status) or re.search(
        r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)", configuration, re.MULTILINE
    )
    return int(match[1]) if match else None


def _power_modes(root: Path) -> dict[int, str]:
    configuration = read_words(root / "etc/nvpmodel.conf") or ""
    # Comments explain the form with an example of it, so only what begins a line counts.
    modes = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", configuration, re.MULTILINE)
    return {int(number): name for number, name in modes}
