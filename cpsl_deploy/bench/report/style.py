"""How the HTML document looks: light or dark as the reader's system has it, and light on paper."""

from __future__ import annotations

from .canvas import INK, MUTED, PAPER, VERMILLION, theme_variables

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A browser runs no script of the document and fetches nothing for it, whatever stands in it."""


def style_sheet() -> str:
    """The document's CSS, charts' colours included."""
    light = f"{theme_variables(dark=False)} {_LIGHT}"
    dark = f"{theme_variables(dark=True)} {_DARK}"
    names = f"--ink: var(--c{INK[1:]}); --muted: var(--c{MUTED[1:]}); --paper: var(--c{PAPER[1:]});"
    names += f" --alarm: var(--c{VERMILLION[1:]});"
    return (
        f":root {{ {light} {names} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_RULES}"
    )


_LIGHT = "--page: #f5f6f8; --line: #dde1e6; --doubt: #fff4d6; --doubt-edge: #c98a00; --link: #005a8f;"
_DARK = "--page: #0f1216; --line: #343b44; --doubt: #33290c; --doubt-edge: #f0b23a; --link: #7cc0f0;"
_RULES = """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 80px; min-width: 0; }
nav { padding: 14px 20px 0; max-width: 1080px; margin: 0 auto; font-size: 13px; }
nav p { margin: 0 0 4px; color: var(--muted); }
nav ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
a.faint { color: var(--muted); }
.kind { margin: 0; color: var(--muted); }
h1 { margin: 0 0 10px; font-size: 27px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 6px; font-size: 19px; }
section, header { min-width: 0; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; scroll-margin-top: 12px; }
p { margin: 0 0 10px; max-width: 85ch; overflow-wrap: anywhere; }
dl.subject { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0 0 18px; }
dl.subject dt { color: var(--muted); }
dl.subject dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
ul.headline { list-style: none; margin: 0 0 16px; padding: 0; display: grid; gap: 10px;
  grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); }
ul.headline li { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 11px; display: flex; flex-direction: column; }
.headline .title, .headline .detail { color: var(--muted); font-size: 13px; line-height: 1.35; }
.headline .value { font-size: 23px; font-weight: 650; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.headline .unit { font-size: 12.5px; font-weight: 400; }
.notes { background: var(--doubt); border-left: 4px solid var(--doubt-edge); border-radius: 6px;
  padding: 10px 16px; }
.notes p { font-weight: 650; margin: 0 0 2px; }
.notes ul { margin: 0; padding-left: 18px; overflow-wrap: anywhere; }
.alarm { color: var(--alarm); font-weight: 650; }
.unavailable { color: var(--muted); margin: 0; }
figure { margin: 12px 0 18px; }
figcaption { font-size: 13px; color: var(--muted); margin-bottom: 4px; }
.chart, .table { overflow-x: auto; max-width: 100%; }
.chart svg { width: 100%; height: auto; display: block; }
.chart text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif !important; }
table { border-collapse: collapse; font-size: 13px; margin: 10px 0 4px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); vertical-align: top; font-weight: 400; }
thead th { color: var(--muted); border-bottom-width: 2px; vertical-align: bottom; }
.text { text-align: left; overflow-wrap: break-word; min-width: 9ch; }
.long { overflow-wrap: anywhere; }
@media (min-width: 561px) { .term { white-space: nowrap; } }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
tbody tr:hover { background: color-mix(in srgb, var(--line) 45%, transparent); }
.legend { font-size: 13px; color: var(--muted); margin-bottom: 14px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px;
  border: 1px solid var(--muted); vertical-align: -1px; print-color-adjust: exact; }
@media (min-width: 1240px) {
  body { display: grid; grid-template-columns: 200px minmax(0, 1080px); justify-content: center; }
  nav { position: sticky; top: 0; align-self: start; padding: 30px 0 0 20px; max-height: 100vh;
    overflow-y: auto; }
  nav ol { flex-direction: column; }
  main { margin: 0; }
}
@media (max-width: 560px) {
  main { padding: 14px 12px 40px; }
  section { padding: 14px 12px; }
  dl.subject { grid-template-columns: 1fr; gap: 0; }
  dl.subject dd { margin-bottom: 6px; }
}
@media print {
  body { background: none; font-size: 10.5pt; display: block; }
  nav { display: none; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin-top: 20px; }
  h2, figcaption, thead { break-after: avoid; }
  figure, tr, .notes, ul.headline { break-inside: avoid; }
  table { font-size: 8.5pt; }
  th, td { padding: 2px 6px; }
  .chart, .table { overflow: visible; }
  .chart svg { min-width: 0 !important; }
}
"""
