"""A run that is killed again and again, at any moment, ends bit for bit as one that nothing interrupted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from tiny_domains import RECIPE, write_domain

from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models.weights import read_weights

TESTS = Path(__file__).parents[2]
CHANGES = {
    "log_every = 1": "log_every = 3\ncheckpoint_every = 2",
    "bank = 128": 'bank = 72\nmixing = "classmix"\nstudent_features = true\nalign_pseudo_labels = true',
    "iterations = 2\n": 'iterations = 5\nmixing = "cutmix"\n',
    "iterations = 3\n": "iterations = 5\n",
    "iterations = 4\n": "iterations = 7\n",
}
"""Of the tiny recipe: more steps, checkpoints in every stage, a bank that goes round, random mixing."""
SEED = 7


def run(folder: Path, name: str, moments: list[tuple[str, float]]) -> tuple[RunFolder, list[dict[str, Any]]]:
    """A run's folder and what was said of its attempts."""
    output = folder / name
    plan = {
        "source": str(folder / "game/domain.yaml"),
        "target": str(folder / "camera/domain.yaml"),
        "recipe": str(folder / "recipe.toml"),
        "output": str(output),
        "moments": moments,
    }
    (folder / f"{name}.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, str(TESTS / "killed_runs.py"), str(folder / f"{name}.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return RunFolder(output), [json.loads(line) for line in done.stdout.splitlines()]


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """All that was logged, in order, but the times it took."""
    found = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "step_seconds"} for entry in found]


def results(folder: RunFolder) -> dict[str, Any]:
    found = folder.results()
    return {
        key: {**value, "seconds": 0} if isinstance(value, dict) else value for key, value in found.items()
    }


def checkpoints(folder: RunFolder) -> dict[str, Path]:
    return {path.name: path for path in folder.path.with_name(folder.path.name + "-states").glob("*.pt")}


def assert_equal(found: Any, wanted: Any, where: str) -> None:
    """Equal bit for bit, in nested dicts and lists of tensors."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict | list):
        keys = wanted.keys() if isinstance(wanted, dict) else range(len(wanted))
        assert len(found) == len(wanted), where
        for key in keys:
            if key != "seconds":
                assert_equal(found[key], wanted[key], f"{where} {key}")
    else:
        assert found == wanted, where


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_domain(folder / "game", hue=200)
    write_domain(folder / "camera", hue=240, val=True)
    recipe = RECIPE
    for old, new in CHANGES.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "recipe.toml").write_text(recipe)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(folder: Path) -> None:
    """Compared: every stage's model, all scores and logged lines, and every checkpoint: networks, teacher,
    prototypes, bank, prior, optimisers with their rates, scaler, iteration and random state.
    """
    whole, (told, _) = run(folder, "whole", [])
    rng = random.Random(SEED)
    moments: list[tuple[str, float]] = [
        *(("call", rng.randint(told["calls"] // 30, told["calls"] // 8)) for _ in range(4)),
        *(("half", rng.randint(2, 3)) for _ in range(4)),
        *(("rename", rng.randint(3, 15)) for _ in range(3)),
        ("seconds", rng.uniform(0.2, 0.8)),
    ]
    rng.shuffle(moments)
    killed, attempts = run(folder, "killed", moments)
    deaths = [attempt["moment"][0] for attempt in attempts if attempt.get("status")]
    assert len(deaths) >= 8 and {"call", "half", "rename"} <= set(deaths)
    begun = [line.rsplit(maxsplit=1) for line in (folder / "killed-diary").read_text().splitlines()]
    resumed = [stage for stage, done in begun if int(done) > 0]
    assert len(resumed) >= 3 and len(set(resumed)) >= 2, begun

    for file in [*map(whole.stage_model, STAGES), whole.model]:
        assert_equal(read_weights(killed.path / file.name), read_weights(file), file.name)
    assert results(killed) == results(whole)
    assert lines(killed) == lines(whole)
    written, wanted = checkpoints(killed), checkpoints(whole)
    assert written.keys() <= wanted.keys() and len(written) >= len(wanted) - len(deaths)
    for name, path in written.items():
        states = (torch.load(p, weights_only=True) for p in (path, wanted[name]))
        assert_equal(*states, where=name)
    files = [sorted(path.name for path in run.path.rglob("*")) for run in (killed, whole)]
    assert files[0] == files[1], "nothing half written is left"
