"""A record as one HTML file: nothing is fetched when it is opened, and no script is in it."""

from __future__ import annotations

from html import escape

from ..record import Record
from .charts import CHARTS, chart_svg
from .headline import headline, subject
from .sections import Section, sections
from .style import CONTENT_SECURITY_POLICY, style_sheet
from .tables import Table


def html_document(record: Record, *, charts: bool = True) -> str:
    """The whole document as text. Whatever stands in the record is shown as text, never as markup.

    Raises MissingExtraError for ``charts`` without matplotlib.
    """
    name = escape(record["model"]["name"])
    parts = sections(record)
    body = "\n".join(_section(record, part, charts=charts) for part in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Benchmark of {name}</title>
<style>
{style_sheet()}
</style>
</head>
<body>
{_contents(parts)}
<main>
<header>
<p class="kind">Benchmark</p>
<h1>{name}</h1>
{_subject(record)}
{_headline(record)}
{_notes(record)}
</header>
{body}
</main>
</body>
</html>
"""


def _contents(parts: list[Section]) -> str:
    links = "".join(
        f'<li><a href="#{part.key}"{_faint(part)}>{escape(part.title)}</a></li>' for part in parts
    )
    return f'<nav aria-label="Contents"><p>Contents</p><ol>{links}</ol></nav>'


def _faint(part: Section) -> str:
    return ' class="faint"' if part.unavailable is not None else ""


def _subject(record: Record) -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(words)}</dd>" for term, words in subject(record))
    return f'<dl class="subject">{terms}</dl>'


def _headline(record: Record) -> str:
    cards = "".join(
        f'<li><span class="title">{escape(f.title)}</span><span class="value">{escape(f.value)}'
        f'<span class="unit"> {escape(f.unit)}</span></span>'
        f'<span class="detail">{escape(f.detail)}</span></li>'
        for f in headline(record)
    )
    return f'<ul class="headline">{cards}</ul>'


def _notes(record: Record) -> str:
    if not record["notes"]:
        return ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in record["notes"])
    return f'<aside class="notes" aria-label="Notes"><p>Before believing a figure</p><ul>{notes}</ul></aside>'


def _section(record: Record, part: Section, *, charts: bool) -> str:
    lines = [f'<section id="{part.key}">', f"<h2>{escape(part.title)}</h2>"]
    if part.unavailable is not None:
        lines.append(f'<p class="unavailable"><b>Not measured:</b> {escape(part.unavailable)}</p>')
    if part.alarm:
        lines.append(f'<p class="alarm">{escape(part.alarm)}</p>')
    if part.words:
        lines.append(f"<p>{escape(' '.join(part.words))}</p>")
    for name in part.charts if charts else ():
        if svg := chart_svg(record, name):
            title = escape(CHARTS[name].title)
            caption = f"<figcaption>{title}</figcaption>" if CHARTS[name].captioned else ""
            lines.append(f'<figure>{caption}<div class="chart">{svg}</div></figure>')
    lines += [_table(made) for made in part.tables]
    return "\n".join([*lines, "</section>"])


def _table(made: Table) -> str:
    kinds = ["text" if i < made.text_columns else "number" for i in range(len(made.columns))]
    if kinds[-1] == "text":
        kinds[0], kinds[-1] = "text term", "text long"
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(column)}</th>'
        for kind, column in zip(kinds, made.columns, strict=True)
    )
    rows = []
    for place, row in enumerate(made.rows):
        cells = []
        for i, (kind, cell) in enumerate(zip(kinds, row, strict=True)):
            swatch = _swatch(made.swatches[place]) if i == 0 and made.swatches else ""
            tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
            cells.append(f'<{tag}{scope} class="{kind}">{swatch}{escape(cell)}</{tag}>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    legend = f'<p class="legend">{escape(made.legend)}</p>' if made.legend else ""
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>{legend}"
    )


def _swatch(colour: tuple[int, int, int]) -> str:
    red, green, blue = (int(value) for value in colour)
    return f'<span class="swatch" style="background: rgb({red} {green} {blue})"></span>'
