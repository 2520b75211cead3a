"""The networks: a registry by name, model files, and pretrained starts."""

from .base import Segmenter, SegmenterOutput
from .registry import ARCHITECTURES, build, load_model, save_model

__all__ = ["ARCHITECTURES", "Segmenter", "SegmenterOutput", "build", "load_model", "save_model"]
