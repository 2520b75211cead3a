"""Example records of a benchmark, schema 2: every section filled, made by hand and the same every time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

OPTIONAL = (
    "cold_start", "throughput", "sweep", "accuracy", "stream", "load", "variants", "roofline", "sustained",
)  # fmt: skip
"""Sections that a record may lack."""
STAGES_MS = {"read": 0.05, "decode": 6.0, "pre": 1.2, "inference": 38.0, "post": 0.4}
"""Typical milliseconds."""
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def complete_record(
    classes: Sequence[str] = ("road", "tree", "car"),
    frames: int = 40,
    stages_ms: dict[str, float] | None = None,
) -> dict[str, Any]:
    """A record in which every section was measured; two of the frames are outliers, one class is unknown to
    the data."""
    random = np.random.default_rng(7)
    samples = {
        stage: (typical * random.lognormal(0, 0.04, frames)).round(4)
        for stage, typical in (stages_ms or STAGES_MS).items()
    }
    samples["inference"][[frames // 2, -1]] *= 1.8
    samples["total"] = sum(samples.values()) + 0.05
    return {
        "schema_version": 2,
        "kind": "benchmark",
        "created": "2026-11-20T10:00:00+00:00",
        "command": "cpsl-bench student.onnx --data streets.yaml --variants --sustain 10",
        "machine": {
            "cpu": "Example CPU 8-Core",
            "cores": 16,
            "usable_cores": 8.0,
            "memory_gib": 31.2,
            "os": "Linux-6.1",
            "gpus": [],
            "load_average": 0.4,
            "jetson": None,
        },
        "versions": {"cpsl_deploy": "0.1.0", "python": "3.11.9", "onnxruntime": "1.31.1", "openvino": None},
        "clock": {"name": "perf_counter_ns", "resolution_ns": 1.0, "overhead_ns": 45.0, "samples": 10000},
        "conditions": {
            "load_average_before": 0.4,
            "load_average_after": 2.1,
            "parts": {
                "latency": {
                    "seconds": 12.0,
                    "cpu_cores_used": 1.9,
                    "waited_share": 0.01,
                    "stolen_share": None,
                },
            },
        },
        "model": _model(classes),
        "data": {
            "reference": "streets.yaml",
            "split": "val",
            "name": "streets",
            "images": frames,
            "sha256": "b" * 64,
            "labelled": True,
        },
        "settings": {"data": "streets.yaml", "split": "val", "frames": None, "backend": "auto", "threads": 2},
        "runtime": {
            "backend": "onnxruntime",
            "version": "1.31.1",
            "device": "cpu",
            "threads": 2,
            "precision": "f32",
            "providers": ["CPUExecutionProvider"],
        },
        "synchronisation": {"checked_frames": 3, "left_after_return_ms": 0.002},
        "cold_start": {
            "runs": 3,
            "process_ms": [38.0, 41.0, 40.0],
            "import_ms": [210.0, 180.0, 182.0],
            "load_ms": [95.0, 80.0, 81.0],
            "first_frame_ms": [71.0, 69.0, 70.0],
            "to_first_labels_ms": [414.0, 370.0, 373.0],
        },
        "warm_up": {
            "first_frame_ms": 71.0,
            "frames": 14,
            "ms": 660.0,
            "steady": True,
            "rule": "Steady once the medians of the last two groups of five frames differ by under 5 %.",
        },
        "latency": {
            "fps": 1000 / float(samples["total"].mean()),
            "stages_ms": {stage: summary(times) for stage, times in samples.items()},
            "intervals": {
                "p50": {"low": 46.2, "high": 47.1},
                "p90": {"low": 49.0, "high": 53.5},
                "level": 0.95,
                "block": 3,
            },
            "outliers": {
                "rule": "Above the median by more than 5 median absolute deviations; kept in every figure.",
                "count": 2,
                "frames": [
                    {"index": i, "frame": f"frame{i}", "total_ms": float(samples["total"][i])}
                    for i in (frames // 2, frames - 1)
                ],
            },
        },
        "throughput": {
            "frames": 400,
            "seconds": 16.0,
            "fps": 25.0,
            "fps_quartiles": [24.1, 25.2, 25.6],
            "single_fps": 21.5,
            "slowest_stage": "inference",
            "slowest_stage_fps": 26.3,
            "share_of_slowest": 0.95,
            "cpu_cores_used": 1.9,
        },
        "sweep": _sweep(),
        "accuracy": _accuracy(classes, frames),
        "classes": [_class(k, name, frames, len(classes)) for k, name in enumerate(classes)],
        "stream": {
            "source_fps": 25.0,
            "seconds": 5.0,
            "frames": 125,
            "delivered": 101,
            "dropped": 24,
            "age_ms": summary(50 + 12 * random.random(101)),
            "peak_age_ms": summary(80 + 15 * random.random(101)),
        },
        "load": _load(),
        "variants": _variants(random),
        "roofline": _roofline(),
        "sustained": _sustained(random),
        "notes": ["Accuracy is of 40 of the split's 500 images, evenly spread."],
        "samples": {
            "frames": [f"frame{i}" for i in range(frames)],
            "sizes": [[512, 1024]] * frames,
            "stages_ms": {stage: times.tolist() for stage, times in samples.items()},
            "predicted_pixels": [[512 * 1024 // len(classes)] * len(classes)] * frames,
        },
    }


def without(record: dict[str, Any], *sections: str) -> dict[str, Any]:
    """The record as it is if these sections were not asked for."""
    return copy.deepcopy(record) | dict.fromkeys(sections)


def smallest_record() -> dict[str, Any]:
    """What every benchmark has: no data, no optional section, one frame."""
    record = without(complete_record(frames=1), *OPTIONAL, "data", "command")
    unknown = ("iou", "iou_interval", "precision", "recall", "boundary_iou", "boundary_f_score")
    for row in record["classes"]:
        row |= dict.fromkeys((*unknown, "label_share", "extraction", "stream_age"))
        row["latency"] = {"frames": 0, "p50_ms": None, "p99_ms": None}
    record["latency"]["outliers"] |= {"count": 0, "frames": []}
    record["notes"] = []
    return record


def summary(samples_ms: Any) -> dict[str, Any]:
    """What a record says of samples in milliseconds."""
    values = np.asarray(samples_ms, np.float64)
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return {
        "count": values.size,
        "mean": float(values.mean()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": float(values.max()),
    }


def _model(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "student.onnx",
        "sha256": "a" * 64,
        "bytes": 4_400_000,
        "spec": {"architecture": "lraspp", "class_names": list(classes), "size": [512, 1024]},
        "contract": {
            "outputs": ["labels"],
            "output_stride": 1,
            "colour_order": "BGR",
            "precision": "f32",
        },
    }


def _class(k: int, name: str, frames: int, classes: int) -> dict[str, Any]:
    known = k != 1  # the second class is one that the data does not have
    iou = 0.92 * (1 - k / (classes + 2)) if known else None
    colours = ((128, 64, 128), (107, 142, 35), (0, 0, 142), (244, 35, 232), (70, 130, 180), (0, 0, 0))
    return {
        "name": name,
        "colour": list(colours[k % len(colours)]),
        "iou": iou,
        "iou_interval": None if iou is None else {"low": 0.9 * iou, "high": min(1.0, 1.06 * iou)},
        "precision": None if iou is None else min(1.0, 1.05 * iou),
        "recall": None if iou is None else min(1.0, 1.02 * iou),
        "boundary_iou": None if iou is None else 0.6 * iou,
        "boundary_f_score": None if iou is None else 0.75 * iou,
        "label_share": None if iou is None else 1.0 / (k + 2) ** 2,
        "predicted_share": 1.0 / (k + 2) ** 2,
        "latency": {"frames": frames - k, "p50_ms": 46.0 + 0.3 * k, "p99_ms": 80.0 + 0.6 * k},
        "extraction": {
            "frames": 10,
            "mask_ms": 0.06,
            "area_ms": 0.03 + 0.001 * k,
            "contours_ms": 0.2 + 0.05 * (k % 5),
        },
        "stream_age": {"frames": 90 - k, "p50_ms": 52.0 + k, "p99_ms": 66.0 + k},
    }


def _accuracy(classes: Sequence[str], frames: int) -> dict[str, Any]:
    count = len(classes)
    confusion = (np.full((count, count), 900) + np.eye(count, dtype=int) * 40_000).tolist()
    per_image = [[1000] * count] * frames
    return {
        "frames": frames,
        "miou": 0.713,
        "miou_interval": {
            "low": 0.684,
            "high": 0.741,
            "level": 0.95,
            "resamples": 2000,
            "seed": 0,
            "block": 4,
        },
        "pixel_accuracy": 0.942,
        "boundary_pixels": 3,
        "unknown_to_data": [classes[1]],
        "unknown_to_model": ["caravan"],
        "confusion": confusion,
        "images": {
            "names": [f"frame{i}" for i in range(frames)],
            "hits": per_image,
            "labelled": per_image,
            "predicted": per_image,
        },
    }


def _sweep() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    for height, width in ((256, 512), (360, 640), (512, 1024), (1024, 2048)):
        for batch in (1, 4):
            cell = {"frame_size": [height, width], "batch": batch}
            if batch == 4 and height == 1024:
                cells.append(cell | {"unavailable": "The model's batch is fixed at 1."})
                continue
            ms = 80 * height * width / 2**19 * (1 if batch == 1 else 0.8)
            parts = {"pre": 0.03 * ms, "inference": 0.95 * ms, "post": 0.02 * ms, "total": ms}
            stages = {stage: summary([value, 1.1 * value]) for stage, value in parts.items()}
            cells.append(cell | {"input_size": [512, 1024], "stages_ms": stages, "fps": 1000 / ms})
    return cells


def _load() -> dict[str, Any]:
    trials = [
        {
            "streams": streams,
            "age_p99_ms": 30.0 + 2 * streams**2,
            "peak_age_p99_ms": 60.0 + 2.4 * streams**2,
            "delivered_fps": min(25.0 * streams, 160.0),
            "dropped_share": max(0.0, 1 - 160 / (25 * streams)),
            "results": round(5 * min(25.0 * streams, 160.0)),
            "within": streams <= 7,
        }
        for streams in (1, 2, 4, 8, 6, 7)
    ]
    return {
        "max_age_ms": 200.0,
        "percentile": 99.0,
        "source_fps": 25.0,
        "seconds_per_trial": 5.0,
        "streams": 7,
        "limit": "At 8 streams the 99th percentile of the peak age was 214 ms.",
        "trials": trials,
    }


def _variants(random: np.random.Generator) -> dict[str, Any]:
    found = {
        "onnxruntime CPU fp32": ("f32", 40.0, 1.0),
        "openvino f32": ("f32", 42.0, 0.99999),
        "openvino bf16": ("bf16", 19.0, 0.991),
        "openvino int8": ("int8", 16.0, 0.962),
        "onnxruntime CPU int8": ("int8", 58.0, 0.964),
        "torch eager fp32": ("f32", 69.0, 1.0),
    }
    rows = [
        {
            "name": name,
            "runtime": {"backend": name.split()[0], "version": "1", "device": "cpu", "threads": 2},
            "precision": precision,
            "bytes": 4_400_000,
            "p50_ms": ms,
            "p90_ms": 1.05 * ms,
            "p99_ms": 1.2 * ms,
            "ratio": 40.0 / ms,
            "ratio_low": 39.0 / ms,
            "ratio_high": 41.2 / ms,
            "agreement": agreement,
            "miou": 0.713 - 0.9 * (1 - agreement),
            "roofline_fraction": 10.0 / ms,
        }
        for name, (precision, ms, agreement) in found.items()
    ]
    return {
        "yardstick": "onnxruntime CPU fp32",
        "rounds": 25,
        "size": [512, 1024],
        "rows": rows,
        "unavailable": [
            {"name": "tensorrt fp16", "reason": "TensorRT needs an NVIDIA GPU; this machine has none."},
            {"name": "onnxruntime CUDA fp32", "reason": "the provider fell back to the CPU"},
        ],
        "samples_ms": {row["name"]: (row["p50_ms"] * random.lognormal(0, 0.05, 25)).tolist() for row in rows},
    }


def _roofline() -> dict[str, Any]:
    peak, copy_bytes = 1.2e11, 1.6e10
    layers = []
    for i in range(24):
        flops = 0 if i % 8 == 7 else int(4e6 * 1.22**i)
        moved = int(4e6 * 1.05**i) if i % 3 else int(2.2e7)
        limit = 1000 * max(flops / peak, moved / copy_bytes)
        layers.append(
            {
                "name": f"/backbone/features.{i}/conv/Conv",
                "operator": "Resize" if not flops else "Conv",
                "output_shape": [1, 16 + 8 * i, 64, 128],
                "flops": flops,
                "bytes": moved,
                "parameters": 1000 * i,
                "limit_ms": limit,
                "bound": "compute" if flops / peak > moved / copy_bytes else "memory",
            }
        )
    layer_limit = sum(layer["limit_ms"] for layer in layers)
    slowest = [
        {key: layer[key] for key in ("name", "operator", "output_shape")} | {"ms": ms, "share": ms / 39.5}
        for layer, ms in zip(layers[:-9:-1], (9.1, 7.3, 5.5, 4.0, 2.9, 2.2, 1.6, 1.2), strict=True)
    ]
    return {
        "graph": "student.onnx",
        "parameters": sum(layer["parameters"] for layer in layers),
        "parameter_bytes": 4 * sum(layer["parameters"] for layer in layers),
        "flops": sum(layer["flops"] for layer in layers),
        "bytes": sum(layer["bytes"] for layer in layers),
        "layers": layers,
        "rates": {
            "matrix_flops": peak,
            "matrix_precision": "f32",
            "matrix_how": "Best of 7 products of two 1024x1024 matrices with NumPy.",
            "copy_bytes": copy_bytes,
            "copy_how": "Best of 7 copies of 256 MiB, read and written.",
            "stated": False,
            "disturbed": False,
        },
        "compulsory_limit_ms": 0.5 * layer_limit,
        "layer_limit_ms": layer_limit,
        "measured_ms": 38.0,
        "fraction": layer_limit / 38.0,
        "compulsory_fraction": 0.5 * layer_limit / 38.0,
        "slowest": slowest,
        "profile_ms": 39.5,
    }


def _sustained(random: np.random.Generator) -> dict[str, Any]:
    count = 60
    t = 10.0 * np.arange(count)
    slower = 1 + 0.25 * (t > 300)
    p50 = 46 * slower * random.lognormal(0, 0.01, count)
    missing: list[float | None] = (62 + 20 * (1 - np.exp(-t / 150))).tolist()
    missing[5] = None  # a sensor that did not answer once
    return {
        "minutes": 10.0,
        "frames": 12000,
        "interval_s": 10.0,
        "series": {
            "t_s": t.tolist(),
            "p50_ms": p50.tolist(),
            "p99_ms": (1.3 * p50).tolist(),
            "fps": (1000 / p50).tolist(),
            "process_bytes": (3.1e8 + 2e4 * t).tolist(),
            "device_bytes": None,
            "power_w": {"package": (44 - 8 * (slower - 1)).tolist(), "core": (33 / slower).tolist()},
            "clock_mhz": {"cpu": (3600 / slower).tolist()},
            "temperature_c": {"package": missing},
        },
        "energy_per_frame_j": {"package": 2.05, "core": 1.5},
        "throttled": True,
        "throttle_reasons": ["the clock of cpu fell by 20 % while it stayed busy"],
        "slowdown": 1.25,
        "memory_growth_bytes_per_hour": 7.2e7,
        "unavailable_sensors": [{"sensor": "nvml", "reason": "no NVIDIA driver"}],
    }
