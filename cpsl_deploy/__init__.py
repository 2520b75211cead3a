"""Adapt a road segmenter to your own camera without labels, and run it fast."""

__version__ = "0.1.0"
