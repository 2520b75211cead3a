"""The report of a benchmark, made of example records: whole, with parts missing, and with hostile text."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import bench_records
import cv2
import numpy as np
import pytest

from cpsl_deploy.bench import report
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.bench.report import canvas as canvas_module
from cpsl_deploy.bench.report import (
    record_text,
    render_report,
    require_matplotlib,
    short_class_row,
    stage_rows,
    write_report,
)
from cpsl_deploy.bench.report.canvas import DARK, INK, MUTED, PAPER, along_rows
from cpsl_deploy.bench.report.charts import CHARTS, chart_svg
from cpsl_deploy.bench.report.formats import middle_cut, milliseconds, percent, scaled, size_in_bytes
from cpsl_deploy.bench.report.html import html_document
from cpsl_deploy.bench.report.limit_charts import pareto_front
from cpsl_deploy.bench.report.markdown import markdown
from cpsl_deploy.errors import InputError, MissingExtraError, OutputError

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x$|`*[a](b)"


class Page(HTMLParser):
    """Elements, ids and text of an HTML document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.elements if attribute in found]

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.elements if name == tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return bench_records.complete_record()


@pytest.fixture(scope="module")
def page(record: dict[str, Any]) -> str:
    """The whole document with its charts."""
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    return html_document(record)


def test_example_records_keep_to_the_schema(record):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'dev'")
    for example in (record, bench_records.smallest_record()):
        jsonschema.validate(example, record_schema())


def test_a_record_with_everything_fills_every_section_and_draws_every_chart(page):
    found = Page(page)
    sections = {attributes["id"] for tag, attributes in found.elements if tag == "section"}
    assert sections == {
        "latency", "frames", "throughput", "cold_start", "classes", "variants", "roofline", "sweep",
        "sustained", "stream", "load", "origin",
    }  # fmt: skip
    assert found.count("svg") == len(CHARTS)
    for words in (
        "mIoU 71.3 %",
        "68.4 to 74.1 %",
        "2000 times, images drawn in runs of 4",
        "TensorRT needs an NVIDIA GPU",
        "The machine throttled: the clock of cpu fell",
        "Accuracy is of 40 of the split's 500 images",
        "a" * 64,
        "63.0 % of the limit",
        "7 streams of 25 frames/s",
        "The model has no caravan",
        "68.7 MiB an hour",
    ):
        assert words in found.text, words
    assert page.index("Before believing a figure") < page.index("<section")


@pytest.mark.parametrize("name", bench_records.OPTIONAL)
def test_a_section_that_is_not_there_is_named_and_one_that_failed_says_why(record, name):
    missing = bench_records.without(record, name)
    for text in (markdown(missing), Page(html_document(missing, charts=False)).text):
        assert "Not in this record: " in text and "not measured:" not in text.lower()
    failed = record | {name: {"unavailable": "the moon was full."}}
    for text in (markdown(failed), Page(html_document(failed, charts=False)).text):
        assert "the moon was full." in text and "Not in this record" not in text


def test_every_chart_stands_missing_sections_and_a_single_frame():
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    smallest = bench_records.smallest_record()
    drawn = {name for name in CHARTS if chart_svg(smallest, name)}
    assert drawn == {"stages", "distribution", "timeline", "classes"}
    document = Page(html_document(smallest))
    assert document.count("svg") == len(drawn) and document.count("aside") == 0


def test_charts_stand_what_lies_far_apart_or_falls_together():
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    apart = bench_records.complete_record(bench_records.CITYSCAPES, 12, {"pre": 0.0, "inference": 300.0})
    apart["samples"]["stages_ms"]["total"][3] = 9000.0
    apart["latency"]["stages_ms"]["total"]["max"] = 9000.0
    apart["latency"]["outliers"]["frames"].append({"index": 3, "frame": "f", "total_ms": 9000.0})
    apart["classes"][0] |= {"iou": 0.0, "iou_interval": {"low": 0.0, "high": 0.0}}
    same = bench_records.complete_record(("only", "other"), 5)
    same["samples"]["stages_ms"]["total"] = [40.0] * 5
    same["latency"]["outliers"]["frames"] = [{"index": i, "frame": "f", "total_ms": 40.0} for i in range(5)]
    same["sustained"]["series"]["power_w"] = {}
    same["variants"]["rows"] = same["variants"]["rows"][:1]
    same["sweep"] = [cell for cell in same["sweep"] if "unavailable" in cell]
    for example in (apart, same):
        for name in CHARTS:
            chart_svg(example, name)
    assert "up to 9000 ms" in (chart_svg(apart, "distribution") or "")
    assert chart_svg(same, "front") is None and chart_svg(same, "sweep") is None


def test_a_dollar_in_a_name_starts_no_formula():
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    dear = bench_records.complete_record(("$x$ & $y$", "交通標識"), 3)
    svg = chart_svg(dear, "classes") or ""
    assert ">$x$ &amp; $y$</text>" in svg and "交通標識" in svg


def with_hostile_text(value: Any) -> Any:
    """A record in which every text is one that would be markup, or a formula."""
    if isinstance(value, dict):
        return {key: with_hostile_text(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_hostile_text(part) for part in value]
    return HOSTILE if isinstance(value, str) else value


def test_text_of_a_record_is_never_markup(record):
    charts = canvas_module.importlib.util.find_spec("matplotlib") is not None
    hostile = with_hostile_text(record)
    hostile["settings"][HOSTILE] = hostile["versions"][HOSTILE] = HOSTILE
    hostile["sustained"]["series"]["power_w"] = {HOSTILE: [1.0] * 60}
    found = Page(html_document(hostile, charts=charts))
    assert found.count("script") == found.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.text.count("<script>alert(1)</script>") > 40
    lines = markdown(hostile).splitlines()
    assert not any("<script" in line or "<img" in line for line in lines)
    rows = [line for line in lines if line.startswith("| ") and "power" in line]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert not any(re.search(r"(?<!\\)\[a(?<!\\)\]\(b\)", line) for line in lines)


def test_nothing_is_fetched_and_every_reference_has_its_one_target(page):
    found = Page(page)
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    assert all(target.startswith("#") and target[1:] in ids for target in found.values("href"))
    assert not found.values("src") and "@import" not in page and "://" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in ids}
    for named in found.values("aria-labelledby"):
        assert set(named.split()) <= set(ids)
    policies = found.values("http-equiv")
    assert policies == ["Content-Security-Policy"] and "default-src 'none'" in page


def test_charts_have_their_colours_from_the_theme(page):
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    used = set(re.findall(r"var\((--c[0-9a-f]{6})\)", "".join(svgs)))
    known = {f"--c{colour[1:]}" for colour in DARK}
    assert used <= known and len(used) >= 10
    for svg in svgs:
        assert not any(colour in svg for colour in DARK)
    style = page[page.index("<style>") : page.index("</style>")]
    assert all(style.count(f"{name}:") == 2 for name in used)  # light and dark


def test_words_are_legible_on_light_and_dark_paper():
    """Contrast as WCAG 2 defines it, 4.5 or more."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for paper, inks in ((PAPER, (INK, MUTED)), (DARK[PAPER], (DARK[INK], DARK[MUTED]))):
        for ink in inks:
            low, high = sorted((luminance(paper), luminance(ink)))
            assert (high + 0.05) / (low + 0.05) > 4.5, (paper, ink)


def test_tables_have_the_record_s_figures(record):
    stages = {row[0]: row for row in stage_rows(record)}
    assert list(stages) == ["read", "decode", "pre", "inference", "post", "total"]
    total = record["samples"]["stages_ms"]["total"]
    assert stages["total"][3] == f"{np.percentile(total, 90):.2f}"
    first = record["classes"][0]
    assert short_class_row(first) == ("road", "92.0", "25.00", "40", "46.00", "80.00", "0.290")
    assert short_class_row(record["classes"][1])[1:3] == ("n/a", "n/a")
    text = markdown(record)
    assert "| openvino bf16 | bf16 | 4.2 MiB | 19.00 |" in text and "| 2.11 | 2.05–2.17 |" in text
    assert "| 8 | 158.0 | 213.6 | 160.0 | 20.0 | 800 | no |" in text
    assert "| 1024x2048 | 4 | The model's batch is fixed at 1. | n/a |" in text
    assert text.index("openvino int8 |") < text.index("openvino bf16 |")  # the fastest first


def test_figures_as_text():
    assert [milliseconds(value) for value in (0.0123, 9.876, 123.45, 2900.4, None)] == [
        "0.012", "9.88", "123.5", "2900", "n/a",
    ]  # fmt: skip
    assert (percent(0.1234), percent(None), percent(0.5, 0)) == ("12.3", "n/a", "50")
    assert (scaled(1.2e11, "FLOP/s"), scaled(950, "B/s")) == ("120 GFLOP/s", "950 B/s")
    assert (size_in_bytes(3 * 2**20), size_in_bytes(1020 * 2**10)) == ("3 MiB", "1020 KiB")
    assert middle_cut("abcdefghij", 5) == "ab…ij" and middle_cut("abc", 5) == "abc"


def test_the_front_is_of_those_that_no_other_beats():
    points = [(1.0, 9.0), (2.0, 9.0), (3.0, 5.0), (2.5, 4.0), (4.0, 1.0), (4.0, 1.0)]
    assert pareto_front(points) == [1, 2, 4, 5]


def test_a_legend_that_fills_columns_reads_along_rows():
    assert along_rows(5, 3) == [0, 3, 1, 4, 2] and along_rows(2, 3) == [0, 1]


def test_a_warning_is_shown_where_there_is_one_only(record):
    calm = record | {"sustained": record["sustained"] | {"throttled": False, "throttle_reasons": []}}
    assert "throttled" in html_document(record, charts=False)
    assert "throttled" not in html_document(calm, charts=False).replace("settings", "")
    assert "NOT steady" not in markdown(record)
    assert "NOT steady" in markdown(record | {"warm_up": record["warm_up"] | {"steady": False}})


def test_the_record_is_written_with_a_line_for_each_list_of_figures(record):
    tricky = record | {"notes": ["[\n 1,\n 2]", "]["], "command": "a [b] {c}"}
    text = record_text(tricky)
    assert json.loads(text) == tricky
    assert '"sizes": [\n' in text and "[512, 1024]" in text
    assert len(text.splitlines()) < 0.5 * len(json.dumps(tricky, indent=1).splitlines())
    with pytest.raises(ValueError, match="not JSON compliant"):
        record_text(record | {"created": float("nan")})


def test_files_are_whole_and_an_earlier_folder_is_safe(record, tmp_path):
    class Result:
        def to_json(self) -> dict[str, Any]:
            return record

    paths = write_report(Result(), tmp_path / "out", plot=False)
    assert paths.plot is None and json.loads(paths.json.read_text()) == record
    assert paths.as_dict().keys() == {"json", "markdown", "html"}
    assert "<svg" not in paths.html.read_text() and "bench.png" not in paths.markdown.read_text()
    with pytest.raises(OutputError, match="not empty"):
        write_report(record, tmp_path / "out", plot=False)
    paths.markdown.unlink()
    again = render_report(record, tmp_path / "out", overwrite=True, plot=False)
    assert again.json is None and again.markdown.is_file()


def test_the_overview_is_a_picture_and_settings_of_matplotlib_stay(record, tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    before = dict(matplotlib.rcParams)
    paths = write_report(record, tmp_path / "out")
    assert dict(matplotlib.rcParams) == before
    picture = cv2.imread(str(paths.plot))
    assert picture.shape[0] > 400 and picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert "(bench.png)" in paths.markdown.read_text()


def test_a_damaged_record_is_refused_by_name(record, tmp_path):
    for damage in ({"latency": {}}, {"classes": [{}]}, {"load": {"streams": 1}}, {"notes": 3}):
        with pytest.raises(InputError, match=r"old/bench\.json is not what schema 2 says"):
            render_report(
                record | damage, tmp_path / "out", overwrite=True, plot=False, origin="old/bench.json"
            )


def test_charts_without_matplotlib_name_the_extra_and_tables_need_none(record, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"--no-plot.*pip install 'cpsl_deploy\[plot\]'"):
        require_matplotlib()
    with pytest.raises(MissingExtraError):
        write_report(record, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_report(record, tmp_path / "out", plot=False)


def test_what_the_package_offers():
    assert all(hasattr(report, name) for name in report.__all__)
    assert Path(report.__file__).name == "__init__.py"
