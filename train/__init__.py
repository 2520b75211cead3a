"""Training: the adaptation of a segmenter from a labelled source to an unlabelled target.

from cpsl_deploy.train import adapt

run = adapt("gta5", "./cityscapes")
run.model  # the network to deploy

The method's terms are functions of their own, for other training loops and for comparisons: ``sinkhorn``,
``self_labelling_loss``, ``prototype_assignment``, ``symmetric_cross_entropy`` and the others of ``__all__``.

Where things are, in the order of the method:

- ``adaptation``: the five stages one after another. ``stage``: what they share. ``recipe``: every number,
  from files that ``recipe_file`` reads
- ``source_only``; ``warm_up`` with ``adversarial``: the networks that stage 1 starts from
- ``target_statistics``: ``soft_labels``, ``prototypes`` and ``class_prior`` of the target, before stage 1
- ``self_labelling``: stage 1, its step and its terms. Segmentation: ``pseudo_label``,
  ``symmetric_cross_entropy``. Self-labelling: ``assignment``, ``memory_bank``, ``self_labelling_loss``.
  Consistency: ``kl_divergence``. Pixel contrast: ``pixel_contrast``. The momentum teacher: ``ema_teacher``
- ``distillation``: stages 2 and 3
- what the stages are shown: ``batches`` of ``samples`` in ``views``, chosen by ``sampler``; options are
  ``mixing``, ``style``, ``class_weights``. Maps of full size, a block of rows at a time: ``upsampled_rows``
- ``reference_arithmetic``: where the authors' code computes something else, and a switch back to it
- ``models/``: the networks

What a run needs beside the method:

- ``command``, ``entry``: ``cpsl-adapt`` and ``adapt``. ``request``: what is asked of them. ``places``,
  ``domains``: both sides, opened and joined
- ``engine/``: steps run safely: loop, checkpoints, processes, precision, memory, the run folder
- ``evaluation/``: what is measured and never learnt from
- ``planning/``: what a run will take, before it starts
- ``reporting/``: the report, its plots, pictures and clip
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

_HOME = {
    "PatchDiscriminator": "adversarial",
    "Plan": "planning.planned",
    "PrototypeEstimator": "prototypes",
    "Recipe": "recipe",
    "RunFolder": "engine.run_folder",
    "adapt": "entry",
    "build": "models",
    "confusion_matrix": ".metrics",
    "cosine_scores": "prototypes",
    "cross_entropy": "symmetric_cross_entropy",
    "iou": ".metrics",
    "kl_divergence": "kl_divergence",
    "least_squares": "adversarial",
    "load_model": "models",
    "load_published": "models",
    "load_recipe": "recipe",
    "marginal_error": "assignment",
    "mean_iou": ".metrics",
    "pixel_contrast": "pixel_contrast",
    "plan": "planning.plan",
    "prototype_assignment": "prototypes",
    "recipe_names": "recipe",
    "rectified_pseudo_label": "pseudo_label",
    "reverse_cross_entropy": "symmetric_cross_entropy",
    "save_model": "models",
    "self_labelling_loss": "self_labelling_loss",
    "sinkhorn": "assignment",
    "symmetric_cross_entropy": "symmetric_cross_entropy",
}
"""Public name -> the submodule it lives in; ``.metrics`` is the core's."""

__all__ = [
    "PatchDiscriminator",
    "Plan",
    "PrototypeEstimator",
    "Recipe",
    "RunFolder",
    "adapt",
    "build",
    "confusion_matrix",
    "cosine_scores",
    "cross_entropy",
    "iou",
    "kl_divergence",
    "least_squares",
    "load_model",
    "load_published",
    "load_recipe",
    "marginal_error",
    "mean_iou",
    "pixel_contrast",
    "plan",
    "prototype_assignment",
    "recipe_names",
    "rectified_pseudo_label",
    "reverse_cross_entropy",
    "save_model",
    "self_labelling_loss",
    "sinkhorn",
    "symmetric_cross_entropy",
]

if TYPE_CHECKING:
    from cpsl_deploy.metrics import confusion_matrix, iou, mean_iou

    from .adversarial import PatchDiscriminator, least_squares
    from .assignment import marginal_error, sinkhorn
    from .engine.run_folder import RunFolder
    from .entry import adapt
    from .kl_divergence import kl_divergence
    from .models import build, load_model, load_published, save_model
    from .pixel_contrast import pixel_contrast
    from .planning.plan import plan
    from .planning.planned import Plan
    from .prototypes import PrototypeEstimator, cosine_scores, prototype_assignment
    from .pseudo_label import rectified_pseudo_label
    from .recipe import Recipe, load_recipe, recipe_names
    from .self_labelling_loss import self_labelling_loss
    from .symmetric_cross_entropy import cross_entropy, reverse_cross_entropy, symmetric_cross_entropy


def __getattr__(name: str) -> Any:
    """Public names on first use, because they import torch, which takes seconds."""
    import importlib

    from cpsl_deploy.errors import MissingExtraError

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cpsl_deploy"):
            raise
        raise MissingExtraError(error.name, "train", "training") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A function named like its submodule (``pixel_contrast``) is what the package has under that name.

    Python would put the submodule there as soon as anything imports it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
