"""What smoothing in time earns and costs: flicker before and after, milliseconds, lag.

    python benchmarks/smoothing.py MODEL.onnx drive.mp4
    python benchmarks/smoothing.py MODEL.onnx drive.mp4 --smooth logits:0.3 --smooth majority:9 --every 4

The model must give logits (cpsl-export RUN --outputs logits). Flicker: share of pixels with another label in
the next frame, movement followed, as the report of an adaptation has it: less is steadier, not truer.
``changed``: share of pixels with another label
than the model gave. ``lag``: frames until nine tenths of an object are shown, 0 for at once; ``appears``: it
comes into view with its label; ``noticed``: it was in view all the time, and the model says so from one frame
on. The last line is one JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import cv2
import numpy as np

from cpsl_deploy import load
from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.command_line import Command
from cpsl_deploy.segmenter import Prediction
from cpsl_deploy.sources.video import VideoSource
from cpsl_deploy.streams.smoothing import Smoothing
from cpsl_deploy.train.reporting.flicker import Flicker, Movement

DEFAULTS = ("logits:0.6", "logits:0.3", "majority:3", "majority:5", "majority:9")
SHOWN = 0.9
_APPEARS_AT = 12


def with_object(
    frames: Sequence[np.ndarray], *, in_view_from: int, said_from: int
) -> Iterator[tuple[Prediction, np.ndarray]]:
    """Frames with a textured object, 64 pixels wide, that moves by (4, 1) pixels a frame, and what a model
    says: class 1 where it sees it, else 0, as clearly. Also where it is, bool (H, W)."""
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    texture = cv2.resize(texture, (64, 64), interpolation=cv2.INTER_LINEAR)
    classes = ClassSpace(("background", "object"))
    for index, frame in enumerate(frames):
        image, place = frame.copy(), np.zeros(frame.shape[:2], bool)
        top, left = 80 + index, 60 + 4 * index
        place[top : top + 64, left : left + 64] = True
        if index >= in_view_from:
            image[top : top + 64, left : left + 64] = texture
        labels = (place & (index >= said_from)).astype(np.uint8)
        logits = np.stack([1 - labels, labels]).astype(np.float32)
        yield (
            Prediction(
                labels=labels, classes=classes, timings_ms={}, frame=image, colour_order="BGR", logits=logits
            ),
            place,
        )


def lag(smoothing: Smoothing, frames: Sequence[np.ndarray], *, in_view_from: int) -> int | None:
    """Frames after the model's until `SHOWN` of the object is; None if it never is."""
    smoother = smoothing.start()
    found = with_object(frames, in_view_from=in_view_from, said_from=_APPEARS_AT)
    for index, (prediction, place) in enumerate(found):
        labels = smoother.apply(prediction, index, index / 25).labels
        if index >= _APPEARS_AT and labels[place].mean() >= SHOWN:
            return index - _APPEARS_AT
    return None


def of_all(flicker: Flicker) -> float:
    return round(100 * (flicker.of_all or 0.0), 3)


@click.command(cls=Command, help=__doc__)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--smooth", "wanted", multiple=True, default=DEFAULTS, help="Repeat for several.")
@click.option("--every", default=1, show_default=True, help="Use every n-th frame.")
@click.option("--frames", "most", default=1000, show_default=True, help="Frames at most.")
def main(model: Path, video: Path, wanted: tuple[str, ...], every: int, most: int) -> None:
    ways = {text: Smoothing.parse(text) for text in wanted}
    source = VideoSource(video)
    info = source.info
    images = [
        frame.image for frame in source.frames() if frame.image is not None and frame.index % every == 0
    ][:most]
    with load(model, backend="onnxruntime") as segmenter:
        smoothers = {
            text: way.start(align_corners=segmenter.spec.align_corners) for text, way in ways.items()
        }
        count = len(segmenter.classes)
        flickers = {text: Flicker(count) for text in ("none", *ways)}
        changed, spent = dict.fromkeys(ways, 0.0), {text: [] for text in ways}
        movement, before = Movement(), {}
        latency = []
        for index, image in enumerate(images):
            prediction = segmenter.predict(image)
            latency.append(prediction.latency_ms)
            now = {"none": prediction.labels}
            for text, smoother in smoothers.items():
                smoothed = smoother.apply(prediction, index * every, index * every / info.fps)
                now[text] = smoothed.labels
                spent[text].append(smoothed.timings_ms["smoothing"])
                changed[text] += float((smoothed.labels != prediction.labels).mean()) / len(images)
            if index:
                moved = movement.between(images[index - 1], image)
                for text, flicker in flickers.items():
                    flicker.add(before[text], now[text], moved)
            before = now
    found = {}
    for text, way in ways.items():
        found[text] = {
            "flicker_percent": of_all(flickers[text]),
            "changed_percent": round(100 * changed[text], 3),
            "ms": round(float(np.median(spent[text])), 2),
            "mean_lag_frames": round(way.lag_frames, 2),
            "lag_appears": lag(way, images[:40], in_view_from=_APPEARS_AT),
            "lag_noticed": lag(way, images[:40], in_view_from=0),
        }
        click.echo(f"{text:14s} " + "  ".join(f"{key} {value}" for key, value in found[text].items()))
    result = {
        "video": video.name,
        "frames": len(images),
        "every": every,
        "size": list(info.size),
        "model_ms": round(float(np.median(latency)), 2),
        "flicker_percent": of_all(flickers["none"]),
        "smoothed": found,
    }
    click.echo(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    main()
