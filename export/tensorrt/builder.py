"""One build of an engine with TensorRT's builder, in memory: an ONNX file in, an engine's bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from cpsl_deploy.backends.gpu import Gpu
from cpsl_deploy.backends.tensorrt_remedy import driver_remedy
from cpsl_deploy.errors import InputError, ModelFileError, UnavailableError

from .messages import Messages, logger_into
from .onnx_input import OnnxInput
from .profile import Profile
from .progress import BuildProgress, monitor_into
from .timing_cache import attach_times
from .versions import network_flags

if TYPE_CHECKING:
    import tensorrt


_ROUNDING_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be built, on which machine."""

    model: OnnxInput
    profile: Profile
    workspace_bytes: int | None
    """GPU memory that one layer may use as scratch space; None: all there is."""
    gpu: Gpu


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine and the kernel times measured for it, as bytes of their files."""

    engine: bytes
    times: bytes


def build(trt: ModuleType, job: Job, messages: Messages, progress: BuildProgress, times: bytes) -> Built:
    """Build an engine, in minutes. ``times``: of a timing cache, or empty.

    Raises ModelFileError if TensorRT cannot read or build the model, UnavailableError if it cannot use the
    GPU, InputError if it does not accept the profile or the limit; all with TensorRT's own messages.
    """
    # TensorRT keeps none of these alive by itself; see their functions.
    logger, monitor = logger_into(trt, messages), monitor_into(trt, progress)
    builder = _builder(trt, logger, job, messages)
    network = builder.create_network(network_flags(trt))
    _parse(trt, network, job.model, logger)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # The upsampling's matrix products are exact in float32; TF32 has 10 bits, and fp16 files are faster.
    config.clear_flag(trt.BuilderFlag.TF32)
    _limit_workspace(trt, config, job, messages)
    _add_profile(builder, config, network, job, messages)
    cache = attach_times(config, times)  # noqa: F841  it must outlive the build
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelFileError(
            f"TensorRT {trt.__version__} cannot build an engine of {job.model.path} for {job.gpu.name}: "
            f"{messages.errors()}. Free GPU memory or raise the workspace limit (--workspace-gib), or use "
            "the ONNX file, which is in place"
        )
    return Built(engine=bytes(engine), times=bytes(config.get_timing_cache().serialize()))


def _builder(trt: ModuleType, logger: tensorrt.ILogger, job: Job, messages: Messages) -> tensorrt.Builder:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a builder that is a null pointer
        raise UnavailableError(
            f"TensorRT {trt.__version__} cannot use {job.gpu.name}: {messages.errors()}. Its driver serves "
            f"CUDA {job.gpu.cuda_version}; {driver_remedy()}"
        ) from error


def _parse(
    trt: ModuleType, network: tensorrt.INetworkDefinition, model: OnnxInput, logger: tensorrt.ILogger
) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model.content):
        return
    errors = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f" (node {error.node_name()}, {error.node_operator()})" if error.node_name() else ""
        errors.append(f"{error.desc()}{where}")
    raise ModelFileError(
        f"TensorRT {trt.__version__} cannot read {model.path}: {'; '.join(errors) or 'no message'}. The ONNX "
        "file is in place for other runtimes"
    )


def _limit_workspace(trt: ModuleType, config: tensorrt.IBuilderConfig, job: Job, messages: Messages) -> None:
    if job.workspace_bytes is None:
        return
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, job.workspace_bytes)
    # A limit that it does not like TensorRT leaves out, with a message alone; one that it likes it may round.
    if abs(config.get_memory_pool_limit(pool) - job.workspace_bytes) > _ROUNDING_BYTES:
        raise InputError(
            f"TensorRT does not accept a workspace limit of {job.workspace_bytes / 2**30:g} GiB on "
            f"{job.gpu.name}: {messages.errors()}. Choose one below the GPU's memory"
        )


def _add_profile(
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition,
    job: Job,
    messages: Messages,
) -> None:
    """Say which sizes a free input will have. A fixed one needs no profile."""
    if None not in job.model.shape:
        return
    least, best, most = ((*frames, 3) for frames in (job.profile.min, job.profile.opt, job.profile.max))
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, min=least, opt=best, max=most)
    if config.add_optimization_profile(profile) < 0:
        raise InputError(
            f"TensorRT does not accept the profile {job.profile} for {job.model.path}: {messages.errors()}. "
            "Choose other sizes"
        )
