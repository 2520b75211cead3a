"""Files that belong together are put in place together."""

from __future__ import annotations

import shutil
from pathlib import Path

from cpsl_deploy.files import atomic_paths


def copy_together(files: dict[Path, Path]) -> None:
    """Copy files to where they belong: all of them or none."""
    with atomic_paths(*files.values()) as temporaries:
        for source, temporary in zip(files, temporaries, strict=True):
            shutil.copyfile(source, temporary)
