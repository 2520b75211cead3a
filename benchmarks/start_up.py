"""What a start costs: the help of every command, and the way from nothing to the first label map.

    python benchmarks/start_up.py MODEL [--rounds 9] -o runs/start-up

Every measurement is a fresh process, and all take turns; files lie in the page cache. Helps are held against
an interpreter that does nothing and against an empty click command. The first label map is held against what
anybody needs for it: an interpreter that imports NumPy and ONNX Runtime and makes a session of the same file,
until that is there, and until it has given its first output. Writes ``start_up.json`` and ``start_up.md``;
the last line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import click
import numpy as np

from cpsl_deploy.backend_names import BACKENDS
from cpsl_deploy.command_line import Command
from cpsl_deploy.files import write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.segmenter import load

COMMANDS = {
    "cpsl-run": "cpsl_deploy.run_command",
    "cpsl-adapt": "cpsl_deploy.train.command",
    "cpsl-export": "cpsl_deploy.export.command",
    "cpsl-demo": "cpsl_deploy.export.demo_command",
    "cpsl-bench": "cpsl_deploy.bench.command",
    "cpsl-check": "cpsl_deploy.data.check_command",
    "cpsl-drift": "cpsl_deploy.drift.command",
}
NOTHING, EMPTY, BARE, OURS = "python", "an empty click command", "session", "cpsl_deploy"
AT_ONCE, IMPORTED, LOADED, FIRST = "started", "imported", "loaded", "first"
"""Moments of a child, in nanoseconds of the clock that all processes share."""

_MARK = "import json, sys, time; at = dict(started=time.monotonic_ns())\n"
_TELL = "print('\\n' + json.dumps(dict(at, modules=len(sys.modules))))"
HELP = _MARK + "from {module} import main\nmain(['--help'], standalone_mode=False)\n" + _TELL
CHILDREN = {
    NOTHING: _MARK + _TELL,
    EMPTY: _MARK + "import click\nclick.command()(lambda: None)(['--help'], standalone_mode=False)\n" + _TELL,
    BARE: _MARK
    + """
import numpy, onnxruntime
at['imported'] = time.monotonic_ns()
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
at['loaded'] = time.monotonic_ns()
session.run(None, {'image': numpy.zeros((1, int(sys.argv[2]), int(sys.argv[3]), 3), numpy.uint8)})
at['first'] = time.monotonic_ns()
"""
    + _TELL,
    OURS: _MARK
    + """
import numpy, cpsl_deploy
cpsl_deploy.load
at['imported'] = time.monotonic_ns()
segmenter = cpsl_deploy.load(sys.argv[1], backend=sys.argv[4])
at['loaded'] = time.monotonic_ns()
segmenter.predict(numpy.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), numpy.uint8))
at['first'] = time.monotonic_ns()
"""
    + _TELL,
}


def measure(model: Path, backend: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By child and moment, milliseconds since the process was asked for, of each round; ``ended`` is when it
    was gone, ``modules`` how many it had imported."""
    with load(model, backend=backend) as opened:  # what is measured once and kept is there then
        height, width = opened.input_size(*opened.spec.size)
    children = CHILDREN | {f"{name} --help": HELP.format(module=module) for name, module in COMMANDS.items()}
    names, found = list(children), {name: defaultdict(list) for name in children}
    for i in range(-1, rounds):
        for name in (*names[i % len(names) :], *names[: i % len(names)]):
            moments = run_child(children[name], model, height, width, backend)
            if i >= 0:  # the first round brings files into the page cache
                for moment, value in moments.items():
                    found[name][moment].append(value)
    return {name: dict(moments) for name, moments in found.items()}


def run_child(code: str, *arguments: object) -> dict[str, float]:
    began_ns = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    ended_ms = (time.monotonic_ns() - began_ns) / 1e6
    told = json.loads(done.stdout.splitlines()[-1])
    modules = told.pop("modules")
    return {**{key: (at - began_ns) / 1e6 for key, at in told.items()}, "ended": ended_ms, "modules": modules}


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.array(one) / np.array(other), [25, 50, 75])
    return {"ratio": middle, "low": low, "high": high}


def ratios(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Of the same rounds, each with its quartiles."""
    ours, bare = found[OURS], found[BARE]
    told = {
        "first labels / session ready": ratio(ours[FIRST], bare[LOADED]),
        "first labels / session's first output": ratio(ours[FIRST], bare[FIRST]),
        "ready / session ready": ratio(ours[LOADED], bare[LOADED]),
    }
    for name in COMMANDS:
        told[f"{name} --help / python"] = ratio(found[f"{name} --help"]["ended"], found[NOTHING]["ended"])
        told[f"{name} --help / empty command"] = ratio(
            found[f"{name} --help"]["ended"], found[EMPTY]["ended"]
        )
    return told


def markdown(record: dict[str, object]) -> str:
    medians: dict[str, dict[str, float]] = record["medians"]  # type: ignore[assignment]
    shown = (AT_ONCE, IMPORTED, LOADED, FIRST, "ended", "modules")
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{one[key]:.0f}" if key in one else "" for key in shown) + " |"
        for name, one in medians.items()
    )
    table = "\n".join(
        f"| {name} | {one['ratio']:.2f} | {one['low']:.2f} to {one['high']:.2f} |"
        for name, one in record["ratios"].items()  # type: ignore[attr-defined]
    )
    machine = record["machine"]
    return f"""# Starting

{record["model"]}, {record["backend"]}, {record["rounds"]} rounds of fresh processes that take turns: medians.

| milliseconds since the process was asked for | {" | ".join(shown)} |
| --- | {"--- | " * len(shown)}
{rows}

| | ratio | quartiles |
| --- | --- | --- |
{table}

{machine["cpu"]}, {machine["usable_cores"]:g} cores usable; {machine["os"]}.
"""  # type: ignore[index]


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/start-up"))
def main(model: Path, backend: str, rounds: int, output: Path) -> None:
    """How long the commands' helps and the first label map of MODEL take."""
    found = measure(model, backend, rounds)
    record = {
        "model": model.name,
        "backend": backend,
        "rounds": rounds,
        "medians": {
            name: {moment: float(np.median(values)) for moment, values in moments.items()}
            for name, moments in found.items()
        },
        "ratios": ratios(found),
        "machine": dataclasses.asdict(describe_machine()),
        "versions": package_versions(),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "start_up.json", record)
    write_text(output / "start_up.md", markdown(record))
    print(json.dumps({"medians": record["medians"], "ratios": record["ratios"]}, default=float))


if __name__ == "__main__":
    main()
