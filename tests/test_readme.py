"""What README.md, benchmarks/README.md and docs/method.md name exists: commands, paths, values, snippets."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import yaml

from cpsl_deploy.data import dataset_splits, open_dataset
from cpsl_deploy.errors import CpslError

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

ROOT = Path(__file__).resolve().parent.parent
METHOD = "docs/method.md"
DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/bench.md",
    "docs/edge.md",
    "docs/export.md",
    "docs/speed.md",
    "docs/streams.md",
    METHOD,
)
TEXT = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
README = TEXT["README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

MODULES = {
    "cpsl-adapt": "cpsl_deploy.train.command",
    "cpsl-bench": "cpsl_deploy.bench.command",
    "cpsl-check": "cpsl_deploy.data.check_command",
    "cpsl-demo": "cpsl_deploy.export.demo_command",
    "cpsl-drift": "cpsl_deploy.drift.command",
    "cpsl-export": "cpsl_deploy.export.command",
    "cpsl-run": "cpsl_deploy.run_command",
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OTHERS_OPTIONS = {
    *("--nproc-per-node", "--disable-auto-complete-config"),
    *("--build-arg", "--gpus", "--user"),
    *("--no-deps", "--system-site-packages"),
}
"""Of torchrun and tritonserver, docker, pip and venv."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str, document: str = "README.md") -> list[str]:
    return [body for name, body in FENCE.findall(TEXT[document]) if name == language]


def prose(document: str) -> str:
    return FENCE.sub("", TEXT[document])


def code_spans(document: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document))


def console_lines() -> Iterator[list[str]]:
    """The words of every command line in the documents, without comments."""
    for document in DOCUMENTS:
        for block in blocks("console", document):
            lines = block.replace("\\\n", " ").splitlines()
            assert all(line.startswith("$ ") for line in lines), block
            yield from (shlex.split(line[2:], comments=True) for line in lines)


LINES = list(console_lines())


def command(name: str) -> click.Command:
    return importlib.import_module(MODULES[name]).main


def script(path: str) -> click.Command:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module.main


def options(of: click.Command) -> set[str]:
    own = {option for parameter in of.params for option in (*parameter.opts, *parameter.secondary_opts)}
    others = (other() for other in getattr(of, "others", {}).values())
    return {"--help"}.union(own, *(options(other) for other in others))


def called(words: list[str]) -> tuple[str, list[str]] | None:
    """The cpsl command of a line and its arguments; None for other lines."""
    if words[0] == "torchrun":
        module = words.index("-m") + 1
        return next(name for name, of in MODULES.items() if of == words[module]), words[module + 1 :]
    return (words[0], words[1:]) if words[0] in MODULES else None


CALLS = [found for words in LINES if (found := called(words))]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[" ".join([n, *a]) for n, a in CALLS])
def test_command_lines_are_accepted(name: str, arguments: list[str]):
    """Options, their values and the number of arguments, as the command itself parses them."""
    context = command(name).make_context(name, list(arguments))

    assert context.params.keys() >= {p.name for p in context.command.params if p.required}
    if size := context.params.get("size"):
        from cpsl_deploy.command_line import parse_size

        assert min(parse_size(size)) > 0


def test_every_command_is_shown_and_only_known_programs_are():
    programs = {words[0] for words in LINES}

    assert {name for name, _ in CALLS} == set(MODULES) - {"cpsl-demo"}  # shown as `make demo`
    assert programs - set(MODULES) == {
        *("docker", "make", "pip", "python", "python3", "torchrun"),
        *(".", "grep", "sudo"),  # on a Jetson
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_the_text_exist(document: str):
    scripts = {words[1] for words in LINES if words[0] == "python" and words[1].endswith(".py")}
    known = set().union(*(options(command(name)) for name in MODULES), OTHERS_OPTIONS)
    known |= set().union(*(options(script(path)) for path in scripts))

    for span in code_spans(document):
        words = span.split()
        allowed = options(command(words[0])) if words[0] in MODULES else known
        assert set(OPTION.findall(span)) <= allowed, span


def test_options_of_scripts_exist():
    lines = [words for words in LINES if words[0] == "python" and words[1].endswith(".py")]

    assert lines
    for _, path, *arguments in lines:
        used = {word for word in arguments if word.startswith("-")}
        assert used <= options(script(path)), path


def test_make_targets_and_their_arguments_exist():
    targets = set(re.findall(r"^([a-z]+):(?!=)", MAKEFILE, re.MULTILINE))
    lines = [words for words in LINES if words[0] == "make"]
    spans = [shlex.split(span) for span in code_spans("README.md") if span.startswith("make ")]

    assert {words[1] for words in lines} >= {"demo", "test", "lint", "types"}
    for words in lines + spans:
        for word in words[1:]:
            name, assigned, value = word.partition("=")
            if not assigned:
                assert word in targets, words
                continue
            assert re.search(rf"^{name} \?=", MAKEFILE, re.MULTILINE), words
            if "demo" in words and name == "ARGS":
                command("cpsl-demo").make_context("cpsl-demo", shlex.split(value))


def test_integration_runs_the_test_command():
    said = re.search(r"`\.ci/run` is what continuous integration runs: `(make \w+)`", README)

    assert said is not None
    assert said[1] in (ROOT / ".ci/run").read_text().splitlines()


def test_extras_exist_and_all_are_described():
    listed = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", listed, re.MULTILINE))
    table = README.split("| extra | brings | for |")[1].split("\n\n")[0]
    used = {name for group in re.findall(r"'\.\[([\w,]+)\]'", README) for name in group.split(",")}

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == extras
    assert used <= extras


def test_settings_given_are_accepted():
    from cpsl_deploy.train.recipe import load_recipe
    from cpsl_deploy.train.recipe_file import parse_override

    given = [words[i + 1] for words in LINES for i, word in enumerate(words[:-1]) if word == "--set"]
    given += [found for text in TEXT.values() for found in re.findall(r"`--set (\S+=\S+)`", text)]

    assert len(given) >= 4
    for text in given:
        load_recipe("own", dict([parse_override(text)]))


def test_defaults_are_the_recipe_s():
    from cpsl_deploy.train.recipe import Data, Recipe

    recipe = Recipe(name="any", data=Data(source_size=(64, 64), target_size=(64, 64), crop=(64, 64)))
    told = re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+) = ([^`]+)`", prose(METHOD))

    assert len(told) >= 30
    for key, value in told:
        default = recipe
        for part in key.split("."):
            default = getattr(default, part)
        assert value == str(default), key


def test_recipes_leave_the_paper_where_it_is_said():
    from cpsl_deploy.train.recipe import load_recipe

    section = TEXT[METHOD].split("## What own and demo change")[1].split("\n## ")[0]
    assert "They leave out the\nconsistency between views." in section
    own, demo, published = (load_recipe(name) for name in ("own", "demo", "paper"))
    for recipe in (own, demo):
        assert recipe.self_labelling.consistency_weight == 0
        assert 0 < recipe.warm_up.adversarial_weight < published.warm_up.adversarial_weight
        assert recipe.self_labelling.momentum < published.self_labelling.momentum
        assert recipe.data.rare_class_temperature > 0
        assert recipe.warm_up.style == "reinhard" and recipe.warm_up.photometric.hue > 0
        assert recipe.distillation_1.start == recipe.distillation_2.start == "previous"
    as_published = "`own` keeps the paper's other terms as published"
    changed = {"iterations", "batch", "optimiser", "bank", "pixels_per_image"}
    changed |= {"consistency_weight", "momentum", "mixing"}
    ours, theirs = (dataclasses.asdict(recipe.self_labelling) for recipe in (own, published))
    assert as_published in section and {k for k in ours if ours[k] != theirs[k]} <= changed
    ours, theirs = (dataclasses.asdict(recipe.distillation_1) for recipe in (own, published))
    assert {k for k in ours if ours[k] != theirs[k]} == {"iterations", "batch", "optimiser", "start"}
    assert demo.self_labelling.symmetric_beta == 0 and demo.self_labelling.online_soft_labels


def test_recipes_named_exist_and_all_are_described():
    from cpsl_deploy.train.recipe import load_recipe, recipe_names

    table = README.split("| recipe | for |")[1].split("\n\n")[0]
    described = {name for cells in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
                 for name in re.findall(r"`([\w-]+)`", cells)}  # fmt: skip
    used = {words[i + 1] for words in LINES for i, word in enumerate(words) if word == "--recipe"}

    assert described == set(recipe_names())
    for name in used:
        load_recipe(name)


def test_networks_are_as_described():
    from cpsl_deploy.train.models.registry import ARCHITECTURES, build

    rows = re.findall(r"^\| `(\w+)` \| .*? \| ([\d.]+) M \| (\d+) \|", README, re.MULTILINE)
    used = {
        words[i + 1] for words in LINES for i, word in enumerate(words) if word in ("--teacher", "--student")
    }

    assert [name for name, _, _ in rows] == list(ARCHITECTURES)
    assert used <= set(ARCHITECTURES)
    for name, millions, stride in rows:
        with torch.device("meta"):  # shapes alone
            network = build(name, 19)
        assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}" == millions, name
        assert network.stride == int(stride), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_exist(document: str):
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT[document])
    start = re.compile(r"(train|export|cpsl_deploy|tests|benchmarks|\.ci)/[\w./-]*")
    spans = [span for span in code_spans(document) if start.fullmatch(span)]
    spans += [word for words in LINES for word in words if start.fullmatch(word)]

    assert links and spans
    for path in links:
        assert (folder / path).exists(), path
    for path in spans:
        assert (ROOT / path).exists(), path


def test_links_within_the_readme_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", prose("README.md"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors


def test_files_of_a_run_are_those_it_names():
    from cpsl_deploy.train.adaptation import STAGES
    from cpsl_deploy.train.engine.run_folder import RunFolder

    table = README.split("What a run leaves in its folder:")[1].split("**Interrupted?**")[0]
    run = RunFolder("run")
    paths = [*vars(run).values(), run.checkpoints.before]
    files = [path.name for path in paths if isinstance(path, Path) and path != run.path]

    for name in (*files, *(run.stage_model(stage).name for stage in STAGES)):
        assert f"`{name}`" in table or f"`{name}/`" in table, name


def test_environment_variables_are_read():
    source = "".join(path.read_text() for path in (ROOT / "cpsl_deploy").rglob("*.py"))

    for name in set(re.findall(r"\bCPSL_[A-Z]+\b", README)):
        assert f'"{name}"' in source, name


def test_the_error_codes_are_the_errors():
    from cpsl_deploy.errors import AccuracyError

    section = README.split("## Errors and exit codes")[1].split("\n## ")[0]
    codes = set(re.findall(r"^\| (\d+)(?:, 143)? \| ", section, re.MULTILINE))

    assert codes == {"0", str(CpslError.exit_code), str(AccuracyError.exit_code), "130"}
    assert "| 130, 143 | " in section


def test_the_dataset_example_opens(tmp_path: Path):
    """Read by the project's own loader, with masks that hold all the raw ids it names."""
    (text,) = blocks("yaml")
    path = tmp_path / "simulator.yaml"
    path.write_text(text)
    described = yaml.safe_load(text)
    known = [i for ids in described["ids"].values() for i in (ids if isinstance(ids, list) else [ids])]
    raw = np.array([[*known, *described["ignore"]]], np.uint8).repeat(4, axis=0)
    contents = {"images": np.zeros((*raw.shape, 3), np.uint8), "labels": raw}
    for folders in described["splits"].values():
        for kind, folder in folders.items():
            (tmp_path / described["root"] / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / described["root"] / folder / "0.png"), contents[kind])

    for split in dataset_splits(path):
        dataset = open_dataset(path, split, need_labels=True)
        assert dataset.classes is not None and list(dataset.classes.names) == described["classes"]
        label = dataset.label(0)
        assert set(np.unique(label)) == {*range(len(described["classes"])), 255}
        assert (label == 255).sum() == 4 * len(described["ignore"])


def called_with(snippet: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def test_python_snippets_call_what_there_is():
    from cpsl_deploy import load
    from cpsl_deploy.bench import benchmark, write_report
    from cpsl_deploy.export import export
    from cpsl_deploy.train import adapt

    functions = {f.__name__: f for f in (adapt, benchmark, export, load, write_report)}
    seen = set()
    for snippet in blocks("python"):
        for name, call in called_with(snippet):
            if name in functions:
                seen.add(name)
                keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(functions[name]).bind(*call.args, **keywords)

    assert seen == set(functions)


def test_runtime_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """All but the one that trains, on a model small enough to check by hand."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib")
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    tiny_onnx.write_tiny_onnx(tmp_path / "runs/mine/model.onnx")
    street = tiny_onnx.street()
    for folder, content in (("images", street[..., ::-1]), ("labels", tiny_onnx.nearest_colour(street))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), content)
    cv2.imwrite("frame.jpg", street[..., ::-1])
    (tmp_path / "camera.yaml").write_text(
        "splits: {val: {images: images, labels: labels}}\n"
        f"classes: [{', '.join(tiny_onnx.CLASS_NAMES)}]\n"
        f"ids: {{{', '.join(f'{name}: {i}' for i, name in enumerate(tiny_onnx.CLASS_NAMES))}}}\n"
    )
    snippets = [snippet for snippet in blocks("python") if "cpsl_deploy.train" not in snippet]

    assert len(snippets) == 4
    for snippet in snippets:
        snippet = snippet.replace("rtsp://192.168.1.5/road", "frame.jpg")
        exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})

    said = capsys.readouterr().out
    assert "bottom centre: road" in said
    assert re.search(r"^1\.0 \d", said, re.MULTILINE)  # the benchmark's mIoU, of a model that is exact
    assert (tmp_path / "overlay.jpg").is_file() and (tmp_path / "bench-mine/bench.json").is_file()


def test_results_have_their_places():
    for document, name in (("README.md", "demo"), ("README.md", "real"), (METHOD, "ablation")):
        marked = rf"<!-- results:{name} -->\n(.+?)\n<!-- /results:{name} -->"
        inside = re.search(marked, TEXT[document], re.DOTALL)
        assert inside is not None and inside[1].strip(), name


@pytest.mark.parametrize("document", (*DOCUMENTS, "CHANGELOG.md"))
def test_no_path_of_one_machine(document: str):
    text = (ROOT / document).read_text().replace("/tmp/argus_socket", "")  # of every Jetson

    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt)/|\.\./shared", text)
