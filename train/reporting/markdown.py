"""Markdown and figures in words, as the report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(text: str, name: str) -> str:
    return f"![{text}]({name})"


def escaped(text: str) -> str:
    """Names from outside, shown by Markdown as they are."""
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def percent(value: float | None) -> str:
    """A share 0..1 in percent, without the sign."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
