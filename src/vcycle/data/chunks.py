"""One chunk of samples: draw, discretise and solve, draw again what is rejected, and let nothing unsolved through."""

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vcycle.data.schema import (
    REJECTED,
    SAMPLE_ID,
    STORED_RESIDUAL,
    TIMING_SAMPLE,
    TIMING_SOLVE,
    ArraySpec,
    Schema,
    quality_spec,
)
from vcycle.errors import SolveError
from vcycle.problems.problem import RESIDUAL, Fields, Problem, Produced, as_solution
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.sequence import resolved_method

LARGEST_CHUNK = 128
CHUNK_BYTES = 16 * 2**20
USUAL_RTOL = 1e-8
"""Tolerance of families whose :meth:`~vcycle.problems.problem.Problem.produce` declares none."""
MOST_DRAWS = 50
"""Draws of one sample after which a family is said not to fit its grid."""

Chunk = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of a dataset depend on.

    Parameters
    ----------
    problem
        The family.
    num_samples, seed, rtol, method, order, chunk_size
        As in :func:`vcycle.generate`, all of them decided.
    dtype
        Stored type of inputs and outputs.
    """

    problem: Problem
    num_samples: int
    seed: int
    rtol: float
    method: str
    order: str
    chunk_size: int
    dtype: str

    @property
    def num_chunks(self) -> int:
        """Number of chunks, the last of which may be shorter."""
        return -(-self.num_samples // self.chunk_size)

    @property
    def is_ordered(self) -> bool:
        """Whether rows are stored in an order that puts similar samples side by side: where the solver recycles."""
        return self.order == "nearest" or (self.order == "auto" and self.method == "gcrodr")

    def rows(self, chunk: int) -> slice:
        """Return the rows of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.num_samples))

    def schema(self) -> Schema:
        """Return what the data are about."""
        call = {
            "function": "generate",
            "num_samples": self.num_samples,
            "rtol": self.rtol,
            "method": self.method,
            "order": self.order,
            "chunk_size": self.chunk_size,
            "dtype": self.dtype,
        }
        return Schema.of(self.problem, seed=self.seed, call=call)

    def specs(self) -> tuple[ArraySpec, ...]:
        """Return the arrays of the dataset, in the order of the store."""
        statistics = [SAMPLE_ID, *(quality_spec(info) for info in self.problem.quality)]
        if self.says_stored_residual:
            statistics.append(STORED_RESIDUAL)
        if self.problem.can_reject:
            statistics.append(REJECTED)
        return (*field_specs(self.problem, self.dtype), *statistics, TIMING_SOLVE, TIMING_SAMPLE)

    @property
    def says_stored_residual(self) -> bool:
        """Whether the residual of rounded outputs is recorded: where there is one, and rounding changes it."""
        return self.dtype != "float64" and RESIDUAL in self.problem.quality


def field_specs(problem: Problem, dtype: str) -> tuple[ArraySpec, ...]:
    """Return the arrays of a problem's fields."""
    schema = Schema(problem.grid, problem.boundary, problem.input_fields, problem.outputs)
    names = [f"input_{name}" for name in problem.input_names] + [f"output_{name}" for name in problem.output_names]
    return schema.field_specs(dtypes=dict.fromkeys(names, dtype))


def usual_chunk_size(problem: Problem, dtype: str) -> int:
    """Return 128, or as many samples as fit into 16 MiB, at least one."""
    per_sample = sum(spec.nbytes for spec in field_specs(problem, dtype))
    return max(1, min(LARGEST_CHUNK, CHUNK_BYTES // per_sample))


def usual_rtol(problem: Problem) -> float:
    """Return the tolerance that a family solves to when nothing is said."""
    declared = inspect.signature(problem.produce).parameters.get("rtol")
    return USUAL_RTOL if declared is None or declared.default is declared.empty else declared.default


def shared_factors(plan: Plan, first: list[int]) -> DirectFactors | None:
    """Return what sparse LU does once for all chunks, from the first two samples' systems: one alone shares nothing.

    Parameters
    ----------
    plan
        What is made.
    first
        Numbers of the first two samples in the order of solution.
    """
    if plan.method not in ("direct", "auto"):
        return None
    try:
        systems = plan.problem.systems(drawn(plan, first))
    except ValueError:  # there are none, or the chunk will name the sample
        return None
    return DirectFactors.of(systems) if resolved_method(plan.method, systems) == "direct" else None


def drawn(plan: Plan, numbers: list[int], attempts: list[int] | None = None) -> Fields:
    """Draw inputs as they will be stored: rounded before anything is assembled from them."""
    settings = {} if attempts is None else {"attempts": attempts}
    fields = plan.problem.sample(plan.seed, numbers, **settings)
    return fields if plan.dtype == "float64" else {name: _rounded(plan, field) for name, field in fields.items()}


def _rounded(plan: Plan, field: Tensor) -> Tensor:
    return field.to(getattr(torch, plan.dtype)).to(torch.float64)


def make_chunk(plan: Plan, ids: np.ndarray, factors: DirectFactors | None) -> Chunk:
    """Make the samples ``ids``, solved one after another, and return all arrays of the chunk.

    Raises
    ------
    SolveError
        If a sample has no system, was not solved to the tolerance, or is rejected again and again.
    """
    numbers, began = ids.tolist(), time.thread_time()
    made = _Made.of(plan, numbers, factors)
    rejected = np.zeros(len(ids), np.int64)
    if plan.problem.can_reject:
        rejected = _redraw(plan, made, numbers, factors)
    if made.failures:
        first = min(made.failures)
        reason = made.failures[first]  # may begin with a remark in brackets
        raise SolveError(f"sample {numbers[first]}{' ' if reason.startswith('(') else ': '}{reason}")
    _require_solved(plan, made, numbers)
    stored = {name: values.to(getattr(torch, plan.dtype)) for name, values in made.outputs.items()}
    arrays = {f"input_{name}": values.numpy() for name, values in made.inputs.items()}
    arrays |= {f"output_{name}": values.numpy() for name, values in stored.items()}
    arrays |= {f"solver_{name}": values.numpy() for name, values in made.quality.items()}
    if plan.says_stored_residual:
        arrays[STORED_RESIDUAL.name] = _residuals(plan.problem, made.inputs, stored).numpy()
    discretising = max(0.0, time.thread_time() - began - float(made.seconds.sum()))
    return arrays | {
        SAMPLE_ID.name: ids,
        REJECTED.name: rejected,
        TIMING_SOLVE.name: made.seconds.numpy(),
        TIMING_SAMPLE.name: np.full(len(ids), discretising / len(ids)),
    }


@dataclass(frozen=True)
class _Made:
    """Inputs, outputs and quality of some samples, first axis the sample, and CPU seconds of each solve."""

    inputs: Fields
    outputs: Fields
    quality: Fields
    seconds: Tensor
    failures: dict[int, str]

    @classmethod
    def of(
        cls, plan: Plan, numbers: list[int], factors: DirectFactors | None, attempts: list[int] | None = None
    ) -> "_Made":
        fields = drawn(plan, numbers, attempts)
        wall, cpu = time.perf_counter(), time.thread_time()
        produced = _produced(plan, fields, numbers, factors)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        # the solver's clock runs on while this thread waits for the others: its seconds are shares of the thread's own
        seconds = produced.seconds * (cpu / wall)
        return cls(fields, produced.outputs, produced.quality, seconds, dict(produced.failures))

    def put(self, rows: list[int], new: "_Made") -> None:
        """Take other draws of some rows; the seconds of the old ones stay on the bill."""
        where = torch.tensor(rows)
        for mine, others in ((self.inputs, new.inputs), (self.outputs, new.outputs), (self.quality, new.quality)):
            for name, values in others.items():
                mine[name][where] = values
        self.seconds[where] += new.seconds
        for row in rows:
            self.failures.pop(row, None)
        self.failures.update({rows[row]: reason for row, reason in new.failures.items()})


def _redraw(plan: Plan, made: _Made, numbers: list[int], factors: DirectFactors | None) -> np.ndarray:
    """Draw again what the family rejects, until it does not, and return how many draws of each sample were."""
    rejected = np.zeros(len(numbers), np.int64)
    rows = _rejected(plan, made, list(range(len(numbers))))
    while rows:
        rejected[rows] += 1
        if rejected[rows[0]] == MOST_DRAWS:
            raise SolveError(
                f"sample {numbers[rows[0]]} was rejected {MOST_DRAWS} times: {plan.problem.name} with these parameters "
                "is hardly ever resolved on this grid. Use a finer grid, or other parameters."
            )
        again = [numbers[row] for row in rows]
        made.put(rows, _Made.of(plan, again, factors, rejected[rows].tolist()))
        rows = _rejected(plan, made, rows)
    return rejected


def _rejected(plan: Plan, made: _Made, rows: list[int]) -> list[int]:
    where = torch.tensor(rows)
    mask = plan.problem.rejects(
        {name: values[where] for name, values in made.inputs.items()},
        {name: values[where] for name, values in made.outputs.items()},
    )
    return [] if mask is None else [row for row, is_rejected in zip(rows, mask.tolist(), strict=True) if is_rejected]


def _produced(plan: Plan, fields: Fields, numbers: list[int], factors: DirectFactors | None) -> Produced:
    """Solve, and name the sample that the problem refuses; what is wrong with all of them is wrong with the call."""
    try:
        return plan.problem.produce(fields, rtol=plan.rtol, method=plan.method, factors=factors)
    except ValueError:
        refused: dict[int, ValueError] = {}
        for row in range(len(numbers)):
            try:
                plan.problem.produce(_rows(fields, row), rtol=plan.rtol, method=plan.method, factors=factors)
            except ValueError as error:
                refused[row] = error
            if 0 < len(refused) <= row:
                first, reason = next(iter(refused.items()))
                raise SolveError(f"sample {numbers[first]} cannot be discretised: {reason}") from reason
        raise


def _rows(fields: Fields, row: int) -> Fields:
    return {name: field[row : row + 1] for name, field in fields.items()}


def _require_solved(plan: Plan, made: _Made, numbers: list[int]) -> None:
    """Let no residual above the tolerance, and no NaN, into the data, whatever the solver says of itself."""
    residuals = made.quality.get(RESIDUAL.name)
    if residuals is not None:
        wrong = torch.nonzero(~(residuals <= plan.rtol)).flatten().tolist()
        if wrong:
            first = wrong[0]
            raise SolveError(
                f"sample {numbers[first]} has residual {residuals[first]:.1e}, above `rtol` {plan.rtol:.1e}. "
                "Raise `rtol`, or use method='direct'."
            )
    for name, values in made.outputs.items():
        finite = torch.isfinite(values.flatten(1).sum(1))  # a sum is not finite if a term is not
        if not bool(finite.all()):
            first = int(torch.nonzero(~finite)[0])
            raise SolveError(f"sample {numbers[first]} has NaN or infinity in {name}. Check the inputs of this sample.")


def _residuals(problem: Problem, inputs: Fields, outputs: Fields) -> Tensor:
    """Return the true relative residuals of outputs as they are stored."""
    systems = problem.systems(inputs)
    solutions = outputs[problem.output_names[0]].to(torch.float64)
    return systems.relative_residuals(as_solution(solutions, is_complex=systems.dtype.is_complex))
