"""Turn a problem into data: draw, discretise, solve, and keep every true residual."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vcycle import _check
from vcycle._files import writing
from vcycle.data.dataset import Dataset
from vcycle.data.schema import (
    ITERATIONS,
    REMOVED_MEAN,
    RESIDUAL,
    SAMPLE_ID,
    STORED_DTYPES,
    STORED_RESIDUAL,
    TIMING_SAMPLE,
    TIMING_SOLVE,
    ArraySpec,
    Schema,
    differences,
)
from vcycle.data.store import Store
from vcycle.errors import DataError, SolveError
from vcycle.problems.problem import Fields, Problem
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.result import SequenceResult
from vcycle.solvers.sequence import resolved_method

LARGEST_CHUNK = 128
CHUNK_BYTES = 16 * 2**20
ORDERS = ("auto", "given", "nearest")
FEATURE_POINTS = 16
"""Points per axis that an input is averaged to before samples are ordered by distance."""

Chunk = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Plan:
    """Everything that the bytes of a dataset depend on."""

    problem: Problem
    num_samples: int
    seed: int
    rtol: float
    method: str
    order: str
    chunk_size: int
    dtype: str

    @property
    def is_ordered(self) -> bool:
        """Whether rows are stored in an order that puts similar samples side by side: where the solver recycles."""
        return self.order == "nearest" or (self.order == "auto" and self.method == "gcrodr")

    def schema(self) -> Schema:
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
        rounded = (STORED_RESIDUAL,) if self.dtype != "float64" else ()
        shifted = (REMOVED_MEAN,) if self.problem.singular else ()
        statistics = (SAMPLE_ID, RESIDUAL, ITERATIONS, *rounded, *shifted, TIMING_SOLVE, TIMING_SAMPLE)
        return (*_field_specs(self.problem, self.dtype), *statistics)


def generate(
    problem: Problem,
    *,
    num_samples: int,
    seed: int = 0,
    out: str | Path | None = None,
    rtol: float = 1e-8,
    method: str = "auto",
    order: str = "auto",
    chunk_size: int | None = None,
    workers: int | None = None,
    output_dtype: str = "float64",
    progress: bool = True,
) -> Dataset:
    """Draw samples of a problem and solve them; every sample's true residual is recorded.

    Sample ``i`` depends on the problem, ``seed`` and ``i`` only. One chunk of samples is one sequence of solves:
    recycled state lives inside it. Times are CPU seconds of the thread that makes the chunk. All arrays but
    ``timing_*`` have the same bytes whatever ``workers`` is, and however often the making was interrupted.

    Parameters
    ----------
    problem
        The family.
    num_samples
        How many.
    seed
        Of all draws.
    out
        A folder for a Zarr store, by custom ``*.zarr``; ``None`` keeps the data in memory. If the same call was
        interrupted, it resumes there; if it was finished, the store is returned as it is. What another call left
        without a single finished chunk is replaced.
    rtol
        Largest true relative residual ``|b - A u| / |b|`` of any sample, dimensionless.
    method
        As in :func:`vcycle.solve_sequence`.
    order
        Over all samples, before they are cut into chunks:
        ``"nearest"`` solves similar samples one after another and stores them so, with their ``sample_id``;
        ``"given"`` keeps the order of the numbers; ``"auto"`` orders where the method recycles, that is ``"gcrodr"``.
    chunk_size
        Samples per chunk and sequence; default 128, fewer where a chunk would be more than 16 MiB.
    workers
        Number of threads, each with a chunk at a time; default all cores.
    output_dtype
        ``"float64"``, or ``"float32"`` for half the size: then inputs are rounded before anything is assembled from
        them, and the residual of the rounded outputs is recorded as ``stored_residual``; it exceeds ``rtol``.
    progress
        Whether long work shows a progress bar on stderr.

    Returns
    -------
    Dataset
        Rows in the order of solving.

    Raises
    ------
    ValueError, TypeError
        If an argument is not usable.
    SolveError
        If a sample has no system, or was not solved to ``rtol``: nothing of its chunk is kept, finished chunks are.
    DataError
        If ``out`` holds something else, cannot be written, or there is no space left.
    """
    _check.choice("output_dtype", output_dtype, STORED_DTYPES)
    plan = _Plan(
        problem,
        num_samples=_check.integer("num_samples", num_samples, 1),
        seed=_check.integer("seed", seed, 0),
        rtol=_check.positive("rtol", rtol),
        method=_check.choice("method", method, _methods()),
        order=_check.choice("order", order, ORDERS),
        chunk_size=min(num_samples, _chunk_size(problem, chunk_size, output_dtype)),
        dtype=output_dtype,
    )
    workers = _cores() if workers is None else _check.integer("workers", workers, 1)
    if out is None:
        return _in_memory(plan, workers=workers, progress=progress)
    return _on_disk(plan, Path(out), workers=workers, progress=progress)


def _in_memory(plan: _Plan, *, workers: int, progress: bool) -> Dataset:
    specs, chunk_size = plan.specs(), plan.chunk_size
    arrays = {spec.name: np.empty((plan.num_samples, *spec.shape), spec.dtype) for spec in specs}

    def keep(chunk: int, values: Chunk) -> None:
        for name, array in arrays.items():
            array[chunk * chunk_size : (chunk + 1) * chunk_size] = values[name]

    chunks = list(range(-(-plan.num_samples // chunk_size)))
    _run(plan, chunks, keep, workers=workers, progress=progress)
    return Dataset(plan.schema(), arrays, specs=specs, problem=plan.problem)


def _on_disk(plan: _Plan, path: Path, *, workers: int, progress: bool) -> Dataset:
    if not path.name:
        raise ValueError(f"`out` must be a new folder with a name. Got {str(path)!r}.")
    schema, specs = plan.schema(), plan.specs()
    if (path / "zarr.json").exists():
        _remove_if_bare(Store.open(path), schema)
    if not (path / "zarr.json").exists():  # otherwise `create` says what is wrong with what is there
        Store.create(path, schema, specs=specs, num_samples=plan.num_samples, chunk_size=plan.chunk_size)
    store = Store.open(path)
    with store.locked():
        _require_same_call(store, schema, ignored=("versions",))
        todo = store.unfinished()
        done = store.num_chunks - len(todo)
        if not todo:
            _say(f"{path} is complete: {plan.num_samples} samples. Nothing to do.", progress=progress)
        elif done:
            _say(f"{path}: {done} of {store.num_chunks} chunks are there; resuming.", progress=progress)
        if todo:
            _require_same_call(store, schema)  # other versions may round differently: one store must not mix them
            store.discard(todo)
            _run(plan, todo, store.write, workers=workers, progress=progress)
    return Dataset.of_store(store, problem=plan.problem)


def _remove_if_bare(store: Store, schema: Schema) -> None:
    """Make way for another call where an earlier one has failed before its first chunk: nothing is lost."""
    if any(store.is_committed(chunk) for chunk in range(store.num_chunks)):
        return
    if differences(store.schema.to_dict(), schema.to_dict()):
        with store.locked(), writing(store.path):
            shutil.rmtree(store.path)


def _require_same_call(store: Store, schema: Schema, *, ignored: tuple[str, ...] = ()) -> None:
    there, asked = store.schema.to_dict(), schema.to_dict()
    found = differences(_without(there, ignored), _without(asked, ignored))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        remedy = "Give another `out`, remove the store, or repeat its call."
        raise DataError(f"{store.path} was made by another call ({'; '.join(found[:3])}{more}). {remedy}")


def _without(content: Mapping[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in content.items() if key not in keys}


# ---------------------------------------------------------------------------------------------------- chunk by chunk


def _run(plan: _Plan, chunks: list[int], keep: Callable[[int, Chunk], None], *, workers: int, progress: bool) -> None:
    """Make chunks on threads; the first failure stops what has not begun, and what has is finished and kept."""
    with _one_torch_thread(), _bar(plan, chunks, progress=progress) as advance:
        ids = _solve_order(plan) if plan.is_ordered else np.arange(plan.num_samples)
        factors = _shared_factors(plan, ids) if len(chunks) > 1 else None

        def make(chunk: int) -> int:
            mine = ids[chunk * plan.chunk_size : (chunk + 1) * plan.chunk_size]
            keep(chunk, _make_chunk(plan, mine, factors))
            return len(mine)

        if min(workers, len(chunks)) == 1:
            for chunk in chunks:
                advance(make(chunk))
            return
        with ThreadPoolExecutor(min(workers, len(chunks)), thread_name_prefix="vcycle-generate") as pool:
            futures = [pool.submit(make, chunk) for chunk in chunks]
            try:
                for future in as_completed(futures):
                    advance(future.result())
            except (SolveError, DataError):
                pool.shutdown(cancel_futures=True)
                _raise_first(futures)
                raise
            finally:
                pool.shutdown(cancel_futures=True)


def _raise_first(futures: list["Future[int]"]) -> None:
    """Raise the failure of the lowest chunk, so that the message does not depend on the threads' luck."""
    for future in futures:
        if not future.cancelled() and future.exception() is not None:
            future.result()


def _shared_factors(plan: _Plan, ids: np.ndarray) -> DirectFactors | None:
    """Return what sparse LU does once for all chunks, from the first two samples' systems: one alone shares nothing."""
    if plan.method not in ("direct", "auto"):
        return None
    try:
        systems = plan.problem.systems(_drawn(plan, ids[:2].tolist()))
    except ValueError:  # the chunk will name the sample
        return None
    return DirectFactors.of(systems) if resolved_method(plan.method, systems) == "direct" else None


def _make_chunk(plan: _Plan, ids: np.ndarray, factors: DirectFactors | None) -> Chunk:
    numbers, began = ids.tolist(), time.thread_time()
    fields = _drawn(plan, numbers)
    wall, cpu = time.perf_counter(), time.thread_time()
    result = _solved(plan, fields, numbers, factors)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    # the solver's clock runs on while this thread waits for the others: its seconds are shares of the thread's own
    solving = result.seconds * (cpu / wall)
    discretising = max(0.0, time.thread_time() - began - float(solving.sum()))
    result.raise_if_failed(numbers)
    _require_residuals(plan, result.relative_residuals, numbers)
    stored = result.solutions.to(getattr(torch, plan.dtype))
    values = {f"input_{name}": field.numpy() for name, field in fields.items()}
    values |= {
        f"output_{plan.problem.output_names[0]}": stored.unsqueeze(1).numpy(),
        SAMPLE_ID.name: ids,
        RESIDUAL.name: result.relative_residuals.numpy(),
        ITERATIONS.name: result.iterations.numpy(),
        TIMING_SOLVE.name: solving.numpy(),
        TIMING_SAMPLE.name: np.full(len(ids), discretising / len(ids)),
    }
    return values | _of_the_systems(plan, fields, stored)


def _solved(plan: _Plan, fields: Fields, numbers: list[int], factors: DirectFactors | None) -> SequenceResult:
    """Solve, and name the sample of which there is no system."""
    try:
        return plan.problem.solve(fields, rtol=plan.rtol, method=plan.method, order="given", factors=factors)
    except ValueError:
        for row, number in enumerate(numbers):
            try:
                plan.problem.systems({name: field[row : row + 1] for name, field in fields.items()})
            except ValueError as error:
                raise SolveError(f"sample {number} cannot be discretised: {error}") from error
        raise


def _of_the_systems(plan: _Plan, fields: Fields, stored: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what only the assembled systems tell, where it is recorded: they are assembled again for it."""
    values: dict[str, np.ndarray] = {}
    if plan.dtype == "float64" and not plan.problem.singular:
        return values
    systems = plan.problem.systems(fields)
    if plan.dtype != "float64":
        values[STORED_RESIDUAL.name] = systems.relative_residuals(stored).numpy()
    if systems.removed_mean is not None:
        values[REMOVED_MEAN.name] = systems.removed_mean.detach().numpy()
    return values


def _drawn(plan: _Plan, numbers: list[int]) -> Fields:
    """Draw inputs as they will be stored: rounded before anything is assembled from them."""
    fields = plan.problem.sample(plan.seed, numbers)
    if plan.dtype == "float64":
        return fields
    return {name: field.to(getattr(torch, plan.dtype)).to(torch.float64) for name, field in fields.items()}


def _require_residuals(plan: _Plan, residuals: torch.Tensor, numbers: list[int]) -> None:
    """Let no residual above the tolerance, and no NaN, into the data, whatever the solver says of itself."""
    wrong = torch.nonzero(~(residuals <= plan.rtol)).flatten().tolist()
    if wrong:
        first = wrong[0]
        raise SolveError(
            f"sample {numbers[first]} has residual {residuals[first]:.1e}, above `rtol` {plan.rtol:.1e}. "
            "Raise `rtol`, or use method='direct'."
        )


def _solve_order(plan: _Plan) -> np.ndarray:
    """Draw everything once, small, and return sample numbers so that neighbours are similar."""
    from vcycle.solvers.ordering import nearest_neighbour_order

    parts = []
    for start in range(0, plan.num_samples, plan.chunk_size):
        numbers = list(range(start, min(start + plan.chunk_size, plan.num_samples)))
        stacked = plan.problem.stacked(_drawn(plan, numbers))
        points = [min(n, FEATURE_POINTS) for n in plan.problem.grid.shape]
        parts.append(torch.nn.functional.interpolate(stacked, size=points, mode="area"))
    features = torch.cat(parts)
    deviation = features.std(dim=(0, *range(2, features.ndim)), keepdim=True, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    features = features / deviation  # fields have different units
    return nearest_neighbour_order(features.flatten(1)).numpy()


# ----------------------------------------------------------------------------------------------------------- helpers


def _field_specs(problem: Problem, dtype: str) -> tuple[ArraySpec, ...]:
    schema = Schema(problem.grid, problem.boundary, problem.input_fields, problem.outputs)
    names = [f"input_{name}" for name in problem.input_names] + [f"output_{name}" for name in problem.output_names]
    return schema.field_specs(dtypes=dict.fromkeys(names, dtype))


def _chunk_size(problem: Problem, chunk_size: int | None, dtype: str) -> int:
    if chunk_size is not None:
        return _check.integer("chunk_size", chunk_size, 1)
    per_sample = sum(spec.nbytes for spec in _field_specs(problem, dtype))
    return max(1, min(LARGEST_CHUNK, CHUNK_BYTES // per_sample))


def _methods() -> tuple[str, ...]:
    from vcycle.solvers.sequence import METHODS

    return tuple(METHODS)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str, *, progress: bool) -> None:
    if progress:
        sys.stderr.write(f"{line}\n")


@contextmanager
def _bar(plan: _Plan, chunks: list[int], *, progress: bool) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    done = plan.num_samples - sum(min(plan.chunk_size, plan.num_samples - k * plan.chunk_size) for k in chunks)
    settings = {"total": plan.num_samples, "initial": done, "unit": "sample", "file": sys.stderr, "delay": 1.0}
    with tqdm(desc="generate", disable=not progress, **settings) as bar:
        yield bar.update


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep tensor work on the calling thread: no core is asked for twice, no sum depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
