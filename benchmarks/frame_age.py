"""How old frames are when their labels are there, under a model that is too slow for its source.

    python benchmarks/frame_age.py MODEL VIDEO [--slower 4] [--seconds 20] [--sources 1]

The video is played in real time, several times over as several sources if asked for, through a model whose
inference is made ``--slower`` times as long as the source needs for a frame, by waiting out the rest. In the
policy ``latest`` the 99th percentile of the age must stay under twice the time of one inference; in
``lossless`` every frame must come, in order. The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import cpsl_deploy
from cpsl_deploy.segmenter import Inferred, Prepared, Segmenter
from cpsl_deploy.sources.files import VideoSource
from cpsl_deploy.streams.inbox import POLICIES


class Slowed(Segmenter):
    """A segmenter whose inference takes a given time at least."""

    inference_s = 0.0

    def infer(self, prepared: Sequence[Prepared]) -> list[Inferred]:
        started = time.perf_counter()
        inferred = super().infer(prepared)
        time.sleep(max(0.0, self.inference_s - (time.perf_counter() - started)))
        return inferred


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("--slower", type=float, default=4.0, help="than the source's time for a frame")
    parser.add_argument("--seconds", type=float, default=8.0, help="shorter than the video")
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with cpsl_deploy.load(arguments.model, threads=arguments.threads) as opened:
        segmenter = Slowed(opened.backend, opened.origin)
        results = {policy: measure(segmenter, policy, arguments) for policy in POLICIES}
    for policy, found in results.items():
        print(f"{policy}: {json.dumps(found)}")
    print(json.dumps({"model": Path(arguments.model).name, "video": Path(arguments.video).name, **results}))


def measure(segmenter: Slowed, policy: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Play the video and look at what comes. Lossless runs read every frame of the video, once."""
    videos = [arguments.video] * arguments.sources
    fps = VideoSource(arguments.video).fps
    segmenter.inference_s = arguments.slower / fps if policy == "latest" else 0.0
    seconds = arguments.seconds if policy == "latest" else None
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
        "sources": arguments.sources,
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
