"""How old frames are when their labels are there, under a model that is too slow for its source.

    python benchmarks/frame_age.py MODEL VIDEO [--slower 4] [--seconds 20] [--sources 1]

The video is played in real time, several times over as several sources if asked for, through a model whose
inference is made ``--slower`` times as long as the source needs for a frame, by waiting out the rest. In the
policy ``latest`` the 99th percentile of the age must stay under twice the time of one inference; in
``lossless`` every frame must come, in order. The last line of standard output is one JSON document.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

import cpsl_deploy
from cpsl_deploy.segmenter import Inferred, Prepared, Segmenter
from cpsl_deploy.sources.files import VideoSource
from cpsl_deploy.streams.inbox import Policy


class Slowed(Segmenter):
    """A segmenter whose inference takes a given time at least."""

    inference_s = 0.0

    def infer(self, prepared: Sequence[Prepared]) -> list[Inferred]:
        started = time.perf_counter()
        inferred = super().infer(prepared)
        time.sleep(max(0.0, self.inference_s - (time.perf_counter() - started)))
        return inferred


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--slower", default=4.0, show_default=True, help="Than the source's time for a frame.")
@click.option("--seconds", default=8.0, show_default=True, help="Shorter than the video.")
@click.option("--sources", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(model: Path, video: Path, slower: float, seconds: float, sources: int, threads: int) -> None:
    """How old frames are under a model that is too slow, and that nothing is lost without a live source."""
    with cpsl_deploy.load(model, backend="onnxruntime", threads=threads) as opened:
        segmenter = Slowed(opened.backend, opened.origin)
        segmenter.inference_s = slower / VideoSource(video).fps
        latest = measure(segmenter, [video] * sources, "latest", seconds)
        segmenter.inference_s = 0.0
        lossless = measure(segmenter, [video] * sources, "lossless", None)
    print(json.dumps({"model": model.name, "video": video.name, "lossless": lossless, "latest": latest}))


def measure(
    segmenter: Slowed, videos: list[Path], policy: Policy, seconds: float | None
) -> dict[str, object]:
    """Play the video and look at what comes. Lossless runs read every frame of the video, once."""
    with cpsl_deploy.stream(videos, segmenter, policy=policy, max_seconds=seconds) as stream:
        stream.start()
        seen: dict[str, list[int]] = {}
        ages = []
        for result in stream:
            seen.setdefault(result.source, []).append(result.index)
            ages.append(result.age_ms)
        counted = stream.health()["sources"]
    inference_ms = 1e3 * segmenter.inference_s
    p50, p90, p99 = np.percentile(ages, [50, 90, 99])
    return {
        "sources": len(videos),
        "inference_ms": round(inference_ms, 1),
        "frames": {source["name"]: source["delivered"] for source in counted},
        "dropped": {source["name"]: source["dropped"] for source in counted},
        "in_order_and_once": all(indices == sorted(set(indices)) for indices in seen.values()),
        "gapless": all(indices == list(range(len(indices))) for indices in seen.values()),
        "age_ms": {
            "p50": round(p50, 1),
            "p90": round(p90, 1),
            "p99": round(p99, 1),
            "max": round(max(ages), 1),
        },
        "p99_over_inference": round(p99 / inference_ms, 2) if inference_ms else None,
    }


if __name__ == "__main__":
    main()
