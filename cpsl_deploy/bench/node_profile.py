"""What onnxruntime's profiler says of each node of a graph that it runs: shapes, bytes, milliseconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import INPUT_NAME
from ..backends.graph_cut import up_to_logits
from ..errors import CpslError, MissingExtraError, ModelFileError

_KERNEL = "_kernel_time"
ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2, "int32": 4,
    "uint32": 4, "float": 4, "int64": 8, "uint64": 8, "double": 8,
}  # fmt: skip
"""Of onnxruntime's names of data types; of others, which no network computes with, a node tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a node."""

    dtype: str
    """As onnxruntime names it: "float", "float16", "uint8"."""
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_BYTES.get(self.dtype, 0)


@dataclass(frozen=True, kw_only=True)
class NodeRun:
    """One run of one node."""

    name: str
    operator: str
    inputs: tuple[Tensor, ...]
    """Initialisers among them; an optional input that is not given is not among them."""
    outputs: tuple[Tensor, ...]
    initialiser_bytes: int
    """Of the inputs that lie in the file."""
    provider: str
    ms: float


def node_runs(profile: Sequence[dict[str, Any]]) -> list[NodeRun]:
    """The nodes of a profile in the order in which they ran, once for every run.

    ``profile``: the parsed JSON document of ``InferenceSession.end_profiling``.
    Raises ModelFileError if this onnxruntime does not write the shapes.
    """
    runs = []
    for event in profile:
        details = event.get("args", {})
        # Older versions write events around each node, too, which have no shapes.
        if event.get("cat") != "Node" or "provider" not in details:
            continue
        if "input_type_shape" not in details or "output_type_shape" not in details:
            raise ModelFileError(
                "this onnxruntime writes no shapes into its profiles, from which the costs of layers are "
                "counted. Install a later one: pip install 'onnxruntime>=1.18'"
            )
        runs.append(
            NodeRun(
                name=str(event.get("name", "")).removesuffix(_KERNEL),
                operator=str(details.get("op_name", "")),
                inputs=_tensors(details["input_type_shape"]),
                outputs=_tensors(details["output_type_shape"]),
                initialiser_bytes=int(details.get("parameter_size", 0)),
                provider=str(details["provider"]),
                ms=float(event.get("dur", 0)) / 1e3,
            )
        )
    return runs


def _tensors(described: list[dict[str, list[int]]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(dtype=dtype, shape=tuple(shape)) for one in described for dtype, shape in one.items())


@dataclass(frozen=True, kw_only=True)
class ProfiledRun:
    """What `profile_file` saw."""

    nodes: list[NodeRun]
    frame_shape: tuple[int, int, int, int]
    """(N, H, W, 3) of the frames that were given."""
    output_bytes: int
    """Of everything that the file gave in one run."""


def profile_file(
    path: Path,
    frame_size: tuple[int, int],
    *,
    runs: int = 1,
    optimised: bool = True,
    threads: int | None = None,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    labels_outside: bool = False,
) -> ProfiledRun:
    """Run an ONNX file under onnxruntime's profiler, on noise.

    ``frame_size``: (height, width), where the file leaves it free. ``optimised`` False runs the graph node by
    node as it stands in the file; onnxruntime still puts in what it cannot do without (casts around what it
    has no float16 kernel for, a copy of a DequantizeLinear for each that takes from it). ``labels_outside``:
    up to the logits alone, as a backend runs it that says so of itself.

    Raises MissingExtraError without onnxruntime, ModelFileError for a file that it cannot run.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", f"profiling {path.name}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="cpsl-profile-") as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        try:
            model = (up_to_logits(path) if labels_outside else None) or str(path)
            session = onnxruntime.InferenceSession(model, options, providers=list(providers))
            shape = _frame_shape(session.get_inputs()[0].shape, frame_size)
            frames = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
            output_bytes = 0
            for _ in range(runs):
                output_bytes = sum(output.nbytes for output in session.run(None, {INPUT_NAME: frames}))
            profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except CpslError:
            raise
        except Exception as error:  # onnxruntime's errors have no base class of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise ModelFileError(
                f"{path} cannot be run under onnxruntime's profiler on frames of {frame_size[0]}x"
                f"{frame_size[1]} ({reason}). Give it frames of its size, or export it again: cpsl-export RUN"
            ) from error
    return ProfiledRun(nodes=node_runs(profile), frame_shape=shape, output_bytes=output_bytes)


def _frame_shape(port: list[Any], frame_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Of the input ``image``, (N, H, W, 3), whose free sides are names."""
    batch, height, width = (
        side if isinstance(side, int) else free for side, free in zip(port[:3], (1, *frame_size), strict=True)
    )
    return batch, height, width, 3
