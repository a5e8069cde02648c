"""The pictures of the report, as strings that an HTML page can hold. No global state of matplotlib is touched."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vcycle.evaluation.report import SamplePicture

INK, BLUE, ORANGE, GREY = "#22313f", "#2b6cb0", "#dd6b20", "#a0aec0"


def sample_figure(picture: "SamplePicture") -> str:
    """Draw input, truth, prediction, error and bound of one sample side by side; three axes show the middle slice.

    Parameters
    ----------
    picture
        The fields of one sample.

    Returns
    -------
    str
        A PNG as a ``data:`` address.
    """
    figure = _figure(13.5, 2.75)
    axes = figure.subplots(1, 5, gridspec_kw={"width_ratios": [1, 1, 1, 1, 0.85]})
    low, high = _range(picture.truth)
    error = np.asarray(picture.prediction) - np.asarray(picture.truth)
    reach = float(np.abs(error).max()) or 1.0
    _field(axes[0], picture.input, picture.input_name, colours="cividis")
    _field(axes[1], picture.truth, "truth", colours="viridis", limits=(low, high))
    _field(axes[2], picture.prediction, "prediction", colours="viridis", limits=(low, high))
    _field(axes[3], error, "error", colours="RdBu_r", limits=(-reach, reach))
    _bracket(axes[4], picture)
    return _png(figure)


def loss_figure(history: Mapping[str, Sequence[float]]) -> str:
    """Draw the losses against the epoch, on a logarithmic axis.

    Parameters
    ----------
    history
        Curve name to one value per epoch, dimensionless; values that are not positive and finite are left out.

    Returns
    -------
    str
        An SVG as a ``data:`` address.
    """
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    for (name, values), colour in zip(history.items(), (BLUE, ORANGE, INK, GREY), strict=False):
        curve = np.asarray(values, dtype=float)
        epochs = np.arange(1, len(curve) + 1)
        shown = np.isfinite(curve) & (curve > 0)
        marker = "." if len(curve) < 3 else None
        axes.plot(epochs[shown], curve[shown], label=name, color=colour, linewidth=1.6, marker=marker)
    axes.set_yscale("log")
    _finish(axes, "loss by epoch", "epoch", "loss (dimensionless)")
    return _svg(figure)


def band_figure(bands: Mapping[str, float]) -> str:
    """Draw the error of each frequency band as a bar, on a logarithmic axis.

    Parameters
    ----------
    bands
        Band name to relative error, dimensionless.

    Returns
    -------
    str
        An SVG as a ``data:`` address.
    """
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    names, values = list(bands), np.asarray(list(bands.values()), dtype=float)
    axes.bar(names, values, color=BLUE, width=0.62, log=bool((values > 0).all()))
    for place, value in enumerate(values):
        axes.annotate(f"{value:.2g}", (place, value), ha="center", va="bottom", fontsize=8, color=INK)
    axes.margins(y=0.18)
    _finish(axes, "error by frequency band", "", "relative error")
    return _svg(figure)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _field(axes: "Axes", values: Any, title: str, *, colours: str, limits: tuple[float, float] | None = None) -> None:
    values = _at_most_two_axes(np.asarray(values, dtype=float))
    axes.set_title(title, fontsize=10, color=INK)
    if values.ndim == 1:
        axes.plot(values, color=BLUE, linewidth=1.2)
        axes.set_ylim(limits if limits is not None and limits[0] < limits[1] else None)
        axes.tick_params(labelsize=7)
        return
    low, high = limits if limits is not None else _range(values)
    image = axes.imshow(values.T, origin="lower", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=7)
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
    bar.ax.yaxis.get_offset_text().set_fontsize(7)


def _bracket(axes: "Axes", picture: "SamplePicture") -> None:
    """Draw the certified interval and, where it is known, the true error inside it."""
    axes.set_title("bound", fontsize=10, color=INK)
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    if picture.lower is None or picture.upper is None:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        words = "none for this\nkind of problem"
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=9, color=GREY, transform=axes.transAxes)
        return
    lower, upper = 100 * picture.lower, 100 * picture.upper
    axes.bar([0], [upper - lower], bottom=lower, width=0.34, color=BLUE, alpha=0.35, label="certified interval")
    axes.hlines([lower, upper], -0.25, 0.25, color=BLUE, linewidth=1.6)
    if picture.true_error is not None:
        axes.plot([0], [100 * picture.true_error], "D", color=ORANGE, markersize=6, label="true error")
    pad = max(upper - lower, 0.02 * upper, 1e-12)
    axes.set_ylim(max(0.0, lower - pad), upper + 1.8 * pad)
    axes.set_xlim(-0.7, 0.7)
    axes.set_ylabel("energy error, % of the solution's", fontsize=8, color=INK)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, loc="upper center")


def _finish(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(axes.get_legend_handles_labels()[0]) > 0:
        axes.legend(fontsize=8, frameon=False)


def _at_most_two_axes(values: np.ndarray) -> np.ndarray:
    return values[..., values.shape[-1] // 2] if values.ndim == 3 else values


def _range(values: Any) -> tuple[float, float]:
    values = np.asarray(values, dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _png(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _svg(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
