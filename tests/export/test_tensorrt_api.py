"""Every name and argument this project uses of TensorRT is in the bindings of 10.3, 10.13, 10.16 and 11.4.

What the bindings offer was listed by tests/list_tensorrt_api.py, so this runs without them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_names import API, Use, facts, overridden, parameters, uses

import cpsl_deploy
from cpsl_deploy.export import tensorrt

SOURCES = {
    path.name: path
    for path in (
        *sorted(Path(tensorrt.__file__).parent.glob("*.py")),
        Path(cpsl_deploy.__file__).parent / "backends" / "tensorrt_backend.py",
    )
}
VERSIONS = "versions.py"
"""The one file that may use what not every version has, because it asks which one it is."""
ATTRIBUTES = {
    "TensorRTBackend._engine": "ICudaEngine",
    "TensorRTBackend._context": "IExecutionContext",
}


def uses_of(name: str) -> list[Use]:
    others = "\n".join(path.read_text() for other, path in SOURCES.items() if other != name)
    return uses(
        SOURCES[name].read_text(), ATTRIBUTES, others.replace("from __future__ import annotations", "")
    )


@pytest.mark.parametrize("version", API["versions"])
@pytest.mark.parametrize("name", [name for name in SOURCES if name != VERSIONS])
def test_what_is_used_is_there(name: str, version: str) -> None:
    assert [problem for use in uses_of(name) if (problem := use.problem(version))] == []


def test_what_only_some_versions_have_is_in_one_file() -> None:
    used = {use.name for use in uses_of(VERSIONS)}
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in used
    assert all(any(facts(name, version) is not None for version in API["versions"]) for name in used)


def test_the_uses_are_really_found() -> None:
    found = {use.name for name in SOURCES for use in uses_of(name)}
    assert {
        "Builder.build_serialized_network",
        "Builder.create_optimization_profile",
        "IBuilderConfig.progress_monitor",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.set_timing_cache",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "ILogger.ERROR",
        "INetworkDefinition.get_input",
        "IOptimizationProfile.set_shape",
        "ITensor.name",
        "ITimingCache.serialize",
        "MemoryPoolType.WORKSPACE",
        "OnnxParser.parse",
        "ParserError.desc",
        "ParserError.node_operator",
        "Runtime.deserialize_cuda_engine",
        "TensorIOMode.INPUT",
        "nptype",
    } <= found


@pytest.mark.parametrize("version", API["versions"])
def test_overriding_methods_take_what_tensorrt_gives_them(version: str) -> None:
    methods = {name: taken for path in SOURCES.values() for name, taken in overridden(path.read_text())}
    assert {
        "ILogger.log",
        "IProgressMonitor.step_complete",
        "IProgressMonitor.phase_finish",
    } <= methods.keys()
    for name, taken in methods.items():
        (signature,) = facts(name, version)
        assert parameters(signature)[0] == taken, name


def test_tensorrt_11_dropped_what_the_differences_say() -> None:
    """The facts that versions.py states, against the lists."""
    for name in (
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "BuilderFlag.FP16",
        "BuilderFlag.INT8",
        "IBuilderConfig.int8_calibrator",
        "ITensor.dynamic_range",
        "Builder.platform_has_fast_fp16",
        "ICudaEngine.device_memory_size",
        "OnnxParser.supports_model",
    ):
        assert facts(name, "10.16.1.11") is not None and facts(name, "11.4.0.106") is None, name
    strong = [facts("NetworkDefinitionCreationFlag.STRONGLY_TYPED", version) for version in API["versions"]]
    assert strong == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "has no BuilderFlag.FP16"),
        ("config.set_timing_caches(cache, False)", "has no IBuilderConfig.set_timing_caches"),
        ("config.set_timing_cache(cache)", "not (1, ())"),
        ("builder.create_optimization_profile().set_shape('image', low=1, opt=1, max=1)", "('low', 'opt'"),
        ("trt.Builder(logger).create_network(0).get_input(0).title", "has no ITensor.title"),
        ("(network := builder.create_network()).inputs", "has no INetworkDefinition.inputs"),
        ("parser = trt.OnnxParser(network=network)", "OnnxParser.__init__"),
    ],
)
def test_a_mistake_is_found(line: str, problem: str) -> None:
    source = f"def f(builder: trt.Builder, config: tensorrt.IBuilderConfig, cache: int):\n    {line}\n"
    assert any(problem in use.problem("11.4.0.106") for use in uses(source))
