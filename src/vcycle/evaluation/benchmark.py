"""The honest table: the operator against classical solvers, by error and CPU time, in one run on one machine."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from vcycle import _check
from vcycle.data.steps import Steps
from vcycle.errors import DataError
from vcycle.evaluation.regrid import coarsened, interpolated
from vcycle.layers.transforms import resample
from vcycle.metrics import relative_l2
from vcycle.problems import from_config
from vcycle.problems.evolution import Evolution
from vcycle.problems.problem import Fields, Problem
from vcycle.solvers import multigrid
from vcycle.solvers.fourier import FourierSpace
from vcycle.solvers.sequence import solve_sequence

if TYPE_CHECKING:
    from vcycle.data import Dataset
    from vcycle.training import TrainedOperator

SOLVER_RTOL = 1e-6
ROUGH_RTOL = 1e-3
"""Of evolutions also: what steps of operators reach."""
USELESS = 0.5
"""Relative L2 error from which on no speed makes up for it; zero everywhere has 1."""
MOST_HALVINGS, MOST_OF_WAVES, FEWEST_POINTS = 2, 3, 8
"""How often the grid of the coarse rivals is halved; Fourier series lose less by it, down to so many points an axis."""


@dataclass(frozen=True)
class Row:
    """One way to get the solution.

    Parameters
    ----------
    name
        What was run.
    error
        Mean relative L2 error against the data set's outputs (dimensionless).
    cpu_ms
        Median CPU time per sample in milliseconds: assembly, setup and solve, or normalisation and network.
    """

    name: str
    error: float
    cpu_ms: float


@dataclass(frozen=True)
class Benchmark:
    """The rows, the operator's first, and what they say.

    Parameters
    ----------
    rows
        The operator, then the classical ways.
    num_samples
        Samples that each row was timed on.
    data_seconds, training_seconds
        CPU seconds spent on data and on training before the operator could answer; ``None`` where unknown.
    """

    rows: list[Row]
    num_samples: int
    data_seconds: float | None = None
    training_seconds: float | None = None

    @property
    def rival(self) -> Row | None:
        """The cheapest classical way that is at least as accurate as the operator."""
        accurate = [row for row in self.rows[1:] if row.error <= self.rows[0].error]
        return min(accurate, key=lambda row: row.cpu_ms, default=None)

    @property
    def break_even(self) -> float | None:
        """Samples after which data and training are paid back; infinite where the rival is cheaper per sample."""
        if self.rival is None or self.data_seconds is None or self.training_seconds is None:
            return None
        gain = self.rival.cpu_ms - self.rows[0].cpu_ms
        return 1000 * (self.data_seconds + self.training_seconds) / gain if gain > 0 else math.inf

    @property
    def cost(self) -> str:
        """What data and training took, and after how many samples that is paid back; empty where unknown."""
        if self.data_seconds is None or self.training_seconds is None:
            return ""
        after = {None: "unknown: no classical row is as accurate", math.inf: "never"}
        paid = after.get(self.break_even) or f"after {self.break_even:,.0f} samples"
        spent = f"{self.data_seconds:.1f} CPU s on data, {self.training_seconds:.1f} on training"
        return f"Spent before: {spent}. Paid back: {paid}."

    @property
    def verdict(self) -> str:
        """One sentence that says who wins, by how much, and from when on."""
        operator, rival = self.rows[0], self.rival
        if operator.error > USELESS:
            return (
                f"No winner: with an error of {operator.error:.2%} the operator is no answer yet. Train it for longer."
            )
        if rival is None:
            return f"No classical row reaches the operator's error of {operator.error:.2%}."
        ratio = rival.cpu_ms / operator.cpu_ms
        if ratio <= 1:
            return (
                f"The solver wins: {rival.name} reaches {rival.error:.2%} in {1 / ratio:.1f} times less CPU time than "
                f"the operator takes for {operator.error:.2%}. The operator never pays here."
            )
        samples = self.break_even
        since = "" if samples is None else f", and pays data and training back after {samples:,.0f} samples"
        return f"The operator wins: at {operator.error:.2%} it is {ratio:.1f} times faster than {rival.name}{since}."

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "rows": [vars(row) for row in self.rows],
            "num_samples": self.num_samples,
            "data_seconds": self.data_seconds,
            "training_seconds": self.training_seconds,
            "break_even": None if self.break_even is None or math.isinf(self.break_even) else self.break_even,
            "cost": self.cost,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'':{width}}  {'rel. L2':>10}  {'CPU ms / sample':>15}"]
        lines += [f"{row.name:{width}}  {row.error:10.2e}  {row.cpu_ms:15.3f}" for row in self.rows]
        return "\n".join([*lines, *filter(None, (self.cost, self.verdict))])


def benchmark(
    problem: Problem,
    operator: "TrainedOperator",
    test: "Dataset",
    *,
    num_samples: int = 32,
    repeats: int = 3,
    data_seconds: float | None = None,
    training_seconds: float | None = None,
) -> Benchmark:
    """Compare an operator with classical solvers of the same problem, each run ``repeats`` times in turn.

    The rivals of an operator that steps are steps of the same length.

    Parameters
    ----------
    problem
        The family, on the grid of ``test``.
    operator
        A trained operator.
    test
        Samples that it was not trained on, or steps of trajectories; errors are against their outputs.
    num_samples
        Samples to time, at most those of ``test``.
    repeats
        Interleaved repetitions; times are medians.
    data_seconds, training_seconds
        CPU seconds spent before, for the break-even.

    Returns
    -------
    Benchmark
        Printable; ``.rows``, ``.verdict``.

    Raises
    ------
    ValueError
        If a count is not positive, the grids differ, or steps have lead times of their own.
    DataError
        If a true output is not finite.
    """
    _check.integer("repeats", repeats, 1)
    count = min(_check.integer("num_samples", num_samples, 1), len(test))
    subset = test.subset(range(count))
    inputs, truth = subset.inputs, subset.outputs
    if not bool(truth.isfinite().all()):
        raise DataError("The outputs of `test` hold NaN or infinity. Check the data with `vcycle check`.")
    if tuple(inputs.shape[2:]) != problem.grid.shape:
        raise ValueError(f"`test` must be on the problem's grid {problem.grid.shape}. Got {tuple(inputs.shape[2:])}.")
    parameters = operator.parameters_of(subset)
    ways: dict[str, Callable[[], Tensor]] = {"operator": lambda: operator.predict(inputs, parameters)}
    if isinstance(problem, Evolution):
        ways |= _time_steppers(_to_the_end(problem, subset), inputs)
    else:
        ways |= _classical_ways(problem, inputs)
    answers = {name: way() for name, way in ways.items()}  # once untimed: compilation and caches are no one's fault
    # steps on a coarse grid may blow up
    ways = {name: way for name, way in ways.items() if name == "operator" or bool(answers[name].isfinite().all())}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(1000 * (time.process_time() - start) / count)
    rows = [
        Row(name, relative_l2(answers[name].to(truth), truth).item(), statistics.median(times[name])) for name in ways
    ]
    return Benchmark(rows, count, data_seconds, training_seconds)


def _classical_ways(problem: Problem, inputs: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the rivals by name; each assembles, solves and returns ``(sample, 1, *space)``."""
    ways: dict[str, Callable[[], Tensor]] = {f"solver, rtol {SOLVER_RTOL:.0e}": partial(_solved, problem, inputs)}
    if problem.grid.can_coarsen and multigrid.can_solve(problem.systems(inputs[:1])):
        for steps in (1, 2, 3):
            name = f"CG, {steps} V-cycle{'s' if steps > 1 else ''}"
            ways[name] = partial(_solved, problem, inputs, method="multigrid", max_steps=steps)
    grid, halvings = problem.grid, 0
    while grid.can_coarsen and halvings < MOST_HALVINGS:
        grid, halvings = grid.coarsened(), halvings + 1
        shape = " x ".join(map(str, grid.shape))
        ways[f"solver on {shape}, interpolated"] = partial(_coarse, problem, problem.named(inputs), halvings)
    return ways


def _solved(
    problem: Problem, inputs: "Fields | Tensor", *, method: str = "auto", max_steps: int | None = None
) -> Tensor:
    systems = problem.systems(inputs)
    return solve_sequence(systems, rtol=SOLVER_RTOL, method=method, max_steps=max_steps).solutions.unsqueeze(1)


def _coarse(problem: Problem, inputs: Fields, halvings: int) -> Tensor:
    """Solve on a grid halved so many times, and interpolate linearly back."""
    for _ in range(halvings):
        problem, inputs = coarsened(problem, inputs)
    solution = _solved(problem, inputs)
    for _ in range(halvings):
        solution = interpolated(solution, problem)
    return solution


def _to_the_end(problem: Evolution, test: "Dataset") -> Evolution:
    """Return the family that ends where the rows of the data do; it is the same at all times."""
    if not isinstance(test, Steps):
        return problem
    if test.has_lead_time:
        raise ValueError("`test` must have steps of one length to be timed against solvers. Got lead times.")
    return cast("Evolution", from_config(problem.config() | {"times": [test.step_time]}))


def _time_steppers(problem: Evolution, inputs: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the rivals by name; each halves its own steps, and returns ``(sample, time * component, *space)``."""
    ways: dict[str, Callable[[], Tensor]] = {
        f"solver, rtol {rtol:.0e}": partial(_stepped, problem, inputs, rtol) for rtol in (SOLVER_RTOL, ROUGH_RTOL)
    }
    grid = problem.grid
    for _ in range(MOST_OF_WAVES if isinstance(problem.space, FourierSpace) else 0):
        if not grid.can_coarsen or min(grid.shape) < 2 * FEWEST_POINTS:
            break
        grid = grid.coarsened()
        name = f"solver on {' x '.join(map(str, grid.shape))}, rtol {ROUGH_RTOL:.0e}, interpolated"
        ways[name] = partial(_coarsely_stepped, problem.on_grid(grid), problem, inputs)
    return ways


def _stepped(problem: Evolution, inputs: Tensor, rtol: float) -> Tensor:
    return problem.solve(inputs, rtol=rtol).solutions.flatten(1, 2)


def _coarsely_stepped(coarse: Evolution, problem: Evolution, inputs: Tensor) -> Tensor:
    """Step with the waves that a coarser grid holds."""
    fine = problem.grid
    onto = partial(resample, periodic=fine.periodic, centring=fine.centring)
    return onto(_stepped(coarse, onto(inputs, coarse.grid.shape), ROUGH_RTOL), fine.shape)
