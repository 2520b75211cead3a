"""The machine under a run: what it is, what it can do at most, and what its sensors say.

Public names are imported when first used: who asks for the number of cores needs no sensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOME = {
    "Jetson": "jetson",
    "Machine": "description",
    "Reading": "sensors",
    "Sensors": "sensors",
    "Unavailable": "probe",
    "describe_machine": "description",
    "find_jetson": "jetson",
    "package_versions": "description",
}
"""Public name -> the submodule it lives in."""

__all__ = [
    "Jetson",
    "Machine",
    "Reading",
    "Sensors",
    "Unavailable",
    "describe_machine",
    "find_jetson",
    "package_versions",
]

if TYPE_CHECKING:
    from .description import Machine, describe_machine, package_versions
    from .jetson import Jetson, find_jetson
    from .probe import Unavailable
    from .sensors import Reading, Sensors

__getattr__, __dir__ = lazy_names(__name__, _HOME)
