"""A leaderboard as one self-contained page: a table and the error against the time of training, per data set."""

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vcycle._files import whole
from vcycle.evaluation.figures import _figure, _finish, _svg
from vcycle.evaluation.leaderboard import Board, Leaderboard, Standing

SHOWN = 10
"""Curves in a figure: more cannot be told apart."""
WIDTH = "img.wide { width: 100%; max-width: 860px; } td:first-child, th:first-child { min-width: 11rem; }"


def write_page(path: str | Path, leaderboard: Leaderboard) -> Path:
    """Write ``leaderboard.html``: one file, no external resources, readable without a network.

    Parameters
    ----------
    path
        The file to write; it appears whole or not at all.
    leaderboard
        What is shown.

    Returns
    -------
    Path
        The file.
    """
    style = resources.files("vcycle.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    title = html.escape(leaderboard.name)
    settings = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in leaderboard.settings.items())
    body = "\n".join(_section(board) for board in leaderboard.boards)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}{WIDTH}</style></head>
<body><main><h1>{title}</h1><p class="headline">{html.escape(leaderboard.about)}</p>
{body}
<section><h2>How it was measured</h2><table class="settings">{settings}</table></section>
</main></body></html>
"""
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def _section(board: Board) -> str:
    figure = time_figure(board)
    blocks = [
        f"<section><h2>{html.escape(board.name)}</h2>",
        f"<p>{html.escape(board.about)}</p>",
        _table(board.rows()),
    ]
    if figure is not None:
        words = f"validation loss against CPU time of training, {board.name}"
        blocks.append(f'<p><img class="wide" src="{figure}" alt="{html.escape(words)}"></p>')
    return "\n".join([*blocks, "</section>"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    first, *numbers = rows[0]
    right = ' class="number"'
    head = f"<th>{_text(first)}</th>" + "".join(f"<th{right}>{_text(name)}</th>" for name in numbers)
    body = "".join(
        f"<tr><td>{_text(row[first].strip('*'))}</td>"
        + "".join(f"<td{right}>{_text(row[n])}</td>" for n in numbers)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def time_figure(board: Board) -> str | None:
    """Draw the validation loss against the CPU seconds of training, the mean over seeds, for the leading models.

    Returns
    -------
    str
        An SVG as a ``data:`` address; ``None`` where no run was watched.
    """
    curves = {s.label: curve for s in board.ranked if (curve := _curve(s)) is not None}
    if not curves:
        return None
    figure = _figure(8.6, 4.2)
    axes = figure.subplots()
    for number, (label, (seconds, losses)) in enumerate(list(curves.items())[:SHOWN]):
        style = "-" if number < len(_COLOURS) else "--"
        marker = "." if len(seconds) < 3 else None
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(seconds, losses, style, label=label, color=colour, linewidth=1.5, marker=marker)
    axes.set_yscale("log")
    which = "" if len(curves) <= SHOWN else f", the leading {SHOWN}"
    _finish(axes, f"loss on validation data{which}", "CPU seconds of training", "loss (dimensionless)")
    return _svg(figure)


_COLOURS = ("#2b6cb0", "#dd6b20", "#22313f", "#2f855a", "#b83280")


def _curve(standing: Standing) -> tuple[np.ndarray, np.ndarray] | None:
    """Return seconds and the mean loss; runs of one model may differ in their number of epochs by a few."""
    histories = [[row for row in run["history"] if "validation_loss" in row] for run in standing.runs]
    histories = [history for history in histories if history]
    if not histories:
        return None
    seconds = np.array([row["cpu_seconds"] for row in max(histories, key=len)])
    losses = [
        np.interp(seconds, [row["cpu_seconds"] for row in h], [row["validation_loss"] for row in h]) for h in histories
    ]
    return seconds, np.mean(losses, axis=0)


def _text(value: Any) -> str:
    return html.escape(str(value))
