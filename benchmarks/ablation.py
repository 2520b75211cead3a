"""Which part of the method earns what: arms that differ in one setting, several seeds, one start per seed.

    python benchmarks/ablation.py --pair carla-camvid --data DATA --init squeezenet1_1.safetensors
    python benchmarks/ablation.py --pair demo --arms bounds,paper

The arms are declared in ``ablation.toml``. Units (an arm with a seed) that are done are kept, one that was
interrupted is continued; several processes given the same output folder share the units. Writes into
OUTPUT/PAIR a run folder per unit, ``ablation.json``, ``ablation.md`` and its pictures after every unit; the
last line on standard output is one compact JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ablation_arms import Arm, read_plan
from ablation_plot import write_plots
from ablation_summary import summarise
from ablation_text import findings, markdown
from ablation_units import Measurement, Unit, revision, validation_of
from pairs import Pair, carla_camvid, demo

from cpsl_deploy.command_line import Command
from cpsl_deploy.errors import InputError, RecipeError
from cpsl_deploy.files import write_json, write_text
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.recipe import Recipe, to_toml
from cpsl_deploy.train.recipe_file import parse_override

DECLARATION = Path(__file__).with_suffix(".toml")


def collect(
    measurement: Measurement, arms: Sequence[Arm], seeds: Sequence[int]
) -> dict[int, dict[str, dict[str, Any]]]:
    """results.json of every finished unit, by seed and arm, with the median ``step_seconds`` of each stage.

    A unit of other settings than the arm has now is left out, with a warning.
    """
    found: dict[int, dict[str, dict[str, Any]]] = {seed: {} for seed in seeds}
    for unit in (Unit(seed, arm) for seed in seeds for arm in arms):
        try:
            results = measurement.results(unit)
        except RecipeError as error:
            logging.getLogger(__name__).warning("%s is left out: %s", unit, error)
            continue
        if results is not None:
            for stage, seconds in _step_seconds(measurement.folder(unit.seed, unit.arm.name)).items():
                results.get(stage, {})["step_seconds"] = seconds
            found[unit.seed][unit.arm.name] = results
    return found


def _step_seconds(run: RunFolder) -> dict[str, float]:
    logged: dict[str, list[float]] = {}
    for entry in run.metrics():
        if "step_seconds" in entry:
            logged.setdefault(entry["stage"], []).append(entry["step_seconds"])
    return {stage: float(np.median(seconds)) for stage, seconds in logged.items()}


def write_results(
    measurement: Measurement, arms: Sequence[Arm], seeds: Sequence[int], command: str
) -> dict[str, Any]:
    """Summarise what is finished, as JSON, Markdown and pictures: of these units and of all others that were
    ever begun in the folder. Arms that change nothing on this pair are named, without figures. Returns the
    summary.
    """
    begun, seeds = _with_begun(measurement, arms, seeds)
    arms = measurement.without_no_ops(begun)
    results = collect(measurement, arms, seeds)
    plan, pair = measurement.plan, measurement.pair
    done = [(seed, name) for seed, of_seed in results.items() for name in of_seed]
    domains = measurement.domains(seeds[0])
    absent = {seed: measurement.absent(seed) for seed in seeds if results[seed]}
    recipe = measurement.recipe(Unit(seeds[0], arms[0]))
    summary = {
        "pair": pair.name,
        "command": command,
        "prior_of": plan.prior_of,
        "validation": _scored_on(domains),
        "recipe_name": recipe.name,
        "recipe": to_toml(_without_folders(recipe)),
        "circumstances": _circumstances(measurement, done),
        "no_ops": [
            {"arm": arm.name, "title": arm.title, "group": arm.group, "like": arm.like}
            for arm in begun
            if arm not in arms
        ],
        **summarise(plan, arms, results, seeds, domains.classes.names, pair.large, absent),
    }
    if done:
        write_json(measurement.output / "ablation.json", summary)
        pictures = write_plots(summary, measurement.output)
        write_text(measurement.output / "ablation.md", markdown(summary, pictures))
    return summary


def _scored_on(domains: Domains) -> str:
    validation = validation_of(domains)
    return f"{len(validation)} images of {validation.name}, {validation.split}"


def _without_folders(recipe: Recipe) -> Recipe:
    """The recipe as it can be quoted: weights by the names of their files."""
    model = recipe.model
    names = {key: Path(getattr(model, key)).name for key in ("init", "student_init")}
    return dataclasses.replace(recipe, model=dataclasses.replace(model, **names))


def _with_begun(
    measurement: Measurement, arms: Sequence[Arm], seeds: Sequence[int]
) -> tuple[list[Arm], list[int]]:
    """The arms and seeds, and those that have a run folder, in the declaration's order."""
    begun = [path.parent for path in measurement.output.glob("seed-*/*/recipe.toml")]
    names = {arm.name for arm in arms} | {path.name for path in begun}
    numbers = {*seeds, *(int(path.parent.name.removeprefix("seed-")) for path in begun)}
    return [arm for arm in measurement.plan.arms.values() if arm.name in names], sorted(numbers)


def _circumstances(measurement: Measurement, done: Sequence[tuple[int, str]]) -> list[str]:
    """What the finished units ran on and with, in words; those alike together."""
    units: dict[str, list[str]] = {}
    days = []
    for seed, arm in done:
        found = json.loads((measurement.folder(seed, arm).path / "unit.json").read_text())
        days.append(found["begun"])
        versions = {k: v for k, v in found["machine"].items() if v is not None and k != "os"}
        text = ", ".join(f"{key} {value}" for key, value in versions.items())
        text += f"; {found['threads']} threads of torch; revision {found['revision'] or 'not known'}"
        units.setdefault(text, []).append(f"seed {seed} {arm}")
    lines = [f"{len(of)} of {len(done)} units: {text}" for text, of in units.items()]
    return [f"begun from {min(days)} to {max(days)}", *lines] if days else []


def headline(summary: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
    """The compact document of the last line."""
    return {
        "pair": summary["pair"],
        "missing": len(summary["missing"]),
        "failed": sorted(failed),
        "claims": {claim["text"]: claim["holds"] for claim in summary["claims"]},
        "gap_closure": {
            c["arm"]: {s: round(v, 1) for s, v in c["seeds"].items()} for c in summary["closures"]
        },
        "miou": {
            name: round(arm["scores"]["all"]["mean"], 2)
            for name, arm in summary["arms"].items()
            if arm["scores"]["all"]["mean"] is not None
        },
    }


def open_pair(name: str, data: Path | None, init: str | None, output: Path) -> Pair:
    """Raises InputError if a pair lacks what it needs, or is given what it does not use."""
    if name == "demo":
        if data is not None or init is not None:
            raise InputError(
                "the demo's pair makes its own data and starts at random: leave --data and --init out."
            )
        return demo(output / "pictures")
    if data is None or init is None:
        raise InputError(f"the pair {name} needs --data (the folder of both sets) and --init (weights).")
    return carla_camvid(data, init)


def _command(
    pair: str, init: str | None, seeds: str, arms: str, recipe: str | None, overrides: Sequence[str]
) -> str:
    """What measures this again, without this machine's folders."""
    words = ["python benchmarks/ablation.py", "--pair", pair, "--seeds", seeds, "--arms", arms]
    words += ["--data", "DATA", "--init", Path(init).name] if init else []
    words += ["--recipe", Path(recipe).name] if recipe else []
    return " ".join([*words, *(f"--set {shlex.quote(one)}" for one in overrides)])


_PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option(
    "--pair",
    "pair_name",
    type=click.Choice(["carla-camvid", "demo"]),
    default="carla-camvid",
    show_default=True,
)
@click.option("--data", type=_PATH, help="Folder of carla/ and camvid/.")
@click.option("--init", type=click.Path(exists=True, dir_okay=False), help="SqueezeNet 1.1 ImageNet weights.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--arms",
    default="all",
    show_default=True,
    help="Names of arms or groups; those they begin after are added.",
)
@click.option("--plan", type=_PATH, default=DECLARATION, help="Declares the arms. [default: ablation.toml]")
@click.option("--recipe", help="Instead of the pair's own: a name or a file.")
@click.option("--set", "overrides", multiple=True, help="key=value in the recipe of every arm.")
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of torch. One each for processes that share cores."
)
@click.option("--report-only", is_flag=True, help="Train nothing: write the results of what is finished.")
@click.option("-o", "--output", type=_PATH, default=Path("runs/ablation"), show_default=True)
def main(
    pair_name: str,
    data: Path | None,
    init: str | None,
    seeds: str,
    arms: str,
    plan: Path,
    recipe: str | None,
    overrides: tuple[str, ...],
    device: str,
    threads: int | None,
    report_only: bool,
    output: Path,
) -> None:
    """Measure what each part of the method and each option earns."""
    revision()  # of the code that is imported now, not when the first unit begins
    if threads is not None:
        torch.set_num_threads(threads)
    folder = output / pair_name
    measurement = Measurement(
        read_plan(plan),
        open_pair(pair_name, data, init, folder),
        folder,
        recipe=recipe,
        overrides=dict(map(parse_override, overrides)),
        device=device,
    )
    chosen = measurement.plan.with_prefixes(arms.split(","))
    changing = measurement.without_no_ops(chosen)
    numbers = [int(seed) for seed in seeds.split(",")]
    command = _command(pair_name, init, seeds, arms, recipe, overrides)
    failed: dict[str, str] = {}
    if not report_only:
        units = [Unit(seed, arm) for seed in numbers for arm in changing]
        failed = measurement.run_all(units, lambda: write_results(measurement, chosen, numbers, command))
    summary = write_results(measurement, chosen, numbers, command)
    for line in findings(summary):
        print(line)
    print(json.dumps(headline(summary, failed)))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
