"""Recipes: every number of an adaptation, typed, checked, read from TOML and overridable by name.

A recipe is a tree of frozen dataclasses. TOML files carry what differs from the defaults here; ``--set
self_labelling.iterations=200`` on the command line carries what differs from the file.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpsl_deploy.errors import RecipeError

from . import recipe_file
from .mixing import MIXINGS
from .views import Geometric, Photometric

RECIPE_FOLDER = Path(__file__).parent / "recipes"
PRECISIONS = ("fp32", "bf16", "fp16")
STARTS = ("init", "previous")
PRIOR_ESTIMATES = ("hard", "soft", "prototypes")
STYLES = ("none", "reinhard")
OPTIMISERS = ("sgd", "adamw")


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise RecipeError(f"{rule}; got {value!r}. Change it in the recipe or with --set.")


def _require_shares(settings: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(0 <= value <= 1, f"{where}.{name} is from 0 to 1", value)


def _require_at_least(least: int, settings: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value >= least, f"{where}.{name} is {least} or more", value)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the networks are shown."""

    source_size: tuple[int, int]
    """(height, width): source images are brought to this number of pixels, keeping their shape."""
    target_size: tuple[int, int]
    """The same for target images; the deployed network works at this size."""
    crop: tuple[int, int]
    """(height, width) of training crops."""
    rare_class_temperature: float = 0.0
    """Above 0, source images are drawn by a class first, rarer classes more often: a class of pixel share f
    in proportion to exp((1 - f) / T) (DAFormer, arXiv 2111.14887, section 3.3). 0 draws images evenly."""
    class_weight_power: float = 0.0
    """Above 0, the cross entropy on labels weighs a class of pixel share f in proportion to f ** -power, the
    mean weight of all pixels being 1 (see ``class_weights``): rare classes are learnt by short schedules."""
    cache_mib: int = 2048
    """Decoded images kept in memory."""

    def __post_init__(self) -> None:
        for name in ("source_size", "target_size", "crop"):
            size = getattr(self, name)
            _require(
                len(size) == 2 and min(size) >= 32, f"data.{name} is (height, width), each 32 or more", size
            )
        _require_at_least(0, self, "data", "rare_class_temperature", "cache_mib")
        _require_shares(self, "data", "class_weight_power")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which networks."""

    teacher: str = "squeezenet_fpn"
    """The network of warm-up and self-labelling."""
    student: str = "squeezenet_fpn"
    """The network to deploy, the last distillation's student."""
    init: str = ""
    """Weights file the teacher starts from; empty: random."""
    student_init: str = ""
    """Weights file the student starts from; empty: ``init`` if student and teacher are of one
    architecture."""


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How a stage learns."""

    name: str = "sgd"
    lr: float = 1e-4
    """Rate of the backbone."""
    head_factor: float = 10.0
    """The head learns this many times faster."""
    momentum: float = 0.9
    weight_decay: float = 2e-4
    poly_power: float = 0.9
    """Rate at iteration i of n: lr * (1 - i/n) ** power."""
    warm_up_iterations: int = 0
    """The rate rises linearly over so many iterations first."""
    clip_norm: float = 0.0
    """Largest norm of the network's gradient; 0: not clipped."""

    def __post_init__(self) -> None:
        _require(self.name in OPTIMISERS, f"optimiser.name is one of {', '.join(OPTIMISERS)}", self.name)
        _require(self.lr > 0, "optimiser.lr is above 0", self.lr)
        _require(0 <= self.momentum < 1, "optimiser.momentum is in [0, 1)", self.momentum)
        _require_at_least(0, self, "optimiser", "head_factor", "weight_decay", "poly_power")
        _require_at_least(0, self, "optimiser", "warm_up_iterations", "clip_norm")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every stage has."""

    iterations: int = 0
    batch: int = 4
    """Crops of each domain per step, over all processes and accumulation steps."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    weak: Geometric = field(default_factory=Geometric)
    """Zoom, crop and flip of source crops and of the target's weak view."""
    photometric: Photometric = field(default_factory=Photometric)
    """Colour changes of source crops."""
    style: str = "none"
    """``reinhard`` gives source crops, with probability 0.5, a target image's colour mean and deviation
    (Reinhard et al. 2001, in CIELAB), before these changes."""

    def __post_init__(self) -> None:
        _require(self.style in STYLES, f"a stage's style is one of {', '.join(STYLES)}", self.style)
        _require(self.iterations >= 0, "a stage's iterations are 0 or more", self.iterations)
        _require(self.batch >= 1, "a stage's batch is 1 or more", self.batch)


@dataclass(frozen=True, kw_only=True)
class SourceOnly(Stage):
    """Supervised training on the source alone: the baseline, and the start of the warm-up."""

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        _require(self.style == "none", "source_only sees no target image: its style is none", self.style)


@dataclass(frozen=True, kw_only=True)
class WarmUp(Stage):
    """Stage 0: output-space adversarial alignment."""

    adversarial_weight: float = 0.01
    discriminator_lr: float = 1e-4

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        _require_at_least(0, self, "warm_up", "adversarial_weight", "discriminator_lr")


@dataclass(frozen=True, kw_only=True)
class SelfLabelling(Stage):
    """Stage 1: online self-labelling with class-balanced assignment."""

    strong_geometric: Geometric = field(
        default_factory=lambda: Geometric(scale=(0.9, 1.1), flip=True, rotation=10, translation=0.1, shear=5)
    )
    strong_photometric: Photometric = field(
        default_factory=lambda: Photometric(
            brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, blur=0.5, cutout=2
        )
    )
    temperature: float = 0.08
    momentum: float = 0.999
    """Of the EMA teacher."""
    rectify: bool = True
    """Multiply the fixed soft label with the prototype assignment; off is plain self-training."""
    threshold: float = 0.0
    """Pseudo labels less confident than this are ignored."""
    symmetric_alpha: float = 0.1
    symmetric_beta: float = 1.0
    mixing: str = "cutmix"
    mixing_probability: float = 0.5
    target_weight: float = 1.0
    self_labelling_weight: float = 0.1
    pixels_per_image: int = 256
    bank: int = 65536
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    align_distribution: bool = True
    """Assign to the class prior; off is a uniform marginal."""
    prior_smoothing: float = 0.0
    prior_estimate: str = "hard"
    """The prior is the share of target pixels by argmax (``hard``, as the reference has it); or the mean
    class probability (``soft``), in which classes that hardly ever win keep a share; or the mean prototype
    assignment p_SL (``prototypes``), which depends less on the source's class shares: another pass over the
    target."""
    prior_momentum: float = 0.0
    """Above 0 the prior follows the pseudo labels' class shares, by 1 - momentum per step."""
    prior_floor: float = 0.0
    """A prior that follows never falls below this part of its first estimate, class by class: pseudo labels
    that forget a class would otherwise take its share away for good. 1 is a prior that stays as it is."""
    align_pseudo_labels: bool = False
    """Scale pseudo labels by prior / running mean of what they give each class (distribution alignment,
    ReMixMatch, arXiv 1911.09785, section 3.1), so that the prior reaches them at once and not by way of the
    prototypes alone."""
    align_classifier: bool = False
    """Before the first step, shift the classifier's bias by log(prior / mean predicted probability), by 2
    at most (logit adjustment, arXiv 2007.07314): classes that the warm-up model hardly predicts start with
    their share."""
    student_features: bool = False
    """Let the self-labelling loss reach the student's features, not the prototypes alone."""
    online_soft_labels: bool = False
    """Take the EMA teacher's softmax instead of the fixed soft label of the warm-up model."""
    consistency_weight: float = 0.26
    """On the scale of a mean over valid pixels: the reference's 5 / C with C = 19."""
    contrast_weight: float = 0.0

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        _require(self.mixing in MIXINGS, f"self_labelling.mixing is one of {', '.join(MIXINGS)}", self.mixing)
        estimates = ", ".join(PRIOR_ESTIMATES)
        _require(
            self.prior_estimate in PRIOR_ESTIMATES,
            f"self_labelling.prior_estimate is one of {estimates}",
            self.prior_estimate,
        )
        for name in ("momentum", "prior_momentum"):
            _require(0 <= getattr(self, name) < 1, f"self_labelling.{name} is in [0, 1)", getattr(self, name))
        for name in ("temperature", "epsilon"):
            _require(getattr(self, name) > 0, f"self_labelling.{name} is above 0", getattr(self, name))
        _require_shares(
            self, "self_labelling", "threshold", "mixing_probability", "prior_smoothing", "prior_floor"
        )
        _require_at_least(0, self, "self_labelling", "symmetric_alpha", "symmetric_beta", "target_weight")
        _require_at_least(
            0, self, "self_labelling", "self_labelling_weight", "consistency_weight", "contrast_weight"
        )
        _require_at_least(1, self, "self_labelling", "pixels_per_image", "sinkhorn_iterations")
        # A step's pixels are read back from the bank: a smaller one would mix up their assignments.
        pixels = self.batch * self.pixels_per_image
        rule = f"self_labelling.bank holds a step's batch * pixels_per_image = {pixels} pixels at least"
        _require(self.bank >= pixels, rule, self.bank)


@dataclass(frozen=True, kw_only=True)
class Distillation(Stage):
    """Stages 2 and 3: a student learns from the frozen previous model."""

    strong_geometric: Geometric = field(
        default_factory=lambda: Geometric(scale=(0.9, 1.1), flip=True, rotation=10, translation=0.1, shear=5)
    )
    strong_photometric: Photometric = field(
        default_factory=lambda: Photometric(
            brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, blur=0.5, cutout=2
        )
    )
    threshold: float = 0.95
    source_weight: float = 1.0
    target_weight: float = 1.0
    kl_weight: float = 1.0
    start: str = "init"
    """The student starts from the recipe's initial weights (``init``, as the paper has it), or, where it is
    of the teacher's architecture, from the teacher's weights (``previous``), which short schedules need."""
    mixing: str = "none"
    mixing_probability: float = 0.5

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        _require(
            self.mixing in MIXINGS, f"a distillation's mixing is one of {', '.join(MIXINGS)}", self.mixing
        )
        _require(self.start in STARTS, f"a distillation's start is one of {', '.join(STARTS)}", self.start)
        _require_shares(self, "distillation", "threshold", "mixing_probability")
        _require_at_least(0, self, "distillation", "source_weight", "target_weight", "kl_weight")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How the machine is used."""

    precision: str = "fp32"
    """fp32, bf16 or fp16 (GPU only, with loss scaling)."""
    accumulate: int = 1
    """Each step's batch is worked off in so many parts; batch norm and means over labelled pixels are then of
    a part."""
    workers: int = 2
    """Threads that prepare batches."""
    checkpoint_every: int = 200
    log_every: int = 10

    def __post_init__(self) -> None:
        _require(
            self.precision in PRECISIONS,
            f"compute.precision is one of {', '.join(PRECISIONS)}",
            self.precision,
        )
        _require_at_least(1, self, "compute", "accumulate", "workers", "checkpoint_every", "log_every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An adaptation from first to last."""

    name: str
    seed: int = 0
    target_statistics: bool = False
    """Batch norms keep running statistics of target images alone (source crops are normalised by their own
    batch); off: of both, as the reference does."""
    reference_arithmetic: bool = False
    """Compute what the authors' code computes where results depend on it, to compare with its figures
    (``train/reference_arithmetic.py``): features after dropout; a momentum teacher in training mode, whose
    prototypes alias the student's at the start; bank rows scored with prototypes that are not normalised, and
    labelled by other pixels; Sinkhorn on exponentials, which may overflow and then stops the run; consistency
    and distillation over padding, too, the latter on probabilities where logarithms belong and divided by
    N * C * h * w. No weight has to be changed with it: ``self_labelling.consistency_weight`` stays 5 / C.

    Not brought back are faults that nobody can want to compare with: the strong view's geometry replayed on
    labels in another order; the bank's copying; options that crash when off, a schedule that fails past its
    end, lost states; the need of the target's label files and the checkpoint picked on them."""
    data: Data
    model: Model = field(default_factory=Model)
    source_only: SourceOnly = field(default_factory=SourceOnly)
    warm_up: WarmUp = field(default_factory=WarmUp)
    self_labelling: SelfLabelling = field(default_factory=SelfLabelling)
    distillation_1: Distillation = field(default_factory=Distillation)
    distillation_2: Distillation = field(default_factory=Distillation)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed is 0 or more", self.seed)

    def goes_on(self, stage: str) -> bool:
        """Whether a stage trains on the network of the stage before it; the others begin with a new one."""
        if stage not in ("distillation_1", "distillation_2"):
            return stage != "source_only"
        architecture = self.model.student if stage == "distillation_2" else self.model.teacher
        return getattr(self, stage).start == "previous" and architecture == self.model.teacher


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def load_recipe(reference: str | Path, overrides: typing.Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or from a TOML file, then apply overrides (``{"data.crop": [224, 288]}``).

    Raises RecipeError for an unknown recipe or key, and for values of another type or outside their rule.
    """
    path = Path(reference)
    if path.suffix != ".toml":
        path = RECIPE_FOLDER / f"{reference}.toml"
    if not path.is_file():
        raise RecipeError(
            f"no recipe {str(reference)!r}. Give a .toml file or one of: {', '.join(recipe_names())}"
        )
    values = recipe_file.read_toml(path)
    values.setdefault("name", path.stem)
    for key, value in (overrides or {}).items():
        recipe_file.place(values, key, value)
    return recipe_file.build(Recipe, values)


def to_toml(recipe: Recipe) -> str:
    """The whole resolved recipe as TOML that ``load_recipe`` reads back to an equal recipe."""
    return recipe_file.write(recipe)
