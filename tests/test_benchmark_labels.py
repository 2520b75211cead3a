"""The benchmarks of ways from logits to labels run, and all their ways give the same labels."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'cpu'")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.parametrize(("name", "ways", "cases"), [("upsampling", 8, 4), ("dense_argmax", 8, 4)])
def test_every_way_gives_the_labels(
    name: str, ways: int, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "peak_memories", lambda makes, logits: dict.fromkeys(makes, 1_000_000))
    arguments = ["--size", "64x96", "--rounds", "1", "--backend", "onnxruntime", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(script.main, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / f"{name}.json").read_text())["rows"]
    assert len({row["way"] for row in rows}) == ways and len(rows) == ways * cases
    for row in rows:
        assert row["unlike"] < 0.002, row
        assert row["limit_ms"] > 0 and row["cpu_ms"] >= 0 and row["peak_mb"] == 1
        assert row["of_limit"] == pytest.approx(row["limit_ms"] / row["ms"])
    headline = json.loads(done.output.splitlines()[-1])
    assert len(headline) == len(rows)
    assert f"| {rows[0]['way']} |" in (tmp_path / "out" / f"{name}.md").read_text()
