"""Pictures taken out of real H.264 streams are noticed, and nothing else is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cpsl_deploy.sources.frame_num import FrameNumbers

BASELINE = {"preset": "ultrafast", "tune": "zerolatency", "g": "20"}
KINDS = {
    "baseline": BASELINE,
    "two references": {"preset": "fast", "tune": "zerolatency", "g": "20", "refs": "3"},
    "bidirectional": {"preset": "medium", "bf": "2", "g": "20"},
    "pyramid, open groups": {"preset": "medium", "x264-params": "bframes=3:b-pyramid=2:open-gop=1:keyint=20"},
    "interlaced": {"preset": "fast", "flags": "+ildct+ilme", "g": "20"},
    "slices": {"preset": "ultrafast", "tune": "zerolatency", "g": "20", "slices": "4"},
    "refreshed little by little": {
        "preset": "fast",
        "x264-params": "intra-refresh=1:keyint=20:bframes=0",
    },
}


def encode(
    options: dict[str, str], count: int = 90, pix_fmt: str = "yuv420p"
) -> tuple[bytes, list[av.Packet]]:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 64, 48, pix_fmt
    context.time_base = Fraction(1, 25)
    context.options = options
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (48, 64 + count, 3), dtype=np.uint8)
    packets = []
    for at in range(count):
        image = np.ascontiguousarray(texture[:, at : at + 64])
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = at, context.time_base
        packets += context.encode(frame)
    return bytes(context.extradata or b""), packets + context.encode(None)


def is_reference(packet: bytes) -> bool:
    at = 0
    while (at := packet.find(b"\0\0\1", at) + 3) > 2:
        if packet[at] & 31 in (1, 5):
            return packet[at] >> 5 & 3 != 0
    raise AssertionError("no slice")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_streams_are_whole(kind: str) -> None:
    extradata, packets = encode(KINDS[kind])
    numbers = FrameNumbers(extradata)
    assert not any(numbers.skips(bytes(packet)) for packet in packets)


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_that_is_lost_is_noticed_with_the_next_picture_that_needs_it(kind: str) -> None:
    extradata, packets = encode(KINDS[kind])
    data = [bytes(packet) for packet in packets]
    tried = 0
    for lost in range(1, len(data) - 2):
        following = next(at for at in range(lost + 1, len(data)))
        if not is_reference(data[lost]) or packets[lost].is_keyframe or packets[following].is_keyframe:
            continue
        numbers = FrameNumbers(extradata)
        noticed = [at for at in range(len(data)) if at != lost and numbers.skips(data[at])]
        assert noticed[:1] == [following], f"{lost} of {kind}"
        tried += 1
    assert tried > 20


def test_pictures_that_nothing_builds_on_are_not_missed() -> None:
    extradata, packets = encode(KINDS["bidirectional"])
    numbers = FrameNumbers(extradata)
    kept = [bytes(packet) for packet in packets if is_reference(bytes(packet))]
    assert len(kept) < len(packets)
    assert not any(numbers.skips(packet) for packet in kept)


def test_colour_in_full_and_parameters_within_the_stream() -> None:
    _, packets = encode(BASELINE, 40, "yuv444p")
    numbers = FrameNumbers()
    data = [bytes(packet) for packet in packets]
    assert [at for at in range(40) if at not in (7, 8, 30) and numbers.skips(data[at])] == [9, 31]


def test_lengths_in_place_of_start_codes(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, options=BASELINE)
        stream.pix_fmt = "yuv420p"
        for at in range(40):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video = container.streams.video[0]
        numbers = FrameNumbers(video.codec_context.extradata)
        data = [bytes(packet) for packet in container.demux(video) if packet.size]
    assert data[0][:3] != b"\0\0\1"
    assert [at for at in range(40) if at != 12 and numbers.skips(data[at])] == [13]


def test_garbage_is_no_reason_to_fail() -> None:
    extradata, packets = encode(BASELINE, 30)
    random = np.random.default_rng(1)
    for _ in range(300):
        spoiled = bytearray(bytes(packets[random.integers(30)]))
        for at in random.integers(0, len(spoiled), 8):
            spoiled[at] = random.integers(256)
        numbers = FrameNumbers(random.bytes(int(random.integers(60))) if random.random() < 0.5 else extradata)
        assert numbers.skips(bytes(spoiled[: random.integers(len(spoiled))])) in (True, False)
        assert numbers.skips(random.bytes(100)) in (True, False)
    for extra in (b"\x01", b"\x01" * 40, b"\x01\x64\0\x1f\xff\xe1\xff\xff\x67", b"\0\0\1", b"\0\0\1\x67"):
        assert FrameNumbers(extra).skips(b"\0\0\1\x65" + b"\0" * 50) in (True, False)
