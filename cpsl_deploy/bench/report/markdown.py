"""A record as a Markdown document."""

from __future__ import annotations

import html
import re

from ..record import Record
from .headline import headline, subject
from .sections import Section, sections
from .tables import Table


def markdown(record: Record, *, plot_name: str | None = None) -> str:
    """The whole document; ``plot_name`` is the picture to show in it."""
    parts = [f"# Benchmark of {escaped(record['model']['name'])}"]
    parts.append("\n".join(f"- {term}: {escaped(words)}" for term, words in subject(record)))
    figures = [
        f"{f.title} **{f.value} {f.unit}**{f' ({f.detail})' if f.detail else ''}" for f in headline(record)
    ]
    parts.append("\n".join(f"- {escaped(line, keep='*')}" for line in figures))
    if record["notes"]:
        parts.append(
            "\n".join(["Before believing a figure:", "", *(f"- {escaped(n)}" for n in record["notes"])])
        )
    if plot_name:
        parts.append(f"![Latency by stage; IoU and latency by class]({plot_name})")
    for part in sections(record):
        parts += _section(part)
    return "\n\n".join(parts) + "\n"


def _section(part: Section) -> list[str]:
    lines = [f"## {part.title}"]
    if part.unavailable is not None:
        return [*lines, f"Not measured: {escaped(part.unavailable)}"]
    if part.alarm:
        lines.append(f"**{escaped(part.alarm)}**")
    if part.words:
        lines.append(escaped(" ".join(part.words)))
    for made in part.tables:
        lines.append(_table(made))
        if made.legend:
            lines.append(escaped(made.legend))
    return lines


def _table(made: Table) -> str:
    rule = ["---" if i < made.text_columns else "---:" for i in range(len(made.columns))]
    body = [[escaped(cell) for cell in row] for row in (made.columns, *made.rows)]
    lines = [body[0], rule, *body[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str, *, keep: str = "") -> str:
    """Text that Markdown shows as it is, in a table too; marks in ``keep`` stay marks."""
    marks = "".join(mark for mark in r"\`*[]|" if mark not in keep)
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(f"([{re.escape(marks)}])", r"\\\1", line)
