"""One self-contained page about a trained operator: pictures, error bars, and the honest table."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vcycle._files import whole
from vcycle.evaluation.figures import band_figure, loss_figure, sample_figure


@dataclass(frozen=True)
class SamplePicture:
    """One sample, as fields of the grid's shape, in physical units.

    Parameters
    ----------
    label
        What this sample is an example of, such as ``"median"``.
    input, truth, prediction
        Shape ``(*space)``, one to three axes.
    input_name
        Title of the input's picture.
    relative_l2
        Relative L2 error of the prediction, dimensionless.
    lower, upper
        The certified interval of the energy-norm error relative to the solution's energy norm, dimensionless; ``None``
        where no certificate exists.
    true_error
        The true energy-norm error in the same unit, where it is known.
    """

    label: str
    input: Any
    truth: Any
    prediction: Any
    input_name: str = "input"
    relative_l2: float | None = None
    lower: float | None = None
    upper: float | None = None
    true_error: float | None = None


@dataclass(frozen=True)
class ReportData:
    """What one family's part of the report shows; plain values only. Whatever is empty is left out.

    Parameters
    ----------
    title
        Heading.
    headline
        The result in one or two sentences.
    numbers
        Name to value, shown large at the top.
    samples
        Pictures, one row each.
    history
        Curve name to one loss per epoch, dimensionless.
    bands
        Frequency band to relative error, dimensionless.
    table
        Rows of the honest table; the keys of the first row are the columns.
    verdict
        What the table says, in words.
    settings
        Name to value: settings, versions, timings.
    """

    title: str
    headline: str = ""
    numbers: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[SamplePicture] = ()
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bands: Mapping[str, float] = field(default_factory=dict)
    table: Sequence[Mapping[str, Any]] = ()
    verdict: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | Path, parts: ReportData | Sequence[ReportData], *, title: str = "vcycle report") -> Path:
    """Write ``report.html``: one file, no external resources, readable without a network.

    Parameters
    ----------
    path
        The file to write; it appears whole or not at all.
    parts
        One part per problem family.
    title
        Title of the page.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no part, or the fields of a sample differ in shape.
    """
    parts = (parts,) if isinstance(parts, ReportData) else tuple(parts)
    if not parts:
        raise ValueError("`parts` must hold at least one part. Got none.")
    for picture in (picture for part in parts for picture in part.samples):
        _check_shapes(picture)
    style = resources.files("vcycle.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(_part(part) for part in parts)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{style}</style></head>
<body><main><h1>{html.escape(title)}</h1>
{body}
</main></body></html>
"""
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def representative(errors: Sequence[float]) -> dict[str, int]:
    """Return the indices of the best, the median and the worst sample by error.

    Parameters
    ----------
    errors
        One value per sample, any unit.

    Returns
    -------
    dict
        ``"best"``, ``"median"`` and ``"worst"`` to an index.

    Raises
    ------
    ValueError
        If there is no sample.
    """
    order = np.argsort(np.asarray(errors, dtype=float), kind="stable")
    if len(order) == 0:
        raise ValueError("`errors` must hold at least one sample. Got none.")
    return {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}


def _check_shapes(picture: SamplePicture) -> None:
    shapes = [np.asarray(values).shape for values in (picture.input, picture.truth, picture.prediction)]
    if len(set(shapes)) != 1 or not 1 <= len(shapes[0]) <= 3:
        raise ValueError(f"`samples` must have fields of one shape, 1 to 3 axes. Got {shapes} in {picture.label!r}.")


def _part(part: ReportData) -> str:
    blocks = [f"<section><h2>{html.escape(part.title)}</h2>"]
    if part.headline:
        blocks.append(f'<p class="headline">{html.escape(part.headline)}</p>')
    if part.numbers:
        cards = (
            f"<div><b>{_escaped(value)}</b><span>{_escaped(name)}</span></div>" for name, value in part.numbers.items()
        )
        blocks.append(f'<div class="numbers">{"".join(cards)}</div>')
    if part.samples:
        blocks.append("<h3>Unseen samples</h3>" + "".join(_sample(picture) for picture in part.samples))
    curves = [_image(loss_figure(part.history), "loss by epoch")] if part.history else []
    curves += [_image(band_figure(part.bands), "error by frequency band")] if part.bands else []
    if curves:
        blocks.append(f'<div class="pair">{"".join(curves)}</div>')
    if part.table:
        blocks.append("<h3>Operator against solver, on this machine</h3>" + _table(part.table))
    if part.verdict:
        blocks.append(f'<p class="verdict">{html.escape(part.verdict)}</p>')
    if part.settings:
        rows = (
            f"<tr><th>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>" for name, value in part.settings.items()
        )
        table = f'<table class="settings">{"".join(rows)}</table>'
        blocks.append(f"<details><summary>Settings, versions, timings</summary>{table}</details>")
    return "\n".join([*blocks, "</section>"])


def _sample(picture: SamplePicture) -> str:
    words = [f"<b>{html.escape(picture.label)}</b>"]
    if picture.relative_l2 is not None:
        words.append(f"relative L2 error {100 * picture.relative_l2:.2f} %")
    if picture.lower is not None and picture.upper is not None:
        words.append(f"energy error certified between {100 * picture.lower:.2f} % and {100 * picture.upper:.2f} %")
    alternative = f"{picture.label}: input, truth, prediction, error and bound"
    return f"<figure>{_image(sample_figure(picture), alternative)}<figcaption>{', '.join(words)}</figcaption></figure>"


def _image(address: str, alternative: str) -> str:
    return f'<img src="{address}" alt="{html.escape(alternative)}">'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    head = "".join(f"<th{_align(rows[0][name])}>{_escaped(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in columns)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    return f"<td{_align(value)}>{_escaped(value)}</td>"


def _align(value: Any) -> str:
    return ' class="number"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(value: Any) -> str:
    return html.escape(_text(value))
