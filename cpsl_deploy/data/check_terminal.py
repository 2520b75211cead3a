"""What cpsl-check shows in the terminal: a bar while it reads, a dataset's report, this machine."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..backends.tensorrt_remedy import install_remedy
from ..files import new_output_folder, write_json
from .check_report import TAIL_SHARE, CheckReport
from .environment import Environment


class ReadingProgress:
    """A bar on standard error, from the first thing read on: how many, rate, time left."""

    def __init__(self, what: str, unit: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._what, self._unit = f"reading {escape(what)}", unit
        self._task: TaskID | None = None

    def __enter__(self) -> ReadingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None, rate="")
        speed = self._bar.tasks[self._task].speed
        rate = f"{speed:.0f} {self._unit}/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total or None, rate=rate)


def show_report(console: Console, report: CheckReport) -> None:
    read = "all read" if report.checked == report.images else f"{report.checked} read"
    labels = "with labels" if report.has_labels else "without labels"
    console.print(
        f"[bold]{escape(report.dataset)} {escape(report.split)}[/]: {report.images} images {labels}, {read}",
        highlight=False,
    )
    if report.sizes:
        listed = [f"{size} ({count})" for size, count in list(report.sizes.items())[:5]]
        more = f" and {len(report.sizes) - 5} other sizes" if len(report.sizes) > 5 else ""
        console.print(f"sizes, height x width: {', '.join(listed)}{more}", highlight=False)
    if report.classes:
        console.print(_class_table(report))
    for problem in report.problems:
        style = "red" if problem.severity == "error" else "yellow"
        console.print(
            f"[{style}]{problem.severity}[/]: {escape(problem.message)}", highlight=False, soft_wrap=True
        )
        for example in problem.examples:
            console.print(f"  {escape(example)}", highlight=False, soft_wrap=True)


def _class_table(report: CheckReport) -> Table:
    table = Table(
        "class", caption=f"ignored: {100 * report.ignored_share:.1f} % of all pixels", caption_justify="left"
    )
    table.add_column("share of labelled", justify="right")
    table.add_column("images", justify="right")
    table.add_column("")
    for known in report.classes:
        remark = (
            "" if not known.is_tail else f"tail (under {100 * TAIL_SHARE:g} %)" if known.images else "never"
        )
        table.add_row(escape(known.name), f"{100 * known.share:.2f} %", str(known.images), remark)
    return table


def show_environment(console: Console, found: Environment, output: Path | None, overwrite: bool) -> None:
    machine = found.machine
    memory = f", {machine.memory_gib} GiB memory" if machine.memory_gib else ""
    lines = [
        f"cpsl_deploy {found.cpsl_deploy}, Python {found.python}, {machine.os}",
        f"CPU: {machine.cpu}, {machine.cores} cores, {machine.usable_cores:g} usable{memory}",
        f"GPUs: {'; '.join(machine.gpus) or 'none listed by nvidia-smi'}; usable here: {found.usable_gpus}",
        "packages: " + ", ".join(f"{name} {version}" for name, version in found.packages.items() if version),
    ]
    if found.machine.jetson is not None:
        board, own = found.machine.jetson, (f"{name} from {at}" for name, at in found.places.items() if at)
        lines.append(f"Jetson: {board.board}, JetPack {board.jetpack}; {'; '.join(own) or 'no TensorRT'}")
    for extra, packages in found.missing.items():
        if extra == "trt" and found.machine.jetson is not None and found.places["tensorrt"]:
            continue  # JetPack's own, which no wheel is to replace
        install = f"Install: pip install 'cpsl_deploy[{extra}]'"
        if extra == "trt":
            install = install_remedy()
        lines.append(
            f"extra {extra}: {', '.join(packages)} missing. {install}"
            + (" after uninstalling onnxruntime" if extra == "gpu" and found.packages["onnxruntime"] else "")
        )
    if found.onnxruntime_providers:
        lines.append(
            f"ONNX Runtime lists {', '.join(found.onnxruntime_providers)}. Listed is what it was built for, "
            "not what works here; --device cuda starts the provider or is an error."
        )
    if found.packages["onnxruntime"] and found.packages["onnxruntime-gpu"]:
        lines.append(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: uninstall one."
        )
    codecs = [f"{name} {'yes' if works else 'no'}" for name, works in found.codecs.items()]
    lines.append(f"videos can be written: {', '.join(codecs)}")
    lines += [f"free disk in {folder}: {free} GiB" for folder, free in found.free_disk_gib.items()]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        path = new_output_folder(output, overwrite=overwrite) / "environment.json"
        write_json(path, found.to_dict())
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
