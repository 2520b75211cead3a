"""The report in a real browser: everything has a place, nothing is fetched, nothing sticks out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import bench_records
import cv2
import pytest

from cpsl_deploy.bench.report.html import html_document

pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROBE = """<script>
const errors = [];
window.addEventListener('error', event => errors.push(String(event.message || event.target)), true);
window.addEventListener('load', () => {
  const boxes = [...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect());
  const svgs = [...document.querySelectorAll('svg')];
  const beyond = svgs.flatMap(svg => {
    const outer = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1
        || box.bottom > outer.bottom + 1;
    }).map(text => text.textContent);
  });
  const found = {
    width: innerWidth, charts: boxes.length, flat: boxes.filter(b => b.width < 50 || b.height < 50).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType('resource').map(entry => entry.name), errors, beyond,
  };
  parent.postMessage(found, '*');
});
</script>"""
FRAME = """<!DOCTYPE html><pre id="found"></pre><script>
window.addEventListener('message', event => {{
  document.getElementById('found').textContent = JSON.stringify(event.data);
}});
</script><iframe src="probed.html" style="border: 0" width="{width}" height="900"></iframe>"""
"""Browsers' windows are 500 pixels wide or more; a frame is as narrow as a phone."""


def browser() -> str:
    """The path of a browser, or the test is skipped."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("needs a Chromium browser: none is on the PATH, and the variable CHROME names none")
    return found


def look(page: Path, width: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a window so wide, with no network."""
    command = [
        browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--virtual-time-budget=3000", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def probe(page: Path, width: int) -> dict[str, Any]:
    """What a script in the page finds there if the page is so wide."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width))
    found = re.search(r'<pre id="found">(.+?)</pre>', look(frame, width + 100, "--dump-dom").stdout)
    assert found, "the page's script did not run"
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def document() -> str:
    names = list(bench_records.CITYSCAPES)
    names[3] = "wall, retaining or otherwise, along the carriageway"
    names[5] = "<script>throw Error('a name was run')</script>"
    stages = {"read": 0.01, "decode": 9.0, "pre": 0.8, "host_to_device": 0.4, "inference": 300.0,
              "device_to_host": 0.2, "post": 0.01, "encode": 5.0}  # fmt: skip
    return html_document(bench_records.complete_record(names, 60, stages))


def with_probe(document: str, folder: Path) -> Path:
    """The page with a script, which its own policy would not let run."""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', document)
    assert policy
    page = folder / "probed.html"
    page.write_text(document.replace(policy[0], PROBE), encoding="utf-8")
    return page


@pytest.mark.parametrize("width", [1280, 400])
def test_charts_have_a_place_and_nothing_is_fetched_or_sticks_out(document, tmp_path, width):
    found = probe(with_probe(document, tmp_path), width)
    assert found["width"] == width
    assert found["charts"] == document.count("<svg") > 10 and found["flat"] == 0
    assert found["overflow"] <= 0
    assert found["fetched"] == [] and found["errors"] == []
    assert found["beyond"] == []  # no word is cut off at a chart's edge


def test_the_page_s_own_policy_runs_no_script(document, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(document.replace("</body>", "<script>document.title = 'run'</script></body>"))
    assert "<title>run" not in look(page, 800, "--dump-dom").stdout


def test_dark_and_light_readers_see_their_own_paper(document, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(document, encoding="utf-8")
    brightness = {}
    for name, option in (("light", 1), ("dark", 0)):  # of Chromium's enum PreferredColorScheme
        picture = tmp_path / f"{name}.png"
        look(page, 1000, f"--blink-settings=preferredColorScheme={option}", f"--screenshot={picture}")
        brightness[name] = float(cv2.imread(str(picture)).mean())
    assert brightness["light"] > 200 and brightness["dark"] < 60, brightness
