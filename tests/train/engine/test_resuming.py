"""What a run meets when it is resumed: a disk that was full, a damaged model, other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from tiny_domains import write_domain, write_recipe

from cpsl_deploy.train import load_recipe
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.command import main
from cpsl_deploy.train.engine import checkpoint
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models.weights import read_weights

SHORT = [f"{stage}.iterations=2" for stage in STAGES] + ["compute.checkpoint_every=1"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("domains")
    given = {
        "--source": write_domain(folder / "game", hue=200),
        "--target": write_domain(folder / "camera", hue=240),
        "--recipe": write_recipe(folder),
        "--output": folder / "run",
        "--device": "cpu",
    }
    settings = [text for setting in SHORT for text in ("--set", setting)]
    return [*(str(text) for pair in given.items() for text in pair), *settings, "--no-check"]


def invoke(options: list[str], *more: str) -> Result:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return CliRunner().invoke(main, [*options, *more], catch_exceptions=False)
    finally:
        torch.set_num_threads(before)


def told(result: Result) -> str:
    return " ".join(result.output.split())


def weights(folder: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    """A copy: what is read is mapped from the file."""
    return {key: value.clone() for key, value in read_weights(folder.stage_model(stage)).items()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_run_goes_on_from_what_was_there(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(options[options.index("--output") + 1])
    write, written = checkpoint._write, []

    def on_a_small_disk(state: dict, path: Path) -> None:
        written.append(state["stage"])
        write(state, path if len(written) < 2 else Path("/dev/full"))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", on_a_small_disk)
        result = invoke(options)
    assert result.exit_code == 2 and written == ["source_only", "warm_up"]
    assert "the disk is full" in told(result) and "free some space" in told(result)
    assert told(result).endswith("the last checkpoint are kept: --resume goes on from there.")
    assert folder.stage_model("source_only").is_file() and not list(folder.path.glob(".*"))

    result = invoke(options, "--resume", "--set", "source_only.optimiser.lr=0.5", "--set", "data.cache_mib=3")
    assert result.exit_code == 2
    assert "source_only.optimiser.lr = 0.001 where now source_only.optimiser.lr = 0.5" in told(result)

    other = ["--resume", "--set", "warm_up.adversarial_weight=0.5", "--set", "compute.workers=2"]
    result = invoke(options, *other)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(folder.recipe_file)
    assert (recipe.warm_up.adversarial_weight, recipe.compute.workers) == (0.5, 2)

    first = {stage: weights(folder, stage) for stage in STAGES}
    folder.stage_model("warm_up").write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    folder.stage_model("self_labelling").unlink()
    result = invoke(options, *other)
    assert result.exit_code == 2
    assert "warm_up.safetensors is damaged" in told(result)
    assert told(result).endswith("Or delete it: --resume trains its stage again.")
    folder.stage_model("warm_up").unlink()
    assert invoke(options, *other).exit_code == 0
    for stage in ("warm_up", "self_labelling"):
        assert all(torch.equal(value, first[stage][key]) for key, value in weights(folder, stage).items())
