"""Memory that runs out: told from other errors, and what to lower then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from cpsl_deploy.errors import TrainingError

from .. import recipe

_SIGNS = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""In the text of the RuntimeErrors that torch raises where it has no class of its own."""
_MOST_TOLD = 200
"""Letters of torch's own words: how much was asked for, and how much there is."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


class OutOfMemory(TrainingError):
    """The memory of a GPU or of the machine is used up."""

    def __init__(self, words: str, doing: str, lower: str, afterwards: str) -> None:
        super().__init__(f"{words} while {doing}. Set {lower}{afterwards}.")
        self.words, self.doing, self.lower = words, doing, lower


@contextlib.contextmanager
def told_what_to_lower(doing: str, lower: str, afterwards: str = "") -> Iterator[None]:
    """Running out of memory in the block becomes OutOfMemory, which says what was being done."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(in_words(error), doing, lower, afterwards) from error


def resuming(recipe_file: Path) -> str:
    """How a run goes on with other values, as the end of a sentence."""
    return (
        f" in {recipe_file}, then go on with --recipe {recipe_file} --resume: the last checkpoint is intact"
    )


def in_words(error: BaseException) -> str:
    """``out of memory (Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB)``."""
    words = " ".join(str(error).split()).removeprefix("CUDA out of memory. ")
    if len(words) > _MOST_TOLD:
        words = words[:_MOST_TOLD].rsplit(". ", 1)[0]
    return f"out of memory ({words.rstrip('.')})" if words else "out of memory"


def step_in_words(settings: recipe.Stage, compute: recipe.Compute, crop: tuple[int, int] | None) -> str:
    """What a step holds in memory: ``4 crops of 512x896 per domain in 2 parts, bf16``."""
    size = f" of {crop[0]}x{crop[1]}" if crop else ""
    parts = f" in {compute.accumulate} parts" if compute.accumulate > 1 else ""
    return f"{settings.batch} crops{size} per domain{parts}, {compute.precision}"


def what_to_lower(
    stage: str, settings: recipe.Stage, compute: recipe.Compute, world: int = 1, *, is_kept: bool = False
) -> str:
    """The recipe's values that a training step's memory hangs on, the cheapest to change first.

    ``is_kept``: there is a checkpoint of the stage to go on from, which a smaller bank would not fit.
    """
    share = settings.batch // world
    parts = next((n for n in range(compute.accumulate + 1, share + 1) if share % n == 0), None)
    lower = [f"compute.accumulate = {parts} (the same batch in more parts)"] if parts else []
    if compute.precision == "fp32":
        lower.append('compute.precision = "bf16"')
    lower += ["a smaller data.crop", f"a smaller {stage}.batch"]
    if isinstance(settings, recipe.SelfLabelling) and not is_kept:
        lower.append("a smaller self_labelling.bank")
    return f"{', '.join(lower[:-1])} or {lower[-1]}"
