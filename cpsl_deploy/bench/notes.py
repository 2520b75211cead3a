"""What a reader of a benchmark must know before believing its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data import Dataset
    from ..machine import Machine
    from .accuracy import ClassAccuracy
    from .latency import LatencySamples

RELIABLE_P99 = 100
"""With fewer frames a 99th percentile lies between the two slowest ones."""


def notes_of(
    whole: Dataset | None, machine: Machine, samples: LatencySamples, accuracy: ClassAccuracy | None
) -> Iterator[str]:
    """One sentence or two each. ``whole``: the data before images were picked; None for synthetic frames."""
    count = len(samples.frames)
    if whole is None:
        yield (
            "Frames are synthetic: latency is real, predicted classes mean nothing, accuracy is not measured."
        )
    elif accuracy is None:
        yield (
            f"The split {whole.split!r} of {whole.name} has no labels: latency is measured, accuracy is not."
        )
    else:
        if accuracy.frames < len(whole):
            yield f"Accuracy is of {accuracy.frames} of the split's {len(whole)} images, evenly spread."
        if accuracy.unknown_to_data:
            yield f"n/a, because the data does not have them: {', '.join(accuracy.unknown_to_data)}."
        if accuracy.unknown_to_model:
            yield (
                "Left out, because the model does not have them: "
                f"pixels labelled {', '.join(accuracy.unknown_to_model)}."
            )
        yield from accuracy.notes()
    if whole is not None and count > len(whole):
        yield f"The split's {len(whole)} images were gone round to make {count} measured frames."
    if count < RELIABLE_P99:
        yield f"p99 of {count} frames says little more than their maximum; measure {RELIABLE_P99} or more."
    if note := samples.warm_up.note:
        yield note
    yield from samples.notes()
    if machine.was_busy:
        yield (
            f"The machine was busy in the minute before the start (load average {machine.load_average}): "
            "if that work went on, latencies are too high."
        )
