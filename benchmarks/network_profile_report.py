"""What `network_profile.py` measured, as one JSON file, tables and a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from cpsl_deploy.files import atomic_path, write_json, write_text

SLOWEST = 12
_PRECISIONS = ("f32", "bf16", "int8")
_SEGMENTS = 7
"""Operators that have a colour of their own; the others share one."""


def write(folder: Path, record: dict[str, Any]) -> None:
    """``network_profile.json``, ``.md`` and ``.png``."""
    write_json(folder / "network_profile.json", record)
    write_text(folder / "network_profile.md", markdown(record))
    draw(folder / "network_profile.png", record["networks"])


def headline(networks: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each kind of graph and, last, the ratio, by network and way."""
    return {
        one["network"]: {
            row["way"]: [
                *(round(kind["median_ms"], 2) for kind in row["kinds"].values()),
                round(list(row["kinds"].values())[-1]["ratio"], 3),
            ]
            for row in one["rows"]
        }
        for one in networks
    }


def operators(nodes: list[dict[str, Any]]) -> dict[str, tuple[int, float, float | None]]:
    """Operator -> nodes, ms and their limit (None if one of them has none), the costliest first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        found[node["operator"]].append(node)
    sums = {
        name: (
            len(some),
            sum(node["ms"] for node in some),
            None if any(node["limit_ms"] is None for node in some) else sum(n["limit_ms"] for n in some),
        )
        for name, some in found.items()
    }
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def markdown(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in record["versions"].items() if v)
    parts = [
        "# Profile of networks",
        "Milliseconds are a frame's, from a uint8 frame in memory to its labels: medians over rounds in "
        "which all take turns; below, those of nodes under the library's profiler. Limit: operations by the "
        "rate of matrix products or bytes by that of memory, whichever takes longer; n/a where the library "
        "names no node of the file. " + _rates(record["rates"]),
    ]
    for one in record["networks"]:
        weights = "trained weights" if one["trained"] else "random weights, or those of the file"
        parts.append(f"## {one['network']}, {one['size'][0]}x{one['size'][1]}\n\n{weights}")
        parts.append(_speeds(one["rows"]))
        parts += [_nodes(row) for row in one["rows"]]
    parts.append(f"## Machine\n\n{machine['cpu']}, {machine['usable_cores']:g} cores usable. {versions}.")
    return "\n\n".join(parts) + "\n"


def _rates(rates: dict[str, Any]) -> str:
    products = ", ".join(
        f"{rate / 1e9:.0f} G/s in {name}" for name, rate in rates.items() if name in _PRECISIONS
    )
    busy = " Other work disturbed them: they are too low." if rates["disturbed"] else ""
    return f"Rates: {products}, {rates['copy'] / 1e9:.1f} GB/s of memory.{busy}"


def _speeds(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| way | graph | ms | ratio | quartiles | equal labels % | nodes in the file |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        for kind, found in row["kinds"].items():
            lines.append(
                f"| {row['way']} | {kind} | {found['median_ms']:.1f} | {found['ratio']:.2f} | "
                f"{found['low']:.2f}-{found['high']:.2f} | {100 * found['equal_labels']:.3f} | "
                f"{sum(found['file_nodes'].values())} |"
            )
    return "\n".join(lines)


def _nodes(row: dict[str, Any]) -> str:
    """Per operator, every kind of graph; then the slowest nodes of the last kind."""
    kinds = {kind: operators(found["nodes"]) for kind, found in row["kinds"].items()}
    last = list(kinds)[-1]
    nodes = row["kinds"][last]["nodes"]
    total = sum(node["ms"] for node in nodes)
    names = sorted(
        {name for found in kinds.values() for name in found},
        key=lambda name: -max(found.get(name, (0, 0.0, None))[1] for found in kinds.values()),
    )
    columns = " | ".join(f"{kind}: nodes | ms" for kind in kinds)
    lines = [
        f"### {row['way']}",
        "",
        f"| operator | {columns} | limit ms | % of limit |",
        "| --- |" + " ---: |" * (2 * len(kinds) + 2),
    ]
    for name in names:
        cells = [found.get(name, (0, 0.0, None)) for found in kinds.values()]
        counted = " | ".join(f"{count} | {ms:.2f}" for count, ms, _ in cells)
        lines.append(f"| {name} | {counted} | {_limit(cells[-1][1], cells[-1][2])} |")
    sums = " | ".join(
        f"{len(f['nodes'])} | {sum(n['ms'] for n in f['nodes']):.2f}" for f in row["kinds"].values()
    )
    lines += [f"| all | {sums} | | |", "", f"Slowest nodes, {last}:", ""]
    lines += ["| node | operator | output | ms | share % | limit ms | % of limit |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {node['name']} | {node['operator']} | {'x'.join(map(str, node['output_shape']))} | "
        f"{node['ms']:.2f} | {100 * node['ms'] / total:.1f} | {_limit(node['ms'], node['limit_ms'])} |"
        for node in nodes[:SLOWEST]
    ]
    return "\n".join(lines)


def _limit(ms: float, limit_ms: float | None) -> str:
    if limit_ms is None:
        return "n/a | n/a"
    return f"{limit_ms:.2f} | {100 * limit_ms / ms:.0f}" if ms else f"{limit_ms:.2f} | n/a"


def draw(path: Path, networks: list[dict[str, Any]]) -> None:
    """Milliseconds of each way and graph, in segments by operator; one panel a network."""
    from matplotlib.figure import Figure

    bars = [
        [(row["way"], kind, found) for row in one["rows"] for kind, found in row["kinds"].items()]
        for one in networks
    ]
    height = 1.2 + 0.42 * max(map(len, bars))
    figure = Figure(figsize=(9, height * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    for axes, one, some in zip(panels, networks, bars, strict=True):
        sums = [{name: found[1] for name, found in operators(kind["nodes"]).items()} for _, _, kind in some]
        whole: dict[str, float] = defaultdict(float)
        for found in sums:
            for name, ms in found.items():
                whole[name] += ms
        chosen = sorted(whole, key=lambda name: -whole[name])[:_SEGMENTS]
        labels = [f"{way}, {kind}" for way, kind, _ in some]
        left = [0.0] * len(some)
        for index, name in enumerate([*chosen, "others"]):
            widths = [
                found.get(name, 0.0)
                if name in chosen
                else sum(v for k, v in found.items() if k not in chosen)
                for found in sums
            ]
            axes.barh(
                labels, widths, left=left, label=name, color=f"C{index}" if name in chosen else "#bbbbbb"
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for index, total in enumerate(left):
            axes.text(total, index, f" {total:.1f}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_title(f"{one['network']}, {one['size'][0]}x{one['size'][1]}", fontsize=10)
        axes.set_xlabel("ms of all nodes, under the profiler", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
