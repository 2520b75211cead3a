"""The parts of the package tensorrt that a build calls, and a driver with one GPU.

The stand-in has the argument names of the real bindings (tests/export/tensorrt_api.json) and records what it
is asked for. It shows that the order of calls is consistent in itself, not that TensorRT accepts it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

Flags10 = IntEnum("Flags10", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
Flags11 = IntEnum("Flags11", {"STRONGLY_TYPED": 0})
WORKSPACE = object()


class FakeTensorRT(ModuleType):
    """``shape``: of the parsed network's input. ``during``: called in a build with its progress monitor;
    what it returns tells whether the build goes on."""

    def __init__(self, shape: tuple[int, ...] = (1, 64, 96, 3), version: str = "10.16.1.11") -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)  # torch asks for it when it traces
        self.__version__ = version
        self.NetworkDefinitionCreationFlag = Flags10 if version.startswith("10") else Flags11
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=WORKSPACE)
        self.calls: dict[str, Any] = {"builds": 0, "caches": []}
        self.parses = self.builds = self.starts = True
        self.cache_fits = self.profile_fits = self.limit_fits = True
        self.during: Callable[[Any], bool] = work
        self.network = SimpleNamespace(get_input=lambda index: SimpleNamespace(name="image", shape=shape))
        self.log: Any = None

    class BuilderFlag:
        TF32 = "TF32"

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None: ...

    class IProgressMonitor:
        def __init__(self) -> None: ...

    def Builder(self, logger: Any) -> Any:
        self.log = logger.log
        if not self.starts:
            self.log(self.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(
            create_network=lambda flags=0: self.calls.update(flags=flags) or self.network,
            create_builder_config=self._config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda input, min, opt, max: self.calls.update(profile=(input, min, opt, max))
            ),
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        error = SimpleNamespace(
            desc=lambda: "no kernel", node_name=lambda: "conv1", node_operator=lambda: "Conv"
        )
        return SimpleNamespace(
            parse=lambda model: self.calls.update(onnx=model) or self.parses,
            num_errors=1,
            get_error=lambda index: error,
        )

    def _build(self, network: Any, config: Any) -> bytes | None:
        self.calls["builds"] += 1
        if not self.during(config.progress_monitor):
            return None
        if not self.builds:
            self.log(self.ILogger.ERROR, "out of memory")
            return None
        return b"engine %d" % self.calls["builds"]

    def _config(self) -> Any:
        def use(cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self.calls["caches"].append(cache.content)
            return self.cache_fits or cache.content == b""

        return SimpleNamespace(
            create_timing_cache=lambda serialized_timing_cache: SimpleNamespace(
                content=serialized_timing_cache
            ),
            set_timing_cache=use,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"),
            clear_flag=lambda flag: self.calls.update(cleared=flag),
            get_memory_pool_limit=lambda pool: self.calls["pool"][1] if self.limit_fits else 1 << 40,
            add_optimization_profile=lambda profile: 0 if self.profile_fits else -1,
            set_memory_pool_limit=lambda pool, pool_size: self.calls.update(pool=(pool, pool_size)),
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Name to content of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def work(monitor: Any) -> bool:
    """Two steps of a phase, the second with a phase inside."""
    monitor.phase_start("Building", None, 2)
    goes_on = monitor.step_complete("Building", 0)
    monitor.phase_start("Timing", "Building", 4)
    goes_on = goes_on and monitor.step_complete("Timing", 0)
    monitor.phase_finish("Timing")
    monitor.phase_finish("Building")
    return goes_on


class Driver:
    """The CUDA driver's functions, by the names of cuda.h, and NVML's, by those of nvml.h; pointers come from
    ctypes.byref. ``own_version``: of the driver; empty: NVML does not tell it."""

    def __init__(self, name: str = "Some GPU") -> None:
        self.name, self.capability, self.version, self.count, self.result = name, (8, 7), 13000, 1, 0
        self.own_version, self.opened = "580.95.05", 0

    def cuInit(self, flags: int) -> int:
        return self.result

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 40 + ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        assert device.value == 40
        name.value = self.name.encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = self.capability[attribute - 75]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuGetErrorName(self, result: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_NO_DEVICE" if result == 100 else None
        return 0 if result == 100 else 1

    def nvmlInit_v2(self) -> int:
        self.opened += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.opened -= 1
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, length: ctypes.c_uint) -> int:
        assert self.opened == 1 and length.value == len(version) == 80
        version.value = self.own_version.encode()
        return 0 if self.own_version else 3
