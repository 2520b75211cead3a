"""What is asked of ``adapt`` and ``plan``: two datasets, and what differs from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from cpsl_deploy.classes import ClassSpace, parse_class_space
from cpsl_deploy.errors import InputError

from .domains import Domains
from .engine.loop import Watcher
from .places import Place, open_domains
from .recipe import Recipe, load_recipe

DEMO, OWN = "demo", "own"
"""The recipes of the demo's datasets and of all others, unless one is given."""


class Asked(TypedDict, total=False):
    """What ``adapt`` and ``plan`` take beside two datasets, for type checkers: ``Request``'s fields."""

    source_root: str | Path | None
    target_root: str | Path | None
    source_split: str
    target_split: str
    val_split: str | None
    frames: int | None
    hold_out_s: float | None
    classes: ClassSpace | str | None
    recipe: str | Path | None
    settings: Mapping[str, Any] | None
    teacher: str | None
    student: str | None
    init: str | Path | None
    student_init: str | Path | None
    seed: int | None
    precision: str | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``cpsl-adapt`` that say what a run is.

    Raises InputError for one dataset without the other, and for ``classes`` that are none.
    """

    source: str | Path | None = None
    """Labelled images, as ``cpsl_deploy.data.open_dataset`` takes them. Only a plan goes without both."""
    target: str | Path | None = None
    """Images to adapt to, likewise. Their labels, if there are any, are not trained on."""
    source_root: str | Path | None = None
    target_root: str | Path | None = None
    source_split: str = "train"
    target_split: str = "train"
    val_split: str | None = None
    """Labelled target images to score on; without it the split ``val`` if the target has one with labels,
    else nothing is scored."""
    frames: int | None = None
    """Of a target that is a drive (a video or a folder of videos): frames that are trained on at most."""
    hold_out_s: float | None = None
    """Of a drive: seconds that are kept out of training, for a comparison in the report."""
    classes: ClassSpace | str | None = None
    """A class space, its name, or names with commas between; without it the class names that source and
    labelled target have in common."""
    recipe: str | Path | None = None
    """A name or a TOML file; unless given, ``demo`` for the demo's datasets and ``own`` otherwise."""
    settings: Mapping[str, Any] | None = None
    """Replaces values of the recipe by name: ``{"self_labelling.iterations": 200}``. The next are the most
    usual ones, and come before it."""
    teacher: str | None = None
    student: str | None = None
    init: str | Path | None = None
    student_init: str | Path | None = None
    seed: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            raise InputError("a plan is of --source and --target, or of a published recipe alone. Give both.")
        self.class_space()

    @property
    def has_data(self) -> bool:
        return self.source is not None

    def resolved_recipe(self) -> Recipe:
        """The recipe with values replaced. Raises RecipeError as ``load_recipe`` does, and InputError where
        neither a recipe nor datasets are given.
        """
        reference = self.recipe
        if reference is None:
            if not self.has_data:
                raise InputError("a plan needs --source and --target, or the --recipe of published sets.")
            reference = recipe_for(*self._sides())
        named = {
            "model.teacher": self.teacher,
            "model.student": self.student,
            "model.init": self.init,
            "model.student_init": self.student_init,
            "seed": self.seed,
            "compute.precision": self.precision,
        }
        given = {key: value for key, value in named.items() if value is not None}
        given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
        return load_recipe(reference, {**(self.settings or {}), **given})

    def run_folder(self, output: str | Path | None, recipe: Recipe) -> Path:
        """``output``, or ``runs/SOURCE-TARGET-RECIPE`` in the working folder."""
        if output is not None:
            return Path(output)
        sides = self._sides() if self.has_data else ()
        names = [Path(side).stem or Path(side).resolve().stem for side in sides]
        return Path("runs") / "-".join([*names, recipe.name])

    def class_space(self) -> ClassSpace | None:
        """The classes that are asked for, None for those in common."""
        return parse_class_space(self.classes) if isinstance(self.classes, str) else self.classes

    def places(self) -> dict[str, Place]:
        """Where both sides are: ``source`` and ``target``."""
        source, target = self._sides()
        return {
            "source": Place(
                role="source",
                reference=str(source),
                root=_path(self.source_root),
                split=self.source_split,
            ),
            "target": Place(
                role="target",
                reference=str(target),
                root=_path(self.target_root),
                split=self.target_split,
                frames=self.frames,
                hold_out_s=self.hold_out_s,
            ),
        }

    def open(self, watcher: Watcher) -> Domains:
        """Both sides, opened and joined. Raises DataError as ``open_domains`` does."""
        places = self.places()
        return open_domains(places["source"], places["target"], self.val_split, self.class_space(), watcher)

    def _sides(self) -> tuple[str | Path, str | Path]:
        assert self.source is not None and self.target is not None, "asked for without data"
        return self.source, self.target


def recipe_for(source: str | Path, target: str | Path) -> str:
    """The name of the recipe for two datasets."""
    is_demo = [str(side) == DEMO or str(side).startswith(f"{DEMO}-") for side in (source, target)]
    return DEMO if all(is_demo) else OWN


def _path(root: str | Path | None) -> Path | None:
    return None if root is None else Path(root)
