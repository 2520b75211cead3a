"""The exported file's own score, beside those of the stages it came from."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

import cpsl_deploy
from cpsl_deploy.backends.ways import ONNXRUNTIME, Way
from cpsl_deploy.bench import evaluate
from cpsl_deploy.errors import InputError
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.places import recall
from cpsl_deploy.train.reporting.figures import require_matplotlib
from cpsl_deploy.train.reporting.report import write_report
from cpsl_deploy.train.reporting.run_summary import read_run

_log = logging.getLogger(__name__)

SCORES = (STAGES[0], STAGES[-1], "exported")
"""Entries of results.json that an exported file is compared by: source-only, adapted, the file."""


def scorable(folder: RunFolder) -> Domains | None:
    """What an export of a run can be scored on; None, said in the log, if that is nothing.

    Raises what would stop ``score_exported``, before an export has taken its minutes: DataError, OutputError
    or InputError for damaged files of the run, MissingExtraError without matplotlib for the report.
    """
    try:
        domains = recall(folder)
        if domains is None:
            return None
        if domains.validation is None:
            _log.info("the exported file is not scored: the run's target has no labelled images")
            return None
        read_run(folder, domains)
    except InputError as error:
        raise type(error)(f"{error} Or export without a score: --no-score") from error
    require_matplotlib()
    return domains


def score_exported(
    folder: RunFolder, domains: Domains, model: Path, *, way: Way | None = None
) -> float | None:
    """Score an exported file on the labelled target images, and write the run's report again with its column.

    ``way``: in which it is run; None is by onnxruntime.
    Returns the mean IoU, 0..1; None if there are no labels, and nothing is written then.
    """
    if domains.validation is None:
        return None
    way = way or ONNXRUNTIME
    with cpsl_deploy.load(
        model, backend=way.backend, device=way.device, precision=way.precision
    ) as segmenter:
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


def compared_scores(folder: RunFolder) -> dict[str, float]:
    """Mean IoU, 0..1, of each of ``SCORES`` that a run's results.json has."""
    results = folder.results()
    found = {key: results.get(key, {}).get("mean_iou") for key in SCORES}
    return {key: value for key, value in found.items() if value is not None}
