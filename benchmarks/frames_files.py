"""The files of a cell of `frames.py`: one network, exported as common practice has it and as we do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from common_practice import export_float
from networks_cell import Cell, network_of, scene

from cpsl_deploy.contract import LOGITS, Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.export.precision.int8 import quantise
from cpsl_deploy.files import write_text

CALIBRATION_FRAMES = 8
FRAMES = 4
QUALITY = 95


def make_files(
    network_name: str, size: tuple[int, int], folder: Path, run: Path | None, photos: Path | None
) -> None:
    """Write into ``folder``, an empty one: common.onnx (upsampled float logits), network.onnx (float to
    logits at the stride), labels.onnx and int8.onnx (ours), logits.onnx (to count operations), spec.json,
    and frames as JPEG: the photos of a folder, resized, or rendered ones."""
    cell = Cell(network=network_name, size=size, batch=1, device="cpu")
    network, spec = network_of(cell, {network_name: run} if run else {})
    calibration = [scene(100 + seed, size) for seed in range(CALIBRATION_FRAMES)]
    frames = [scene(seed, size) for seed in range(FRAMES)]
    if photos is not None:
        paths = sorted(path for path in photos.rglob("*") if path.suffix in (".jpg", ".png"))
        if not paths:
            raise InputError(f"frames are .jpg or .png files; {photos} has none. Name another folder")
        step = max(1, len(paths) // (FRAMES + CALIBRATION_FRAMES))
        images = [
            cv2.resize(cv2.imread(str(path)), size[::-1], interpolation=cv2.INTER_AREA)
            for path in paths[::step][: FRAMES + CALIBRATION_FRAMES]
        ]
        frames, calibration = images[:FRAMES], images[FRAMES:] or images
    write_frames(frames, folder)
    export_float(network, size, folder / "common.onnx")
    export_float(network, size, folder / "network.onnx", upsampled=False)
    export_onnx(network, spec, folder / "labels.onnx", size=size)
    export_onnx(network, spec, folder / "logits.onnx", size=size, contract=Contract(outputs=(LOGITS,)))
    quantise(folder / "labels.onnx", folder / "int8.onnx", calibration)
    write_text(folder / "spec.json", spec.to_json())


def write_frames(frames: list[np.ndarray], folder: Path) -> None:
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"frame{index}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
