"""The machine under a run: what it is, what it can do at most, and what its sensors say."""

from .description import Machine, describe_machine, package_versions
from .jetson import Jetson, find_jetson
from .probe import Unavailable
from .sensors import Reading, Sensors

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
