"""What the backends, their devices and their precisions are called: for command lines, which offer them
without importing any of them."""

from __future__ import annotations

BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt")
DEVICES = ("cpu", "cuda")
ENGINE_SUFFIXES = (".engine", ".plan")
OPENVINO_PRECISIONS = ("f32", "bf16", "f16")
"""In which OpenVINO can be asked to compute; the others compute as the file says."""
