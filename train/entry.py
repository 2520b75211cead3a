"""``adapt``: from two dataset references to a run folder. ``cpsl-adapt`` is a thin layer over it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cpsl_deploy.errors import OutputError

from .adaptation import Adaptation
from .engine import processes as procs
from .engine.loop import SilentWatcher, Watcher
from .engine.run_folder import RunFolder
from .places import check_domains, introduce, remember, require_same
from .reporting.figures import require_matplotlib
from .reporting.held_out import require_clip_codec
from .reporting.report import write_report
from .request import Asked, Request

if TYPE_CHECKING:
    from typing_extensions import Unpack


def adapt(
    source: str | Path,
    target: str | Path,
    output: str | Path | None = None,
    *,
    device: str = "auto",
    resume: bool = False,
    check: bool = True,
    watcher: Watcher | None = None,
    **asked: Unpack[Asked],
) -> RunFolder:
    """Adapt from a labelled source to an unlabelled target, in all stages, into a new run folder.

    ``source``, ``target``: as ``cpsl_deploy.data.open_dataset`` takes them. Of the target, training uses
    images only. ``asked``: all else that says what the run is, by the names of ``Request``'s fields: roots
    and splits, ``frames`` and ``hold_out_s`` of a drive, ``classes``, ``recipe``, ``settings`` that replace
    values of it, ``teacher``, ``student``, ``init``, ``student_init``, ``seed``, ``precision``.
    ``output``: ``runs/SOURCE-TARGET-RECIPE`` unless given; it must be empty, or hold the run to ``resume``.
    ``check``: look through the datasets first. ``watcher`` sees the progress.

    Under torchrun every process calls this with the same arguments. Returns the folder with the model to
    deploy, the scores and the report. Raises the errors of ``cpsl_deploy.errors``; a KeyboardInterrupt says
    how to go on.
    """
    require_matplotlib()
    request = Request(source=source, target=target, **asked)
    recipe = request.resolved_recipe()
    folder = RunFolder(request.run_folder(output, recipe))
    folder.require_usable(resume=resume)
    with _told_how_to_go_on(folder), procs.joined(device) as processes:
        if watcher is None or not processes.is_first:
            watcher = SilentWatcher()
        with procs.first_before_others(processes):
            # Generated and sampled images are made by the first process; the others find them.
            domains = request.open(watcher)
        if processes.is_first:
            introduce(domains, watcher)
            if resume:
                require_same(folder, domains)
            if check:
                check_domains(domains, watcher)
            if domains.held_out is not None and domains.held_out.footage is not None:
                require_clip_codec()
        adaptation = Adaptation(domains, recipe, folder.path, device=device, watcher=watcher, resume=resume)
        if processes.is_first and not resume:
            remember(folder, domains, request.places())
        adaptation.run()
        if processes.is_first:
            # Again, because those of a resumed run may be elsewhere now.
            remember(folder, domains, request.places())
            write_report(folder, domains, processes.device, watcher)
    return folder


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
