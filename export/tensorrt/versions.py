"""Where TensorRT 10 and 11 differ, and what this project does about it. No other file asks which one it is.

Found by comparing the classes and signatures of the Python bindings 10.3.0, 10.13.2, 10.16.1 and 11.4.0, which
``tests/list_tensorrt_api.py`` lists in ``tests/export/tensorrt_api.json`` for the tests. 10.3 is JetPack 6's
(6.1 and 6.2), and lacks nothing that is used here. What concerns a segmenter's engine:

| | TensorRT 10 | TensorRT 11 | here |
| --- | --- | --- | --- |
| types of a network | weak, unless `STRONGLY_TYPED` | always strong; the flag is deprecated and ignored | `network_flags` |
| `EXPLICIT_BATCH` | deprecated and ignored | gone | not used |
| number of `STRONGLY_TYPED`, and of most `BuilderFlag` | 1 | 0 | always by name |
| `BuilderFlag.FP16`, `BF16`, `INT8`, `FP8`, `INT4`, `FP4`, `OBEY_` and `PREFER_PRECISION_CONSTRAINTS` | deprecated since 10.12 | gone | not used: the precision is in the ONNX file |
| `IBuilderConfig.int8_calibrator`, quantisation flags, `ITensor.dynamic_range` | deprecated | gone | not used: Q/DQ nodes in the ONNX file |
| `Builder.platform_has_fast_fp16` and its like | there | gone | not used |
| `ICudaEngine.device_memory_size` | deprecated | gone (`device_memory_size_v2`) | not used |
| `Runtime.deserialize_cuda_engine` | bytes, or an `IStreamReader` or `IStreamReaderV2` | no `IStreamReader` | bytes |
| `OnnxParser.supports_model` | deprecated | gone (`supports_model_v2`) | not used |
| `TacticSource.CUBLAS`, `CUBLAS_LT`, `CUDNN` | deprecated | gone | not used |

The same in all four, by name and by argument: building, parsing, optimisation profiles, timing caches, memory
pools, progress monitors, loggers, and the runtime's tensors by name with ``execute_async_v3``.
"""  # noqa: E501  a table's rows are one line each

from __future__ import annotations

import logging
import re
from types import ModuleType

from cpsl_deploy.backends.tensorrt_remedy import install_remedy
from cpsl_deploy.errors import UnavailableError

_log = logging.getLogger(__name__)

OLDEST, NEWEST_MAJOR = (10, 3), 11


def require_supported(trt: ModuleType) -> None:
    """Raise UnavailableError for a TensorRT before 10.3; one after 11 is tried, with a warning."""
    version = trt.__version__
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number < OLDEST:
        raise UnavailableError(
            f"TensorRT {OLDEST[0]}.{OLDEST[1]} or later is needed, and {version} is installed. "
            f"{install_remedy(update=True)}"
        )
    if number[0] > NEWEST_MAJOR:
        _log.warning("TensorRT %s is newer than the versions this was written for (10 and 11)", version)


def network_flags(trt: ModuleType) -> int:
    """For ``Builder.create_network``: a network whose tensors have the types that the ONNX file states."""
    if int(trt.__version__.partition(".")[0]) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
