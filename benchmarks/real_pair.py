"""CARLA to CamVid, end to end, for several seeds: every stage, the exported file and the oracle.

    python benchmarks/real_pair.py --data DATA --init squeezenet1_1.safetensors -o runs/real-pair

DATA holds ``carla/`` and ``camvid/`` (images/ and labels/ with a folder per split; the classes are described
in ``benchmarks/datasets``). Seeds that are done are kept, one that was interrupted is continued. Writes a run
folder per seed, ``real_pair.json`` and ``real_pair.md``; the last line on standard output is one compact JSON
document.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
from pairs import LARGE, Lines, carla_camvid

from cpsl_deploy.command_line import Command
from cpsl_deploy.export import export
from cpsl_deploy.export.gate.scoring import score_exported
from cpsl_deploy.files import write_json, write_text
from cpsl_deploy.train.adaptation import STAGES, Adaptation
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.recipe import Recipe, load_recipe
from cpsl_deploy.train.recipe_file import parse_override
from cpsl_deploy.train.reporting.report import write_report

COLUMNS = (*STAGES, "exported", "oracle")


def run_seed(domains: Domains, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """All stages, the oracle, the export and its score. Returns results.json's content."""
    resume = (folder / "recipe.toml").is_file()
    adaptation = Adaptation(domains, recipe, folder, watcher=Lines(), resume=resume)
    run = adaptation.run()
    if "oracle" not in run.results():
        adaptation.run_oracle()
    if "exported" not in run.results():
        write_report(run, domains, adaptation.device)
        score_exported(run, domains, export(folder, overwrite=True, score=False).path)
    return run.results()


def summarise(results: dict[int, dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Per seed and column, in percent: mIoU over all and the large classes, IoU per class; gap closure."""
    large = [names.index(name) for name in LARGE]
    seeds: dict[str, Any] = {}
    for seed, stages in results.items():
        rows = {}
        for column in COLUMNS:
            iou = [100 * (value or 0.0) for value in stages[column]["iou"]]
            rows[column] = {
                "miou_10": float(np.mean(iou)),
                "miou_6": float(np.mean([iou[k] for k in large])),
                "iou": dict(zip(names, iou, strict=True)),
                "seconds": stages[column].get("seconds"),
            }
        gap = rows["oracle"]["miou_10"] - rows["source_only"]["miou_10"]
        gain = rows["distillation_2"]["miou_10"] - rows["source_only"]["miou_10"]
        seeds[str(seed)] = {"stages": rows, "gain": gain, "gap_closure": gain / gap}
    return {"classes": list(names), "seeds": seeds}


def markdown(summary: dict[str, Any]) -> str:
    """The tables of the README and the closing note."""
    seeds = summary["seeds"]
    lines = [
        "| seed | " + " | ".join(COLUMNS) + " | gain | gap closed |",
        "| --- " * (len(COLUMNS) + 3) + "|",
    ]
    for seed, entry in seeds.items():
        cells = [f"{entry['stages'][c]['miou_10']:.1f} / {entry['stages'][c]['miou_6']:.1f}" for c in COLUMNS]
        lines.append(
            f"| {seed} | {' | '.join(cells)} | {entry['gain']:+.1f} | {100 * entry['gap_closure']:.0f} % |"
        )
    lines.append(_spread_row("mean", np.mean, seeds) + "\n" + _spread_row("std", np.std, seeds))
    lines += ["", "mIoU-10 / mIoU-6. Per class, mean over the seeds:", ""]
    lines += ["| class | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name in summary["classes"]:
        means = [np.mean([e["stages"][c]["iou"][name] for e in seeds.values()]) for c in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
    return "\n".join(lines) + "\n"


def _spread_row(title: str, of: Any, seeds: dict[str, Any]) -> str:
    cells = []
    for column in COLUMNS:
        pair = [of([e["stages"][column][key] for e in seeds.values()]) for key in ("miou_10", "miou_6")]
        cells.append(f"{pair[0]:.1f} / {pair[1]:.1f}")
    gain, closure = (of([e[key] for e in seeds.values()]) for key in ("gain", "gap_closure"))
    return f"| {title} | {' | '.join(cells)} | {gain:+.1f} | {100 * closure:.0f} % |"


@click.command(cls=Command)
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder of carla/ and camvid/.",
)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False),
    required=True,
    help="SqueezeNet 1.1 ImageNet weights.",
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--recipe", default="own", show_default=True)
@click.option("--set", "overrides", multiple=True, help="key=value in the recipe.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/real-pair"), show_default=True
)
def main(data: Path, init: str, seeds: str, recipe: str, overrides: tuple[str, ...], output: Path) -> None:
    """Adapt from CARLA to CamVid with several seeds and compare with the oracle."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    pair = carla_camvid(data, init)
    results = {}
    for seed in map(int, seeds.split(",")):
        domains = pair.open(seed)
        given = {**pair.overrides, "seed": seed} | dict(map(parse_override, overrides))
        results[seed] = run_seed(domains, load_recipe(recipe, given), output / f"seed-{seed}")
        summary = summarise(results, domains.classes.names)
        write_json(output / "real_pair.json", summary)
        write_text(output / "real_pair.md", markdown(summary))
    print(markdown(summary))
    print(
        json.dumps(
            {
                s: {"gain": round(e["gain"], 2), "gap_closure": round(e["gap_closure"], 3)}
                for s, e in summary["seeds"].items()
            }
        )
    )


if __name__ == "__main__":
    main()
