"""The contract and the spec in a file's metadata, whole and damaged."""

from __future__ import annotations

import json
import random
import string

import pytest

from cpsl_deploy import CpslError, ModelFileError
from cpsl_deploy.contract import Contract
from cpsl_deploy.spec import ModelSpec


def spec() -> ModelSpec:
    return ModelSpec(
        architecture="a", class_names=("road", "car"), palette=((1, 2, 3), (4, 5, 6)), size=(64, 96)
    )


@pytest.mark.parametrize(
    "contract",
    [
        Contract(),
        Contract(
            colour_order="RGB",
            outputs=("labels", "confidence", "logits"),
            output_stride=4,
            network_size=(512, 1024),
            precision="int8",
        ),
        Contract(outputs=("logits",), precision="fp16"),
    ],
)
def test_written_and_read_back(contract: Contract) -> None:
    metadata = contract.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert Contract.from_metadata({**metadata, "other": "1"}, "m.onnx") == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "confidence"}, "labels or logits"),
        ({"outputs": "logits,labels"}, "in this order"),
        ({"outputs": "labels,labels"}, "in this order"),
        ({"outputs": ""}, "labels or logits"),
        ({"output_stride": "3"}, "1, 2, 4"),
        ({"output_stride": "-1"}, "whole number"),
        ({"output_stride": "9" * 5000}, "whole number"),
        ({"network_size": "512"}, "HEIGHTxWIDTH"),
        ({"network_size": "8x8"}, "each 16"),
        ({"network_size": "99999x99999"}, "32768"),
        ({"network_size": "nanx64"}, "HEIGHTxWIDTH"),
        ({"precision": "fp8"}, "fp32, fp16, int8"),
        ({"colour_order": "bgr"}, "BGR or RGB"),
        ({"colour_order": 3}, "texts"),
    ],
)
def test_damaged_entries(change: dict, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as raised:
        Contract.from_metadata({**Contract().to_metadata(), **change}, "m.onnx")
    assert str(raised.value).startswith("m.onnx") and "cpsl-export" in str(raised.value)
    assert len(str(raised.value)) < 400


def test_missing_entries_are_named() -> None:
    metadata = Contract().to_metadata()
    del metadata["precision"], metadata["outputs"]
    with pytest.raises(ModelFileError, match="no outputs, precision"):
        Contract.from_metadata(metadata, "m.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": "road"}, "a list"),
        ({"class_names": ["road", 3]}, "printable"),
        ({"class_names": ["road", "\x1b[31m"]}, "printable"),
        ({"class_names": ["road", "\ud800"]}, "printable"),
        ({"class_names": ["road", "road"]}, "more than once"),
        ({"class_names": ["road"]}, "one colour per class"),
        ({"class_names": [str(i) for i in range(300)]}, "1 to 255"),
        ({"palette": [[0, 0, 0], [1e999, 0, 0]]}, "whole numbers"),
        ({"palette": [[0, 0, 0], [300, 0, 0]]}, "0 to 255"),
        ({"palette": [0, 0]}, "a list"),
        ({"mean": [0, 0, float("nan")]}, "finite"),
        ({"std": [1, 1, float("inf")]}, "finite"),
        ({"std": [1, 1, 0]}, "above 0"),
        ({"std": [1, 1, 10**4000]}, "finite"),
        ({"size": [64.5, 64]}, "16 to"),
        ({"size": [64, 10**9]}, "16 to"),
        ({"stride": "8"}, "whole number"),
        ({"stride": 0}, "whole number"),
        ({"align_corners": "false"}, "true or false"),
        ({"provenance": []}, "a table"),
        ({"weights_sha256": 5}, "text"),
        ({"architecture": None}, "printable"),
        ({"spec_version": True}, "whole number"),
        ({"spec_version": 99}, "newer version"),
    ],
)
def test_damaged_spec(change: dict, message: str) -> None:
    values = {**json.loads(spec().to_json()), **change}
    with pytest.raises(ModelFileError, match=message) as raised:
        ModelSpec.from_json(json.dumps(values), "m.onnx")
    assert str(raised.value).startswith("m.onnx") and len(str(raised.value)) < 400


def test_a_spec_nested_without_end() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"spec_version": 1, "provenance": ' + "[" * 100_000):
        with pytest.raises(ModelFileError, match="damaged spec"):
            ModelSpec.from_json(text, "m.onnx")


def random_value(rng: random.Random, depth: int = 0) -> object:
    """What a JSON document can hold, and what Python's reader takes beyond that."""
    kinds = 8 if depth < 3 else 6
    kind = rng.randrange(kinds)
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {text(rng): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    extremes = (0, -1, 2**31, 10**400, 1e308, float("nan"), float("-inf"))
    return (None, True, rng.choice(extremes), rng.random() * 100, text(rng), rng.randrange(-5, 300))[kind]


def text(rng: random.Random) -> str:
    return "".join(rng.choice(string.printable + "\u0000\ud83d\u4e2d") for _ in range(rng.randrange(12)))


@pytest.mark.parametrize("seed", range(4))
def test_only_our_own_error_for_random_specs(seed: int) -> None:
    rng = random.Random(seed)
    whole = json.loads(spec().to_json())
    for _ in range(300):
        values = {**whole, rng.choice([*whole]): random_value(rng)}
        document = json.dumps(rng.choice([values, values, random_value(rng)]))
        if rng.random() < 0.3:
            cut = rng.randrange(len(document) + 1)
            document = document[:cut] + text(rng) + document[cut + 1 :]
        try:
            read = ModelSpec.from_json(document, "m.onnx")
        except CpslError:
            continue
        assert read.classes.names == read.class_names and read.std > (0, 0, 0)
        assert ModelSpec.from_json(read.to_json(), "m.onnx").size == read.size


@pytest.mark.parametrize("seed", range(2))
def test_only_our_own_error_for_random_contracts(seed: int) -> None:
    rng = random.Random(seed)
    whole, refused = Contract().to_metadata(), 0
    for _ in range(500):
        value = rng.choice([text(rng), text(rng), str(random_value(rng)), random_value(rng)])
        try:
            Contract.from_metadata({**whole, rng.choice([*whole]): value}, "m.onnx")
        except CpslError:
            refused += 1
    assert refused > 400, "hardly any random text is a contract's"
