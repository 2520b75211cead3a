"""Missing H.264 pictures, noticed by the frame_num of those that came (ITU-T H.264, 7.3.3 and 7.4.3).

A decoder fills the place of a picture that was lost with a copy of another and goes on, without an error and
without a mark: what follows is smeared until the next key frame. Lost packets are not told either where a
server drops them itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""profile_idc of sequence parameter sets that say more about colour."""
_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8
_HEADER = 48
"""Bytes of a slice that hold its frame_num for certain."""


class _Sequence(NamedTuple):
    frame_num_bits: int
    planes_apart: bool
    gaps_allowed: bool


class FrameNumbers:
    """Looks at the packets of one stream, one picture in each, in the order of decoding."""

    def __init__(self, extradata: bytes | None = None) -> None:
        """``extradata``: parameter sets that came beside the packets, as start codes or as ``avcC``."""
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}
        self._reference: int | None = None
        self._length_size = 0
        for unit in self._unpack(extradata or b""):
            self._learn(unit)

    def _unpack(self, extradata: bytes) -> Iterator[bytes]:
        if extradata[:1] != b"\x01" or len(extradata) < 7:
            return self._units(extradata)
        self._length_size = (extradata[4] & 3) + 1
        units, at = [], 6
        for count in (extradata[5] & 31, None):
            if count is None:
                count, at = (extradata[at] if at < len(extradata) else 0), at + 1
            for _ in range(count):
                size = int.from_bytes(extradata[at : at + 2], "big")
                units.append(extradata[at + 2 : at + 2 + size])
                at += 2 + size
        return iter(units)

    def skips(self, packet: bytes) -> bool:
        """Whether pictures that this one builds on did not come. False where that cannot be told."""
        for unit in self._units(packet):
            kind = unit[0] & 31
            if kind in (_SLICE, _IDR_SLICE):
                return self._judge(unit)
            self._learn(unit)
        return False

    def _units(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while self._length_size and at + self._length_size < len(data):
            size = int.from_bytes(data[at : at + self._length_size], "big")
            at += self._length_size
            if size:
                yield data[at : at + size]
            at += size
        if self._length_size:
            return
        start = data.find(b"\0\0\1")
        while 0 <= start < len(data) - 3:
            end = data.find(b"\0\0\1", start + 3)
            yield data[start + 3 : end if end >= 0 else len(data)]
            start = end

    def _learn(self, unit: bytes) -> None:
        try:
            if unit[:1] and unit[0] & 31 == _SEQUENCE:
                name, sequence = _read_sequence(_Bits(unit[1:]))
                self._sequences[name] = sequence
            elif unit[:1] and unit[0] & 31 == _PICTURE:
                bits = _Bits(unit[1:_HEADER])
                self._pictures[bits.golomb()] = bits.golomb()
        except EOFError:
            pass  # the decoder will have more to say about it

    def _judge(self, unit: bytes) -> bool:
        bits = _Bits(unit[1:_HEADER])
        try:
            bits.golomb()  # first_mb_in_slice
            bits.golomb()  # slice_type
            sequence = self._sequences.get(self._pictures.get(bits.golomb(), -1))
            if sequence is None:
                return False
            if sequence.planes_apart:
                bits.take(2)
            number = bits.take(sequence.frame_num_bits)
        except EOFError:
            return False
        before, is_reference = self._reference, unit[0] >> 5 & 3 != 0
        if is_reference:
            self._reference = number
        if unit[0] & 31 == _IDR_SLICE or before is None or sequence.gaps_allowed:
            return False
        # The same number: the second field of a picture.
        return number not in (before, (before + 1) % (1 << sequence.frame_num_bits))


class _Bits:
    """Bits of a NAL unit, the emulation prevention bytes taken out. Raises EOFError at the end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    name = bits.golomb()
    planes_apart = False
    if profile in _WITH_CHROMA:
        chroma = bits.golomb()
        planes_apart = chroma == 3 and bits.take(1) == 1
        bits.golomb(), bits.golomb(), bits.take(1)  # depths, lossless
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    frame_num_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    return name, _Sequence(frame_num_bits, planes_apart, bits.take(1) == 1)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for place in range(lists):
        if not bits.take(1):
            continue
        last = following = 8
        for _ in range(16 if place < 6 else 64):
            if following:
                coded = bits.golomb()
                following = (last + (coded + 1) // 2 * (1 if coded % 2 else -1)) % 256
            last = following or last
