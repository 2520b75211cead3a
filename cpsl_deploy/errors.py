"""Everything this project raises on purpose.

    CpslError                   exit code 2 from every command, without a traceback
    ├── InputError              what was given breaks a rule
    │   ├── DataError           a dataset, image, label or video
    │   ├── ModelFileError      a model file, checkpoint or its spec
    │   ├── RecipeError         a recipe or one of its values
    │   └── OutputError         an output place: not empty, not writable, disk full
    ├── UnavailableError        asked for and not there: a package, a GPU, a codec
    │   └── MissingExtraError   a package that one of the optional extras installs
    ├── TrainingError           training cannot go on: a loss that is not finite, a lost rank
    └── AccuracyError           an exported file disagrees with its model; exit code 3

A message states the rule that was broken, the value that broke it and the remedy.
"""

from __future__ import annotations


class CpslError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 2


class InputError(CpslError):
    """What was given breaks a rule."""


class DataError(InputError):
    """A dataset, image, label or video breaks a rule."""


class ModelFileError(InputError):
    """A model file, a checkpoint or its spec is missing, damaged or of another kind."""


class RecipeError(InputError):
    """A recipe or one of its values breaks a rule."""


class OutputError(InputError):
    """An output place cannot be used: not empty, not writable, disk full."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message
        """What happened, without the remedy: a service that tries again is not to be started again."""


class UnavailableError(CpslError):
    """Something asked for is not there: a package, a GPU, a codec. Never replaced in silence."""


class MissingExtraError(UnavailableError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'cpsl_deploy[{extra}]'"
        )


class TrainingError(CpslError):
    """Training cannot go on."""


class AccuracyError(CpslError):
    """An exported file disagrees with the model it was made from."""

    exit_code = 3
