"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$CPSL_CACHE, else ``cpsl_deploy`` in the user's cache folder (XDG). Raises RuntimeError where the user
    has no home."""
    if named := os.environ.get("CPSL_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "cpsl_deploy"
