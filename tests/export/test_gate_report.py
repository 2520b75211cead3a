"""The gate's report: tables that say what the verdicts say, and pictures that show what changed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra 'train'")

from gate_files import CAR, ROAD, reference_of, scene

from cpsl_deploy.errors import InputError
from cpsl_deploy.export.gate.blame import Blame, Step
from cpsl_deploy.export.gate.budget import Budget
from cpsl_deploy.export.gate.judge import Verdict, judge
from cpsl_deploy.export.gate.pictures import margin_names
from cpsl_deploy.export.gate.report import Gated, class_table, gate_report, gate_table, write_gate_pictures


def ruined() -> np.ndarray:
    got = scene()
    got[150:180, 100:106] = ROAD
    return got


def gated(got: np.ndarray, name: str, precision: str = "int8", **values: object) -> Gated:
    return Gated(name=name, precision=precision, backend="onnxruntime", bytes=2_340_000,
                 verdict=verdict_of(got), **values)  # fmt: skip


def verdict_of(got: np.ndarray) -> Verdict:
    return judge([got], reference_of(scene(), scene()), Budget.for_precision("int8"))


def test_the_gate_table() -> None:
    lines = gate_table([gated(scene(), "fp32 | cpu", "fp32"), gated(ruined(), "int8")], "int8").split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][-1] == "verdict" and len(lines) == 4 and "speed" not in lines[0]
    assert lines[2].startswith(r"| fp32 \| cpu | fp32 | onnxruntime | 100.000 | 100.0 (0.00) |")
    assert cells[3] == ["**int8**", "int8", "onnxruntime", "99.550", "95.9 (-4.05)", "car -15.00", "2.3",
                        "**failed**"]  # fmt: skip
    with_speed = gate_table([gated(scene(), "a", speed=1.5), gated(scene(), "b")])
    assert "| 1.50 x | passed |" in with_speed and "| n/a | passed |" in with_speed
    with pytest.raises(InputError, match="one candidate or more"):
        gate_table([])


def test_the_class_table_has_every_class_and_the_mean() -> None:
    rows = class_table([gated(ruined(), "int8")]).split("\n")
    assert len(rows) == 2 + 4 + 1
    assert rows[2 + CAR] == "| car | 1,200 | 100.0 | 85.0 (-15.00) |"
    assert rows[-1] == "| **mean** |  | 100.0 | 95.9 (-4.05) |"


def test_the_report_says_why_and_what_is_responsible() -> None:
    blame = Blame(steps=(Step(name="network", max_abs=1, mean_abs=0.1, share=0.1),))
    candidates = [gated(scene(), "fp32", "fp32"), gated(ruined(), "int8", blame=blame, kept_layers=("stem",))]
    text = gate_report(candidates, chosen="fp32", pictures=True)
    assert "Compared on 1 frame by hand, 40,000 pixels" in text and "against ground truth" in text
    assert "\n- fp32: passed (95 % agreement, 1 points of the mean, 2 of a class)" in text
    assert "- int8: **failed**: the mean IoU may fall by 1 points" in text
    assert "responsible: the step network" in text and "kept in float32: stem." in text
    assert text.count("gate_") == 3 and "gate_" not in gate_report(candidates)
    unlabelled = judge([scene()], reference_of(scene()), Budget.for_precision("int8", labelled=False))
    without = Gated(name="a", precision="int8", backend="b", bytes=1, verdict=unlabelled)
    assert "the torch model's own labels, as there is no ground truth" in gate_report([without])


def test_the_margin_table_adds_up() -> None:
    text = gate_report([gated(ruined(), "int8")])
    rows = [line for line in text.split("\n") if line.startswith(tuple(f"| {n}" for n in margin_names()))]
    assert len(rows) == 7 and sum(float(row.split("|")[2]) for row in rows) == 100


def test_pictures_are_drawn_and_the_changed_pixels_are_marked(tmp_path: Path) -> None:
    candidate = gated(ruined(), "int8 $x$")
    paths = write_gate_pictures(tmp_path, candidate, reference_of(scene(), scene()), ruined())
    sizes = [cv2.imread(str(path)).shape for path in paths]
    assert [path.parent for path in paths] == [tmp_path] * 3 and min(min(s[:2]) for s in sizes) > 200
    sheet = cv2.imread(str(paths[2]))
    magenta = (sheet == (255, 0, 255)).all(2)
    # The second of two columns of 560 pixels: 200 x 200 pixels are drawn, 180 of them changed.
    assert magenta[:, : sheet.shape[1] // 2].sum() == 0
    assert magenta.sum() == pytest.approx(180 * (560 / 200) ** 2, rel=0.25)


def test_everything_goes_into_json() -> None:
    values = gated(ruined(), "int8", speed=1.23456).as_dict()
    assert values["speed"] == 1.235 and not values["passed"] and values["blame"] is None
    assert values["iou"]["car"]["file"] == pytest.approx(0.85)
