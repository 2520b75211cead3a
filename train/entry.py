"""``adapt``: from two dataset references to a run folder. ``cpsl-adapt`` is a thin layer over it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpsl_deploy.classes import ClassSpace, parse_class_space
from cpsl_deploy.errors import OutputError

from .adaptation import Adaptation
from .engine import processes as procs
from .engine.loop import SilentWatcher, Watcher
from .engine.run_folder import RunFolder
from .places import Place, check_domains, introduce, open_domains, remember, require_same
from .recipe import Recipe, load_recipe
from .reporting.figures import require_matplotlib
from .reporting.held_out import require_clip_codec
from .reporting.report import write_report

DEMO, OWN = "demo", "own"
"""The recipes of the demo's datasets and of all others, unless one is given."""


def adapt(
    source: str | Path,
    target: str | Path,
    output: str | Path | None = None,
    *,
    source_root: str | Path | None = None,
    target_root: str | Path | None = None,
    source_split: str = "train",
    target_split: str = "train",
    val_split: str | None = None,
    frames: int | None = None,
    hold_out_s: float | None = None,
    classes: ClassSpace | str | None = None,
    recipe: str | Path | None = None,
    teacher: str | None = None,
    student: str | None = None,
    init: str | Path | None = None,
    student_init: str | Path | None = None,
    seed: int | None = None,
    precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    check: bool = True,
    watcher: Watcher | None = None,
) -> RunFolder:
    """Adapt from a labelled source to an unlabelled target, in all stages, into a new run folder.

    ``source``, ``target``: as ``cpsl_deploy.data.open_dataset`` takes them, with their roots and splits. Of
    the target, training uses images only. ``val_split``: labelled target images to score on; without it the
    split ``val`` if the target has one with labels, else nothing is scored.
    ``frames``, ``hold_out_s``: of a target that is a drive (a video or a folder of videos), how many frames
    are trained on at most, and how many seconds are kept out of training, for a comparison in the report.
    ``classes``: a class space, its name, or names with commas between; without it the class names that source
    and labelled target have in common.
    ``recipe``: a name or a TOML file; unless given, ``demo`` for the demo's datasets and ``own`` otherwise.
    ``settings`` replaces values of it by name (``{"self_labelling.iterations": 200}``); ``teacher``,
    ``student``, ``init``, ``student_init``, ``seed`` and ``precision`` are the most usual ones.
    ``output``: ``runs/SOURCE-TARGET-RECIPE`` unless given; it must be empty, or hold the run to ``resume``.
    ``check``: look through the datasets first. ``watcher`` sees the progress.

    Under torchrun every process calls this with the same arguments. Returns the folder with the model to
    deploy, the scores and the report. Raises the errors of ``cpsl_deploy.errors``; a KeyboardInterrupt says
    how to go on.
    """
    require_matplotlib()
    chosen = chosen_recipe(
        recipe if recipe is not None else recipe_for(source, target),
        settings,
        teacher=teacher,
        student=student,
        init=init,
        student_init=student_init,
        seed=seed,
        precision=precision,
    )
    folder = RunFolder(output if output is not None else default_output(source, target, chosen))
    folder.require_usable(resume=resume)
    space = parse_class_space(classes) if isinstance(classes, str) else classes
    places = {
        "source": _place("source", source, source_root, source_split),
        "target": dataclasses.replace(
            _place("target", target, target_root, target_split), frames=frames, hold_out_s=hold_out_s
        ),
    }
    with _told_how_to_go_on(folder), procs.joined(device) as processes:
        if watcher is None or not processes.is_first:
            watcher = SilentWatcher()
        with procs.first_before_others(processes):
            # Generated and sampled images are made by the first process; the others find them.
            domains = open_domains(places["source"], places["target"], val_split, space, watcher)
        if processes.is_first:
            introduce(domains, watcher)
            if resume:
                require_same(folder, domains)
            if check:
                check_domains(domains, watcher)
            if domains.held_out is not None and domains.held_out.footage is not None:
                require_clip_codec()
        adaptation = Adaptation(domains, chosen, folder.path, device=device, watcher=watcher, resume=resume)
        if processes.is_first and not resume:
            remember(folder, domains, places)
        adaptation.run()
        if processes.is_first:
            remember(folder, domains, places)  # of a resumed run: the same images may be elsewhere now
            write_report(folder, domains, processes.device, watcher)
    return folder


def chosen_recipe(
    reference: str | Path,
    settings: Mapping[str, Any] | None,
    *,
    teacher: str | None,
    student: str | None,
    init: str | Path | None,
    student_init: str | Path | None,
    seed: int | None,
    precision: str | None,
) -> Recipe:
    """A recipe with values replaced, the most usual ones by names of their own. None leaves the recipe's."""
    named = {
        "model.teacher": teacher,
        "model.student": student,
        "model.init": init,
        "model.student_init": student_init,
        "seed": seed,
        "compute.precision": precision,
    }
    given = {key: value for key, value in named.items() if value is not None}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    return load_recipe(reference, {**(settings or {}), **given})


def recipe_for(source: str | Path, target: str | Path) -> str:
    """The name of the recipe for two datasets."""
    is_demo = [str(side) == DEMO or str(side).startswith(f"{DEMO}-") for side in (source, target)]
    return DEMO if all(is_demo) else OWN


def default_output(source: str | Path, target: str | Path, recipe: Recipe) -> Path:
    """``runs/SOURCE-TARGET-RECIPE`` in the working folder."""
    names = [Path(side).stem or Path(side).resolve().stem for side in (source, target)]
    return Path("runs") / "-".join([*names, recipe.name])


def _place(role: Any, reference: str | Path, root: str | Path | None, split: str) -> Place:
    return Place(
        role=role, reference=str(reference), root=Path(root) if root is not None else None, split=split
    )


@contextlib.contextmanager
def _told_how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """An interruption says what is kept, also where nothing else in its way does; and so does a full disk."""
    try:
        yield
    except OutputError as error:
        if not folder.recipe_file.is_file():
            raise
        raise OutputError(
            f"{error} Finished stages and the last checkpoint are kept: --resume goes on from there."
        ) from error
    except KeyboardInterrupt as interrupt:
        if not folder.recipe_file.is_file():
            raise KeyboardInterrupt("Nothing was written.") from None
        told = " ".join(map(str, interrupt.args)) or "Finished stages are kept; --resume goes on from there."
        raise KeyboardInterrupt(f"{told} Run folder: {folder.path}") from None
