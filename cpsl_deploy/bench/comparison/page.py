"""A comparison of two records as tables: a Markdown document, and cells for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..report.formats import milliseconds, number, percent, plural, size_in_bytes
from ..report.markdown import escaped
from .compare import ComparedRow, Comparison

COLUMNS = ("figure", "unit", "A", "B", "change", "p", "verdict")
_ORDER = ("regression", "undecided", "worse", "better")


def markdown(found: Comparison) -> str:
    """The whole document: what changed first, then every row."""
    parts = [f"# {escaped(found.a)} (A) and {escaped(found.b)} (B)", f"**{escaped(summary(found))}**"]
    if found.differences:
        parts += ["Measured under other conditions:", _items(found.differences)]
    if rows := changed(found):
        parts += ["## What changed", _table(rows)]
    parts += ["## Every figure", _table(found.rows), escaped(legend(found), keep="*")]
    if found.notes:
        parts += ["## Notes", _items(found.notes)]
    return "\n\n".join(parts) + "\n"


def summary(found: Comparison) -> str:
    """Whether it regressed, and what could not be decided, in a sentence or two."""
    names, open_names = (", ".join(row.name for row in rows) for rows in (found.regressions, found.undecided))
    if found.regressions:
        said = f"{plural(len(found.regressions), 'regression')}: {names}."
    else:
        said = "No regression was shown." if found.undecided else "No regression."
    if found.undecided:
        said += f" {len(found.undecided)} undecided (beyond a limit, not shown to be more than chance): "
        said += f"{open_names}."
    return said


def changed(found: Comparison) -> list[ComparedRow]:
    """The rows with a difference, regressions first."""
    rows = [row for row in found.rows if row.verdict in _ORDER]
    return sorted(rows, key=lambda row: _ORDER.index(row.verdict))


def legend(found: Comparison) -> str:
    """What the verdicts mean."""
    limit = f"{100 * found.max_regression:g} %"
    drop = found.max_iou_drop
    points = "" if drop is None else f", or by more than {100 * drop:g} percentage points"
    return (
        f"Rows with a star can fail a comparison: with a time more than {limit} longer, or a share smaller "
        f"by more than {limit} of itself{points}, and only if p, adjusted for all such rows of its kind, is "
        f"{found.level:g} or less; beyond a limit with a larger p, or one that cannot be relied on, they are "
        "undecided. The p of rows without a star are not adjusted. The test is of two runs, not of two "
        "programs: another hour or load is a difference, too. Figures without p have no samples to test: "
        "better or worse there is beyond the same limit, and may be chance."
    )


def cells(row: ComparedRow) -> tuple[str, ...]:
    """A row in the columns of COLUMNS. Shares are in percent."""
    unit = {"share": "%", "bytes": "", "streams": ""}.get(row.unit, row.unit)
    return (
        row.name + (" *" if row.gates else ""),
        unit,
        _value(row.a, row.unit),
        _value(row.b, row.unit),
        _change(row),
        number(row.p, 4),
        row.verdict,
    )


def _value(value: float | None, unit: str) -> str:
    if unit == "share":
        return percent(value, 2)
    if unit == "bytes":
        return size_in_bytes(value)
    if unit in ("ms", "J"):
        return milliseconds(value)
    return number(value, 0 if unit == "streams" else 1)


def _change(row: ComparedRow) -> str:
    if row.change is None:
        return number(None)
    return f"{100 * row.change:+.2f} points" if row.unit == "share" else f"{100 * row.change:+.1f} %"


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _table(rows: Sequence[ComparedRow]) -> str:
    lines: list[tuple[str, ...]] = [COLUMNS, ("---", "---", "---:", "---:", "---:", "---:", "---")]
    lines += [tuple(map(escaped, cells(row))) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
