"""A network run by torch itself, doing the work that its exported file does: frames in, labels out.

It is for comparing, not for deploying: what a file costs and gains is told beside what the framework that the
network was trained in makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.backends.base import Backend
from cpsl_deploy.contract import LABELS, Contract
from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter as Network
from cpsl_deploy.train.models.base import SegmenterOutput

from .graph.deploy_graph import DeployGraph

PRECISIONS = ("fp32", "bf16", "fp16")
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_GRAPH_WARM_UP = 3
"""Frames before a CUDA graph is recorded, in which cuDNN chooses its kernels and memory is taken."""


@dataclass(frozen=True, kw_only=True)
class TorchMode:
    """How torch runs a network."""

    device: str = "cpu"
    precision: str = "fp32"
    """Of the network: "bf16" by autocast, "fp16" with the weights in half, as in a file. Pixels, upsampling
    and argmax are fp32 always."""
    channels_last: bool = False
    compiled: bool = False
    """By ``torch.compile``, as one graph."""
    cuda_graph: bool = False
    """Recorded once and replayed; of a compiled network, by ``torch.compile`` itself."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"torch computes in {', '.join(PRECISIONS)}; got {self.precision!r}")
        if self.cuda_graph and self.device != "cuda":
            raise InputError(f"a CUDA graph is for the device 'cuda'; got {self.device!r}")

    @property
    def name(self) -> str:
        """For tables: ``bf16 torch channels_last compiled``."""
        parts = (
            self.precision,
            "torch",
            self.device if self.device != "cpu" else "",
            "channels_last" if self.channels_last else "",
            "compiled" if self.compiled else "",
            "graph" if self.cuda_graph else "",
        )
        return " ".join(part for part in parts if part)


class TorchBackend(Backend):
    """Labels uint8 (N, H, W) of frames uint8 (N, H, W, 3) BGR, N and (H, W) fixed.

    On the GPU frames are copied there and labels back, and `infer` returns when they have arrived. float32
    is float32: TF32 is off as long as the backend is open.
    """

    name = "torch"

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        mode: TorchMode,
        *,
        size: tuple[int, int],
        batch: int = 1,
        threads: int | None = None,
        origin: str = "the network in torch",
    ) -> None:
        """Make the network ready and run it once, so that what is to be compiled is. It is copied.

        ``size`` = (height, width) in pixels of the frames; ``threads``: of torch, in the whole process, until
        the backend is closed. Raises UnavailableError without the GPU that is asked for, or if the network
        cannot be compiled, or memory is short; ModelFileError as `DeployGraph`.
        """
        if mode.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(
                f"torch {torch.__version__} has no CUDA here: this build is without it, or the driver offers "
                "no GPU. Check nvidia-smi, and install the CUDA build of torch"
            )
        self.mode, self.device, self.origin = mode, mode.device, origin
        self.spec, self.metadata = spec, {}
        self.contract = Contract(precision="fp16" if mode.precision == "fp16" else "fp32")
        self.static_size, self.batch = size, batch
        self._restore = _switched(mode, threads)
        try:
            self._prepare(network)
        except BaseException:
            self.close()
            raise

    def _prepare(self, network: Network) -> None:
        graph = DeployGraph(network, self.spec, contract=self.contract, size=self.static_size)
        graph.network = _Entrance(graph.network, self.mode)
        graph.to(self.device)
        self._run: Callable[[Tensor], Tensor] = _labels_of(graph)
        if self.mode.compiled:
            how = "reduce-overhead" if self.mode.cuda_graph else "default"
            self._run = torch.compile(self._run, fullgraph=True, dynamic=False, mode=how)
        shape = (self.batch or 1, *(self.static_size or ()), 3)
        frames = np.zeros(shape, np.uint8)
        try:
            with torch.inference_mode():  # before compiling: what the network really gives
                found = graph.network(torch.zeros(1, 3, *self.spec.size, device=self.device)).logits.dtype
            self.precision = _NAMES.get(found, str(found))
            self.infer(frames)
            if self.mode.cuda_graph and not self.mode.compiled:
                self._run = _recorded(self._run, torch.from_numpy(frames).to(self.device))
                self.infer(frames)
        # What torch.compile, CUDA and the allocator throw are RuntimeErrors of many kinds.
        except (RuntimeError, MemoryError) as error:
            raise _unavailable(self.mode, error) from error

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            labels = self._run(torch.from_numpy(frames).to(self.device)).cpu()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {LABELS: labels.numpy()}

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "version": torch.__version__,
            "device": self.device,
            "threads": torch.get_num_threads() if self.device == "cpu" else None,
            "precision": self.precision,
            "channels_last": self.mode.channels_last,
            "compiled": self.mode.compiled,
            "cuda_graph": self.mode.cuda_graph,
        }

    def close(self) -> None:
        if not self._closed:
            self._run = _closed
            self._restore()
        super().close()


class _Entrance(Network):
    """The network with the memory layout and the autocast of a mode."""

    def __init__(self, network: Network, mode: TorchMode) -> None:
        super().__init__()
        self.layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.in_half = mode.precision == "fp16"
        self.autocast = mode.precision == "bf16"
        self.kind = mode.device

    def forward(self, image: Tensor) -> SegmenterOutput:
        """``image`` (N, 3, H, W), as it comes from frames (N, H, W, 3): channels last in memory."""
        image = image.contiguous(memory_format=self.layout)
        if self.in_half:
            image = image.half()
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.autocast):
            return self.network(image)


def _labels_of(graph: DeployGraph) -> Callable[[Tensor], Tensor]:
    def labels(image: Tensor) -> Tensor:
        found = graph(image).labels
        assert found is not None  # the contract asks for them
        return found

    return labels


def _recorded(run: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[Tensor], Tensor]:
    """``run`` as a CUDA graph that reads ``image`` and writes one output, as torch's notes on CUDA graphs
    have it: warm-up on a stream of its own, then the capture."""
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_GRAPH_WARM_UP):
                run(image)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            labels = run(image)

    def replay(frames: Tensor) -> Tensor:
        image.copy_(frames)
        graph.replay()
        return labels

    return replay


def _switched(mode: TorchMode, threads: int | None) -> Callable[[], None]:
    """Set torch's own switches for a mode; gives what puts them back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = torch.get_num_threads(), cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    if threads is not None:
        torch.set_num_threads(threads)
    if mode.device == "cuda":
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        cudnn.benchmark = True  # the size is fixed, so the fastest kernels can be looked for

    def restore() -> None:
        if threads is not None:
            torch.set_num_threads(before[0])
        if mode.device == "cuda":
            cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before[1:]

    return restore


def _closed(image: Tensor) -> Tensor:
    raise InputError("this torch backend is closed")  # Backend.infer says so first


def _unavailable(mode: TorchMode, error: Exception) -> UnavailableError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch.compile's first line only says which of its compilers it was.
    reason = " ".join(lines[: 2 if mode.compiled else 1] or [type(error).__name__])[:300]
    if mode.compiled:
        return UnavailableError(
            f"torch.compile did not compile the network ({reason}). On a CPU it needs a C++ compiler and "
            "Python's headers (Debian: g++, python3-dev), on a GPU the package triton"
        )
    return UnavailableError(f"torch cannot run the network as {mode.name} ({reason})")
