"""cpsl-run on a video against its stages, each alone with the machine to itself.

    python benchmarks/video_path.py MODEL VIDEO [--backend openvino] [--rounds 5] -o runs/video-path

A pipeline cannot be faster than its slowest stage, nor than the cores divided by the CPU time that all stages
need for a frame. Both limits are measured in the same rounds as the whole, and its fraction of each is told;
the lower one is the one that counts. Beside it: the same run with one inference at a time, and the loop that
most would write (OpenCV reads, resizes, blends and writes; one frame after the other). Writes
``video_path.json`` and ``video_path.md``; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from thread_times import TASKS, ThreadTimes

from cpsl_deploy.backend_names import BACKENDS, OPENVINO_PRECISIONS
from cpsl_deploy.command_line import Command
from cpsl_deploy.files import write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.run import run
from cpsl_deploy.segmenter import FrameBuffers, Segmenter, load
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.video_file import VideoWriter
from cpsl_deploy.sources.file_feed import FileFeed
from cpsl_deploy.sources.files import VideoSource
from cpsl_deploy.streams.options import StreamOptions
from cpsl_deploy.streams.result import StreamResult
from cpsl_deploy.streams.side_by_side import side_by_side

WHOLE, ONE, LOOP = "cpsl-run", "cpsl-run, one inference at a time", "a plain loop"
INFERENCE, INFERENCE_ONE = "inference", "inference, one at a time"
BESIDE_THE_LIMITS = (WHOLE, ONE, LOOP, INFERENCE_ONE)
PAUSE_S = 0.1
"""Before each measurement, so that no thread of the one before still runs."""


@dataclasses.dataclass
class Rates:
    """Of each round, frames a second and milliseconds of CPU time a frame."""

    fps: list[float] = dataclasses.field(default_factory=list)
    cpu_ms: list[float] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        low, fps, high = np.percentile(self.fps, [25, 50, 75])
        return {"fps": fps, "fps_low": low, "fps_high": high, "cpu_ms": float(np.median(self.cpu_ms))}


class Bench:
    """The whole and its stages on one video."""

    def __init__(self, model: Path, video: Path, frames: int, of_stages: int, how: dict[str, Any]) -> None:
        self.video, self.frames = VideoSource(video), frames
        self.model, self.how = model, how
        opened = load(model, **how)
        self.alone = load(opened.backend.origin, **self._as_opened(opened))
        # As `cpsl_deploy.run` opens it for this video.
        self.segmenters = side_by_side(opened, [FileFeed(video)], StreamOptions(), threads=None)
        self.first = [frame for _, frame in zip(range(of_stages), self.video.frames(), strict=False)]
        images = [frame.image for frame in self.first if frame.image is not None]
        self.prepared = [self.alone.prepare(image) for image in images]
        self.inferred = [self.alone.infer([one])[0] for one in self.prepared]
        self.predictions = [self.alone.finish(one) for one in self.inferred]
        self.overlays = [one.overlay() for one in self.predictions]
        self.rates: dict[str, Rates] = {}

    def _as_opened(self, opened: Segmenter) -> dict[str, Any]:
        return {**self.how, "backend": opened.backend.name, "device": opened.backend.device}

    def measure(self, rounds: int) -> None:
        """Every way and stage once a round, in an order that turns."""
        ways = {**self._wholes(), **self._stages()}
        for work in self._stages().values():  # warm up
            work()
        names = list(ways)
        for i in range(rounds):
            for name in (*names[i % len(names) :], *names[: i % len(names)]):
                time.sleep(PAUSE_S)
                self._began()
                done = ways[name]()
                rates = self.rates.setdefault(name, Rates())
                rates.fps.append(done / (time.perf_counter() - self._began_s))
                rates.cpu_ms.append(1e3 * (time.process_time() - self._began_cpu_s) / done)

    def _began(self, *_: object) -> None:
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()

    def _wholes(self) -> dict[str, Callable[[], int]]:
        wholes = {WHOLE: self.run, LOOP: self._loop}
        if len(self.segmenters) > 1:
            wholes[ONE] = self._run_one
        return wholes

    def _stages(self) -> dict[str, Callable[[], int]]:
        stages = {
            "decoding": self._decode,
            "preparing": self._prepare,
            INFERENCE: self._infer,
            "labels": self._finish,
            "drawing": self._draw,
            "encoding": self._encode,
            "areas.jsonl": self._areas,
        }
        if len(self.segmenters) > 1:
            stages[INFERENCE_ONE] = self._infer_one
        return stages

    def run(self) -> int:
        """As the command does it, from the moment on when the model is loaded and the video opened."""
        return self._run(self.alone.backend.origin, **self._as_opened(self.alone))

    def _run_one(self) -> int:
        return self._run(self.alone)

    def _run(self, model: Any, **how: Any) -> int:
        options = StreamOptions(max_frames=self.frames)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            return run(model, self.video.path, out, options=options, started=self._began, **how).frames

    def _loop(self) -> int:
        """What most would write, with the session's defaults: the model file is the same."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.alone.backend.origin, providers=["CPUExecutionProvider"])
        palette = np.array(self.alone.spec.palette, np.uint8)[:, ::-1]
        size = self.prepared[0].image.shape[1::-1]
        swap = self.alone.contract.colour_order == "RGB"
        capture = cv2.VideoCapture(str(self.video.path))
        with tempfile.TemporaryDirectory() as folder, open(Path(folder, "areas.jsonl"), "w") as lines:
            height, width = self.overlays[0].shape[:2]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(Path(folder, "out.mp4")), codec, self.video.fps, (width, height))
            done = 0
            while done < self.frames:
                read, frame = capture.read()
                if not read:
                    break
                image = cv2.resize(frame, size)
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if swap else image
                labels = session.run(["labels"], {"image": image[None]})[0][0]
                labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
                writer.write(cv2.addWeighted(frame, 0.5, palette[labels], 0.5, 0))
                shares = np.bincount(labels.ravel(), minlength=len(palette)) / labels.size
                lines.write(json.dumps({"frame": done, "areas": shares.tolist()}) + "\n")
                done += 1
            writer.release()
        return done

    def _decode(self) -> int:
        return sum(1 for _ in zip(range(4 * len(self.first)), self.video.frames(), strict=False))

    def _prepare(self) -> int:
        buffers = FrameBuffers()
        for prediction in self.predictions:
            self.alone.prepare(prediction.frame, buffers=buffers)
        return len(self.predictions)

    def _infer(self) -> int:
        def every(place: int) -> None:
            for one in self.prepared[place :: len(self.segmenters)]:
                self.segmenters[place].infer([one])

        if len(self.segmenters) == 1:
            every(0)
        else:
            with ThreadPoolExecutor(len(self.segmenters)) as pool:
                list(pool.map(every, range(len(self.segmenters))))
        return len(self.prepared)

    def _infer_one(self) -> int:
        for one in self.prepared:
            self.alone.infer([one])
        return len(self.prepared)

    def _finish(self) -> int:
        for one in self.inferred:
            self.alone.finish(one)
        return len(self.inferred)

    def _draw(self) -> int:
        for prediction in self.predictions:
            prediction.overlay()
        return len(self.predictions)

    def _encode(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            size = self.overlays[0].shape[:2]
            with VideoWriter(Path(folder, "out.mp4"), size=size, fps=self.video.fps) as writer:
                for overlay in self.overlays:
                    writer.append(overlay)
        return len(self.overlays)

    def _areas(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            sink = AreasSink(folder)
            for frame, prediction in zip(self.first, self.predictions, strict=True):
                sink.write(StreamResult(frame=frame, prediction=prediction))
            sink.close()
        return len(self.predictions)


def limits(rates: dict[str, Rates], cores: float) -> dict[str, Any]:
    """Frames a second that nothing can exceed, and the whole's fraction of them, round by round."""
    stages = {name: one for name, one in rates.items() if name not in BESIDE_THE_LIMITS}
    slowest = min(stages, key=lambda name: float(np.median(stages[name].fps)))
    whole = np.array(rates[WHOLE].fps)
    of_stage = np.array(stages[slowest].fps)
    of_cores = 1e3 * cores / np.sum([one.cpu_ms for one in stages.values()], axis=0)
    return {
        "slowest_stage": {"name": slowest, **fraction(whole, of_stage)},
        "cores": {"cores": cores, **fraction(whole, of_cores)},
        "both": fraction(whole, np.minimum(of_stage, of_cores)),
    }


def fraction(whole: np.ndarray, limit: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(whole / limit, [25, 50, 75])
    return {"fps": float(np.median(limit)), "fraction": middle, "low": low, "high": high}


def markdown(record: dict[str, Any]) -> str:
    found = record["limits"]
    rows = "\n".join(
        f"| {name} | {one['fps']:.1f} | {one['fps_low']:.1f} to {one['fps_high']:.1f} | {one['cpu_ms']:.2f} |"
        for name, one in record["rates"].items()
    )
    stage, cores, both = found["slowest_stage"], found["cores"], found["both"]
    threads = "\n".join(
        f"| {name} | {one['cpu']:.2f} | {one['waited']:.2f} |" for name, one in record["threads"].items()
    )
    ratios = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in record["ratios"].items())
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    height, width = record["size"]
    return f"""# cpsl-run on a video

{record["video"]}, {width}x{height}, {record["frames"]} frames a round, {record["rounds"]} rounds, stages on
{record["stage_frames"]} of them; {record["model"]}, {record["precision"]}, {record["backend"]},
{record["inferences"]} inferences at the same time. Frames a second are medians with their quartiles,
milliseconds are of CPU time.

| | frames/s | quartiles | CPU ms a frame |
| --- | --- | --- | --- |
{rows}

Limits: {stage["name"]} alone {stage["fps"]:.1f} frames/s, of which cpsl-run reaches {stage["fraction"]:.2f}
({stage["low"]:.2f} to {stage["high"]:.2f}); {cores["cores"]:g} cores by the CPU time of all stages
{cores["fps"]:.1f}, {cores["fraction"]:.2f} ({cores["low"]:.2f} to {cores["high"]:.2f}).
Of the lower of the two in each round it reaches {both["fraction"]:.2f}.
cpsl-run is {ratios}.

## By thread, a run of its own

| thread | CPU ms a frame | ms that it waited for a core |
| --- | --- | --- |
{threads}

## Machine

{machine["cpu"]}, {machine["usable_cores"]:g} cores usable; {machine["os"]}. {versions}.
"""


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["auto", *BACKENDS]), default="onnxruntime", show_default=True)
@click.option("--precision", type=click.Choice(OPENVINO_PRECISIONS), help="Of openvino.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--frames", type=click.IntRange(8), default=120, show_default=True, help="Of the whole.")
@click.option("--stage-frames", type=click.IntRange(4), default=24, show_default=True, help="Of each stage.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/video-path"))
def main(
    model: Path,
    video: Path,
    backend: str,
    precision: str | None,
    rounds: int,
    frames: int,
    stage_frames: int,
    output: Path,
) -> None:
    """cpsl-run on VIDEO with MODEL against its stages."""
    machine = describe_machine()
    bench = Bench(model, video, frames, stage_frames, {"backend": backend, "precision": precision})
    with ExitStack() as stack:
        for segmenter in (bench.alone, *bench.segmenters):
            stack.enter_context(segmenter)
        bench.measure(rounds)
        threads = {}
        if TASKS.is_dir():
            with ThreadTimes() as times:
                done = bench.run()
            threads = times.table(done)
    whole = np.array(bench.rates[WHOLE].fps)
    record = {
        "model": model.name,
        "precision": bench.alone.contract.precision,
        "backend": " ".join(filter(None, (bench.alone.backend.name, precision))),
        "inferences": len(bench.segmenters),
        "video": video.name,
        "size": bench.video.info.size,
        "frames": frames,
        "stage_frames": stage_frames,
        "rounds": rounds,
        "rates": {name: rates.to_json() for name, rates in bench.rates.items()},
        "limits": limits(bench.rates, machine.usable_cores),
        "ratios": {
            name: float(np.median(whole / np.array(bench.rates[name].fps)))
            for name in (ONE, LOOP)
            if name in bench.rates
        },
        "threads": threads,
        "machine": dataclasses.asdict(machine),
        "versions": package_versions(),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "video_path.json", record)
    write_text(output / "video_path.md", markdown(record))
    told = {name: record[name] for name in ("model", "backend", "inferences", "rates", "limits", "ratios")}
    print(json.dumps(told, default=float))


if __name__ == "__main__":
    main()
