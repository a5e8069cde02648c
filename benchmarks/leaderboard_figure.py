"""Draw ``docs/figures/leaderboard.svg`` from ``benchmarks/leaderboard.json``: error against the cost of a prediction.

Run ``python benchmarks/leaderboard_figure.py`` after ``vcycle benchmark benchmarks/leaderboard.yaml``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from vcycle._files import whole
from vcycle.evaluation.figures import BLUE, GREY, INK, ORANGE

HERE = Path(__file__).parent
EXACT = 1e-5  # solutions better than this would press the models together
FAMILIES = {
    "local, on several grids": (BLUE, "MgNO UNet ResNet LSM MONet"),
    "Fourier multipliers": (ORANGE, "FNO TFNO SpecBoost MG-TFNO FFNO UNO LocalNO GFNO IFNO SpectralRefiner"),
    "attention": ("#6a51a3", "GalerkinTransformer FactFormer IFactFormer ScOT SRNO"),
    "mixers of tokens or coefficients": ("#2a9d8f", "T1 AFNO DPOT AFFNet LordNet NeuralSpectral"),
    "kernels, modes and branches": (GREY, "GNO LNO MGNO DeepONet DMDOperator"),
}


def family(label: str) -> str:
    """Return which family a model belongs to, by the first word of its label."""
    return next(name for name, (_, labels) in FAMILIES.items() if label.split()[0] in labels.split())


def _thin_out(labels: Sequence[Text]) -> None:
    """Hide labels that would lie on an earlier one: models come best first, and the table has them all."""
    shown: list[Bbox] = []
    for label in labels:
        place = label.get_window_extent()
        if any(place.overlaps(other) for other in shown):
            label.set_visible(False)
        else:
            shown.append(place)


def main() -> None:
    """Draw it."""
    boards = json.loads((HERE / "leaderboard.json").read_text(encoding="utf-8"))["datasets"]
    figure = Figure(figsize=(10, 4.2 * len(boards)), layout="constrained")
    for axes, board in zip(figure.subplots(len(boards), squeeze=False)[:, 0], boards, strict=True):
        seen = set()
        for model in board["models"]:
            if not model["runs"]:
                continue
            cost = model["inference_ms"] or model["runs"][0]["inference_ms"]
            error, name = 100 * model["summary"]["relative_l2"]["mean"], family(model["label"])
            label = None if name in seen else name
            axes.plot(cost, error, "o", color=FAMILIES[name][0], label=label, ms=5)
            axes.annotate(model["label"], (cost, error), (4, 3), textcoords="offset points", fontsize=7, color=INK)
            seen.add(name)
        for solver in board["solvers"]:
            if solver["error"] < EXACT:
                continue
            axes.plot(solver["cpu_ms"], 100 * solver["error"], "x", color=INK, ms=5)
            place = (solver["cpu_ms"], 100 * solver["error"])
            axes.annotate(solver["name"], place, (4, 3), textcoords="offset points", fontsize=7, style="italic")
        axes.set(xscale="log", yscale="log", title=board["name"], ylabel="relative L2 error, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("CPU milliseconds per sample")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.draw_without_rendering()
    for axes in figure.axes:
        _thin_out(axes.texts)
    with mpl.rc_context({"svg.hashsalt": "vcycle"}), whole(HERE.parent / "docs/figures/leaderboard.svg") as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
