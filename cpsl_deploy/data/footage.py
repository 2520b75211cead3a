"""A drive as a target: frames sampled from videos, some seconds kept out of training, both written down.

``sampling_pass`` decodes, ``frame_choice`` judges. The frames and ``frames.json``, which says what became of
every moment, stay in a cache folder that belongs to the videos and settings they came from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, OutputError
from ..files import as_output_error, write_json
from .dataset import Dataset, Item
from .frame_choice import REASONS, Choice, Moment, choose
from .layouts import require_split
from .sampling_pass import Progress, SamplingPass
from .video_file import ends_early

DEFAULT_FRAMES = 500
LEAST_FRAMES = 4
"""Fewer frames than this are no target: a batch would show the same picture again and again."""
HELD_OUT = "val"
VIDEO_SPLITS = ("train", HELD_OUT)

_MANIFEST = "frames.json"
_VERSION = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How frames are taken from a recording. Raises DataError for values without sense."""

    frames: int = DEFAULT_FRAMES
    """To train on, at most."""
    hold_out_s: float | None = None
    """Seconds kept out of training; None for the default of ``frame_choice``, 0 for none."""

    def __post_init__(self) -> None:
        if self.frames < LEAST_FRAMES:
            raise DataError(f"{LEAST_FRAMES} frames or more are sampled from a video; got {self.frames}.")
        if self.hold_out_s is not None and not 0 <= self.hold_out_s < float("inf"):
            raise DataError(f"seconds to hold out are a number from 0; got {self.hold_out_s}.")

    @property
    def splits(self) -> tuple[str, ...]:
        return VIDEO_SPLITS if self.hold_out_s is None or self.hold_out_s > 0 else VIDEO_SPLITS[:1]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive seconds of one video."""

    video: Path
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What is known of the recording that a dataset's frames come from."""

    videos: tuple[Path, ...]
    seconds: float
    fps: float
    """Frames per second, on average."""
    moments: int
    """Windows looked at; every one is a frame of a split, or dropped."""
    frames: Mapping[str, int]
    """Frames of each split."""
    dropped: Mapping[str, int]
    """Moments not used, by their key in ``frame_choice.REASONS``."""
    held_out: tuple[Span, ...]
    guard_s: float
    sampling: Sampling
    manifest: Path

    def words(self) -> tuple[str, ...]:
        """What was taken, left and held out, in sentences without a full stop."""
        of = f"{len(self.videos)} videos" if len(self.videos) > 1 else self.videos[0].name
        lines = [
            f"{of}, {clock(self.seconds)}: {self.moments} moments looked at, {self.frames['train']} frames "
            f"to train on, {self.frames[HELD_OUT]} held out"
        ]
        if self.dropped:
            lines.append(f"not used: {self.dropped_words()}")
        if self.held_out:
            guard = f"{self.guard_s:.1f} s on either side"
            lines.append(f"never trained on: {self.held_out_words()} (and {guard})")
        return tuple(lines)

    def dropped_words(self) -> str:
        """``3 dark or blank; 12 nearly the same picture as ...``."""
        return "; ".join(f"{count} {REASONS[key]}" for key, count in self.dropped.items())

    def held_out_words(self) -> str:
        """``0:07.1-0:08.8``, with the file's name where there are several."""
        several = len(self.videos) > 1
        return ", ".join(
            (f"{span.video.name} " if several else "") + f"{clock(span.start_s)}-{clock(span.end_s)}"
            for span in self.held_out
        )


def clock(seconds: float) -> str:
    """``0:07.1`` or ``1:02:07.1``."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def open_footage(
    videos: Sequence[Path],
    split: str,
    sampling: Sampling,
    *,
    base: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open sampled frames of one recording, in one or several videos that follow each other, without labels.

    The split ``train`` has at most ``sampling.frames`` sharp frames, no two neighbours alike; ``val`` has
    frames of the held-out seconds. They are decoded once and kept below ``cache`` (unless given $CPSL_CACHE,
    or ``cpsl_deploy`` in the user's cache folder), until a file or a setting changes. ``base``: the folder of
    several videos. A video that ends before the frame count it announces is used as far as it goes, which is
    a remark of the dataset and a logged warning.

    Raises DataError if a file is no video or empty, none of its frames can be read, or too few can be used,
    OutputError if frames cannot be kept.
    """
    named = str(base) if base is not None else str(videos[0])
    require_split(f"the video {named}" if base is None else f"the folder {named}", split, sampling.splits)
    names = _video_names(videos, base)
    folder = _frames_folder(videos, base, sampling, cache)
    if not (folder / _MANIFEST).is_file():
        _sample(videos, names, sampling, folder, progress)
    manifest = _read_manifest(folder / _MANIFEST)
    remarks = _remarks(videos, manifest)
    for words in remarks:
        logger.warning("%s", words)
    footage = _footage(videos, manifest, sampling, folder / _MANIFEST)
    _require_enough(named, split, footage)
    items = tuple(
        Item(entry["name"], folder / f"{entry['name']}.jpg")
        for entry in manifest["frames"]
        if entry["split"] == split
    )
    return Dataset(
        name=videos[0].resolve().stem if base is None else base.resolve().name,
        split=split,
        items=items,
        all_splits=sampling.splits,
        remarks=remarks,
        footage=footage,
    )


def _require_enough(named: str, split: str, footage: Footage) -> None:
    found = footage.frames[split]
    if found >= (LEAST_FRAMES if split == "train" else 1):
        return
    counts = footage.dropped_words() or "none was dropped"
    if split == "train":
        rule = f"{LEAST_FRAMES} frames or more are needed to train on, and {named} gives {found}"
        remedy = "Record more, and while moving, or hold out less (--hold-out SECONDS)."
    else:
        rule = f"the held-out seconds of {named} have no frame that can be used"
        remedy = "Record more, or hold out more (--hold-out SECONDS)."
    raise DataError(f"{rule}: of {footage.moments} moments looked at, {counts}. {remedy}")


# ---- names and places


def _video_names(videos: Sequence[Path], base: Path | None) -> list[str]:
    """What the names of a video's frames begin with: its path below ``base``, if there is one."""
    if base is None:
        return [""]
    relative = [video.relative_to(base) for video in videos]
    stems = Counter(path.with_suffix("") for path in relative)
    return [(p.with_suffix("") if stems[p.with_suffix("")] == 1 else p).as_posix() + "/" for p in relative]


def _frames_folder(videos: Sequence[Path], base: Path | None, sampling: Sampling, cache: Path | None) -> Path:
    identity = [str(_VERSION), str(sampling.frames), str(sampling.hold_out_s)]
    for path in videos:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot read the video {path}: {error.strerror}. Check the path.") from error
        identity.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    if cache is None:
        from ..cache_folder import cache_folder

        cache = cache_folder()
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:12]
    name = base.resolve().name if base is not None else videos[0].stem
    return cache / "video_frames" / f"{name}-{digest}"


# ---- the manifest


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_text())
        videos, frames = manifest["videos"], manifest["frames"]
        known = all(v["read"] > 0 and v["announced"] >= 0 and v["seconds"] > 0 for v in videos)
        if not (known and videos and all(f["split"] in VIDEO_SPLITS and f["name"] for f in frames)):
            raise ValueError("an entry makes no sense")
        if not all(0 <= span["video"] < len(videos) for span in manifest["held_out"]):
            raise ValueError("held-out seconds are of no video")
        float(manifest["guard_s"]), [entry["why"] for entry in manifest["dropped"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}, which lists the frames kept of a video, is damaged ({error!r}). Delete its folder, and "
            "the video is read again."
        ) from error
    return manifest


def _footage(videos: Sequence[Path], manifest: dict[str, Any], sampling: Sampling, file: Path) -> Footage:
    splits = Counter(entry["split"] for entry in manifest["frames"])
    dropped = Counter(entry["why"] for entry in manifest["dropped"])
    seconds = sum(video["seconds"] for video in manifest["videos"])
    return Footage(
        videos=tuple(videos),
        seconds=seconds,
        fps=sum(video["read"] for video in manifest["videos"]) / seconds,
        moments=len(manifest["frames"]) + len(manifest["dropped"]),
        frames={split: splits[split] for split in VIDEO_SPLITS},
        dropped={key: dropped[key] for key in REASONS if key in dropped},
        held_out=tuple(
            Span(video=videos[span["video"]], start_s=span["start_s"], end_s=span["end_s"])
            for span in manifest["held_out"]
        ),
        guard_s=manifest["guard_s"],
        sampling=sampling,
        manifest=file,
    )


def _remarks(videos: Sequence[Path], manifest: dict[str, Any]) -> tuple[str, ...]:
    """Which videos end early, in words."""
    return tuple(
        f"{path} ends early: it announces {video['announced']} frames and {video['read']} could be read; "
        "those are used"
        for path, video in zip(videos, manifest["videos"], strict=True)
        if ends_early(announced=video["announced"], read=video["read"])
    )


# ---- the pass over the videos


def _sample(
    videos: Sequence[Path], names: Sequence[str], sampling: Sampling, folder: Path, progress: Progress | None
) -> None:
    """Decode the videos once into ``folder``, which appears when it is complete."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot keep frames in {folder.parent}: {error.strerror}. Give another cache folder."
        ) from error
    try:
        reading = SamplingPass(videos, sampling.frames, temporary, progress)
        reading.run()
        choice = choose(
            reading.moments,
            seconds=reading.seconds,
            frames=sampling.frames,
            hold_out_s=sampling.hold_out_s,
        )
        _put_in_place(reading, choice, names, temporary)
        write_json(temporary / _MANIFEST, _manifest(reading, choice, names, sampling))
        try:
            os.rename(temporary, folder)
        except OSError as error:
            # Another process may have sampled the same video meanwhile; its frames are the same.
            if not (folder / _MANIFEST).is_file():
                raise OutputError(
                    f"cannot write {folder}: {error.strerror}. Give another cache folder."
                ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(reading: SamplingPass, choice: Choice, names: Sequence[str], folder: Path) -> None:
    """Chosen frames under their names; the others are deleted."""
    for i in choice.dropped:
        reading.jpeg(reading.moments[i]).unlink(missing_ok=True)
    for i in (*choice.train, *choice.held_out):
        moment = reading.moments[i]
        place = folder / f"{_name(moment, names)}.jpg"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(reading.jpeg(moment), place)
        except OSError as error:
            raise as_output_error(error, place) from error


def _name(moment: Moment, names: Sequence[str]) -> str:
    return f"{names[moment.video]}{moment.frame:06d}"


def _manifest(
    reading: SamplingPass, choice: Choice, names: Sequence[str], sampling: Sampling
) -> dict[str, Any]:
    def entry(i: int, **more: str) -> dict[str, Any]:
        moment = reading.moments[i]
        place = {"video": moment.video, "frame": moment.frame, "time_s": round(moment.time_s, 4)}
        return more | place | {"sharpness": round(moment.sharpness, 2)}

    splits = dict.fromkeys(choice.train, "train") | dict.fromkeys(choice.held_out, HELD_OUT)
    return {
        "version": _VERSION,
        "settings": {"frames": sampling.frames, "hold_out_s": sampling.hold_out_s},
        "videos": reading.videos,
        "held_out": _per_video(choice.spans, [video["seconds"] for video in reading.videos]),
        "guard_s": round(choice.guard_s, 4),
        "frames": [
            entry(i, name=_name(reading.moments[i], names), split=split)
            for i, split in sorted(splits.items())
        ],
        "dropped": [entry(i, why=why) for i, why in choice.dropped.items()],
    }


def _per_video(spans: Sequence[tuple[float, float]], lengths: Sequence[float]) -> list[dict[str, Any]]:
    """Spans of the recording, cut where one video ends and the next begins."""
    parts, begin = [], 0.0
    for number, length in enumerate(lengths):
        for start, end in spans:
            first, last = max(start - begin, 0.0), min(end - begin, length)
            if last > first:
                parts.append({"video": number, "start_s": round(first, 4), "end_s": round(last, 4)})
        begin += length
    return parts
