"""Decoding a network stream, or a file behind an address, with FFmpeg's libraries (in the reader process)."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from .base import InputLimits
from .decoded import Damaged, Decoded, Decoding, LeftOut, Opened, SourceLost
from .frame_num import FrameNumbers
from .host_name import unresolved_host
from .lateness import Lateness
from .packet_loss import PacketLoss
from .packets import Packets
from .stream_clock import StreamClock

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_HEAL_S = 10.0
"""How long after damage frames that refer to earlier ones are held back if no key frame comes: streams that
refresh little by little never send one. The watch for stalls loses patience before, and gets a key frame."""
_BEHIND_S = 2.0
"""A live stream that never let the decoder wait for so long is behind: decoding is too slow for it."""
_WAITED_S = 0.002
"""A wait for the next packet, in contrast to taking one that had arrived before."""
_BEHIND_EVERY_S = 0.1
"""While behind, one frame in so long is decoded."""
_NO_CLOCK = ("mpjpeg", "mjpeg", "image2", "h264", "hevc", "m4v")
"""Formats without times and frame rate of their own, for which FFmpeg makes up 25 frames per second."""
_PLAYLISTS = ("hls", "dash")


def decode_network(
    url: str,
    *,
    transport: str,
    open_timeout_s: float,
    limits: InputLimits,
    after_s: float | None = None,
    max_late_s: float = 0.0,
    may_skip: Callable[[], bool] = lambda: False,
) -> Decoding:
    """Decode the first video stream.

    ``after_s``: a finite one goes on after this time. ``may_skip``: whether frames of a live one may be left
    out where decoding is too slow for it; then one whose frames come ``max_late_s`` late is lost (0: never).
    """
    scheme = url.partition(":")[0].lower()
    loss = PacketLoss() if scheme == "rtp" or (scheme == "rtsp" and transport == "udp") else None
    if loss is not None:
        loss.listen()
    container = _open(url, transport, open_timeout_s)
    decoder: _Decoder | None = None
    try:
        stream = _video_of(container, limits)
        finite = _is_finite(url, container)
        if finite and after_s is not None:
            container.seek(int(after_s * 1e6))
        yield _opened(container, stream, finite)
        try:
            catch_up = None if finite else _CatchUp(may_skip)
            decoder = _Decoder(container, stream, finite, limits, after_s, catch_up, loss)
            for item in decoder.decode():
                yield item
                if max_late_s and decoder.late_s > max_late_s and may_skip():
                    raise SourceLost(
                        f"its frames come {decoder.late_s:.1f} s late: the network is too slow for them"
                    )
        except (av.error.FFmpegError, IndexError) as error:
            # PyAV raises IndexError where a stream appears that the header does not have.
            raise SourceLost(f"the stream broke off: {_reason(error)}") from error
        if not finite:
            raise SourceLost("the stream ended")
    finally:
        if decoder is None or not decoder.reading:  # else it ends with the process
            container.close()


def _open(url: str, transport: str, timeout_s: float) -> InputContainer:
    try:
        return av.open(url, options=_options(url, transport), timeout=(timeout_s, None))
    except av.error.ProtocolNotFoundError as error:
        scheme = url.partition(":")[0]
        raise SourceLost(
            f"the FFmpeg libraries of the installed package 'av' cannot read {scheme}://", "unavailable"
        ) from error
    except av.error.ExitError as error:
        raise SourceLost(unresolved_host(url) or f"no answer within {timeout_s:g} s") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # FFmpeg has no word of its own for a name that leads nowhere.
        unresolved = unresolved_host(url) if getattr(error, "errno", None) == errno.EIO else ""
        raise SourceLost(unresolved or _reason(error)) from error


def _options(url: str, transport: str) -> dict[str, str]:
    scheme = url.partition(":")[0].lower()
    # What comes while the stream is looked at is decoded afterwards ("nobuffer" would throw the key frame
    # away); looking takes as long as it takes to see the first frames, and not FFmpeg's five seconds.
    options = {"analyzeduration": "2000000", "fpsprobesize": "3"}
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": transport, "max_delay": "300000"}
    elif scheme in ("http", "https"):
        # Within one connection, and only where the server can go on at a place: nothing comes twice.
        options |= {"reconnect": "1", "reconnect_delay_max": "2"}
    elif scheme in ("udp", "rtp"):
        options |= {"overrun_nonfatal": "1", "fifo_size": "50000"}
    return options


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "what comes is no video that can be decoded"
    # Only FFmpeg's words: the text of the whole error repeats the address.
    return str(getattr(error, "strerror", "") or type(error).__name__)


def _video_of(container: InputContainer, limits: InputLimits) -> VideoStream:
    if not container.streams.video:
        raise SourceLost("there is no video in the stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    height, width = context.height, context.width
    if height and width and (broken := limits.broken_by(height, width)):
        raise SourceLost(f"its frames have {broken}. {limits.remedy(height, width)}", "refused")
    # Threads by frames would hold back a frame for each thread.
    stream.thread_type = "SLICE"
    context.thread_count = min(4, os.cpu_count() or 1)
    # Half a picture made up by the decoder is no picture; a size beyond the limit is not allocated.
    context.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    return stream


def _is_finite(url: str, container: InputContainer) -> bool:
    if not url.lower().startswith("http"):
        return False
    formats = container.format.name.split(",")
    if container.duration:
        return True
    if any(name in _PLAYLISTS for name in formats):
        return False
    return container.size > 0 or container.format.name.endswith("_pipe")


def _opened(container: InputContainer, stream: VideoStream, finite: bool) -> Opened:
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate
    announced = rate is not None and not _without_clock(container) and 0 < rate <= 1000
    return Opened(
        what=f"{context.name}, {context.width}x{context.height}",
        fps=float(rate) if announced and rate is not None else None,
        finite=finite,
    )


def _without_clock(container: InputContainer) -> bool:
    return any(name in _NO_CLOCK for name in container.format.name.split(","))


class _Decoder:
    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        finite: bool,
        limits: InputLimits,
        after_s: float | None,
        catch_up: _CatchUp | None,
        loss: PacketLoss | None,
    ) -> None:
        self._container, self._stream, self._limits = container, stream, limits
        self._finite, self._after_s = finite, after_s
        clocked = not _without_clock(container)
        self._clock = StreamClock(trust=finite) if clocked else None
        playlist = any(name in _PLAYLISTS for name in container.format.name.split(","))
        # Of playlists many frames come at once, and then none for long.
        self._lateness = Lateness() if clocked and not finite and not playlist else None
        self.late_s = 0.0
        """Of the last frame."""
        context = stream.codec_context
        self._numbers = FrameNumbers(context.extradata) if context.name == "h264" else None
        self._start = (stream.start_time or 0) if finite else None
        self._damaged_s: float | None = None
        self._catch_up = catch_up
        self._ahead: Packets | None = None
        # A JPEG image that is incomplete does not get so far.
        self._loss = loss if context.name != "mjpeg" else None
        self._incomplete: deque[int | None] = deque(maxlen=32)

    def decode(self) -> Iterator[Decoded | Damaged | LeftOut]:
        packets = self._container.demux(self._stream)
        if self._finite:
            for packet in packets:
                yield from self._decode(packet)
            return
        self._ahead = Packets(packets, self._loss)
        while True:
            asked_s = time.monotonic()
            following = self._ahead.next()
            if following is None:
                return
            if self._catch_up is not None and self._catch_up.leave_out(asked_s, following):
                yield LeftOut()
            else:
                yield from self._decode(following)

    @property
    def reading(self) -> bool:
        """Whether a thread uses the container."""
        return self._ahead is not None and self._ahead.reading

    def _decode(self, packet: Packet) -> Iterator[Decoded | Damaged]:
        if self._numbers is not None and self._numbers.skips(bytes(packet)):
            self._damaged_s = time.monotonic()
        if packet.is_corrupt or (self._ahead is not None and self._ahead.incomplete):
            self._damaged_s = time.monotonic()
            self._incomplete.append(packet.pts)
        try:
            frames = packet.decode()
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            self._damaged_s = time.monotonic()
            what = "breaks a limit or" if isinstance(error, av.error.ArgumentError) else ""
            yield Damaged(reason=f"a frame {what} cannot be decoded".replace("  ", " "))
            return
        for frame in frames:
            if self._ahead is not None and self._ahead.was_last():
                yield Damaged(reason="the stream broke off within a frame")
            elif (given := self._check(frame)) is not None:
                yield given

    def _check(self, frame: VideoFrame) -> Decoded | Damaged | None:
        now = time.monotonic()
        if frame.is_corrupt or frame.pts in self._incomplete:
            self._damaged_s = now
            return Damaged(reason="a frame is incomplete")
        if frame.key_frame:
            self._damaged_s = None
        if self._damaged_s is not None:
            if now - self._damaged_s < _HEAL_S:
                return Damaged(reason="a frame builds on a damaged one")
            self._damaged_s = None
        if broken := self._limits.broken_by(frame.height, frame.width):
            return Damaged(reason=f"it has {broken}")
        if self._lateness is not None:
            stamp_s = None if frame.pts is None else float(frame.pts * (frame.time_base or 0))
            self.late_s = self._lateness.of(stamp_s, now)
        time_s = self._time_of(frame, now)
        if self._after_s is not None and time_s is not None and time_s <= self._after_s + 1e-4:
            return None
        return Decoded(
            height=frame.height,
            width=frame.width,
            captured_s=now - self.late_s,
            time_s=time_s,
            write=lambda into: write_bgr(frame, into),
        )

    def _time_of(self, frame: VideoFrame, now: float) -> float | None:
        if self._clock is None or frame.pts is None or frame.time_base is None:
            return None
        if self._start is not None:
            return float((frame.pts - self._start) * Fraction(self._stream.time_base or frame.time_base))
        return self._clock.since_first(float(frame.pts * frame.time_base), now)


class _CatchUp:
    """Leaves packets undecoded while a live stream brings more than can be decoded."""

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._allowed = allowed
        self._waited_s = time.monotonic()
        self._behind = False
        self._decoded_s = 0.0

    def leave_out(self, asked_s: float, packet: Any) -> bool:
        """``asked_s``: when this packet was asked for."""
        now = time.monotonic()
        if now - asked_s > _WAITED_S:
            self._waited_s = now
        caught_up = self._waited_s == now
        if not self._allowed():
            self._waited_s, self._behind = now, False
        if self._behind and caught_up and packet.is_keyframe:
            self._behind = False
        elif not self._behind and now - self._waited_s > _BEHIND_S:
            self._behind = True
        if not self._behind:
            return False
        if packet.is_keyframe and now - self._decoded_s >= _BEHIND_EVERY_S:
            self._decoded_s = now
            return False
        return True


def write_bgr(frame: VideoFrame, into: np.ndarray) -> None:
    """Convert a frame to BGR in a uint8 (H, W, 3) array."""
    plane = frame.reformat(format="bgr24").planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height]
    into[:] = rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
