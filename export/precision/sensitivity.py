"""Which layers cost accuracy in INT8: found by measurement, and kept in float as few as a budget allows.

First every layer is quantised alone, and the noise that reaches the logits is measured on a few frames. A
layer's own output would not tell: an outlier in one channel makes its error look small beside its signal,
and ruins the layers behind it. Then the worst are kept in float, 1, 2, 4, ... of them, until a score passes,
and the gap between the last two numbers is halved. Nothing is calibrated twice.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto

from cpsl_deploy.errors import InputError

from .calibration import Progress
from .float_graph import FloatGraph
from .int8 import Quantiser

_log = logging.getLogger(__name__)

Score = TypeVar("Score")
PROBES = 2
"""Frames on which a layer's noise is measured: its order among the layers is the same on others."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer does to the network's output when it alone is quantised."""

    name: str
    """Of the node in the file."""
    parameter: str
    """Of the model, whose weight the node had at export."""
    operator: str
    shape: tuple[int, ...]
    """Of its output."""
    sqnr_db: float
    """Power of the logits over that of their error, in dB; infinite for none."""
    changed: float
    """Share of the logits' pixels whose class changes, 0 to 1."""
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial(Generic[Score]):
    """A quantised file that was scored."""

    kept: tuple[str, ...]
    score: Score
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[Score]):
    """What a search found."""

    layers: tuple[str, ...]
    """To keep in float, in graph order: `Quantiser.write(output, keep=...)`."""
    passed: bool
    """Whether the budget is met with them. If not, they are the ones of the last trial."""
    costs: tuple[LayerCost, ...]
    """Every layer, in graph order; empty if the budget was met without a search."""
    tried: tuple[Trial[Score], ...]
    """In the order of trial."""

    def table(self, score: Callable[[Score], str] = str) -> str:
        """Markdown: the layers, those that cost most first, and the trials. ``score`` words a score."""
        lines = [
            "| layer | operator | output | SQNR of the logits, dB | classes changed | kept in float |",
            "| --- | --- | --- | ---: | ---: | --- |",
        ]
        for cost in sorted(self.costs, key=lambda cost: cost.sqnr_db):
            shape = "x".join(map(str, cost.shape))
            lines.append(
                f"| {cost.parameter} | {cost.operator} | {shape} | {cost.sqnr_db:.1f} | {cost.changed:.2%} | "
                f"{'yes' if cost.kept else ''} |"
            )
        lines += ["", "| layers in float | score | within budget |", "| ---: | --- | --- |"]
        lines += [f"| {len(t.kept)} | {score(t.score)} | {'yes' if t.passed else 'no'} |" for t in self.tried]
        return "\n".join(lines) + "\n"


def search(
    quantiser: Quantiser,
    probes: Sequence[np.ndarray],
    *,
    score: Callable[[Path], Score],
    accept: Callable[[Score], bool],
    limit: int | None = None,
    progress: Progress | None = None,
) -> Kept[Score]:
    """The fewest of the costliest layers that must stay float for ``accept(score(file))``.

    ``score`` is given the path of a quantised file that is deleted afterwards. ``probes``: uint8 (H, W, 3)
    frames as for calibration, of which the first `PROBES` are used. ``limit``: how many layers may be kept at
    most; None is half of them, beyond which little is left to gain. ``progress`` is called with layers
    measured and layers in all. Raises InputError without probes; what ``score`` raises is not caught.
    """
    if not len(probes):
        raise InputError("what a layer costs is measured on one frame or more; none was given")
    limit = len(quantiser.layers) // 2 if limit is None else min(limit, len(quantiser.layers))
    tried: list[Trial[Score]] = []
    with tempfile.TemporaryDirectory(prefix="cpsl-int8-") as folder:

        def attempt(worst: Sequence[str]) -> bool:
            path = Path(folder) / "candidate.onnx"
            quantiser.write(path, worst)
            result = score(path)
            kept = tuple(name for name in quantiser.layers if name in set(worst))
            tried.append(Trial(kept=kept, score=result, passed=accept(result)))
            _log.info("%d layers in float: %s", len(kept), "within budget" if tried[-1].passed else "over it")
            return tried[-1].passed

        if attempt([]):
            return Kept(layers=(), passed=True, costs=(), tried=tuple(tried))
        costs = measure(quantiser, [probes[i] for i in range(min(PROBES, len(probes)))], progress=progress)
        worst = [cost.name for cost in sorted(costs, key=lambda cost: cost.sqnr_db)]
        count = fewest(lambda number: attempt(worst[:number]), limit)
    kept = set(worst[: limit if count is None else count])
    return Kept(
        layers=tuple(name for name in quantiser.layers if name in kept),
        passed=count is not None,
        costs=tuple(replace(cost, kept=cost.name in kept) for cost in costs),
        tried=tuple(tried),
    )


def fewest(passes: Callable[[int], bool], limit: int) -> int | None:
    """The smallest number from 1 to ``limit`` that passes, if every larger one does; None if ``limit`` fails.

    Asks 1, 2, 4, ... and then halves the gap: at most 2 log2(limit) times.
    """
    failed, number = 0, 1
    while number < limit and not passes(number):
        failed, number = number, 2 * number
    if number >= limit:
        number = limit
        if limit <= failed or not passes(limit):
            return None
    while number - failed > 1:
        middle = (failed + number) // 2
        if passes(middle):
            number = middle
        else:
            failed = middle
    return number


def measure(
    quantiser: Quantiser, probes: Sequence[np.ndarray], *, progress: Progress | None = None
) -> tuple[LayerCost, ...]:
    """The cost of every layer alone, in graph order. ``probes``: uint8 (H, W, 3) of the file's size."""
    graph = quantiser.graph
    expected = _logits(graph.up_to_logits(), probes)
    costs = []
    for index, node in enumerate(graph.layers()):
        error, signal, changed = 0.0, 0.0, 0.0
        for have, want in zip(_logits(quantiser.only(node.name), probes), expected, strict=True):
            error += float(np.square(have - want, dtype=np.float64).sum())
            signal += float(np.square(want, dtype=np.float64).sum())
            changed += float((have.argmax(1) != want.argmax(1)).mean()) / len(probes)
        costs.append(_cost(graph, node, 10 * np.log10(signal / error) if error else np.inf, changed))
        if progress:
            progress(index + 1, len(quantiser.layers))
    return tuple(costs)


def _cost(graph: FloatGraph, node: NodeProto, sqnr_db: float, changed: float) -> LayerCost:
    return LayerCost(
        name=node.name,
        parameter=graph.parameters.get(node.name, node.name),
        operator=node.op_type,
        shape=graph.shape(node.output[0]),
        sqnr_db=float(sqnr_db),
        changed=changed,
    )


def _logits(model: ModelProto, probes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float32 (N, C, h, w) per probe."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0]
    batch = given.shape[0] if isinstance(given.shape[0], int) else 1
    return [session.run(None, {given.name: np.repeat(p[None], batch, axis=0)})[0] for p in probes]
