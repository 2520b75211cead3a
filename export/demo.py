"""The built-in demo: the whole job on generated streets, from two domains to a measured file on a video."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cpsl_deploy.run as running
from cpsl_deploy import bench
from cpsl_deploy.data.demo import DemoSettings, generate_demo
from cpsl_deploy.files import new_output_folder
from cpsl_deploy.train import adapt
from cpsl_deploy.train.engine.loop import SilentWatcher, Watcher
from cpsl_deploy.train.engine.processes import require_device
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.recipe import load_recipe
from cpsl_deploy.train.reporting.figures import require_matplotlib

from .exporter import export


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where the demo's results are, and its headline."""

    folder: Path
    results: dict[str, Any]
    """results.json of the run: a score per stage, and of the exported file."""
    report: Path
    model: Path
    video: Path
    bench: Path
    seconds: float

    @property
    def gain(self) -> float:
        """Points of mIoU, 0..100, that the adapted network is above the source-only one."""
        return 100 * (self.results["distillation_2"]["mean_iou"] - self.results["source_only"]["mean_iou"])


def demo(
    folder: str | os.PathLike[str] = "cpsl-demo",
    *,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    data: DemoSettings | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> DemoResult:
    """Generate two domains, adapt through all stages, export, segment the video, measure, report.

    ``folder`` is empty, or holds a demo of the same seed that was interrupted and is continued. ``seed`` is
    that of the training and of the pictures. ``settings`` replaces values of the recipe ``demo``, ``data``
    the size of the set. Raises OutputError for a folder that holds something else, and what the single steps
    raise.
    """
    began = time.perf_counter()
    watcher = watcher or SilentWatcher()
    folder = Path(folder)
    pictures, run = folder / "data", RunFolder(folder / "run")
    data = data or DemoSettings(seed=seed)
    # What is wrong is said before the pictures take their half minute.
    load_recipe("demo", {**(settings or {}), "seed": seed})
    require_device(device)
    require_matplotlib()
    if not pictures.exists():
        new_output_folder(folder, remedy="It holds no demo to go on with; choose another one with --output.")
    try:
        generate_demo(pictures, settings=data, progress=_shown(watcher))
        adapt(
            pictures / "rendered.yaml",
            pictures / "camera.yaml",
            run.path,
            recipe="demo",
            seed=seed,
            settings=settings,
            device=device,
            resume=run.recipe_file.is_file(),
            watcher=watcher,
        )
        model, video, report = _use(run, pictures, folder, watcher)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The same command goes on where it stopped. Folder: {folder}") from None
    return DemoResult(
        folder=folder,
        results=run.results(),
        report=run.report,
        model=model,
        video=video,
        bench=report,
        seconds=time.perf_counter() - began,
    )


def _use(run: RunFolder, pictures: Path, folder: Path, watcher: Watcher) -> tuple[Path, Path, Path]:
    """Export the adapted network, segment the video with the file and measure it: file, video, figures."""
    watcher.message("exporting, checking and scoring the exported file")
    model = export(run.path, overwrite=True).path
    watcher.message("segmenting the video")
    segmented = running.run(model, pictures / "drive.mp4", folder / "video", overwrite=True)
    video = next(path for path in segmented.files if path.suffix == ".mp4")
    watcher.message("measuring")
    measured = bench.benchmark(model, pictures / "camera.yaml", split="val")
    paths = bench.write_report(measured, folder / "bench", overwrite=True)
    return model, video, paths.markdown


def _shown(watcher: Watcher) -> Any:
    """Progress of the pictures as a stage of its own."""
    begun: list[int] = []

    def progress(done: int, total: int) -> None:
        if not begun and total:
            begun.append(total)
            watcher.stage("pictures", 0, total)
        watcher.step("pictures", done, {})

    return progress
