"""cpsl-bench: latency, accuracy, limits and per-class figures of an exported model."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..backend_names import BACKENDS, DEVICES, OPENVINO_PRECISIONS
from ..command_line import CommandWithOthers, parse_size
from ..errors import InputError


def _compare() -> click.Command:
    from .comparison.command import compare

    return compare


def _report() -> click.Command:
    from .report_command import report

    return report


@click.command(
    cls=CommandWithOthers,
    others={"compare": _compare, "report": _report},
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="cpsl-bench compare A.json B.json: what changed between two records, and is it a regression? "
    "cpsl-bench report bench.json: the pages again. Each has --help.",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", metavar="TARGET", help="Dataset: a name, a folder, a YAML file. Synthetic frames without."
)
@click.option("--split", help="Which part of the data.  [default: val, or the only one]")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the data's files are.")
@click.option("--frames", type=int, help="Frames to measure.  [default: all of the split; 100 synthetic]")
@click.option("--warm-up", type=int, help="Frames run before and discarded.  [default: until it is steady]")
@click.option("--size", metavar="HxW", help="Size of synthetic frames.  [default: the model's]")
@click.option("--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), help="[default: cuda where TensorRT runs, else cpu]")
@click.option("--threads", type=int, help="Inference threads.  [default: the backend's choice]")
@click.option(
    "--precision", type=click.Choice(OPENVINO_PRECISIONS), help="Of openvino alone.  [default: f32]"
)
@click.option("--quick", is_flag=True, help="Latency and accuracy alone, without boundary scores.")
@click.option("--cold-starts", type=int, help="Fresh processes that load the model.  [default: 3]")
@click.option("--sweep-sizes", metavar="HxW,...", help="Frame sizes to measure, with every batch.")
@click.option("--sweep-batches", metavar="N,...", help="Batches to measure, with every frame size.")
@click.option(
    "--variants", is_flag=True, help="In every library and precision, of a run in torch, too: minutes."
)
@click.option("--boundary-pixels", type=int, help="How far from a boundary is still on it.  [default: 3]")
@click.option("--stream-fps", type=float, help="Frames a second of a source in streams.  [default: 25]")
@click.option("--stream-seconds", type=float, help="Of each stream; 0 leaves them out.  [default: 5]")
@click.option("--max-age-ms", type=float, help="Search for the streams that keep this peak age, p99.")
@click.option("--sustain", type=float, metavar="MINUTES", help="Run so long, and read the machine's sensors.")
@click.option("--matrix-tflops", type=float, help="Rate of matrix products.  [default: measured]")
@click.option("--copy-gbs", type=float, help="Rate of memory, read and written.  [default: measured]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Output folder.  [default: bench-MODEL]"
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same name in the output folder.")
@click.option("--no-plot", is_flag=True, help="Leave the charts out; needs no matplotlib.")
def main(
    model: Path,
    data: str | None,
    data_root: Path | None,
    quick: bool,
    size: str | None,
    sweep_sizes: str | None,
    sweep_batches: str | None,
    sustain: float | None,
    output: Path | None,
    overwrite: bool,
    no_plot: bool,
    **given: Any,
) -> None:
    """Measure an exported MODEL: latency by stage and class, accuracy where --data has labels, its limits.

    Writes bench.json (every sample), bench.md, bench.html and bench.png into the output folder. The last line
    on standard output is one JSON document with the headline figures.
    """
    from ..files import new_output_folder
    from .report import require_matplotlib, write_report
    from .runner import benchmark, model_file
    from .settings import QUICK
    from .terminal import FrameProgress, show

    path = model_file(model)
    settings: dict[str, Any] = dict(QUICK) if quick else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    settings |= {
        "size": parse_size(size) if size else None,
        "sweep_sizes": tuple(parse_size(one) for one in sweep_sizes.split(",")) if sweep_sizes else (),
        "sweep_batches": _numbers(sweep_batches) if sweep_batches else (),
        "sustain_minutes": sustain,
    }
    if not no_plot:
        require_matplotlib()
    place = output or Path(f"bench-{path.stem}")
    own = not place.exists()
    folder = new_output_folder(place, overwrite=overwrite)
    with _nothing_kept_if_interrupted(folder if own else None), FrameProgress() as progress:
        result = benchmark(model, data, data_root=data_root, command=_typed(), progress=progress, **settings)
    paths = write_report(result, folder, overwrite=True, plot=not no_plot)
    show(result, paths)


@contextlib.contextmanager
def _nothing_kept_if_interrupted(own: Path | None) -> Iterator[None]:
    """A record is whole or not at all, and ``own``, a folder made for it, goes with it."""
    try:
        yield
    except BaseException as error:
        if own is not None:
            with contextlib.suppress(OSError):  # somebody put something into it
                own.rmdir()
        if isinstance(error, KeyboardInterrupt) and not error.args:
            error.args = (
                "Nothing was written: give the same command again, with --quick or fewer --frames for less.",
            )
        raise


def _typed() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _numbers(text: str) -> tuple[int, ...]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise InputError(f"batches are whole numbers with commas between them, for example 1,4; got {text!r}")
    return tuple(int(part) for part in text.split(","))
