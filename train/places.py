"""Both sides of an adaptation as they were named: opened, looked through, remembered in the run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.data import Dataset, dataset_splits, open_dataset
from cpsl_deploy.data.check import check_dataset
from cpsl_deploy.data.footage import DEFAULT_FRAMES
from cpsl_deploy.data.layouts import LAYOUTS
from cpsl_deploy.data.open import DEMO_NAMES, Role
from cpsl_deploy.data.sampling_pass import Progress
from cpsl_deploy.errors import DataError
from cpsl_deploy.files import write_json

from .domains import Domains, join_domains
from .engine.loop import Watcher
from .engine.run_folder import RunFolder

_log = logging.getLogger(__name__)

VALIDATION = "val"
"""The target's split to score on, if it is there and labelled."""
_SIDES = ("source", "target", "validation")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the images of one side are."""

    role: Role
    reference: str
    """As ``open_dataset`` takes it."""
    root: Path | None = None
    split: str = "train"
    frames: int | None = None
    """Sampled from a drive at most; None for the default, as the next."""
    hold_out_s: float | None = None
    """Seconds of a drive that are kept out of training."""

    def open(
        self, split: str | None = None, *, need_labels: bool = False, watcher: Watcher | None = None
    ) -> Dataset:
        """Open a split. ``watcher`` sees a drive being sampled."""
        return open_dataset(
            self.reference,
            split or self.split,
            root=self.root,
            role=self.role,
            need_labels=need_labels,
            frames=DEFAULT_FRAMES if self.frames is None else self.frames,
            hold_out_s=self.hold_out_s,
            progress=None if watcher is None else sampling_progress(watcher, self.reference),
        )

    def has(self, split: str) -> bool:
        return split in dataset_splits(self.reference, root=self.root, hold_out_s=self.hold_out_s)


def sampling_progress(watcher: Watcher, reference: str) -> Progress:
    """Shows a drive being sampled as a stage whose steps are the video's frames."""
    name, begun = f"frames of {Path(reference).name}", False

    def progress(done: int, total: int) -> None:
        nonlocal begun
        if not begun and total > 0:
            watcher.stage(name, 0, total)
        elif not begun:
            watcher.message(f"reading {name}; the file does not say how many there are")
        begun = True
        if done <= total:  # headers err by a few frames; the last call knows how many there were
            watcher.step(name, done, {})

    return progress


def open_domains(
    source: Place,
    target: Place,
    val_split: str | None,
    classes: ClassSpace | None,
    watcher: Watcher | None = None,
) -> Domains:
    """Open both sides and join their classes. ``watcher`` sees a drive being sampled.

    Raises DataError as ``open_dataset`` and ``join_domains`` do, for a ``val_split`` without labels, and for
    a sampling of frames asked for where the target is no drive.
    """
    labelled, images = source.open(need_labels=True), target.open(watcher=watcher)
    if images.footage is None and not (target.frames is None and target.hold_out_s is None):
        raise DataError(
            f"frames are sampled from, and seconds held out of, videos alone; {target.reference} is none. "
            "Leave --frames and --hold-out out."
        )
    validation = _open_validation(target, val_split)
    held_out = _open_held_out(target) if validation is None else None
    joined = join_domains(labelled, images, validation, classes, held_out)
    return dataclasses.replace(joined, source_reference=source.reference, target_reference=target.reference)


def _open_held_out(target: Place) -> Dataset | None:
    """The target's split ``val`` if it is unlabelled and not what is trained on."""
    if target.split == VALIDATION or not target.has(VALIDATION):
        return None
    found = target.open(VALIDATION)
    return None if found.has_labels else found


def _open_validation(target: Place, split: str | None) -> Dataset | None:
    if split is not None:
        return target.open(split, need_labels=True)
    if not target.has(VALIDATION):
        return None
    found = target.open(VALIDATION)
    return found if found.has_labels else None


def introduce(domains: Domains, watcher: Watcher) -> None:
    """Say what was opened and what is left out."""
    for side, dataset in _sides(domains).items():
        kind = "images and labels" if dataset.has_labels and side != "target" else "images"
        watcher.message(f"{side}: {dataset.name} ({dataset.split}), {len(dataset)} {kind}")
    for words in domains.target.footage.words() if domains.target.footage is not None else ():
        watcher.message(words)
    if domains.validation is None:
        watcher.message("the target has no labelled split to score on (--val-split): nothing will be scored")
    watcher.message(f"{len(domains.classes)} classes: {', '.join(domains.classes.names)}")
    for words in domains.dropped:
        watcher.message(words)


def check_domains(domains: Domains, watcher: Watcher) -> None:
    """Look through some files of each side. Raises DataError for what would spoil a run or its results."""
    for side, dataset in _sides(domains).items():
        report = check_dataset(dataset, fast=True)
        report.raise_for_errors()
        for problem in report.problems:
            watcher.message(f"{side}: {problem.message}")


def remember(folder: RunFolder, domains: Domains, places: dict[str, Place]) -> None:
    """Write what was opened into the run folder, for a resumed run and for the export."""
    write_json(folder.domains_file, _memory(domains, places))


def recall(folder: RunFolder) -> Domains | None:
    """Open what ``remember`` wrote down.

    None if nothing was, and, said as a warning, if the images are gone or others by now. Raises DataError
    for a damaged domains.json.
    """
    if not folder.domains_file.is_file():
        return None
    try:
        memory = json.loads(folder.domains_file.read_text())
        names, palette = memory["classes"], memory.get("palette", ())
        places = {side: _remembered_place(side, memory[side]) for side in _SIDES if memory[side]}
        digests = {side: memory[side]["images"] for side in places}
        dropped, references = tuple(memory["dropped"]), [places[side].reference for side in _SIDES[:2]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.domains_file}, which says what the run was made from, is damaged ({error!r}). Restore "
            "it, or delete it: without it nothing is scored on the run's images."
        ) from error
    try:
        opened = {side: place.open(need_labels=side != "target") for side, place in places.items()}
    except DataError as error:
        _log.warning("the images of the run %s cannot be opened any more: %s", folder.path, error)
        return None
    for side, dataset in opened.items():
        if _names_digest(dataset) != digests[side]:
            _log.warning(
                "the run %s cannot be scored again: its %s is of other images now", folder.path, side
            )
            return None
    joined = join_domains(
        opened["source"],
        opened["target"],
        opened.get("validation"),
        ClassSpace(names, palette),
        _open_held_out(places["target"]) if "validation" not in opened else None,
    )
    source, target = references
    return dataclasses.replace(joined, dropped=dropped, source_reference=source, target_reference=target)


def _remembered_place(side: str, memory: dict[str, Any]) -> Place:
    root = memory["root"]
    return Place(
        role="source" if side == "source" else "target",
        reference=memory["reference"],
        root=Path(root) if root else None,
        split=memory["split"],
        frames=memory.get("frames"),
        hold_out_s=memory.get("hold_out_s"),
    )


def require_same(folder: RunFolder, domains: Domains) -> None:
    """Raises DataError if the run in the folder began with other images or classes."""
    if not folder.domains_file.is_file():
        return
    now = _memory(domains, {})
    try:
        begun = json.loads(folder.domains_file.read_text())
        different = [what for what in (*_SIDES, "classes") if _essence(begun[what]) != _essence(now[what])]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.domains_file} is damaged ({error!r}). Delete it if "
            "you are sure that source and target are the same as then."
        ) from error
    if different:
        what = different[0]
        raise DataError(
            f"--resume goes on with the images and classes the run began with, and the {what} differs: "
            f"then {_shown(begun[what])}, now {_shown(now[what])}. Give the same as then, or start in "
            "another folder."
        )


def _essence(memory: Any) -> Any:
    """What must not change: a side's images, or the classes."""
    return memory["images"] if isinstance(memory, dict) else memory


def _shown(memory: Any) -> str:
    if isinstance(memory, dict):
        return f"{memory['count']} images of {memory['name']} ({memory['split']})"
    return ", ".join(memory) if memory else "none"


def _sides(domains: Domains) -> dict[str, Dataset]:
    sides = {"source": domains.source, "target": domains.target}
    return sides | ({"validation": domains.validation} if domains.validation is not None else {})


def _memory(domains: Domains, places: dict[str, Place]) -> dict[str, Any]:
    memory: dict[str, Any] = dict.fromkeys(_SIDES)
    for side, dataset in _sides(domains).items():
        place = places.get("source" if side == "source" else "target")
        where = _from_anywhere(place) if place else {}
        memory[side] = {
            **where,
            "split": dataset.split,
            "name": dataset.name,
            "count": len(dataset),
            "images": _names_digest(dataset),
        }
    return memory | {
        "classes": list(domains.classes.names),
        "palette": list(domains.classes.palette),
        "dropped": list(domains.dropped),
    }


def _from_anywhere(place: Place) -> dict[str, str | float | None]:
    """Reference and root that lead to the same images from any working folder; names stay names."""
    is_name = place.reference in (*LAYOUTS, *DEMO_NAMES)
    return {
        "reference": place.reference if is_name else os.path.abspath(place.reference),
        "root": None if place.root is None else os.path.abspath(place.root),
    } | {key: value for key in ("frames", "hold_out_s") if (value := getattr(place, key)) is not None}


def _names_digest(dataset: Dataset) -> str:
    """Tells two lists of images apart."""
    return hashlib.sha256("\n".join(dataset.names).encode()).hexdigest()[:16]
