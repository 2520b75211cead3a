"""How soon drift is noticed, and how often for nothing: a model adapted to CamVid, on other roads.

    cpsl-export RUN -o all.onnx --outputs labels,confidence,logits
    python benchmarks/drift_real_pair.py all.onnx --data camvid.yaml --data-root CAMVID --video DRIVE -o OUT

The reference is made of the images that the model was adapted to (`train`), as `cpsl-export` makes it. Every
choice of statistics sees the same frames and has the same rate of false alarms. The last line is one JSON
document.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from drift_streams import CHANGES, STEPS, Stream, changed_from, darkened

import cpsl_deploy
from cpsl_deploy.command_line import Command
from cpsl_deploy.data import Dataset, open_dataset
from cpsl_deploy.drift.curve import Curve, Point
from cpsl_deploy.drift.detector import DriftDetector, DriftPolicy
from cpsl_deploy.drift.plot import write_plot
from cpsl_deploy.drift.reference import DriftReference, names_of
from cpsl_deploy.drift.statistics import FrameStatistics, group_of
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.metrics import confusion_matrix, mean_iou
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.sources.video import VideoSource

CHOICES: dict[str, tuple[str, ...]] = {
    "labels": ("labels",),
    "labels, confidence": ("labels", "confidence"),
    "labels, confidence, logits": ("labels", "confidence", "logits"),
    "look": ("image",),
    "labels + look": ("labels", "image"),
    "labels, confidence + look": ("labels", "confidence", "image"),
    "labels, confidence, logits + look": ("labels", "confidence", "logits", "image"),
    "all in one distance": ("labels", "confidence", "logits", "image"),
}
"""Name -> groups of statistics. ``+`` separates distances with a threshold each, as the product has them."""
ONE_DISTANCE = "all in one distance"
SHIPPED = ("labels + look", "labels, confidence + look", "labels, confidence, logits + look")
REFERENCE_FRAMES = 200
POLICY = DriftPolicy()
Seen = list[tuple[int, float, np.ndarray]]
"""Index, time in seconds and statistics float64 (n,) of the frames that were looked at."""


class Chosen:
    """Some of the statistics of a model."""

    def __init__(self, choice: str, names: tuple[str, ...]) -> None:
        self.title = choice
        self.mine = np.array([group_of(name) in CHOICES[choice] for name in names])
        kept = [name for name, mine in zip(names, self.mine, strict=True) if mine]
        # A name of no image statistic puts the look among the answers.
        self.names = tuple(n.replace("image:", "seen:") if choice == ONE_DISTANCE else n for n in kept)

    def reference(self, values: np.ndarray) -> DriftReference:
        return DriftReference.of_statistics(self.names, values[:, self.mine])

    def curve(self, reference: DriftReference, name: str, seen: Seen) -> Curve:
        detector, curve = DriftDetector(reference, POLICY, name=name), Curve(name=name)
        for index, time_s, values in seen:
            statistics = FrameStatistics(names=self.names, values=values[self.mine])
            state = detector.update(statistics, time_s)
            if state is not None:
                words = tuple(cause.words for cause in detector.causes())
                point = Point(
                    index=index,
                    time_s=time_s,
                    score=state.score,
                    parts=state.parts,
                    alarm=state.alarm,
                    causes=words,
                )
                curve.points.append(point)
        return curve


def watch(segmenter: Segmenter, stream: Stream, costs_ms: list[float]) -> tuple[Seen, dict[str, float]]:
    """The statistics of the frames that a detector would look at, and the mean IoU of each part."""
    seen: Seen = []
    confusions: dict[str, Any] = {}
    classes, latest = len(segmenter.classes), -np.inf
    for index in range(stream.length):
        time_s = index / stream.fps
        if time_s - latest < POLICY.sample_s - 1e-6:
            continue
        latest = time_s
        prediction = segmenter.predict(stream.frame(index))
        started = time.perf_counter()
        values = FrameStatistics.of(prediction).values
        costs_ms.append(1e3 * (time.perf_counter() - started))
        seen.append((index, time_s, values))
        if stream.label is not None:
            part = stream.changes[index * len(stream.changes) // stream.length]
            counts = confusion_matrix(stream.label(index), prediction.labels, classes)
            confusions[part] = confusions.get(part, 0) + counts
    return seen, {part: round(100 * mean_iou(counts), 1) for part, counts in confusions.items()}


def spread(values: np.ndarray, count: int = REFERENCE_FRAMES) -> np.ndarray:
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]


def own_roads(chosen: Chosen, drives: np.ndarray, values: np.ndarray, val: Seen) -> dict[str, Any]:
    """False alarms where nothing drifted: stretches of the target's drives that a reference was made without,
    with a gap of ten frames on both sides, and whole drives that it was made without. A frame is a second."""
    stretches, everywhere = [], np.arange(len(values))
    for block in np.array_split(everywhere, 12):
        apart = (everywhere < block[0] - 10) | (everywhere > block[-1] + 10)
        reference = chosen.reference(spread(values[apart]))
        stretches.append(chosen.curve(reference, "block", [(i, float(i), values[i]) for i in block]))
    points = [point.score for curve in stretches for point in curve.points]
    result: dict[str, Any] = {
        "stretches": {
            "windows": len(points),
            "above": round(float(np.mean(np.array(points) > 1)), 4),
            "alarms": sum(len(curve.alarms) for curve in stretches),
            "minutes": round(len(values) / 60, 1),
            "highest": round(max(points), 2),
        }
    }
    for drive in np.unique(drives).tolist():
        reference = chosen.reference(spread(values[drives != drive]))
        left_out = [(i, float(i), row) for i, row in enumerate(values[drives == drive])]
        curve = chosen.curve(reference, drive, left_out)
        scores = [point.score for point in curve.points]
        result[f"without {drive}"] = {
            "drive_above": round(float(np.mean(np.array(scores) > 1)), 3),
            "drive_highest": round(max(scores), 2),
            "drive_alarms": len(curve.alarms),
            "val": summary(chosen.curve(reference, "val", val), None),
        }
    return result


def summary(curve: Curve, onset: int | None) -> dict[str, Any]:
    """Highest score, and when the alarm came: ``delay`` in frames since the onset, None if it never came."""
    highest = max((point.score for point in curve.points), default=None)
    start = onset or 0
    alarms = [point.index for point in curve.alarms]
    return {
        "highest": None if highest is None else round(highest, 2),
        "false_alarms": sum(index < start for index in alarms) if onset is not None else len(alarms),
        "delay": next((index - start for index in alarms if index >= start), None),
    }


def drive_of(train: Dataset, segmenter: Segmenter, drives: np.ndarray, drive: str) -> Stream:
    """The images of one drive, one a second. Their labels tell how the model does there, and nothing else."""
    mine, labelled = np.flatnonzero(drives == drive), train.with_classes(segmenter.classes)
    return Stream(
        drive,
        1.0,
        len(mine),
        lambda i: np.ascontiguousarray(train.image(int(mine[i]))[..., ::-1]),
        lambda i: labelled.label(int(mine[i])),
        changes=(drive,),
    )


def streams(val: Dataset, classes: Any, video: Path) -> list[Stream]:
    labelled = val.with_classes(classes)
    frames = [np.ascontiguousarray(labelled.image(i)[..., ::-1]) for i in range(len(val))]
    labels = [labelled.label(i) for i in range(len(val))]
    plain = ("as it is", None)
    steps = [(f"gain {gain:g}", darkened(gain) if gain < 1 else None) for gain in STEPS]
    source = VideoSource(video)
    info = source.info
    drive = [frame.image for frame in source.frames() if frame.image is not None]
    sudden = [
        changed_from(title, frames, labels, [plain, (title, change), (title, change)], 15.0)
        for title, change in CHANGES.items()
    ]
    return [
        changed_from("val", frames, labels, [plain], 15.0),
        Stream("highway", info.fps, len(drive), lambda i: drive[i], onset=0),
        changed_from("darkening", frames, labels, steps, 15.0),
        *sudden,
    ]


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="CamVid, as cpsl-adapt takes it.")
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--video", type=click.Path(path_type=Path), required=True, help="A drive somewhere else.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--overwrite", is_flag=True)
def main(
    model: Path, data: str, data_root: Path | None, video: Path, output: Path, threads: int, overwrite: bool
) -> None:
    """Measure MODEL, which gives labels, confidence and logits."""
    began, costs_ms = time.monotonic(), []
    cv2.setNumThreads(threads)
    folder = new_output_folder(output, overwrite=overwrite)
    train, val = (open_dataset(data, split, root=data_root, role="target") for split in ("train", "val"))
    drives = np.array([Path(name).name[:6] for name in train.names])
    results: dict[str, Any] = {}
    with cpsl_deploy.load(model, backend="onnxruntime", threads=threads) as segmenter:
        names = names_of(segmenter)
        own = {
            drive: watch(segmenter, drive_of(train, segmenter, drives, drive), costs_ms)
            for drive in dict.fromkeys(drives.tolist())
        }
        played = streams(val, segmenter.classes, video)
        watched = {stream.name: watch(segmenter, stream, costs_ms) for stream in played}
        described = segmenter.describe()
    values = np.array([row for seen, _ in own.values() for *_, row in seen])
    curves: dict[str, list[Curve]] = {}
    for choice in CHOICES:
        chosen = Chosen(choice, names)
        reference = chosen.reference(spread(values))
        curves[choice] = [chosen.curve(reference, s.name, watched[s.name][0]) for s in played]
        results[choice] = {
            "own_roads": own_roads(chosen, drives, values, watched["val"][0]),
            "streams": {
                s.name: summary(curve, s.onset) for s, curve in zip(played, curves[choice], strict=True)
            },
            "bytes": len(reference.to_json()),
        }
    facts = {
        "machine": vars(describe_machine()) | {"gpus": []},
        "versions": package_versions(),
        "model": described | {"model": Path(described["model"]).name},
        "policy": vars(POLICY),
        "reference_frames": REFERENCE_FRAMES,
        "mean_iou_of_drives": {drive: scores[drive] for drive, (_, scores) in own.items()},
        "mean_iou": {stream.name: watched[stream.name][1] for stream in played if stream.label},
        "statistics_ms": {
            "median": round(float(np.median(costs_ms)), 3),
            "p99": round(float(np.percentile(costs_ms, 99)), 3),
        },
        "choices": results,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(folder / "drift.json", facts)
    write_text(folder / "drift.md", table(results, facts["mean_iou"], played))
    for choice, name in ((SHIPPED[0], "labels"), (SHIPPED[-1], "all")):
        first = [curve for curve in curves[choice] if curve.name in ("val", "highway", "darkening")]
        write_plot(first, folder / f"drift-{name}.png", title=f"Statistics: {choice}")
        sudden = [
            curve
            for curve in curves[choice]
            if curve.name in ("gain 0.45", "fog 60 %", "blur 4 px", "noise 25", "rain 1200")
        ]
        write_plot(sudden, folder / f"drift-{name}-sudden.png", title=f"Statistics: {choice}")
    click.echo(
        json.dumps(
            {"output": str(folder), "seconds": facts["seconds"], "statistics_ms": facts["statistics_ms"]}
        )
    )


def table(results: dict[str, Any], scores: dict[str, dict[str, float]], played: list[Stream]) -> str:
    """Delays in frames, and rates on the target's own roads, for people."""
    lines = ["| stream | mIoU | " + " | ".join(results) + " |", "|---|---|" + "---|" * len(results)]
    for stream in played:
        cells = []
        for result in results.values():
            one = result["streams"][stream.name]
            late = "no alarm" if one["delay"] is None else f"{one['delay']}"
            cells.append(f"{late} ({one['highest']:.2f})")
        iou = scores.get(stream.name) or {}
        words = " / ".join(f"{value:g}" for value in iou.values()) or "-"
        lines.append(f"| {stream.name} | {words} | " + " | ".join(cells) + " |")
    for key in next(iter(results.values()))["own_roads"]:
        cells = []
        for result in results.values():
            one = result["own_roads"][key]
            share = one.get("above", one.get("drive_above"))
            cells.append(f"{100 * share:.1f} % above ({one.get('highest', one.get('drive_highest')):.2f})")
        lines.append(f"| own roads: {key} | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
