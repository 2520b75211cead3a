"""Find a dataset by name or by path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..classes import ClassSpace
from ..errors import DataError
from .dataset import Dataset
from .own import open_own

Role = Literal["source", "target"]
DEMO_NAMES = ("demo", "demo-source", "demo-target")


def open_dataset(
    reference: str | Path,
    split: str,
    *,
    root: Path | None = None,
    class_space: ClassSpace | None = None,
    need_labels: bool = False,
    role: Role | None = None,
    cache: Path | None = None,
) -> Dataset:
    """Open one split of a dataset.

    ``reference``: ``demo`` (``demo-source``, ``demo-target``), or a YAML file (see ``own``).
    ``root``: where the files are, instead of where the reference says.
    ``class_space``: labels are remapped to it by class name; without it the dataset's own classes.
    ``need_labels``: refuse a split without labels.
    ``role``: what plain ``demo`` stands for. ``cache``: where generated files are kept.

    Raises DataError if the reference, the split or the files are not there or break a rule.
    """
    dataset = _open(reference, split, root=Path(root) if root is not None else None, role=role, cache=cache)
    if need_labels and not dataset.has_labels:
        raise DataError(
            f"labels are needed here, and the split {split!r} of {dataset.name} has none. "
            "Name a labelled split or another dataset."
        )
    return dataset.with_classes(class_space) if class_space is not None else dataset


def _open(
    reference: str | Path, split: str, *, root: Path | None, role: Role | None, cache: Path | None
) -> Dataset:
    if reference in DEMO_NAMES:
        return _open_demo(str(reference), split, role=role, cache=cache)
    path = Path(reference)
    if path.suffix.lower() in (".yaml", ".yml"):
        return open_own(path, split, root=root)
    raise DataError(f"{reference} is not a known dataset.")


def _open_demo(reference: str, split: str, *, role: Role | None, cache: Path | None) -> Dataset:
    if reference == "demo" and role is None:
        raise DataError(
            "'demo' alone does not say which of its two sides is meant. Use demo-source or demo-target."
        )
    from .demo import open_demo

    return open_demo(role if reference == "demo" else reference.removeprefix("demo-"), split, cache)
