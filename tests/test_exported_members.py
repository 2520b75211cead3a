"""The public names are a promise: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import pytest

import cpsl_deploy
from cpsl_deploy import errors


def test_public_names() -> None:
    assert cpsl_deploy.__all__ == [
        "IGNORE",
        "AccuracyError",
        "ClassSpace",
        "CpslError",
        "DataError",
        "InputError",
        "MissingExtraError",
        "ModelFileError",
        "ModelSpec",
        "OutputError",
        "Prediction",
        "RecipeError",
        "Segmenter",
        "Stream",
        "StreamOptions",
        "StreamResult",
        "TrainingError",
        "UnavailableError",
        "__version__",
        "load",
        "stream",
    ]


@pytest.mark.parametrize("name", cpsl_deploy.__all__)
def test_each_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(cpsl_deploy, name) is not None
    assert name in dir(cpsl_deploy)


def test_every_error_class_is_public() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.CpslError)
    }
    assert raised <= set(cpsl_deploy.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'segment'"):
        _ = cpsl_deploy.segment
