"""An ONNX file opened for the gate: its labels, and values from inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch.nn import functional

from cpsl_deploy.contract import LABELS, LOGITS, Contract
from cpsl_deploy.errors import InputError, MissingExtraError, ModelFileError
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

try:
    import onnx
    import onnxruntime
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnx", "export", "checking an exported model") from error

NORMALISED = "normalised"
"""The value inside every exported file that enters its network: float (N, 3, h, w), channels in the file's
order."""
INNER = (NORMALISED, LOGITS)


class Probe:
    """Runs an exported file with onnxruntime on the CPU. Frames are uint8 (H, W, 3) BGR whatever the file's
    own colour order is.

    ``inner``: names of values inside the graph that `values` gives, too; the file stays as it is. Raises
    ModelFileError for a file that cannot be read or run, and InputError for a name that it does not have.
    """

    def __init__(self, model: Path | onnx.ModelProto, *, inner: Sequence[str] = ()) -> None:
        self.origin = "the exported file" if isinstance(model, onnx.ModelProto) else str(model)
        if inner or isinstance(model, onnx.ModelProto):
            proto = read_proto(model) if isinstance(model, Path) else model
            source: str | bytes = with_outputs(proto, inner).SerializeToString()
        else:
            source = str(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            # The providers are named: onnxruntime's GPU builds would choose another one by themselves.
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception classes have no public base of their own
            raise self._refused(error) from error
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        if METADATA_KEY not in metadata:
            raise ModelFileError(f"{self.origin} carries no spec: cpsl-export did not write it.")
        self.spec = ModelSpec.from_json(metadata[METADATA_KEY], self.origin)
        self.contract = Contract.from_metadata(metadata, self.origin)
        batch, height, width, _ = self._session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else 1
        self.takes_any_size = not isinstance(height, int) and not isinstance(width, int)

    def values(self, frame: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs and inner values for one frame, by name, each with its batch axis of 1; all by default."""
        image = frame if self.contract.colour_order == "BGR" else np.ascontiguousarray(frame[..., ::-1])
        wanted = list(names) if names is not None else [o.name for o in self._session.get_outputs()]
        try:
            found = self._session.run(wanted, {"image": np.repeat(image[None], self._batch, axis=0)})
        except Exception as error:
            raise self._refused(error) from error
        return {name: value[:1] for name, value in zip(wanted, found, strict=True)}

    def labels(self, frame: np.ndarray) -> np.ndarray:
        """uint8 (H, W), divided by the file's output stride. A file that gives logits alone gets them
        upsampled and compared by torch, as its user would do."""
        if LABELS in self.contract.outputs:
            return self.values(frame, [LABELS])[LABELS][0]
        size = self.contract_size(frame)
        return upsampled_labels(self.values(frame, [LOGITS])[LOGITS], size, self.spec.align_corners)

    def contract_size(self, frame: np.ndarray) -> tuple[int, int]:
        """(height, width) of the labels of a frame."""
        return labels_size(frame.shape[:2], self.contract)

    def _refused(self, error: Exception) -> ModelFileError:
        reason = str(error).splitlines()[0]
        return ModelFileError(f"onnxruntime {onnxruntime.__version__} cannot run the exported file: {reason}")


def labels_size(frame: Sequence[int], contract: Contract) -> tuple[int, int]:
    """(height, width) of the labels that a file gives a frame of (height, width)."""
    return -(-frame[0] // contract.output_stride), -(-frame[1] // contract.output_stride)


def upsampled_labels(logits: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Logits float (1, C, h, w) -> labels uint8 (*size), by torch's own upsampling and argmax."""
    maps = torch.from_numpy(np.ascontiguousarray(logits, np.float32))
    maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)
    return maps.argmax(1)[0].to(torch.uint8).numpy()


def read_proto(path: Path) -> onnx.ModelProto:
    """An ONNX file. Raises ModelFileError if it is none."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{path} is not a readable ONNX file: {error}") from error


def value_names(proto: onnx.ModelProto) -> set[str]:
    """Every value that some node of the graph gives."""
    return {name for node in proto.graph.node for name in node.output if name}


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are the graph's and, of any type and shape, the values ``names``.

    Raises InputError for a value that the graph does not have.
    """
    if missing := [name for name in names if name not in value_names(proto)]:
        raise InputError(f"values to look at are in the graph, and it has no {', '.join(missing)}")
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    given = {output.name for output in proto.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return copy


def inner_values(proto: onnx.ModelProto) -> Mapping[str, bool]:
    """Which of `INNER` a file keeps."""
    names = value_names(proto)
    return {name: name in names for name in INNER}
