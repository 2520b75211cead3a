"""Lists what TensorRT's Python bindings offer, for the tests of the code that uses them.

    python tests/list_tensorrt_api.py        # writes tests/export/tensorrt_api.json

TensorRT's own libraries need NVIDIA's package index and a GPU; the bindings' wheels do not. This script
downloads them (about 4 MB), puts empty shared libraries where they look for TensorRT's (nine C symbols, built
with gcc), imports each version in a process of its own, and writes down the signatures and the numbers of the
enumerations that pybind11 states. Nothing of TensorRT runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ("10.3.0", "10.13.2.6", "10.16.1.11", "11.4.0.106")
"""10.3.0 is JetPack 6's; it is older than the packages for CUDA 13."""
TARGET = Path(__file__).parent / "export" / "tensorrt_api.json"
CLASSES = (
    "Builder",
    "BuilderFlag",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserFlag",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_SHORTER = (
    (r"tensorrt_bindings\.tensorrt\.", ""),
    (r"nvinfer1::|nvonnxparser::", ""),
    (r"typing\.SupportsInt", "int"),
    (r"typing\.SupportsFloat", "float"),
    (r"typing_extensions\.Buffer", "buffer"),
    (r"collections\.abc\.Sequence|\bList\b", "list"),
    (r"\bTuple\b", "tuple"),
    (r"\(self: \w+(, )?", "("),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        listed = {version: _list(version, Path(folder) / version) for version in VERSIONS}
    names = sorted(set().union(*listed.values()))
    rows = [f"    {json.dumps(name)}: {json.dumps(_in_versions(name, listed))}" for name in names]
    text = (
        f'{{\n  "made by": "tests/{Path(__file__).name}",\n'
        f'  "package": "tensorrt-cu13-bindings, of 10.3 tensorrt-cu12-bindings",\n'
        f'  "versions": {json.dumps(VERSIONS)},\n  "members": {{\n' + ",\n".join(rows) + "\n  }\n}\n"
    )
    json.loads(text)
    TARGET.write_text(text)
    print(f"{TARGET}: {len(rows)} names, {len(text) // 1024} KiB")


def _in_versions(name: str, listed: dict[str, dict[str, object]]) -> object:
    """What all versions say, or, where they differ, what each of those says that have the name."""
    found = {version: facts[name] for version, facts in listed.items() if name in facts}
    first = next(iter(found.values()))
    return first if all(facts == first for facts in found.values()) and len(found) == len(listed) else found


def _list(version: str, folder: Path) -> dict[str, object]:
    wheels = folder / "wheels"
    cuda = 12 if version.startswith("10.3.") else 13
    package = f"tensorrt-cu{cuda}-bindings=={version}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "-d", str(wheels), package], check=True)
    (wheel,) = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(folder)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS))
    for name in _LIBRARIES:
        library = f"lib{name}.so.{version.partition('.')[0]}"
        gcc = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", str(source)]
        subprocess.run([*gcc, "-o", str(folder / "tensorrt_bindings" / library)], check=True)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder / "tensorrt_bindings"),
        "PYTHONPATH": str(folder),
    }
    command = [sys.executable, __file__, "--list"]
    out = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def _print_list() -> None:
    """In the process that has one version of the bindings."""
    import tensorrt_bindings

    found: dict[str, object] = {"nptype": ["(trt_type: DataType) -> type"], "__version__": "property"}
    for name in (*found, *CLASSES):
        assert hasattr(tensorrt_bindings, name), name
    for name in CLASSES:
        kind = getattr(tensorrt_bindings, name)
        found[name] = "enumeration" if hasattr(kind, "__members__") else "class"
        if name != "INetworkDefinition":
            members = [member for member in dir(kind) if not member.startswith("_") or member == "__init__"]
        else:  # layers are not added by hand here
            members = [m for m in dir(kind) if not m.startswith(("_", "add_"))]
        for member in members:
            if found[name] == "enumeration" and member not in kind.__members__:
                continue
            found[f"{name}.{member}"] = _facts(kind, member)
    print(json.dumps(found))


def _facts(kind: type, name: str) -> object:
    """A number for a member of an enumeration, signatures for a method, "property" or "class" for those."""
    value = getattr(kind, name)
    if name in getattr(kind, "__members__", ()):
        return int(value)
    if isinstance(value, type):
        return "class"
    if isinstance(value, property):
        return "property"
    if not callable(value):  # Logger.ERROR and its like
        return int(value)
    lines = (value.__doc__ or "").splitlines()
    signatures = [line for line in lines if re.match(rf"\s*(\d+\. )?{re.escape(name)}\(.*\) -> ", line)]
    for pattern, short in ((rf"^\s*(\d+\. )?{re.escape(name)}", ""), *_SHORTER):
        signatures = [re.sub(pattern, short, signature) for signature in signatures]
    return signatures


if __name__ == "__main__":
    _print_list() if sys.argv[1:] == ["--list"] else main()
