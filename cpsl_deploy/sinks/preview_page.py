"""The page of the preview: pictures and states, from nowhere but the preview itself."""

from __future__ import annotations

import html
from collections.abc import Iterable
from urllib.parse import quote

CONTENT_POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>cpsl-run</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ background: #16181b; color: #ddd; font: 15px system-ui, sans-serif; margin: 1em; }}
main {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; flex: 1 1 24em; max-width: 80em; }}
img {{ width: 100%; min-height: 6em; background: #000; }}
a {{ color: #8bf; }}
</style></head><body>
<main>{figures}</main>
<p><a href="/health">health</a> <a href="/metrics">metrics</a> <span id="run"></span></p>
<script>
async function look() {{
  try {{
    const health = await (await fetch("/health")).json();
    const states = new Map(health.sources.map(source => [source.name, source]));
    for (const line of document.querySelectorAll("figcaption")) {{
      const source = states.get(line.dataset.name);
      if (!source) continue;
      const age = source.age_ms && source.age_ms.p50;
      line.textContent = line.dataset.name + ": " + source.state
        + (source.reason ? " (" + source.reason + ")" : "")
        + ", " + source.delivered + " frames, " + source.dropped + " dropped"
        + (age == null ? "" : ", age " + age.toFixed(0) + " ms");
    }}
    const failed = health.sinks.filter(sink => sink.state == "failed");
    const told = failed.map(sink => sink.name + " failed: " + sink.reason);
    document.getElementById("run").textContent = [health.status, ...told].join("; ");
  }} catch (error) {{
    document.getElementById("run").textContent = "the run has ended";
  }}
}}
look();
setInterval(look, 2000);
</script></body></html>
"""


def page(names: Iterable[str]) -> str:
    """HTML with a picture for each source."""
    figures = (
        f'<figure><img src="/stream/{quote(name, safe="")}.mjpeg" alt="">'
        f'<figcaption data-name="{html.escape(name)}">{html.escape(name)}</figcaption></figure>'
        for name in names
    )
    return _PAGE.format(figures="".join(figures))
