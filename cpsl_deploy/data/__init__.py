"""Datasets: opening them by name or path, checking them, and the generated demo set.

Public names are imported when first used: the command's help costs no decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOME = {"Dataset": "dataset", "dataset_splits": "open", "open_dataset": "open"}
"""Public name -> the submodule it lives in."""

__all__ = ["Dataset", "dataset_splits", "open_dataset"]

if TYPE_CHECKING:
    from .dataset import Dataset
    from .open import dataset_splits, open_dataset

__getattr__, __dir__ = lazy_names(__name__, _HOME)
