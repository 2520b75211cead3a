"""The files of an export's candidates, each made once, in a folder that is gone afterwards."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import cpsl_deploy
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter as Network

from .candidates import Candidate
from .gate.judge import Verdict
from .graph.onnx_file import export_onnx
from .precision.int8 import Quantiser
from .precision.sensitivity import Kept, search
from .request import ExportRequest
from .tensorrt.engine import Engine, ensure_engine

_log = logging.getLogger(__name__)

JudgeFile = Callable[[Path], Verdict]


class Workshop:
    """Makes files for candidates.

    ``folder``: empty, for the files. ``calibration``: gives frames uint8 (H, W, 3) BGR of the file's size;
    asked for when INT8 is made. ``judge``: the gate's verdict on a file, for the search of layers to keep
    in float.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        spec: ModelSpec,
        request: ExportRequest,
        *,
        calibration: Callable[[], Sequence[np.ndarray]],
        judge: JudgeFile,
    ) -> None:
        self._folder = folder
        self.network = network
        self._spec, self._request = spec, request
        self._calibration, self._judge = calibration, judge
        self._kept: dict[str, Kept[Verdict]] = {}

    def file(self, candidate: Candidate) -> Path:
        """The candidate's ONNX file. Raises what exporting and quantising raise."""
        contract = dataclasses.replace(self._request.contract, precision=candidate.precision)
        # Named by what is in it, so that candidates that differ in what runs them share one file.
        path = self._folder / f"{candidate.precision}-{candidate.scheme}.onnx"
        if path.exists():
            return path
        if candidate.precision == "int8":
            return self._quantised(candidate, path)
        _log.info("exporting the network, %s", candidate.precision)
        size, batch = self._request.file_size(self._spec), self._request.batch
        return export_onnx(
            self.network,
            self._spec,
            path,
            contract=contract,
            size=size,
            batch=batch,
            free_concats=candidate.scheme == "tensorrt",
        )

    def kept(self, candidate: Candidate) -> Kept[Verdict] | None:
        """The search for layers of an INT8 file; None for other files, and before it was made."""
        return self._kept.get(candidate.scheme) if candidate.precision == "int8" else None

    def float_file(self, candidate: Candidate) -> Path | None:
        """The float32 file that a file of lower precision came from; None for float32 itself."""
        if candidate.precision == "fp32":
            return None
        return self.file(dataclasses.replace(candidate, precision="fp32"))

    def engine(self, candidate: Candidate) -> Engine:
        """The candidate's TensorRT engine, built once. Raises what `ensure_engine` raises."""
        request = self._request
        file = self.file(candidate)
        return ensure_engine(file, profile=request.profile, workspace_gib=request.workspace_gib)

    def open(
        self, candidate: Candidate, *, threads: int | None = None, whole_graph: bool = False
    ) -> Segmenter:
        """The candidate's file, opened with what is to run it. ``threads``, ``whole_graph``: as of
        `cpsl_deploy.load`. Raises also UnavailableError."""
        if candidate.backend == "tensorrt":
            return cpsl_deploy.load(self.engine(candidate).path)
        return cpsl_deploy.load(
            self.file(candidate),
            backend=candidate.backend,
            device=candidate.device,
            threads=threads,
            precision=candidate.backend_precision,
            whole_graph=whole_graph,
        )

    def new_folder(self, name: str) -> Path:
        """An empty folder beside the files."""
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _quantised(self, candidate: Candidate, path: Path) -> Path:
        """INT8 with as few layers in float as the budget needs."""
        frames = self._calibration()
        if self._request.contract.colour_order == "RGB":
            frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
        source = self.file(dataclasses.replace(candidate, precision="fp32"))
        quantiser = Quantiser(source, frames, scheme=candidate.scheme)
        found = search(quantiser, frames, score=self._judge, accept=lambda verdict: verdict.passed)
        self._kept[candidate.scheme] = found
        quantiser.write(path, found.layers)
        return path
