"""What a study found: models by data set, with errors, their spread over seeds, and what they cost."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vcycle._files import finite
from vcycle.evaluation.benchmark import Row

COLUMNS = {
    "relative_l2": "rel. L2",
    "relative_h1": "rel. H1",
    "train": "on training data",
    "parameters": "parameters",
    "cpu_seconds": "training, CPU s",
    "epochs": "epochs",
    "inference_ms": "CPU ms / sample",
    "peak_mib": "peak MiB",
    "runs": "seeds",
}
ERRORS = ("relative_l2", "relative_h1", "train")


@dataclass(frozen=True)
class Standing:
    """One model on one data set.

    Parameters
    ----------
    label
        The model.
    runs
        One record per finished seed, see :func:`vcycle.recipes.cell.run_cell`.
    failures
        Seed to reason, one line each, of those that did not finish.
    inference_ms
        CPU milliseconds per sample measured in turn with all other models; ``None`` takes those of the runs.
    """

    label: str
    runs: Sequence[Mapping[str, Any]]
    failures: Mapping[int, str] = field(default_factory=dict)
    inference_ms: float | None = None

    def values(self, key: str) -> list[float]:
        """Return one number per run: a metric of the first test set, ``"train"``, ``"validation"``, or a cost."""
        if key == "inference_ms" and self.inference_ms is not None:
            return [self.inference_ms]
        return [value for value in (_value(run, key) for run in self.runs) if value is not None]

    def mean(self, key: str) -> float:
        """Return the mean over runs; infinite where there is none, or one is not a number."""
        values = self.values(key)
        return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.inf

    def spread(self, key: str) -> float | None:
        """Return the standard deviation over runs; ``None`` where there are fewer than two."""
        values = self.values(key)
        return statistics.stdev(values) if len(values) > 1 and math.isfinite(self.mean(key)) else None


def _value(run: Mapping[str, Any], key: str) -> float | None:
    if key in ("train", "validation"):
        return None if run[key] is None else run[key]["relative_l2"]
    return run[key] if key in run else next(iter(run["tests"].values())).get(key)


@dataclass(frozen=True)
class Board:
    """All models on one data set.

    Parameters
    ----------
    name
        The data set.
    about
        What it is.
    standings
        The models.
    solvers
        Classical ways to the same solutions; empty where the data do not say which problem they solve.
    """

    name: str
    about: str
    standings: Sequence[Standing]
    solvers: Sequence[Row] = ()

    @property
    def ranked(self) -> list[Standing]:
        """The models, the lowest mean relative L2 error first; those without a result come last."""
        return sorted(self.standings, key=lambda standing: standing.mean("relative_l2"))

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, errors in percent, as words and numbers; classical ways come after the models."""
        keys = [*COLUMNS, *(["rollout_l2_full"] if self._has("rollout_l2_full") else [])]
        rows = [_row(standing, keys) for standing in self.ranked]
        for solver in self.solvers:
            costs = {"relative_l2": _percent(solver.error), "inference_ms": f"{solver.cpu_ms:.3g}"}
            rows.append({"model": f"*{solver.name}*"} | {_title(key): costs.get(key, "–") for key in keys})
        return rows

    def _has(self, key: str) -> bool:
        return any(standing.values(key) for standing in self.standings)


def _row(standing: Standing, keys: Sequence[str]) -> dict[str, Any]:
    cells = {key: _cell(standing, key) for key in keys}
    reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in standing.failures.items())
    label = f"{standing.label} (failed: {reasons})" if reasons else standing.label
    return {"model": label} | {_title(key): text for key, text in cells.items()}


def _title(key: str) -> str:
    return COLUMNS.get(key, "rollout, rel. L2")


def _cell(standing: Standing, key: str) -> str:
    if key == "runs":
        return str(len(standing.runs))
    mean, spread = standing.mean(key), standing.spread(key)
    if not standing.values(key):
        return "–"
    if not math.isfinite(mean):
        return "diverged"
    if key in ERRORS or key.startswith("rollout"):
        return _percent(mean) + ("" if spread is None else f" ± {100 * spread:.2g}")
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"


def _percent(error: float) -> str:
    return f"{100 * error:.3g} %"


@dataclass(frozen=True)
class Leaderboard:
    """What a study found; ``print`` shows it as Markdown.

    Parameters
    ----------
    name, about
        The study's.
    boards
        One per data set.
    settings
        Name to value: the budget, versions, the machine.
    """

    name: str
    about: str
    boards: Sequence[Board]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What did not finish, in words."""
        return [
            f"{standing.label} on {board.name}, seed {seed}: {reason}"
            for board in self.boards
            for standing in board.standings
            for seed, reason in standing.failures.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, with every record; what is not finite, as of what diverged, is null."""
        described: dict[str, Any] = finite(self._described())
        return described

    def _described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "about": self.about,
            "settings": dict(self.settings),
            "datasets": [
                {
                    "name": board.name,
                    "about": board.about,
                    "models": [_described(standing) for standing in board.ranked],
                    "solvers": [vars(row) for row in board.solvers],
                }
                for board in self.boards
            ],
        }

    def to_markdown(self) -> str:
        """Return headings and tables."""
        parts = [f"# {self.name}", self.about.strip()]
        for board in self.boards:
            parts += [f"## {board.name}", board.about.strip(), markdown_table(board.rows())]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.settings.items()))
        return "\n\n".join(part for part in parts if part) + "\n"

    def __str__(self) -> str:
        return self.to_markdown().rstrip()


def _described(standing: Standing) -> dict[str, Any]:
    summary = {
        key: {"mean": standing.mean(key), "spread": standing.spread(key)}
        for key in ("relative_l2", "relative_h1", "truncated_spectral_h1", "rollout_l2_full", "train", "validation")
        if standing.values(key)
    }
    return {
        "label": standing.label,
        "summary": summary,
        "inference_ms": standing.inference_ms,
        "runs": [dict(run) for run in standing.runs],
        "failures": {str(seed): reason for seed, reason in standing.failures.items()},
    }


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, columns as in the first, numbers to the right."""
    columns = list(rows[0])
    head = f"| {' | '.join(columns)} |"
    rule = f"|{'|'.join('---' if name == columns[0] else '---:' for name in columns)}|"
    body = (f"| {' | '.join(str(row[name]).replace('|', '/') for name in columns)} |" for row in rows)
    return "\n".join([head, rule, *body])
