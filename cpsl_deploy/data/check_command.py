"""cpsl-check: what this machine can do, and what is wrong with a dataset, before a long run finds out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command_line import Command
from ..errors import DataError

if TYPE_CHECKING:
    from .check_report import CheckReport

_SHEET_IMAGES = 15


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", required=False)
@click.option("--split", "splits", multiple=True, help="May be repeated.  [default: every split]")
@click.option("--root", type=click.Path(path_type=Path), help="Where the files of a name or YAML file are.")
@click.option("--classes", help="Check in this class space: cityscapes-19, -16, -13, or names: road,car.")
@click.option("--fast", is_flag=True, help="Read about 16 images of each split only, as cpsl-adapt does.")
@click.option("--frames", type=int, help="Sampled from a video.  [default: 500]")
@click.option(
    "--hold-out", type=float, metavar="SECONDS", help="Of a video: its split val.  [default: a tenth]"
)
@click.option("--cache", type=click.Path(path_type=Path), help="Where frames of a video are kept.")
@click.option("--workers", type=click.IntRange(1), help="Threads that read.  [default: one per core]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder.  [default: check-NAME]")
@click.option("--overwrite", is_flag=True, help="Replace files of the same name in the output folder.")
@click.pass_context
def main(
    ctx: click.Context,
    data: str | None,
    splits: tuple[str, ...],
    root: Path | None,
    classes: str | None,
    fast: bool,
    frames: int | None,
    hold_out: float | None,
    cache: Path | None,
    workers: int | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Check DATA: gta5, synthia, cityscapes, demo-source, demo-target, or a folder, a video, a YAML file.

    Reads every image and label and reports what is wrong, sizes and class shares; check.json and a contact
    sheet per split go into the output folder. Without DATA it describes the environment instead.

    Exit code 2 if there are errors, after all of them are printed; 0 with warnings alone.
    """
    # Here, so that the help costs no decoder and no rich.
    from rich.console import Console

    from ..classes import parse_class_space
    from ..files import new_output_folder, write_json
    from ..overlay import write_image
    from .check import check_dataset, evenly_spaced
    from .check_report import failed_report
    from .check_sheet import dataset_sheet
    from .check_terminal import ReadingProgress, show_environment, show_report
    from .environment import describe_environment
    from .footage import DEFAULT_FRAMES
    from .open import open_dataset

    console = Console()
    if data is None:
        show_environment(console, describe_environment(), output, overwrite)
        return
    space = parse_class_space(classes) if classes else None
    splits = splits or _default_splits(data, root, hold_out)
    folder = new_output_folder(output or Path(f"check-{Path(data).stem}"), overwrite=overwrite)
    reports: list[CheckReport] = []
    for split in splits:
        try:
            with ReadingProgress(f"frames of {Path(data).name}", "frames") as sampling:
                dataset = open_dataset(
                    data,
                    split,
                    root=root,
                    class_space=space,
                    cache=cache,
                    frames=DEFAULT_FRAMES if frames is None else frames,
                    hold_out_s=hold_out,
                    progress=sampling,
                )
        except DataError as error:
            report = failed_report(Path(data).stem, split, error)
        else:
            with ReadingProgress(split, "images") as progress:
                report = check_dataset(dataset, fast=fast, workers=workers, progress=progress)
            sheet = dataset_sheet(dataset, report, evenly_spaced(len(dataset), _SHEET_IMAGES))
            write_image(folder / f"{split}.png", sheet)
            for words in dataset.footage.words() if dataset.footage is not None and not reports else ():
                console.print(words, highlight=False, markup=False, soft_wrap=True)
        reports.append(report)
        show_report(console, report)
    write_json(folder / "check.json", [report.to_dict() for report in reports])
    errors = sum(len(report.errors) for report in reports)
    warnings = sum(len(report.problems) for report in reports) - errors
    click.echo(f"{errors} errors, {warnings} warnings; contact sheets and check.json: {folder}")
    if errors:
        ctx.exit(2)


def _default_splits(data: str, root: Path | None, hold_out: float | None) -> tuple[str, ...]:
    """Every split, less one that only holds the others again."""
    from .open import dataset_splits

    splits = dataset_splits(data, root=root, hold_out_s=hold_out)
    return tuple(split for split in splits if split != "all") or splits


if __name__ == "__main__":
    main()
