"""Recipes: read, overridden, written and read back; what breaks a rule is named by its full key."""

import dataclasses
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cpsl_deploy.errors import RecipeError
from cpsl_deploy.train import recipe as recipes
from cpsl_deploy.train.recipe import Recipe, load_recipe, recipe_names, to_toml
from cpsl_deploy.train.recipe_file import parse_override

DATA = "[data]\nsource_size = [320, 512]\ntarget_size = [360, 480]\ncrop = [224, 288]\n"


@pytest.fixture
def read(tmp_path: Path):
    """Write a TOML file with the needed sizes and more, and load it."""

    def load(more: str = "", top: str = "", **overrides: object) -> Recipe:
        path = tmp_path / "mine.toml"
        path.write_text(f"{top}\n{DATA}{more}", encoding="utf-8")
        return load_recipe(path, {key.replace("__", "."): value for key, value in overrides.items()})

    return load


def test_a_file_changes_what_it_says_and_defaults_the_rest(read):
    recipe = read(
        "[self_labelling]\nmomentum = 0.99\n[self_labelling.optimiser]\nname = 'adamw'", top="seed = 4"
    )
    assert recipe.name == "mine" and recipe.seed == 4
    assert recipe.data.crop == (224, 288)
    assert recipe.self_labelling.momentum == 0.99
    assert recipe.self_labelling.optimiser == recipes.Optimiser(name="adamw")
    assert recipe.warm_up == recipes.WarmUp()


def test_a_recipe_written_out_reads_back_equal(read, tmp_path: Path):
    plain = read()
    unlike_defaults = dataclasses.replace(
        plain,
        name='höhe "quer"\\ \t\n€ 🚗 \x7f',
        seed=11,
        target_statistics=False,
        model=recipes.Model(init="C:\\weights\\a.pth"),
        self_labelling=recipes.SelfLabelling(
            optimiser=recipes.Optimiser(lr=1e-7, head_factor=1e22), weak=recipes.Geometric(scale=(0.25, 4.0))
        ),
    )
    for recipe in (plain, unlike_defaults):
        path = tmp_path / "out.toml"
        path.write_text(to_toml(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


def test_the_written_recipe_has_every_field(read):
    def fields(value: object) -> int:
        parts = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return sum(fields(part) if dataclasses.is_dataclass(part) else 1 for part in parts)

    assert sum(" = " in line for line in to_toml(read()).splitlines()) == fields(read())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_load_and_read_back_equal(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    assert recipe.name == name
    path = tmp_path / "copy.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


PUBLISHED = {
    "warm_up": {"adversarial_weight": 0.01, "discriminator_lr": 1e-4, "iterations": 45000, "batch": 4},
    "self_labelling": {
        **{"temperature": 0.08, "momentum": 0.999, "rectify": True, "threshold": 0.0},
        **{"symmetric_alpha": 0.1, "symmetric_beta": 1.0, "mixing": "cutmix", "mixing_probability": 0.5},
        **{"target_weight": 1.0, "self_labelling_weight": 0.1, "pixels_per_image": 512, "bank": 65536},
        **{"epsilon": 0.05, "sinkhorn_iterations": 3, "align_distribution": True, "contrast_weight": 0.0},
        **{"iterations": 90000, "batch": 4},
    },
    "distillation_1": {
        **{"threshold": 0.95, "source_weight": 1.0, "target_weight": 1.0, "kl_weight": 1.0},
        **{"start": "init", "mixing": "none", "iterations": 90000, "batch": 4},
    },
}
PUBLISHED["distillation_2"] = PUBLISHED["distillation_1"]
RATES = {  # of the backbone, and how many times faster heads and prototypes learn
    **{"source_only": (2.5e-4, 10.0), "warm_up": (2.5e-4, 10.0), "self_labelling": (1e-4, 5.0)},
    **{"distillation_1": (6e-4, 10.0), "distillation_2": (6e-4, 10.0)},
}


def test_the_recipe_paper_is_what_was_published():
    recipe = load_recipe("paper")
    for section, values in PUBLISHED.items():
        for key, value in values.items():
            assert getattr(getattr(recipe, section), key) == value, f"{section}.{key}"
    for section, (rate, head_factor) in RATES.items():
        wanted = recipes.Optimiser(
            **{"name": "sgd", "lr": rate, "head_factor": head_factor, "momentum": 0.9, "weight_decay": 2e-4},
            **{"poly_power": 0.9, "warm_up_iterations": 0, "clip_norm": 0.0},
        )
        assert getattr(recipe, section).optimiser == wanted, section
        assert getattr(recipe, section).weak == recipes.Geometric(scale=(0.5, 1.5), flip=True), section
        assert getattr(recipe, section).photometric == recipes.Photometric(), section
    assert recipe.self_labelling.consistency_weight == pytest.approx(5 / 19, rel=1e-2)
    assert recipe.data.crop == (512, 896) and recipe.data.target_size == (1024, 2048)
    assert recipe.model.teacher == "deeplabv2_resnet101"
    assert recipe.model.student == "deeplabv2_resnet101_bn_clr"


def test_the_recipe_paper_has_none_of_the_extras():
    """What was not published is off, and the reference's faults stay corrected."""
    recipe = load_recipe("paper")
    stages = {
        "self_labelling": (recipes.SelfLabelling(), {"pixels_per_image", "consistency_weight"}),
        "distillation_1": (recipes.Distillation(), set()),
        "distillation_2": (recipes.Distillation(), set()),
    }
    for stage, (default, told) in stages.items():
        for name in {f.name for f in dataclasses.fields(default)} - told - {"iterations", "optimiser"}:
            assert getattr(getattr(recipe, stage), name) == getattr(default, name), f"{stage}.{name}"
    assert recipe.warm_up.style == "none"
    assert recipe.data.rare_class_temperature == recipe.data.class_weight_power == 0
    assert not recipe.target_statistics and not recipe.reference_arithmetic
    extras = ("online_soft_labels", "align_pseudo_labels", "align_classifier", "student_features")
    assert not any(getattr(recipe.self_labelling, name) for name in extras)
    assert recipe.self_labelling.prior_estimate == "hard"
    assert recipe.self_labelling.prior_momentum == recipe.self_labelling.prior_smoothing == 0


BENCHMARKS = {"gta5-cityscapes": 19, "synthia-cityscapes-16": 16, "synthia-cityscapes-13": 13}
"""Recipes of published sets, and their classes."""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_recipe_paper_and_the_benchmarks_agree_on_the_method(name: str):
    """What differs is what paper.toml says, and the consistency's weight, which is per class."""
    paper, benchmark = load_recipe("paper"), load_recipe(name)
    weight = benchmark.self_labelling.consistency_weight
    assert weight == pytest.approx(5 / BENCHMARKS[name], rel=2e-3)
    told = {"pixels_per_image": 256, "consistency_weight": weight}
    assert dataclasses.replace(paper.self_labelling, **told) == benchmark.self_labelling
    for part in ("model", "source_only", "warm_up", "distillation_1", "distillation_2"):
        assert getattr(paper, part) == getattr(benchmark, part), part
    assert paper.distillation_2 == paper.distillation_1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_small_student_that_a_benchmark_s_header_offers(name: str):
    """Its line trains the small network as its authors do, and changes nothing before the last stage."""
    text = (recipes.RECIPE_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    header = text.partition("\n\n")[0].replace("\n#", "")
    changed = dict(parse_override(found) for found in re.findall(r"--set (distillation_2\S+)", header))
    (student,) = re.findall(r"--student (\w+)", header)
    small, published = load_recipe(name, {"model.student": student, **changed}), load_recipe(name)
    assert (small.model.student, small.distillation_2.batch) == ("ddrnet23_slim", 12)
    assert small.distillation_2.optimiser == recipes.Optimiser(lr=1e-2, head_factor=1, weight_decay=5e-4)
    same = {"model": published.model, "distillation_2": published.distillation_2}
    assert dataclasses.replace(small, **same) == published


def test_integers_are_accepted_for_numbers_and_become_floats(read):
    recipe = read("[warm_up.optimiser]\nlr = 1", self_labelling__weak__scale=[1, 2])
    assert recipe.warm_up.optimiser.lr == 1.0 and isinstance(recipe.warm_up.optimiser.lr, float)
    assert recipe.self_labelling.weak.scale == (1.0, 2.0)
    assert all(isinstance(v, float) for v in recipe.self_labelling.weak.scale)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[self_labelling]\nmomentun = 0.9", r"'self_labelling\.momentun'.*self_labelling has:.*momentum"),
        ("[selflabelling]\nmomentum = 0.9", r"'selflabelling'.*self_labelling"),
        ("[warm_up.optimiser]\nlearning_rate = 1.0", r"'warm_up\.optimiser\.learning_rate'"),
        ("[warm_up]\niterations = 'many'", r"'warm_up\.iterations' is of type int; got 'many'"),
        ("[warm_up]\niterations = 10.5", r"'warm_up\.iterations' is of type int; got 10\.5"),
        ("[warm_up]\niterations = true", r"'warm_up\.iterations' is of type int; got True"),
        ("[warm_up.optimiser]\nlr = true", r"'warm_up\.optimiser\.lr' is of type float; got True"),
        ("[self_labelling]\nrectify = 1", r"'self_labelling\.rectify' is of type bool; got 1"),
        ("[model]\nteacher = 3", r"'model\.teacher' is of type str; got 3"),
        ("[self_labelling]\nweak = 3", r"'self_labelling\.weak' is a section"),
        ("[self_labelling.weak]\nscale = [1.0]", r"'self_labelling\.weak\.scale' is a list of 2 values"),
        (
            "[self_labelling.weak]\nscale = ['a', 2]",
            r"'self_labelling\.weak\.scale' is of type float; got 'a'",
        ),
    ],
)
def test_an_unknown_key_or_another_type_is_named(read, more: str, message: str):
    with pytest.raises(RecipeError, match=message):
        read(more)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("data.crop", [16, 64]),
        ("warm_up.style", "cubist"),
        ("source_only.style", "reinhard"),
        ("data.cache_mib", -1),
        ("data.rare_class_temperature", -0.5),
        ("warm_up.iterations", -1),
        ("warm_up.batch", 0),
        ("warm_up.optimiser.name", "lion"),
        ("warm_up.optimiser.lr", 0),
        ("warm_up.optimiser.lr", float("nan")),
        ("warm_up.optimiser.momentum", 1.0),
        ("warm_up.optimiser.clip_norm", -1),
        ("warm_up.weak.scale", [0, 1]),
        ("warm_up.weak.scale", [2, 1]),
        ("warm_up.weak.rotation", -5),
        ("source_only.photometric.hue", -0.1),
        ("self_labelling.mixing", "clasmix"),
        ("self_labelling.mixing_probability", 1.5),
        ("self_labelling.momentum", 1),
        ("self_labelling.prior_momentum", 1),
        ("self_labelling.temperature", 0),
        ("self_labelling.epsilon", 0),
        ("self_labelling.sinkhorn_iterations", 0),
        ("self_labelling.threshold", 1.2),
        ("self_labelling.pixels_per_image", 0),
        ("self_labelling.bank", 4 * 256 - 1),  # smaller than the pixels of a step
        ("distillation_1.mixing", "clasmix"),
        ("distillation_2.threshold", -0.1),
        ("distillation_1.start", "previuos"),
        ("distillation_2.kl_weight", -1),
        ("warm_up.adversarial_weight", -0.01),
        ("self_labelling.consistency_weight", -0.26),
        ("compute.precision", "fp8"),
        ("compute.accumulate", 0),
        ("compute.workers", 0),
        ("compute.log_every", 0),
        ("compute.checkpoint_every", 0),
    ],
)
def test_a_value_outside_its_rule_is_refused_and_told(read, key: str, value: object):
    with pytest.raises(
        RecipeError, match=rf"(?s){key.split('.')[-1]}.*{value if isinstance(value, str) else ''}"
    ):
        read(**{key.replace(".", "__"): value})


def test_sizes_cannot_be_left_out(tmp_path: Path):
    (tmp_path / "empty.toml").write_text("seed = 1")
    with pytest.raises(RecipeError, match="data"):
        load_recipe(tmp_path / "empty.toml")


@pytest.mark.parametrize("content", [b"[data\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_told(tmp_path: Path, content: bytes):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"no recipe 'gta6'.*\.toml file or one of"):
        load_recipe("gta6")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("self_labelling.iterations=200", "self_labelling.iterations", 200),
        ("warm_up.optimiser.lr = 1e-3", "warm_up.optimiser.lr", 1e-3),
        ("data.crop=[224, 288]", "data.crop", [224, 288]),
        ("self_labelling.rectify=false", "self_labelling.rectify", False),
        ("self_labelling.mixing=classmix", "self_labelling.mixing", "classmix"),
        ('model.init="a=b.pth"', "model.init", "a=b.pth"),
        ("model.init=weights/a=b.pth", "model.init", "weights/a=b.pth"),
        ("model.init=", "model.init", ""),
    ],
)
def test_overrides_are_toml_or_bare_words(text: str, key: str, value: object):
    assert parse_override(text) == (key, value)


def test_an_override_without_a_value_is_told():
    with pytest.raises(RecipeError, match=r"key=value.*self_labelling\.iterations"):
        parse_override("self_labelling.iterations")


def test_overrides_reach_their_place_and_beat_the_file(read):
    recipe = read("[warm_up]\niterations = 5", **dict([parse_override("warm_up.iterations=7")]), seed=2)
    assert recipe.warm_up.iterations == 7 and recipe.seed == 2
    with pytest.raises(RecipeError, match="single value"):
        read(**{"warm_up.style.name": "x", "warm_up.style": "none"} | {"seed.more": 1}, top="seed = 1")


@pytest.mark.parametrize(
    ("settings", "going_on", "iterations"),
    [
        ({}, {"warm_up", "self_labelling"}, 5),
        ({"distillation_2.start": "previous"}, {"warm_up", "self_labelling", "distillation_2"}, 9),
        ({"distillation_1.start": "previous"}, {"warm_up", "self_labelling", "distillation_1"}, 5),
        (
            {"distillation_1.start": "previous", "distillation_2.start": "previous"},
            {"warm_up", "self_labelling", "distillation_1", "distillation_2"},
            15,
        ),
        (
            {"distillation_2.start": "previous", "model.student": "ddrnet23_slim"},
            {"warm_up", "self_labelling"},
            5,
        ),
    ],
)
def test_stages_that_go_on_make_up_the_student_s_iterations(
    read, settings: dict[str, str], going_on: set[str], iterations: int
):
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from cpsl_deploy.train.adaptation import STAGES, student_iterations

    lengths = {f"{stage}.iterations": count for stage, count in zip(STAGES, (1, 2, 3, 4, 5), strict=True)}
    recipe = read(**{key.replace(".", "__"): value for key, value in (lengths | settings).items()})
    assert {stage for stage in STAGES if recipe.goes_on(stage)} == going_on
    assert student_iterations(recipe) == iterations
