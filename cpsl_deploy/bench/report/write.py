"""A benchmark as files: bench.json with every sample, bench.md, bench.html and bench.png to read."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...files import new_output_folder, write_text
from ..record import DAMAGE, Record, damaged
from .canvas import require_matplotlib
from .charts import write_overview
from .html import html_document
from .markdown import markdown


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where the files of a benchmark are."""

    json: Path | None
    """None if the record was there before, and only its report was made."""
    markdown: Path
    html: Path
    plot: Path | None
    """None if no plot was wanted."""

    def as_dict(self) -> dict[str, str]:
        """What was written by its kind, as text."""
        named = {"json": self.json, "markdown": self.markdown, "html": self.html, "plot": self.plot}
        return {kind: str(path) for kind, path in named.items() if path is not None}


class HasRecord(Protocol):
    """What a record can be had from: a BenchmarkResult."""

    def to_json(self) -> dict[str, Any]: ...


def write_report(
    result: HasRecord | Record,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    plot: bool = True,
) -> ReportPaths:
    """Write the record and the report of a benchmark into a folder, each file whole or not at all.

    Raises OutputError for a folder that is not empty without ``overwrite``, or cannot be written;
    MissingExtraError for ``plot``, that is any chart, without matplotlib.
    """
    if plot:
        require_matplotlib()
    record = result if isinstance(result, dict) else result.to_json()
    place = new_output_folder(folder, overwrite=overwrite)
    write_text(place / "bench.json", record_text(record))
    return _write(record, place, json=place / "bench.json", plot=plot)


def render_report(
    record: Record,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    plot: bool = True,
    origin: str = "the record",
) -> ReportPaths:
    """Write the report of a record that exists: all of `write_report` but bench.json.

    ``origin``: the record's file, for errors. Raises as `write_report` does, and InputError for a record that
    is not what its schema says.
    """
    if plot:
        require_matplotlib()
    place = new_output_folder(folder, overwrite=overwrite)
    try:
        return _write(record, place, json=None, plot=plot)
    except DAMAGE as error:
        raise damaged(origin, error) from error


def record_text(record: Record) -> str:
    """A record as indented JSON with every list of figures on one line. Raises ValueError for NaN."""
    text = json.dumps(record, indent=1, allow_nan=False)
    # A line break is never inside a string of JSON: what stands between them is structure.
    return re.sub(r"\[\n\s+([^][{}]*?)\n\s*\]", lambda found: f"[{_one_line(found[1])}]", text) + "\n"


def _one_line(values: str) -> str:
    return re.sub(r"\n\s*", " ", values)


def _write(record: Record, place: Path, *, json: Path | None, plot: bool) -> ReportPaths:
    paths = ReportPaths(
        json=json,
        markdown=place / "bench.md",
        html=place / "bench.html",
        plot=place / "bench.png" if plot else None,
    )
    documents = {
        paths.markdown: markdown(record, plot_name=paths.plot.name if paths.plot else None),
        paths.html: html_document(record, charts=plot),
    }
    if paths.plot:
        write_overview(record, paths.plot)
    for path, text in documents.items():
        write_text(path, text)
    return paths
