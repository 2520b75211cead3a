"""The machine under a run: what it is, what it can do at most, and what its sensors say."""

from .description import Machine, describe_machine, package_versions

__all__ = ["Machine", "describe_machine", "package_versions"]
