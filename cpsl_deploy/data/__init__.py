"""Datasets: opening them by name or path, checking them, and the generated demo set."""

from .dataset import Dataset
from .open import open_dataset

__all__ = ["Dataset", "open_dataset"]
