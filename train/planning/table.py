"""A plan as text: a line per piece of work, what the whole needs, and what to know before believing it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from ..engine.progress import duration
from .planned import Plan, Work

_HEADINGS = ("work", "network", "count", "batch", "size", "s each", "min", "max", "memory", "time")
_WIDTH = 108
_LEFT = 2
"""Columns of words; the others are of numbers."""


def plan_text(plan: Plan) -> str:
    """The table, the totals and the notes, as lines of up to about 110 letters."""
    rows = [_row(work, plan.shrunk_by > 1) for work in plan.work]
    rows.append(("total", *[""] * 8, _time(plan.seconds)))
    return "\n".join([*_header(plan), "", *_aligned([_HEADINGS, *rows]), "", *_needs(plan), *_notes(plan)])


def _header(plan: Plan) -> Iterator[str]:
    recipe, machine = plan.recipe, plan.machine
    where = ", ".join(machine.gpus) if plan.device.startswith("cuda") else machine.cpu
    parts = f" in {recipe.compute.accumulate} parts" if recipe.compute.accumulate > 1 else ""
    yield f"plan of the recipe {recipe.name}: {recipe.compute.precision}{parts} on {plan.device} ({where})"
    yield (
        f"{machine.usable_cores:g} usable cores, {plan.threads} threads of torch {plan.torch_version}, "
        f"{recipe.compute.workers} making batches"
    )
    images = plan.images
    scored = f", {images.validation} to score on" if images.validation else ", none to score on"
    yield f"images: {images.source} of the source, {images.target} of the target{scored}"


def _row(work: Work, is_scaled: bool) -> tuple[str, ...]:
    low = high = each = "-"
    if work.each is not None and work.seconds_each is not None:
        each = _number(work.seconds_each)
        each = f"{'~' if is_scaled else ''}{each}{'' if work.each.warmed_up else '*'}"
        low, high = _number(min(work.each.seconds)), _number(max(work.each.seconds))
    return (
        work.name,
        work.network,
        f"{work.count} {'steps' if work.is_stage else 'images'}",
        str(work.batch) if work.batch is not None else "",
        f"{work.size[0]}x{work.size[1]}" if work.size is not None else "",
        each,
        low,
        high,
        size(work.memory_bytes) if work.memory_bytes is not None else "-" if work.is_stage else "",
        "does not fit" if work.does_not_fit else _time(work.seconds),
    )


def _needs(plan: Plan) -> Iterator[str]:
    measured = "not measured" if plan.memory_bytes is None else f"{size(plan.memory_bytes)} at most"
    bank = f" (the memory bank: {size(plan.bank_bytes)} of it)" if plan.bank_bytes else ""
    yield f"memory: {measured}{bank}; {size(plan.cache_bytes)} of images in RAM come on top"
    disk = plan.disk
    yield (
        f"disk:   {size(disk.needed)}: models {size(disk.models)}, checkpoints {size(disk.checkpoint)}, "
        f"soft labels {size(disk.soft_labels)}; {size(disk.free)} free"
    )


def _notes(plan: Plan) -> Iterator[str]:
    for twin in (work for work in plan.work if work.same_as):
        yield f"note: A step of {twin.name} costs what one of {twin.same_as} costs, and was not measured."
    for note in plan.notes:
        yield from textwrap.wrap(f"note: {note}", _WIDTH, subsequent_indent="      ")


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if i < _LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _number(seconds: float) -> str:
    """Three digits: ``0.0123``, ``1.23``, ``123``."""
    return f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    days = seconds / 86400
    return f"{days:.1f} days" if days >= 2 else duration(seconds)


def size(count: int) -> str:
    """``512 MiB`` or ``3.4 GiB``."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
