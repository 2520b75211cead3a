"""From the pixels of a JPEG to the network's input, as training goes and as the deployed file goes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from export_networks import spec_for
from gate_files import SIZE, TwoLayers, gate_file

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import AccuracyError, InputError, ModelFileError
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.export.gate.parity import DECODE, NORMALISE, RESIZE, STEPS, WHOLE, Parity, measure_parity

CAMVID = Path(__file__).parents[3] / "shared/data/camvid/images/val"


@pytest.fixture
def jpegs(tmp_path: Path) -> list[Path]:
    """Twice as large as the file's frames."""
    paths = []
    for i, frame in enumerate(generated_frames((2 * SIZE[0], 2 * SIZE[1]), 2)):
        paths.append(tmp_path / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), frame)
    return paths


def parity_of(
    tmp_path: Path, images: list[Path], model: TwoLayers | None = None, **mistake: object
) -> Parity:
    model = model or TwoLayers()
    path = tmp_path / "m.onnx"
    onnx.save(gate_file(model, spec_for(model, size=SIZE), **mistake), str(path))
    return measure_parity(path, model, images)


def by_step(parity: Parity) -> dict[str, float]:
    return {d.step: d.max_grey for d in parity.steps}


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_a_right_file_sees_what_training_sees(tmp_path: Path, jpegs: list[Path], order: str) -> None:
    parity = parity_of(tmp_path, jpegs, contract=Contract(colour_order=order))
    assert parity.sizes == ((SIZE, SIZE),) and parity.images == 2
    assert [d.step for d in parity.steps] == list(STEPS)
    found = by_step(parity)
    assert found[DECODE] == found[RESIZE] == 0 and found[NORMALISE] < 1e-3 and found[WHOLE] < 1e-3
    assert parity.broken == ()
    parity.require()


def test_a_wrong_mean_is_caught_and_quantified(tmp_path: Path, jpegs: list[Path]) -> None:
    parity = parity_of(tmp_path, jpegs, mean=(0.5, 0.4, 0.35))
    normalise = parity.steps[STEPS.index(NORMALISE)]
    assert normalise.max_grey == pytest.approx(0.05 * 255, rel=1e-3), "of blue"
    assert normalise.mean_grey == pytest.approx(0.05 * 255 / 3, rel=1e-3)
    assert normalise.max_units == pytest.approx(0.05 / 0.15, rel=1e-3)
    assert by_step(parity)[DECODE] == by_step(parity)[RESIZE] == 0
    with pytest.raises(AccuracyError, match=r"normalise must .* by up to 12\.[78].*\(mean, stand"):
        parity.require()


def test_a_wrong_channel_order_is_caught(tmp_path: Path, jpegs: list[Path]) -> None:
    parity = parity_of(tmp_path, jpegs, entry_in_rgb=True)
    assert len(parity.broken) == 1 and "channel order" in parity.broken[0]


def test_a_wrong_order_in_the_metadata_alone_is_caught(tmp_path: Path, jpegs: list[Path]) -> None:
    model = TwoLayers()
    proto = gate_file(model, spec_for(model, size=SIZE))
    next(entry for entry in proto.metadata_props if entry.key == "colour_order").value = "RGB"
    onnx.save(proto, str(tmp_path / "m.onnx"))
    assert "normalise must" in measure_parity(tmp_path / "m.onnx", model, jpegs).broken[0]


def test_another_size_at_run_time_is_told_and_quantified(tmp_path: Path) -> None:
    """Training keeps the picture's shape, a file of a fixed size does not."""
    path = tmp_path / "wide.jpg"
    cv2.imwrite(str(path), next(generated_frames((100, 240), 1)))
    parity = parity_of(tmp_path, [path])
    ((trained, runtime),) = parity.sizes
    assert runtime == SIZE != trained and not parity.same_sizes
    assert by_step(parity)[RESIZE] > 0 and parity.broken == ()


def test_resizing_in_the_graph_is_quantified_and_a_wrong_mean_still_caught(
    tmp_path: Path, jpegs: list[Path]
) -> None:
    model = TwoLayers()
    inside = Contract(network_size=(32, 48))
    right = parity_of(tmp_path, jpegs, model, contract=inside)
    assert right.in_graph and right.broken == () and 0 < by_step(right)[RESIZE] < 100
    wrong = parity_of(tmp_path, jpegs, model, contract=inside, mean=(0.5, 0.4, 0.35))
    assert len(wrong.broken) == 1 and wrong.broken[0].startswith("normalise must")


def test_a_photo_with_an_orientation_is_upright_on_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    cv2.imwrite(str(path), next(generated_frames((192, 128), 1)))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    parity = parity_of(tmp_path, [path])
    assert parity.sizes == ((SIZE, SIZE),) and parity.broken == ()


def test_the_table_and_what_is_refused(tmp_path: Path, jpegs: list[Path]) -> None:
    parity = parity_of(tmp_path, jpegs)
    assert parity.table().count("\n") == 5 and "| normalise |" in parity.table()
    assert parity.as_dict()["steps"][DECODE]["max_grey"] == 0
    with pytest.raises(InputError, match="one image file or more"):
        parity_of(tmp_path, [])
    with pytest.raises(ModelFileError, match="keeps no value 'normalised'"):
        parity_of(tmp_path, jpegs, inner=False)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs ../shared/data/camvid")
def test_parity_on_real_photos(tmp_path: Path) -> None:
    images = sorted(CAMVID.iterdir())[:2]
    model, size = TwoLayers(), (360, 480)
    path = tmp_path / "m.onnx"
    onnx.save(gate_file(model, spec_for(model, size=size)), str(path))
    parity = measure_parity(path, model, images)
    assert parity.sizes == ((size, size),) and by_step(parity)[WHOLE] < 1e-3
    assert np.isfinite([d.mean_units for d in parity.steps]).all() and parity.broken == ()
