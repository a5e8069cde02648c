"""Figures and tables of ``benchmarks/mgno_understanding.py``, from what it measured, and the page they go into."""

import itertools
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vcycle import metrics
from vcycle._files import whole
from vcycle.evaluation.figures import BLUE, GREY, INK, ORANGE

NETWORKS = {"mgno": "MgNO", "fno": "FNO"}
COLOURS = {"mgno": BLUE, "fno": ORANGE}
KINDS = ("dirichlet", "neumann", "periodic")
PADDINGS = {"by kind": BLUE, "zeros": ORANGE, "hard": INK}
BASE = "base"
"""The architecture that variants change one thing of."""
CHECKPOINTS = 8

Record = dict[str, Any]
Runs = dict[str, Record]


def frequency_page(runs: Runs, settings: Record) -> tuple[Any, list[str]]:
    """Return the figure and the lines of the page."""
    figure = _figure(9.5, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    present = [name for name in NETWORKS if name in runs]
    edges = [*metrics.BANDS, None]
    labels = [f"{a:g} to {b:g}" if b else f"from {a:g}" for a, b in itertools.pairwise(edges)]
    for axis, name in zip(axes, present, strict=False):
        run = runs[name]
        epochs = _checkpoints(len(run["l2"]), CHECKPOINTS)
        seconds = [e * run["steps_per_epoch"] * run["step"] for e in epochs]
        for band, label in enumerate(labels):
            errors = [100 * run["error_bands"][e - 1][band] for e in epochs]
            shade = 0.25 + 0.75 * band / (len(labels) - 1)
            axis.plot(seconds, errors, "o-", ms=3, lw=1.4, color=COLOURS[name], alpha=shade, label=label)
        axis.plot(seconds, [100 * run["l2"][e - 1] for e in epochs], "--", color=INK, lw=1.4, label="all")
        axis.set_xscale("log")
        axis.set_yscale("log")
        _finish(axis, NETWORKS[name], "CPU seconds of training", "relative error, %")
    head = ["network", "parameters", "CPU s a step", "epochs", "all", *labels]
    rows = []
    for name in present:
        run = runs[name]
        for share in (0.25, 0.5, 1.0):
            epoch = max(1, round(share * len(run["l2"])))
            errors = [run["l2"][epoch - 1], *run["error_bands"][epoch - 1]]
            rows.append([NETWORKS[name], f"{run['parameters']:,}", f"{run['step']:.3f}", epoch, *map(_percent, errors)])
    lines = _table(head, rows)
    if len(present) == len(NETWORKS):
        a, b = (runs[name]["error_bands"][-1] for name in NETWORKS)
        ratios = ", ".join(f"{y / x:.2g} ({label})" for x, y, label in zip(a, b, labels, strict=True))
        lines += ["", f"Error of FNO over that of MgNO at the end, by band in half waves per box: {ratios}."]
    return figure, lines


def overfitting_page(runs: Runs, settings: Record) -> tuple[Any, list[str]]:
    """Return the figure and the lines of the page."""
    figure = _figure(5.6, 3.6)
    axis = figure.subplots()
    rows, gaps = [], []
    for name in NETWORKS:
        found = [(n, runs[f"{name} {n}"]) for n in settings["overfitting_samples"] if f"{name} {n}" in runs]
        for key, dash in (("validation", "o-"), ("train", "s--")):
            errors = [100 * run[f"{key}_l2"] for _, run in found]
            axis.plot([n for n, _ in found], errors, dash, ms=4, color=COLOURS[name], label=f"{NETWORKS[name]}, {key}")
        for samples, run in found:
            ratio = run["validation_l2"] / run["train_l2"]
            errors = [_percent(run[key]) for key in ("train_l2", "validation_l2", "train_h1", "validation_h1")]
            rows.append([NETWORKS[name], samples, *errors, f"{ratio:.2f}", run["steps"]])
        if found:
            (few, first), (many, last) = found[0], found[-1]
            both = [run["validation_l2"] / run["train_l2"] for run in (first, last)]
            gaps.append(f"{NETWORKS[name]} {both[0]:.2f} with {few} samples and {both[1]:.2f} with {many}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    _finish(axis, "training and validation error", "training samples", "relative L2 error, %")
    head = ["network", "samples", "training L2", "validation L2", "training H1", "validation H1", "L2 ratio", "steps"]
    return figure, [*_table(head, rows), "", f"Validation over training error: {'; '.join(gaps)}."]


def boundary_page(runs: Runs, settings: Record) -> tuple[Any, list[str]]:
    """Return the figure and the lines of the page."""
    figure = _figure(10.5, 3.2)
    rows, ratios = [], []
    for axis, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
        for padding, colour in PADDINGS.items():
            run = runs.get(f"{kind}, {padding}")
            if run is None:
                continue
            cells = range(1, len(run["profile"]) + 1)
            axis.plot(cells, [100 * e for e in run["profile"]], ".-", color=colour, label=padding)
            outer, inner = run["profile"][0], _interior(run)
            errors = [_percent(e) for e in (run["l2"], outer, inner)]
            rows.append([kind, padding, *errors, f"{outer / inner:.2f}"])
            ratios.append(f"{outer / inner:.2f} ({kind}, {padding})")
        axis.set_yscale("log")
        _finish(axis, kind, "rows of cells from the side", "error over the solution's size, %")
    head = ["sides", "beyond the sides", "relative L2", "outermost row", "interior", "row over interior"]
    return figure, [*_table(head, rows), "", f"Error in the outermost row over that inside: {', '.join(ratios)}."]


def _interior(run: Record) -> float:
    """Return the root mean square over all cells but those of the outermost rows."""
    inside = list(zip(run["profile"], run["counts"], strict=True))[1:]
    return math.sqrt(sum(e * e * n for e, n in inside) / sum(n for _, n in inside))


def levels_page(runs: Runs, settings: Record) -> tuple[Any, list[str]]:
    """Return the figure and the lines of the page."""
    figure = _figure(7.0, 4.2)
    axis = figure.subplots()
    found: dict[str, list[Record]] = {}
    for name, run in runs.items():
        found.setdefault(name.rpartition(", seed ")[0], []).append(run)
    points = {name: (statistics.median(r["step"] for r in of), _mean(of, "l2")) for name, of in found.items()}
    groups = {"levels": BLUE, "depth": ORANGE}
    for group, colour in groups.items():
        own = int(settings[group])
        line = {int(name.split()[1]): at for name, at in points.items() if name.startswith(f"{group} ")}
        line |= {own: points[BASE]} if BASE in points else {}
        axis.plot(*zip(*((s, 100 * e) for _, (s, e) in sorted(line.items())), strict=True), "-", color=colour, lw=1)
    for name, (step, error) in points.items():
        colour = INK if name == BASE else groups.get(name.split()[0], GREY)
        axis.plot(step, 100 * error, "o", ms=5, color=colour)
        axis.annotate(name, (step, 100 * error), xytext=(4, 3), textcoords="offset points", fontsize=7, color=INK)
    axis.set_yscale("log")
    _finish(axis, "architecture, as many steps each", "CPU seconds a step", "relative L2 error, %")
    rows = []
    for name, of in found.items():
        cells = [
            f"{of[0]['parameters']:,}",
            f"{points[name][0]:.3f}",
            _percent(points[name][1]),
            _percent(_mean(of, "h1")),
        ]
        over = f"{points[name][1] / points[BASE][1]:.2f}" if BASE in points else ""
        rows.append([name, len(of), *cells, over])
    head = ["variant", "seeds", "parameters", "CPU s a step", "validation L2", "validation H1", "L2 over base"]
    lines = _table(head, rows)
    spread = [run["l2"] for run in found.get(BASE, [])]
    if len(spread) > 1:
        ends = f"{_percent(min(spread))} to {_percent(max(spread))}"
        lines += ["", f"The base, by seed: {ends}; as much between variants is chance."]
    return figure, lines


def _mean(runs: Sequence[Record], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _checkpoints(epochs: int, count: int) -> list[int]:
    """Return about ``count`` epochs from 1 to the last, equally far apart on a logarithmic scale."""
    return sorted({max(1, round(epochs ** (i / (count - 1)))) for i in range(count)})


def _percent(error: float) -> str:
    return f"{100 * error:.3g} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10, color=INK)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8, which="both")
    axis.grid(visible=True, which="both", color="#e2e8f0", linewidth=0.6)
    axis.set_axisbelow(True)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False)


PAGES: dict[str, Callable[[Runs, Record], tuple[Any, list[str]]]] = {
    "frequency": frequency_page,
    "overfitting": overfitting_page,
    "boundary": boundary_page,
    "levels": levels_page,
}


def show(part: str, path: Path, page: Path) -> None:
    """Draw the figure of what a part's file holds, and write its block of the page."""
    import matplotlib as mpl

    content = json.loads(path.read_text(encoding="utf-8"))
    figure_path = path.with_suffix(".svg")
    with mpl.rc_context({"svg.hashsalt": "vcycle"}):  # the same numbers give the same file
        figure, lines = PAGES[part](content["runs"], content["settings"])
        with whole(figure_path) as partial:
            figure.savefig(partial, facecolor="white", metadata={"Date": None})
    minutes = sum(run["cpu_seconds"] for run in content["runs"].values()) / 60
    link = Path(os.path.relpath(figure_path, page.parent)).as_posix()
    command = f"`python benchmarks/mgno_understanding.py {part}`, {minutes:.1f} CPU minutes."
    write_block(page, part, [f"![{part}]({link})", "", *lines, "", command])


def write_block(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what a page has between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page} must hold {begin.strip()} and {end} once each.")
    before, rest = text.split(begin)
    block = "\n".join(["", *lines, "", ""])
    with whole(page) as partial:
        partial.write_text(before + begin + block + end + rest.split(end)[1], encoding="utf-8")
