"""What building an engine needs, and what exactly is missing where it cannot be built."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

from cpsl_deploy.backends.gpu import gpu_problem
from cpsl_deploy.backends.tensorrt_remedy import install_remedy, missing_package
from cpsl_deploy.errors import UnavailableError

from .versions import require_supported


def no_gpu(onnx_path: Path) -> UnavailableError:
    """The error of a machine without a GPU. It does not load TensorRT, but says if that is missing, too."""
    problem = gpu_problem() or "the NVIDIA driver offers this process no GPU"
    package = "" if _installed() else f" TensorRT is missing here, too. {install_remedy()}."
    return UnavailableError(
        "a TensorRT engine is built on the NVIDIA GPU it will run on, and no GPU with a working driver was "
        f"found here: {problem}.{package} Export with --trt on the machine with the GPU, or run the ONNX "
        f"file, which is in place, with onnxruntime or OpenVINO: {onnx_path}"
    )


def require_tensorrt(onnx_path: Path) -> ModuleType:
    """The package ``tensorrt``, loaded. Raises UnavailableError if it is not installed (see
    `missing_package`), does not load or is too old, and says which package or library is at fault."""
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt" or not _installed():
            purpose = f"building a TensorRT engine (the ONNX file is in place: {onnx_path})"
            raise missing_package("tensorrt", purpose) from error
        raise _broken(f"its part {error.name} is not installed", onnx_path) from error
    # On Windows the bindings raise FileNotFoundError for a library.
    except (ImportError, OSError) as error:
        raise _broken(_library_problem(str(error)), onnx_path) from error
    require_supported(trt)
    return trt


def _installed() -> bool:
    try:
        return importlib.util.find_spec("tensorrt") is not None
    except (ImportError, ValueError):  # a module put in place without a spec
        return False


def _library_problem(message: str) -> str:
    found = re.search(r"(lib\S+\.so[.\d]*): cannot open shared object|Could not find: (\S+\.dll)", message)
    if not found:
        return message
    library = found[1] or found[2]
    if re.match(r"(lib)?nv(infer|onnxparser)", library):
        return f"the library {library}, of the package tensorrt-cu13-libs, is not installed"
    return f"the library {library} is not installed"


def _broken(problem: str, onnx_path: Path) -> UnavailableError:
    return UnavailableError(
        f"TensorRT is installed and does not load: {problem}. {install_remedy(again=True)}. The ONNX file is "
        f"in place: {onnx_path}"
    )
