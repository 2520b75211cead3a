"""The exported file's own score, beside those of the stages it came from."""

from __future__ import annotations

from pathlib import Path

import torch

import cpsl_deploy
from cpsl_deploy.bench import evaluate
from cpsl_deploy.train.adaptation import Domains
from cpsl_deploy.train.report import write_report
from cpsl_deploy.train.run_folder import RunFolder


def score_exported(folder: RunFolder, domains: Domains, model: Path) -> float | None:
    """Score an exported file on the labelled target images, and write the run's report again with its column.

    Returns the mean IoU, 0..1; None if there are no labels, and nothing is written then.
    """
    if domains.validation is None:
        return None
    with cpsl_deploy.load(model) as segmenter:
        accuracy = evaluate(segmenter, domains.validation)
    by_name = dict(zip(accuracy.names, accuracy.iou.tolist(), strict=True))
    iou = [by_name[name] for name in domains.classes.names]
    folder.add_results(
        exported={
            "file": model.name,
            "mean_iou": accuracy.mean_iou,
            "pixel_accuracy": accuracy.pixel_accuracy,
            "iou": [None if value != value else value for value in iou],
        }
    )
    write_report(folder, domains, torch.device("cpu"))
    return accuracy.mean_iou
