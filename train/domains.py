"""The two domains of an adaptation, brought into one class space."""

from __future__ import annotations

from dataclasses import dataclass

from cpsl_deploy.classes import ClassSpace, common_classes
from cpsl_deploy.data import Dataset
from cpsl_deploy.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The datasets of an adaptation, in one class space."""

    source: Dataset
    target: Dataset
    """Only its images are ever read in training."""
    validation: Dataset | None
    """Labelled target images for evaluation, if there are any."""
    held_out: Dataset | None = None
    """Target images that are neither trained on nor labelled, to look at, if there are any: of a drive,
    frames of its held-out seconds."""
    classes: ClassSpace
    dropped: tuple[str, ...] = ()
    """What was left out when source and target were joined, in words."""
    source_reference: str = ""
    """What the source was opened by, if it is known; likewise the next."""
    target_reference: str = ""


def join_domains(
    source: Dataset,
    target: Dataset,
    validation: Dataset | None,
    classes: ClassSpace | None = None,
    held_out: Dataset | None = None,
) -> Domains:
    """Bring the datasets into one class space: the given one, else the names both sides have.

    Raises DataError if the source has no labels or nothing is common.
    """
    if not source.has_labels or source.classes is None:
        raise DataError(f"a source needs labels, and the split {source.split!r} of {source.name} has none.")
    spaces = (d.classes for d in (validation, target) if d is not None)
    labelled = next((found for found in spaces if found is not None), None)
    dropped: list[str] = []
    space = classes or source.classes
    if classes is None and labelled is not None:
        space, only_source, only_target = common_classes(source.classes, labelled)
        for side, names in (("source", only_source), ("target", only_target)):
            if names:
                dropped.append(f"classes that only the {side} has are ignored: {', '.join(names)}")
    elif classes is not None:
        dropped = _left_out(classes, source.classes)
    if validation is not None and not validation.has_labels:
        validation = None
    return Domains(
        source=source.with_classes(space),
        target=target.with_classes(space),
        validation=validation.with_classes(space) if validation is not None else None,
        held_out=held_out.with_classes(space) if held_out is not None else None,
        classes=space,
        dropped=tuple(dropped),
    )


def _left_out(classes: ClassSpace, source: ClassSpace) -> list[str]:
    """What a class space that was asked for leaves of the source's. Raises DataError if it is nothing."""
    common_classes(classes, source)
    ignored = [name for name in source.names if name not in classes.names]
    unseen = [name for name in classes.names if name not in source.names]
    words = (
        [f"classes of the source that are not asked for are ignored: {', '.join(ignored)}"] if ignored else []
    )
    if unseen:
        words.append(
            f"classes that the source does not have, so that nothing is learned of them: {', '.join(unseen)}"
        )
    return words
