"""The public sinks, and that naming them costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cpsl_deploy import sinks


def test_public_sinks() -> None:
    assert sinks.__all__ == [
        "AreasSink",
        "CallbackSink",
        "LabelSink",
        "OverlaySink",
        "PreviewSink",
        "RawLabelsSink",
        "Sink",
        "WindowSink",
    ]


@pytest.mark.parametrize("name", sinks.__all__)
def test_each_is_a_sink_and_is_listed(name: str) -> None:
    assert issubclass(getattr(sinks, name), sinks.Sink)
    assert name in dir(sinks)


def test_the_package_alone_imports_none_of_them() -> None:
    code = "import sys, cpsl_deploy.sinks; print([m for m in sys.modules if 'deploy.sinks.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'VideoSink'"):
        _ = sinks.VideoSink
