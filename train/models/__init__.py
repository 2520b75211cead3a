"""The networks: a registry by name, model files, and pretrained starts."""

from .base import Segmenter, SegmenterOutput
from .deeplabv2 import load_published
from .registry import ARCHITECTURES, build, load_model, save_model

__all__ = [
    "ARCHITECTURES",
    "Segmenter",
    "SegmenterOutput",
    "build",
    "load_model",
    "load_published",
    "save_model",
]
