"""A run folder as an adaptation leaves it, with networks that nobody trained: made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export_networks import small_model, spec_for
from tiny_domains import CLASSES, write_domain, write_recipe

from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import save_model
from cpsl_deploy.train.places import Place, open_domains, remember
from cpsl_deploy.train.recipe import load_recipe

STAGES = ("source_only", "warm_up", "self_labelling", "distillation_1", "distillation_2")
SIZE = (96, 128)


@dataclass(frozen=True)
class Run:
    """A finished run folder, and the places it was made from."""

    folder: RunFolder
    source: Path
    target: Path


def finished_run(root: Path, *, labelled: bool = True) -> Run:
    """What an adaptation leaves below ``root``. The architecture is ``small``, which the test registers."""
    source = write_domain(root / "game", hue=200)
    target = write_domain(root / "camera", hue=240, val=labelled)
    folder = RunFolder(root / "run")
    networks = {"model.teacher": "small", "model.student": "small"}
    folder.begin(load_recipe(write_recipe(root), networks), resume=False)
    places = {
        "source": Place(role="source", reference=str(source)),
        "target": Place(role="target", reference=str(target)),
    }
    domains = open_domains(places["source"], places["target"], None, None)
    remember(folder, domains, places)
    for seed, stage in enumerate((*STAGES, "model")):
        model = small_model(min(seed, len(STAGES) - 1), num_classes=len(CLASSES))
        classes = {"class_names": CLASSES, "palette": domains.classes.palette}
        save_model(folder.stage_model(stage), model, spec_for(model, size=SIZE, **classes))
    score = {"mean_iou": 0.25, "pixel_accuracy": 0.5, "iou": [0.25] * 3} if labelled else {}
    folder.add_results(**{stage: {"iterations": 2, "seconds": 1.0, **score} for stage in STAGES})
    return Run(folder, source, target)
