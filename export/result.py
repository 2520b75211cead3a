"""What an export made, for programs and for people."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.reporting.markdown import escaped, table

from .gate.judge import Verdict
from .gate.parity import Parity
from .graph.onnx_file import OPSET
from .precision.sensitivity import Kept
from .tensorrt.engine import Engine
from .trials import Trial
from .triton.repository import Repository
from .ways import JudgedWay, passed_ways


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportResult:
    """What an export made."""

    path: Path
    """The ONNX file."""
    report: Path
    """export.json in the report's folder, with everything below, the versions and the hashes."""
    page: Path
    """export.md beside it, for people."""
    spec: ModelSpec
    contract: Contract
    size: tuple[int, int] | None
    """(height, width) of frames in pixels if fixed; None if the file takes any size."""
    batch: int | None
    trials: tuple[Trial, ...]
    """Everything that was tried; one, unless all that this machine can run was asked for."""
    chosen: Trial
    ways: tuple[JudgedWay, ...]
    """In which the file was judged, the one it was chosen with first. Those that passed stand in it."""
    kept: Kept[Verdict] | None
    """Of an INT8 file: the layers that stay in float, and what each costs."""
    operators: dict[str, int]
    """ONNX operators and how many there are of each."""
    onnx_sha256: str
    bytes: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    """Mean IoU, 0..1, on the run's labelled target images: ``source_only``, ``distillation_2`` (the adapted
    network) and ``exported`` (this file). Empty if the file was not scored."""
    engine: Engine | None = None
    engine_verdict: Verdict | None = None
    parity: Parity | None = None
    """Of pre-processing with training, on some of the target's image files; None if the frames were none."""
    repository: Repository | None = None
    drift: str = ""
    """What the drift reference in the file was made of, or why it has none."""

    @property
    def verdict(self) -> Verdict:
        """Of the file in place."""
        return self.chosen.gated.verdict

    @property
    def advice(self) -> str:
        """A line for whoever asked for a precision that does not pay on this machine; else empty."""
        speed, precision = self.chosen.speed, self.contract.precision
        if len(self.trials) > 1 or speed is None or speed.ratio >= 1 or precision == "fp32":
            return ""
        if self.chosen.candidate.precision == "int8" and self.chosen.candidate.scheme == "tensorrt":
            return ""  # it is not for a CPU
        return (
            f"on this machine's CPU {precision} is slower than fp32 ({speed.ratio:.2f} times as fast): "
            "export without --precision for it, or with --auto"
        )

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        packages = {"cpsl_deploy": cpsl_deploy, "torch": torch, "onnx": onnx, "onnxruntime": onnxruntime}
        return {
            "model": self.path.name,
            "architecture": self.spec.architecture,
            "weights_sha256": self.spec.weights_sha256,
            "onnx_sha256": self.onnx_sha256,
            "bytes": self.bytes,
            "contract": self.contract.to_metadata(),
            "input": {"name": "image", "dtype": "uint8", "shape": self.input_shape()},
            "opset": OPSET,
            "operators": self.operators,
            "chosen": self.chosen.candidate.name,
            "run_with": self.chosen.candidate.arguments,
            "ways": [judged.as_dict() for judged in self.ways],
            "advice": self.advice,
            "candidates": [trial.gated.as_dict() for trial in self.trials],
            "layers": layer_costs(self.kept),
            "parity": self.parity.as_dict() if self.parity else None,
            "engine": self._engine(),
            "drift": self.drift,
            "seconds": round(self.seconds, 1),
            "versions": {
                "python": platform.python_version(),
                **{name: package.__version__ for name, package in packages.items()},
            },
        }

    def _engine(self) -> dict[str, Any] | None:
        if self.engine is None or self.engine_verdict is None:
            return None
        return {"file": self.engine.path.name, **self.engine_verdict.as_dict()}

    def input_shape(self) -> list[int | str]:
        """Of ``image``, with a name for each side that is free."""
        height, width = self.size or ("height", "width")
        return [self.batch or "batch", height, width, 3]


def layer_costs(kept: Kept[Verdict] | None) -> list[dict[str, Any]]:
    """The layers that were measured, those that cost most first."""
    costs = sorted(kept.costs, key=lambda cost: cost.sqnr_db) if kept else []
    return [
        {
            "layer": cost.parameter,
            "operator": cost.operator,
            "output": list(cost.shape),
            "sqnr_db": round(cost.sqnr_db, 2),
            "changed": round(cost.changed, 6),
            "kept_in_float": cost.kept,
        }
        for cost in costs
    ]


def title(result: ExportResult) -> str:
    """The head of export.md: what the file is and how to run it."""
    contract = result.contract
    rows = [
        ("architecture", escaped(result.spec.architecture)),
        ("precision", contract.precision),
        ("input `image`", f"uint8 {shape_words(result.input_shape())}, {contract.colour_order}"),
        ("resized inside to", "x".join(map(str, contract.network_size or ())) or "nothing"),
        ("outputs", ", ".join(contract.outputs)),
        ("output stride", str(contract.output_stride)),
        ("size", f"{result.bytes / 1e6:.1f} MB"),
        ("operators", f"{sum(result.operators.values())}: {operator_words(result.operators)}"),
        ("may be run with", ", ".join(way.name for way in passed_ways(result.ways)) or "n/a"),
        ("drift", escaped(result.drift)),
        ("SHA-256 of the file", result.onnx_sha256),
        ("SHA-256 of the weights", result.spec.weights_sha256 or "n/a"),
    ]
    lines = [f"# {escaped(result.path.name)}", "", table(("", "value"), rows)]
    if len(result.trials) > 1:
        options = result.chosen.candidate.arguments
        lines += ["", f"Chosen: {result.chosen.candidate.name}, the fastest that passes."]
        if options:
            lines[-1] += (
                f" The file says so itself: `load` and the commands run it with `{options}` where they can."
            )
    if result.advice:
        lines += ["", f"**Note**: {result.advice}."]
    return "\n".join(lines) + "\n"


def layers_section(kept: Kept[Verdict] | None) -> str:
    """The layers of an INT8 file for export.md; empty if none had to be looked for."""
    if kept is None or not kept.costs:
        return ""
    return "\n## Layers kept in float\n\n" + kept.table(lambda verdict: f"{100 * verdict.mean_after:.1f} %")


def parity_section(parity: Parity | None) -> str:
    """The way from image files to the network for export.md; empty if it was not followed."""
    if parity is None:
        return ""
    return (
        "\n## From pixels to pixels\n\n"
        f"What training saw and what the file gives its network, of {parity.images} image files.\n\n"
        f"{parity.table()}\n"
    )


def operator_words(operators: dict[str, int], most: int | None = None) -> str:
    """``12 Conv, 3 Relu, ...``."""
    words = [f"{count} {kind}" for kind, count in list(operators.items())[:most]]
    return ", ".join(words) + (", ..." if most is not None and len(operators) > most else "")


def shape_words(shape: Sequence[int | str]) -> str:
    return f"({', '.join(str(side) if isinstance(side, int) else f'any {side}' for side in shape)})"
