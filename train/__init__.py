"""Training: the adaptation of a segmenter from a labelled source to an unlabelled target.

from cpsl_deploy.train import adapt

run = adapt("gta5", "./cityscapes")
run.model  # the network to deploy
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOME = {
    "Recipe": "recipe",
    "RunFolder": "run_folder",
    "adapt": "entry",
    "load_model": "models",
    "load_recipe": "recipe",
    "recipe_names": "recipe",
    "save_model": "models",
}
"""Public name -> the submodule it lives in."""

__all__ = ["Recipe", "RunFolder", "adapt", "load_model", "load_recipe", "recipe_names", "save_model"]

if TYPE_CHECKING:
    from .entry import adapt
    from .models import load_model, save_model
    from .recipe import Recipe, load_recipe, recipe_names
    from .run_folder import RunFolder


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
