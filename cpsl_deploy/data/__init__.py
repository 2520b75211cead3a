"""Datasets: opening them by name or path, checking them, and the generated demo set."""

from .dataset import Dataset
from .open import dataset_splits, open_dataset

__all__ = ["Dataset", "dataset_splits", "open_dataset"]
