"""What of a recipe may be another when a run is resumed: all that nothing done by then depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from cpsl_deploy.errors import RecipeError

from ..recipe import Recipe, Stage

HARMLESS = ("name", "compute.workers", "compute.checkpoint_every", "compute.log_every", "data.cache_mib")
"""These change no weight of any stage."""
FIRST_READ_BY = {"model.student": "distillation_2", "model.student_init": "distillation_2"}
"""Keys outside the stages' own sections that not every stage depends on."""
_SHOWN = 4


def require_resumable(begun: Recipe, wanted: Recipe, stages: Collection[str]) -> None:
    """Raises RecipeError naming the keys that differ although ``stages``, finished or under way, depend on
    them: their own and those of the stages before them.
    """
    order = [f.name for f in dataclasses.fields(begun) if isinstance(getattr(begun, f.name), Stage)]
    last = max((order.index(stage) for stage in stages if stage in order), default=-1)
    before, now = dict(_values(begun)), dict(_values(wanted))
    fixed = [
        f"{key} = {before[key]!r} where now {key} = {now[key]!r} is asked for"
        for key in before
        if before[key] != now[key] and key not in HARMLESS and _first_reader(key, order) <= last
    ]
    if fixed:
        more = f" and {len(fixed) - _SHOWN} more" if len(fixed) > _SHOWN else ""
        raise RecipeError(
            f"--resume keeps the values that the stages up to {order[last]} began with, and the run had "
            f"{'; '.join(fixed[:_SHOWN])}{more}. Give the same as then, or start in another folder. Free to "
            f"change are {', '.join(HARMLESS[1:])} and settings of later stages."
        )


def _first_reader(key: str, order: list[str]) -> int:
    """Where in the order of stages a value is first needed."""
    stage = FIRST_READ_BY.get(key, key.split(".")[0])
    return order.index(stage) if stage in order else 0


def _values(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a recipe by its full name."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{path}{f.name}.")
        else:
            yield path + f.name, value
