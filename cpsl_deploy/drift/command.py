"""cpsl-drift: whether a model still fits what a camera sees."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..backend_names import BACKENDS, DEVICES, OPENVINO_PRECISIONS
from ..command_line import Command
from ..errors import InputError
from ..files import new_output_folder, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("frames", nargs=-1, type=str)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder; with --calibrate a file.  [default: drift-MODEL, reference.json]",
)  # fmt: skip
@click.option(
    "--reference", type=click.Path(path_type=Path), help="JSON file to use instead of the model's own."
)
@click.option(
    "--calibrate", metavar="PHOTOS", help="Make a reference of a folder or a video of the model's own roads."
)
@click.option("--photos", type=int, default=200, show_default=True, help="Of those at most, spread over all.")
@click.option("--false-alarms", type=float, default=0.01, show_default=True, help="Share of own windows.")
@click.option("--window", type=float, default=10.0, show_default=True, metavar="SECONDS")
@click.option("--hold", type=float, default=2.0, show_default=True, metavar="SECONDS", help="Until an alarm.")
@click.option(
    "--image-seconds", "image_s", type=float, default=1.0, show_default=True, help="That an image counts for."
)
@click.option("--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), help="[default: cuda where TensorRT runs, else cpu]")
@click.option("--threads", type=int, help="CPU threads of one inference.")
@click.option(
    "--precision", type=click.Choice(OPENVINO_PRECISIONS), help="Of openvino alone.  [default: f32]"
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--no-plot", is_flag=True, help="Leave drift.png out; needs no matplotlib.")
def main(
    model: Path,
    frames: tuple[str, ...],
    output: Path | None,
    reference: Path | None,
    calibrate: str | None,
    photos: int,
    false_alarms: float,
    window: float,
    hold: float,
    image_s: float,
    overwrite: bool,
    no_plot: bool,
    **runtime,
) -> None:
    """Score how far FRAMES are from what MODEL was adapted to.

    FRAMES are folders of images or video files, in the order of time. A score of 1 is the threshold. Writes
    drift.json and drift.png; the last line on standard output is one JSON document. The model file brings
    its reference along; --calibrate makes one for a file without.
    """
    if bool(frames) == bool(calibrate):
        raise InputError("name frames to score, or photos to calibrate on with --calibrate: one of the two")
    if calibrate:
        _calibrate(
            model, calibrate, output or Path("reference.json"), photos, false_alarms, overwrite, runtime
        )
        return
    _score(model, frames, output, reference, (window, hold, image_s), overwrite, not no_plot, runtime)


def _score(
    model: Path,
    references: tuple[str, ...],
    output: Path | None,
    reference_file: Path | None,
    seconds: tuple[float, float, float],
    overwrite: bool,
    plot: bool,
    runtime: dict,
) -> None:
    from ..segmenter import find_model, load
    from ..sources.files import open_source
    from .curve import drift_curve
    from .detector import DriftPolicy
    from .plot import require_matplotlib, write_plot
    from .sink import require_reference

    if plot:
        require_matplotlib()
    window_s, hold_s, image_s = seconds
    if not 0 < image_s <= 86400:
        raise InputError(f"an image counts for more than 0 seconds, at most a day; got {image_s}")
    policy = DriftPolicy(window_s=window_s, hold_s=hold_s)
    sources = [open_source(_recorded(text)) for text in references]
    with load(find_model(model), **runtime) as segmenter:
        reference = require_reference(segmenter, reference_file)
        folder = new_output_folder(output or Path(f"drift-{model.stem}"), overwrite=overwrite)
        curves = []
        with _Shown() as shown:
            for source in sources:
                curves.append(
                    drift_curve(
                        segmenter, reference, source, policy=policy, image_s=image_s,
                        progress=shown.of(source.name),
                    )
                )  # fmt: skip
        settings = {"model": segmenter.origin, "window_s": window_s, "hold_s": hold_s, "image_s": image_s}
    facts = {"false_alarms": reference.false_alarms, "reference_frames": reference.frames}
    headline = {**settings, **facts, "sources": [curve.summary() for curve in curves]}
    points = {"curves": [{"name": c.name, "points": [vars(p) for p in c.points]} for c in curves]}
    write_json(
        folder / "drift.json", {**headline, **points, "unreadable": [u for c in curves for u in c.unreadable]}
    )
    if plot:
        write_plot(
            curves, folder / "drift.png", title=f"{model.name}: drift scores, windows of {window_s:g} s"
        )
    for curve in curves:
        click.echo(_line(curve.summary()))
    click.echo(f"results: {folder}")
    click.echo(json.dumps(headline, separators=(",", ":")))


def _line(summary: dict) -> str:
    if summary["highest"] is None:
        return f"{summary['name']}: {summary['frames']} frames are too few for a window"
    if not summary["alarms"]:
        return f"{summary['name']}: no alarm, highest score {summary['highest']:.2f}"
    return (
        f"{summary['name']}: alarm from frame {summary['first_alarm_index']} on "
        f"({summary['first_alarm_s']:.1f} s), highest score {summary['highest']:.2f}: "
        f"{', '.join(summary['causes'])}"
    )


def _calibrate(
    model: Path, photos: str, output: Path, count: int, false_alarms: float, overwrite: bool, runtime: dict
) -> None:
    from ..errors import OutputError
    from ..segmenter import find_model, load
    from ..sources.files import open_source
    from .reference import DriftReference

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. Give --overwrite to replace it, or another name with -o.")
    source = open_source(_recorded(photos))
    images = _spread(source, count)
    with load(find_model(model), **runtime) as segmenter, _Shown() as shown:
        step = shown.of(source.name)
        reference = DriftReference.of(
            segmenter, images, false_alarms=false_alarms, progress=lambda done: step(done, count)
        )
    write_text(output, reference.to_json() + "\n")
    click.echo(
        f"{output}: {reference.frames} frames of {source.name}; about {100 * false_alarms:g} % of windows of "
        "such roads score above 1"
    )
    file, name = shlex.quote(str(output)), shlex.quote(str(model))
    click.echo(f"use it with: cpsl-run {name} INPUT --drift --drift-reference {file}")


def _recorded(text: str) -> str:
    """``text``, unless it names a live source. Raises InputError then."""
    from ..sources.reference import classify

    if not os.path.exists(text):
        source = classify(text)
        if source.live:
            raise InputError(
                f"{source.shown} is a live source, and cpsl-drift reads recorded footage; for live sources: "
                "cpsl-run MODEL SOURCE --drift"
            )
    return text


def _spread(source, count: int):
    """Up to ``count`` images of a source, at equal distances; those that cannot be read are left out."""
    import numpy as np

    from .reference import LEAST_FRAMES, MOST_FRAMES

    if not LEAST_FRAMES <= count <= MOST_FRAMES:
        raise InputError(f"--photos are {LEAST_FRAMES} to {MOST_FRAMES}; got {count}")
    total = source.count or count
    chosen = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    for frame in source.frames():
        if frame.index in chosen and frame.image is not None:
            yield frame.image


class _Shown:
    """A bar on standard error, if that is a terminal."""

    def __enter__(self) -> _Shown:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def of(self, name: str) -> Callable[[int, int | None], None]:
        task = self._bar.add_task(name, total=None)
        return lambda done, total: self._bar.update(task, completed=done, total=total)
