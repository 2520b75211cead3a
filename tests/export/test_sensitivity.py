"""The search for layers to keep in float finds those that cost, by measurement, and keeps no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from quantisable_onnx import LAYERS, frames, quantisable

from cpsl_deploy.errors import InputError
from cpsl_deploy.export.precision.int8 import Quantiser
from cpsl_deploy.export.precision.sensitivity import Kept, fewest, measure, search

UNSEEN = frames(3, seed=9)


def labels(model: bytes | Path) -> np.ndarray:
    given = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(given, providers=["CPUExecutionProvider"])
    return np.stack([session.run(["labels"], {"image": frame[None]})[0][0] for frame in UNSEEN])


WANTED = labels(quantisable().SerializeToString())


def agreement(path: Path) -> float:
    return float((labels(path) == WANTED).mean())


def searched(scheme: str, least: float, limit: int | None = None) -> Kept[float]:
    planted = Quantiser(
        quantisable(outlier=3000), frames(4), scheme=scheme, method="minmax", reduce_range=False
    )
    return search(
        planted, frames(2, seed=5), score=agreement, accept=lambda share: share >= least, limit=limit
    )


@pytest.mark.parametrize(("scheme", "bad"), [("cpu", ("f", "classifier")), ("tensorrt", ("classifier",))])
def test_the_planted_bad_layers_are_found_and_kept(scheme: str, bad: tuple[str, ...]) -> None:
    """One channel between f and the classifier is 3,000 times the others, whose values all round to zero. For
    CPUs f's output is rounded, too; for TensorRT the classifier's input alone."""
    kept = searched(scheme, 0.95)
    assert kept.passed and kept.layers == bad
    assert {cost.name for cost in kept.costs if cost.kept} == set(bad)
    ruined = min(cost.sqnr_db for cost in kept.costs if cost.name not in bad)
    assert all(cost.sqnr_db < ruined - 10 for cost in kept.costs if cost.kept)
    assert not kept.tried[0].passed and kept.tried[0].kept == ()
    assert max(t.score for t in kept.tried if t.passed) - kept.tried[0].score > 0.1


def test_costs_describe_the_layers() -> None:
    quantiser = Quantiser(quantisable(), frames(2), reduce_range=False)
    done: list[tuple[int, int]] = []
    costs = measure(quantiser, frames(1, seed=5), progress=lambda *numbers: done.append(numbers))
    assert [cost.name for cost in costs] == list(quantiser.layers) and done[-1] == (8, 8)
    first = costs[0]
    assert (first.parameter, first.operator, first.shape) == ("a", "Conv", (1, 8, 16, 24))
    assert all(15 < cost.sqnr_db < 80 and 0 <= cost.changed < 0.1 for cost in costs)


def test_nothing_is_measured_if_all_layers_pass() -> None:
    quantiser = Quantiser(quantisable(), frames(2))
    kept = search(quantiser, frames(1), score=agreement, accept=lambda share: True)
    assert kept.passed and kept.layers == () == kept.costs and len(kept.tried) == 1


def test_a_budget_that_cannot_be_met_says_so() -> None:
    kept = searched("tensorrt", 1.1, limit=3)
    assert not kept.passed and len(kept.layers) == 3 == len(kept.tried[-1].kept)
    assert not any(trial.passed for trial in kept.tried)


def test_the_table_starts_with_the_costliest_layer() -> None:
    lines = searched("tensorrt", 0.95).table(lambda share: f"{share:.1%}").splitlines()
    assert lines[2].startswith("| classifier | Conv | 1x4x16x24 |") and lines[2].endswith("| yes |")
    assert len([line for line in lines if line.endswith("| yes |")]) == 2  # the layer, and the last trial
    assert "| 0 | " in lines[-2] and "| 1 | " in lines[-1]
    assert len(lines) == 2 + len(LAYERS) + 3 + 2


@pytest.mark.parametrize("limit", range(1, 12))
def test_fewest_is_the_smallest_number_that_passes(limit: int) -> None:
    for needed in range(1, limit + 3):
        asked: list[int] = []

        def passes(number: int, needed: int = needed, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number >= needed

        assert fewest(passes, limit) == (needed if needed <= limit else None)
        assert len(set(asked)) == len(asked) <= 2 * np.log2(limit) + 1 and max(asked) <= limit


def test_what_a_score_raises_is_the_callers() -> None:
    def fails(path: Path) -> float:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        search(Quantiser(quantisable(), frames(1)), frames(1), score=fails, accept=bool)


def test_a_search_needs_a_frame() -> None:
    with pytest.raises(InputError, match="one frame or more"):
        search(Quantiser(quantisable(), frames(1)), [], score=agreement, accept=lambda share: False)
