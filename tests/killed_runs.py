"""Runs an adaptation in processes that are killed, each at a moment of its own, until one comes to its end.

    python killed_runs.py PLAN.json

The plan: source, target, recipe and output, and the moments. A process does what the former ones left undone.
They are forks of this one, so that torch is loaded once.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from cpsl_deploy import train as training
from cpsl_deploy.train.adaptation import Adaptation
from cpsl_deploy.train.engine import checkpoint
from cpsl_deploy.train.engine.loop import SilentWatcher
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.places import Place, open_domains
from cpsl_deploy.train.recipe import load_recipe

Moment = tuple[str, float]
"""``call``, n: in the n-th call of a function of the training code. ``half``, n: in the n-th checkpoint's
writing, half of it written. ``rename``, n: before the n-th file is put in place. ``seconds``, t: from
outside. ``never``, 0."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_call(number: int) -> list[int]:
    """Kills in a call; the list has the calls so far."""
    calls = [0]
    here = os.path.dirname(training.__file__)

    def count(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(here):
            calls[0] += 1
            if calls[0] == number:
                die()

    sys.setprofile(count)
    return calls


def die_in_writing(number: int) -> None:
    save, written = torch.save, [0]

    def half(state: object, file: Any) -> None:
        written[0] += 1
        if written[0] < number:
            save(state, file)
            return
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()

    torch.save = half


def die_before_rename(number: int) -> None:
    replace, renamed = os.replace, [0]

    def counted(*paths: Any) -> None:
        renamed[0] += 1
        if renamed[0] == number:
            die()
        replace(*paths)

    os.replace = counted


def archive_checkpoints(folder: Path) -> None:
    """Keep every checkpoint by stage and iteration, with the state of torch's random numbers."""
    folder.mkdir(exist_ok=True)
    write, replace = checkpoint.Checkpoints.write, os.replace

    def kept(self: checkpoint.Checkpoints, state: dict[str, Any]) -> None:
        write(self, state | {"random": torch.get_rng_state()})
        (folder / "new").unlink(missing_ok=True)
        os.link(self.last, folder / "new")
        replace(folder / "new", folder / f"{state['stage']}-{state['iteration']}.pt")

    checkpoint.Checkpoints.write = kept


class Diary(SilentWatcher):
    """Writes down where a run is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str, done: int, total: int) -> None:
        with open(self.path, "a") as file:
            file.write(f"{name} {done}\n")


def run(plan: dict[str, Any], moment: Moment) -> None:
    kind, number = moment
    output = Path(plan["output"])
    archive_checkpoints(output.with_name(output.name + "-states"))
    {"half": die_in_writing, "rename": die_before_rename}.get(kind, lambda number: None)(int(number))
    calls = die_in_call(int(number)) if kind in ("call", "never") else [0]
    source, target = (Place(role=role, reference=plan[role]) for role in ("source", "target"))
    Adaptation(
        open_domains(source, target, None, None),
        load_recipe(plan["recipe"]),
        output,
        device="cpu",
        watcher=Diary(output.with_name(output.name + "-diary")),
        resume=RunFolder(output).recipe_file.is_file(),
    ).run()
    sys.setprofile(None)
    print(json.dumps({"calls": calls[0]}), flush=True)


def main(plan: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    for kind, number in [*plan["moments"], ("never", 0)]:
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # not to outlive this process for long
            run(plan, (kind, number))
            os._exit(0)
        if kind == "seconds":
            time.sleep(number)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"moment": [kind, number], "status": status}), flush=True)
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"a run that was to be killed at {kind} {number} ended with {status}")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
