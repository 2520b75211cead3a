"""Damaged, hostile and huge files given to the export, and exports that are cut short at every moment."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_networks import Small, small_model, spec_for
from tiny_onnx import write_tiny_onnx

from cpsl_deploy.errors import CpslError, ModelFileError
from cpsl_deploy.export.graph.onnx_file import export_onnx, operator_counts, read_metadata
from cpsl_deploy.export.precision.int8 import layers
from cpsl_deploy.export.triton.repository import write_repository
from cpsl_deploy.files import sha256
from cpsl_deploy.spec import METADATA_KEY
from cpsl_deploy.train.models import ARCHITECTURES, load_model, save_model


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole model file."""
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Small)
        model = small_model()
        save_model(path, model, spec_for(model))
    return path.read_bytes()


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 800
    return str(caught.value)


# ---- checkpoints


def test_a_damaged_header_is_refused_or_harmless(good: bytes, tmp_path: Path) -> None:
    """Bytes of the header flipped: an error of this project, or the very weights that were written."""
    rng, path = random.Random(0), tmp_path / "model.safetensors"
    end = len(good) - len(header_of(good)[1])
    path.write_bytes(good)
    expected = load_model(path)[0].state_dict()
    survived = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            state = load_model(path)[0].state_dict()
        except CpslError:
            continue
        survived += 1
        assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert survived < 15, "most of the header matters"


def test_a_file_cut_anywhere_is_refused(good: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    for length in (0, 1, 7, 8, 9, len(good) - 1, *(rng.randrange(len(good)) for _ in range(30))):
        assert "damaged" in refused(tmp_path / "m.safetensors", good[:length])
    assert "damaged" in refused(tmp_path / "m.safetensors", good + b"\0")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1, 100_000_001])
def test_an_absurd_header_length_is_refused(good: bytes, tmp_path: Path, length: int) -> None:
    assert "damaged" in refused(tmp_path / "m.safetensors", struct.pack("<Q", length) + good[8:])


ENTRIES = [
    {"data_offsets": [0, 2**63]},
    {"data_offsets": [0, 4]},  # lies over another tensor
    {"data_offsets": [8, 0]},
    {"data_offsets": []},
    {"shape": [2**62, 4]},
    {"shape": [-1]},
    {"shape": "8"},
    {"dtype": "F16"},
    {"dtype": "NONE"},
    {"dtype": None},
]


@pytest.mark.parametrize("change", ENTRIES, ids=str)
def test_a_tensor_that_is_described_wrongly_is_refused(good: bytes, tmp_path: Path, change: dict) -> None:
    header, body = header_of(good)
    for key in ("classifier.bias", "stem.1.num_batches_tracked"):
        assert "damaged" in refused(
            tmp_path / "m.safetensors", packed({**header, key: {**header[key], **change}}, body)
        )


@pytest.mark.parametrize(
    ("key", "dtype", "told"),
    [
        ("classifier.bias", "I32", "classifier.bias whole numbers instead of real numbers"),
        ("classifier.bias", "U32", "classifier.bias whole numbers instead of real numbers"),
        ("stem.1.num_batches_tracked", "F64", "real numbers instead of whole numbers"),
        ("stem.1.num_batches_tracked", "C64", "complex numbers instead of whole numbers"),
    ],
)
def test_numbers_of_another_kind_are_refused(
    good: bytes, tmp_path: Path, key: str, dtype: str, told: str
) -> None:
    """As many bytes, so nothing else notices."""
    header, body = header_of(good)
    header[key]["dtype"] = dtype
    assert told in refused(tmp_path / "m.safetensors", packed(header, body))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(good: bytes, tmp_path: Path, value: float) -> None:
    header, body = header_of(good)
    at = header["classifier.bias"]["data_offsets"][0]
    data = packed(header, body[:at] + struct.pack("<f", value) + body[at + 4 :])
    assert "are not: classifier.bias" in refused(tmp_path / "m.safetensors", data)


def test_a_class_count_or_stride_that_does_not_match_is_refused(good: bytes, tmp_path: Path) -> None:
    header, body = header_of(good)
    spec = json.loads(header["__metadata__"][METADATA_KEY])
    five = {"class_names": list("abcde"), "palette": [[1, 2, 3]] * 5}
    for change, told in (
        (five, "classifier.weight (4, 8, 1, 1) instead of (5,"),
        ({"stride": 8}, "is 8 and"),
    ):
        header["__metadata__"][METADATA_KEY] = json.dumps({**spec, **change})
        assert told in refused(tmp_path / "m.safetensors", packed(header, body))


@pytest.mark.parametrize(
    "metadata", [{}, {METADATA_KEY: ""}, {METADATA_KEY: "[" * 100_000}, {METADATA_KEY: "7"}]
)
def test_missing_or_damaged_metadata_are_refused(good: bytes, tmp_path: Path, metadata: dict) -> None:
    header, body = header_of(good)
    told = refused(tmp_path / "m.safetensors", packed({**header, "__metadata__": metadata}, body))
    assert ("damaged spec" if metadata else "no spec") in told


def test_a_huge_file_is_refused_before_it_is_read(good: bytes, tmp_path: Path) -> None:
    """8 GB in a hole of the file, described as a tensor beside the network's."""
    header, body = header_of(good)
    size, path = 8 << 30, tmp_path / "m.safetensors"
    header["more"] = {"dtype": "U8", "shape": [size], "data_offsets": [len(body), len(body) + size]}
    path.write_bytes(packed(header, body))
    os.truncate(path, path.stat().st_size + size)
    with pytest.raises(ModelFileError, match="is no model file of Small: it has 8,5"):
        load_model(path)


# ---- ONNX files


def read_as_served(path: Path) -> list[str]:
    """The configuration and the labels; of the file's bytes the configuration has the hash alone."""
    place = path.parent / "models"
    write_repository(place, path, overwrite=True)
    served = next(place.rglob("*.onnx"))
    assert served.read_bytes() == path.read_bytes()
    own = sha256(served)
    return [
        file.read_text().replace(own, "")
        for file in sorted(place.rglob("*.*t*"))
        if file.suffix in (".pbtxt", ".txt")
    ]


READERS: list[Callable[[Path], Any]] = [read_metadata, operator_counts, layers, read_as_served]


@pytest.fixture(scope="module")
def good_onnx(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    model = small_model()
    return export_onnx(
        model, spec_for(model), tmp_path_factory.mktemp("good") / "m.onnx", size=(64, 96)
    ).read_bytes()


def flattened(value: Any) -> list[str]:
    """What a reader found, as texts in a fixed order."""
    if isinstance(value, dict):
        return [str(part) for item in sorted(value.items()) for part in item]
    return [str(part) for part in value]


def other_characters(a: list[str], b: list[str]) -> float:
    """In how many places they differ; infinite if they are not made alike."""
    if [len(text) for text in a] != [len(text) for text in b]:
        return float("inf")
    return sum(x != y for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_damaged_onnx_file_is_refused_or_harmless(
    tmp_path: Path, good_onnx: bytes, reader: Callable[[Path], Any]
) -> None:
    """Bytes inside texts cannot be told from other texts; nothing else that is found may change."""
    rng, path = random.Random(0), tmp_path / "m.onnx"
    path.write_bytes(good_onnx)
    expected, survived = flattened(reader(path)), 0
    for trial in range(80):
        damaged = bytearray(good_onnx)
        flips = 1 + trial % 4
        for _ in range(flips):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            got = flattened(reader(path))
        except CpslError as error:
            assert len(str(error)) < 1500
            continue
        survived += 1
        assert other_characters(got, expected) <= flips, (trial, got)
    assert 0 < survived < 80, "nothing was compared, or nothing damaged"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_cut_onnx_file_is_refused_or_harmless(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    """And nothing lies about afterwards."""
    data = write_tiny_onnx(tmp_path / "good.onnx", static=True).read_bytes()
    rng, path = random.Random(0), tmp_path / "m.onnx"
    for trial in range(60):
        damaged = bytearray(data)
        if trial % 3 == 0:
            del damaged[rng.randrange(len(data)) :]
        for _ in range(trial % 4):
            damaged[rng.randrange(len(damaged) or 1) : 1] = bytes([rng.randrange(256)])
        for _ in range(1 + trial % 5 if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            reader(path)
        except CpslError as error:
            assert len(str(error)) < 1500
    left = {file.name for file in tmp_path.rglob("*") if ".tmp" in file.name}
    assert not left


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_no_onnx_file_at_all(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path = tmp_path / "m.onnx"
    for data in (None, b"", b"notes", b"\x08", b"\x7a\xff\xff\xff\xff\x0f", bytes(range(256))):
        if data is not None:
            path.write_bytes(data)
        if reader is operator_counts and data == b"":
            continue  # an empty message has no operators
        with pytest.raises(CpslError, match=r"m\.onnx"):
            reader(path)


@pytest.mark.parametrize("opset", [1, 17, 99])
def test_an_unknown_opset_is_no_reason_to_fail_reading_metadata(tmp_path: Path, opset: int) -> None:
    proto = onnx.load(write_tiny_onnx(tmp_path / "m.onnx"))
    proto.opset_import[0].version = opset
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert METADATA_KEY in read_metadata(tmp_path / "m.onnx")
