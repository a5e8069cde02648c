"""Say what is wrong with a dataset before anyone learns from it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from vcycle import _check, _progress
from vcycle.data.dataset import ROWS_AT_A_TIME, Dataset
from vcycle.data.schema import REJECTED, RESIDUAL, STORED_RESIDUAL, channel_names
from vcycle.data.store import Store
from vcycle.errors import SolveError
from vcycle.problems.evolution import Evolution
from vcycle.problems.problem import Problem, as_solution

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

OUTLIER_DISTANCE = 8.0
"""Robust standard deviations of log |field| beyond which a sample is called an outlier."""


TOLERATED = ("residual", "step_error")
"""What the solver says of a sample that must not exceed the tolerance of the call."""
LARGE_TAIL = 0.05
"""Share of the L2 norm in the highest third of wave numbers from which a trajectory counts as not resolved."""
SPOT_CHECKS = 8
"""Trajectories that are integrated again: it costs as much as making them."""
MISSED = 1e-3
"""Relative L2 distance of a stored state to what follows from the one before that says it is damaged: a thousand times
what the integration is accurate to, for families in which errors grow."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or strange.

    Parameters
    ----------
    severity
        ``"error"``: do not use the data as they are. ``"warning"``: probably not what you want. ``"note"``: good to
        know.
    where
        The array, or ``"samples"``.
    message
        One sentence.
    """

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity:<8} {self.where}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What :func:`check` found; printing it gives one line per finding.

    Parameters
    ----------
    title
        The dataset in a line.
    findings
        Errors first.
    """

    title: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and notes may be there."""
        return all(finding.severity != "error" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"title": self.title, "ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        verdict = "usable" if self.ok else "not usable as it is"
        counts = ", ".join(f"{self.count(s)} {s}{'' if self.count(s) == 1 else 's'}" for s in SEVERITIES)
        return "\n".join([self.title, *map(str, self.findings), f"{verdict}: {counts}"])


def check(dataset: Dataset, *others: Dataset, progress: bool = False) -> Report:
    """Look for what spoils learning: NaN, constant channels, duplicates, leaks, unsolved samples, damaged files.

    Residuals are recomputed from the stored arrays through the problem, where it is known.

    Parameters
    ----------
    dataset
        The data.
    others
        Other parts of the same data, such as the test set: a sample in more than one part is a leak.
    progress
        Whether long work shows a progress bar on stderr.

    Returns
    -------
    Report
        ``ok`` if there is no error.

    Raises
    ------
    DataError
        If the data cannot be read at all.
    TypeError
        If something is not a dataset.
    """
    for part in (dataset, *others):
        _check.instance("dataset", part, Dataset, "a vcycle.Dataset, such as Dataset.from_arrays builds")
    with _progress.shown(progress=progress):
        scan = _Scan(dataset)
        findings = [*scan.findings(), *_damage(dataset), *_duplicates(scan.keys, dataset), *_residuals(dataset, scan)]
        scans = [_Scan(other) for other in others]
    for number, other in enumerate(scans, start=1):
        shared = len(set(scan.keys) & set(other.keys))
        if shared:
            findings.append(Finding("error", "samples", f"{shared} inputs are also in part {number + 1}: a leak"))
    if not findings:
        findings.append(Finding("note", "samples", "nothing found"))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(repr(dataset).splitlines()[0], tuple(findings))


class _Scan:
    """One pass over all fields: statistics per channel, a key per sample's inputs, a size per sample and field."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.fields = (*dataset.schema.inputs, *dataset.schema.outputs)
        self.names = {info.name: role for role in ("input", "output") for info in getattr(dataset.schema, f"{role}s")}
        self.keys: list[bytes] = []
        self.answers: list[bytes] = []
        self.finite = {name: np.ones(len(dataset), bool) for name in self.names}
        self.sizes = {name: np.zeros(len(dataset)) for name in self.names}
        self.lowest = {info.name: np.full(info.num_channels, np.inf) for info in self.fields}
        self.highest = {info.name: np.full(info.num_channels, -np.inf) for info in self.fields}
        for start in _progress.track(range(0, len(dataset), ROWS_AT_A_TIME), "read", unit="block"):
            self._take(slice(start, min(start + ROWS_AT_A_TIME, len(dataset))))

    def _take(self, rows: slice) -> None:
        num = rows.stop - rows.start
        digests = {role: [hashlib.blake2b(digest_size=16) for _ in range(num)] for role in ("input", "output")}
        for name, role in self.names.items():
            values = self.dataset.field(name, rows).numpy() + 0.0  # -0.0 becomes 0.0: equal values, equal bytes
            for digest, sample in zip(digests[role], values, strict=True):
                digest.update(np.ascontiguousarray(sample).data)
            flat = values.reshape(num, len(self.lowest[name]), -1)  # times and components are channels side by side
            self.finite[name][rows] = np.isfinite(flat).all(axis=(1, 2))
            self.sizes[name][rows] = np.sqrt(np.mean(flat**2, axis=(1, 2)))
            self.lowest[name] = np.minimum(self.lowest[name], flat.min(axis=(0, 2)))
            self.highest[name] = np.maximum(self.highest[name], flat.max(axis=(0, 2)))
        for name in self.dataset.parameter_names:
            for digest, value in zip(digests["input"], self.dataset.array(f"parameter_{name}", rows), strict=True):
                digest.update(value.tobytes())
        self.keys += [digest.digest() for digest in digests["input"]]
        self.answers += [digest.digest() for digest in digests["output"]]

    def findings(self) -> Iterator[Finding]:
        """Yield what one pass can see: values that are not finite, constant channels, outliers."""
        for info in self.fields:
            where = f"{self.names[info.name]}_{info.name}"
            wrong = np.flatnonzero(~self.finite[info.name])
            if len(wrong):
                yield Finding("error", where, f"NaN or infinity in {self._samples(wrong)}")
                continue
            for channel, low, high in zip(
                channel_names([info]), self.lowest[info.name], self.highest[info.name], strict=True
            ):
                if low == high:
                    yield Finding(
                        "warning", where, f"{channel} is {low:.6g} everywhere: a constant channel teaches nothing"
                    )
            strange = _outliers(self.sizes[info.name])
            if len(strange):
                yield Finding("warning", where, f"magnitude far from all others in {self._samples(strange)}")

    def _samples(self, rows: np.ndarray) -> str:
        return _samples(self.dataset, rows)


def _samples(dataset: Dataset, rows: "np.ndarray | Sequence[int]") -> str:
    ids = dataset.sample_id[torch.as_tensor(np.asarray(rows))].tolist()
    shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} sample{'' if len(ids) == 1 else 's'} (sample_id {shown})"


def _outliers(sizes: np.ndarray) -> np.ndarray:
    """Return rows whose size is far from the median, in robust standard deviations of the logarithm."""
    logs = np.log(np.maximum(sizes, np.finfo(float).tiny))
    distance = np.abs(logs - np.median(logs)) if len(logs) else logs
    spread = 1.4826 * np.median(distance) if len(logs) else 0.0  # of a normal distribution
    return np.flatnonzero(distance > OUTLIER_DISTANCE * max(spread, 0.05))  # 5 %: equal sizes are no reason to suspect


def _damage(dataset: Dataset) -> Iterator[Finding]:
    if dataset.path is None:
        return
    store = Store.open(dataset.path)
    store.require_complete()
    for chunk in _progress.track(range(store.num_chunks), "bytes", unit="chunk"):
        name = store.altered(chunk)
        if name:
            yield Finding(
                "error", name, f"the bytes of chunk {chunk} are not those that were written: the file is damaged"
            )


def _duplicates(keys: list[bytes], dataset: Dataset) -> Iterator[Finding]:
    repeated = {key for key, count in Counter(keys).items() if count > 1}
    if repeated:
        rows = [row for row, key in enumerate(keys) if key in repeated]
        extra = len(rows) - len(repeated)
        text = f"{extra} input{'' if extra == 1 else 's'} repeated among {_samples(dataset, rows)}"
        yield Finding("warning", "samples", f"{text}: a random split would leak")
    if len(set(dataset.sample_id.tolist())) < len(dataset):
        yield Finding("warning", "sample_id", "the same number stands for several rows")


def _residuals(dataset: Dataset, scan: _Scan) -> Iterator[Finding]:
    rtol = (dataset.schema.call or {}).get("rtol")
    for name in TOLERATED if rtol is not None else ():
        recorded = dataset.solver.get(name)
        wrong = np.flatnonzero([] if recorded is None else ~(recorded.numpy() <= rtol))
        if len(wrong):
            yield Finding("error", f"solver_{name}", f"above the tolerance {rtol:.1e} in {_samples(dataset, wrong)}")
    tail = dataset.solver.get("tail")
    coarse = np.flatnonzero([] if tail is None else ~(tail.numpy() <= LARGE_TAIL))
    if len(coarse):
        said = (
            f"the grid's highest third of wave numbers holds more than {LARGE_TAIL:.0%} of {_samples(dataset, coarse)}"
        )
        yield Finding("warning", "solver_tail", f"{said}: not resolved in space; use a finer grid, or `refine`")
    rejected = dataset.solver.get("rejected")
    if rejected is not None and int(rejected.sum()):
        whose = _samples(dataset, np.flatnonzero(rejected))
        yield Finding("note", REJECTED.name, f"{int(rejected.sum())} draws were rejected and drawn again, for {whose}")
    if dataset.problem is None:
        yield Finding("note", "samples", "residuals cannot be checked: the problem is not known")
        return
    finite = np.logical_and.reduce(list(scan.finite.values()))
    if isinstance(dataset.problem, Evolution):
        yield from _missed(dataset, dataset.problem, np.flatnonzero(finite))
    else:
        yield from _linear_residuals(dataset, dataset.problem, finite, rtol)


def _linear_residuals(dataset: Dataset, problem: Problem, finite: np.ndarray, rtol: float | None) -> Iterator[Finding]:
    residuals, refused = _recomputed(dataset, problem, np.flatnonzero(finite))
    for reason, rows in refused.items():
        yield Finding("error", "samples", f"the problem refuses {_samples(dataset, rows)}: {reason}")
    rounded = dataset.solver.get("stored_residual")
    limit = np.full(len(dataset), 1e-8 if rtol is None else rtol) if rounded is None else rounded.numpy() * 1.01
    wrong = np.flatnonzero(finite & ~(residuals <= limit))
    if len(wrong):
        where, worst = RESIDUAL.name if rounded is None else STORED_RESIDUAL.name, float(residuals[wrong].max())
        promised = f"the tolerance {limit[0]:.1e}" if rounded is None else "what is recorded"
        yield Finding(
            "error", where, f"recomputed residual up to {worst:.1e}, above {promised}, in {_samples(dataset, wrong)}"
        )
    elif rounded is not None:
        yield Finding(
            "note", STORED_RESIDUAL.name, f"outputs are rounded to float32: residual up to {float(rounded.max()):.1e}"
        )


def _missed(dataset: Dataset, problem: Evolution, rows: np.ndarray) -> Iterator[Finding]:
    """Integrate some trajectories again, from each stored state to the next."""
    if problem.config().get("refine", 1) > 1:
        yield Finding(
            "note", "samples", "not integrated again: states lack modes of the finer grid they were solved on"
        )
        return
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SPOT_CHECKS)).astype(int)]
    wrong, worst = [], 0.0
    for row in _progress.track(rows.tolist(), "integrate again", unit="trajectory"):
        inputs = {info.name: dataset.field(info.name, np.array([row])) for info in problem.input_fields}
        states = dataset.field(problem.output_names[0], np.array([row]))
        try:
            missed = problem.residual(inputs, states)
        except SolveError:
            missed = torch.full_like(states, torch.inf)
        relative = float((missed.flatten(2).norm(dim=2) / states.flatten(2).norm(dim=2).clamp_min(1e-300)).max())
        if not relative <= MISSED:
            wrong.append(row)
            worst = max(worst, relative)
    where = f"output_{problem.output_names[0]}"
    if wrong:
        text = f"a stored state is not what follows from the one before, by up to {worst:.1e}, in"
        yield Finding("error", where, f"{text} {_samples(dataset, wrong)}")
    elif len(rows) < len(dataset):
        yield Finding("note", where, f"{len(rows)} of {len(dataset)} trajectories were integrated again")


def _recomputed(dataset: Dataset, problem: Problem, rows: np.ndarray) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return true relative residuals from systems built from the stored arrays; 0 for rows that are not asked for.

    The second answer names rows whose inputs the problem does not take, by its reason; their residual is 0 too.
    """
    residuals, refused = np.zeros(len(dataset)), dict[str, list[int]]()
    todo = [rows[start : start + ROWS_AT_A_TIME] for start in range(0, len(rows), ROWS_AT_A_TIME)]
    with _progress.bar("residuals", len(rows)) as advance:
        while todo:
            mine = todo.pop(0)
            fields = {info.name: dataset.field(info.name, mine) for info in problem.input_fields}
            stored = dataset.field(problem.output_names[0], mine)
            try:
                systems = problem.systems(fields)
                solution = as_solution(stored, is_complex=systems.dtype.is_complex)
                residuals[mine] = systems.relative_residuals(solution).numpy()
            except ValueError as error:
                if len(mine) > 1:
                    todo = [*np.array_split(mine, 2), *todo]  # one sample spoils its batch: find it
                    continue
                refused.setdefault(str(error).rstrip("."), []).append(int(mine[0]))
            advance(len(mine))
    return residuals, refused
