"""Turn a problem into data: draw, discretise, solve, and keep every true residual."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vcycle import _check, _progress
from vcycle._files import locked, writing
from vcycle.data.chunks import Plan, drawn, make_chunk, shared_factors, usual_chunk_size, usual_rtol
from vcycle.data.dataset import Dataset
from vcycle.data.engines import on_threads, one_torch_thread
from vcycle.data.schema import STORED_DTYPES, Schema, differences
from vcycle.data.store import Store
from vcycle.errors import DataError
from vcycle.problems.problem import Problem

ORDERS = ("auto", "given", "nearest")
FEATURE_POINTS = 16
"""Points per axis that an input is averaged to before samples are ordered by distance."""
MANY = 100_000
"""Samples beyond which fewer points are kept, in single precision, so that memory stays small."""
FEW_FEATURES = 64
"""Points per channel then: 256 bytes a sample."""


def generate(
    problem: Problem,
    *,
    num_samples: int,
    seed: int = 0,
    out: str | Path | None = None,
    rtol: float | None = None,
    method: str = "auto",
    order: str = "auto",
    chunk_size: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    output_dtype: str = "float64",
    progress: bool = True,
) -> Dataset:
    """Draw samples of a problem and solve them; every sample's true residual is recorded.

    Sample ``i`` depends on the problem, ``seed`` and ``i`` only; where a family rejects draws that its grid does not
    resolve, it is drawn again until one is kept, and ``solver_rejected`` says how often. One chunk of samples is one
    sequence of solves: recycled state lives inside it. Times are CPU seconds of the thread that makes the chunk. All
    arrays but ``timing_*`` have the same bytes whoever makes them, and however often the making was interrupted.

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
        Largest true relative residual ``|b - A u| / |b|`` of any sample, dimensionless; for evolutions the largest
        relative change when time steps are halved. Default the family's, 1e-8 for linear systems.
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
    scheduler
        Address of a Dask scheduler, such as ``"tcp://10.0.0.1:8786"``, or the path of its ``.json`` file: then its
        workers make the chunks, and write them to ``out`` themselves, on a file system that all of them share. A chunk
        whose worker dies is made by another. Needs the extra ``vcycle[cluster]``.
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
        If an argument is not usable, or no scheduler answers.
    ImportError
        If Dask is asked for and missing.
    SolveError
        If a sample has no system, was not solved to ``rtol``, or is rejected again and again: nothing of its chunk is
        kept, finished chunks are.
    DataError
        If ``out`` holds something else, cannot be written, or there is no space left.
    """
    _check.choice("output_dtype", output_dtype, STORED_DTYPES)
    _check.instance("problem", problem, Problem, "a problem, such as vcycle.problems.Darcy(grid)")
    plan = Plan(
        problem,
        num_samples=_check.integer("num_samples", num_samples, 1),
        seed=_check.integer("seed", seed, 0),
        rtol=usual_rtol(problem) if rtol is None else _check.positive("rtol", rtol),
        method=_check.choice("method", method, _methods(problem)),
        order=_check.choice("order", order, ORDERS),
        chunk_size=min(num_samples, _chunk_size(problem, chunk_size, output_dtype)),
        dtype=output_dtype,
    )
    if scheduler is not None:
        _check.instance("scheduler", scheduler, str, "the address of a Dask scheduler")
        if workers is not None:
            raise ValueError(f"`workers` must be None with a `scheduler`, whose workers do the work. Got {workers}.")
        from vcycle.data.cluster import find_scheduler

        find_scheduler(scheduler)  # before a store is made
    engine = _Engine(_cores() if workers is None else _check.integer("workers", workers, 1), scheduler, progress)
    return _in_memory(plan, engine) if out is None else _on_disk(plan, Path(out), engine)


@dataclass(frozen=True)
class _Engine:
    """Who makes the chunks, and whether a bar shows how far they are: nothing that the bytes depend on."""

    workers: int
    scheduler: str | None
    progress: bool


def _in_memory(plan: Plan, engine: _Engine) -> Dataset:
    specs = plan.specs()
    arrays = {spec.name: np.empty((plan.num_samples, *spec.shape), spec.dtype) for spec in specs}

    def keep(chunk: int, values: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            array[plan.rows(chunk)] = values[name]

    _run(plan, list(range(plan.num_chunks)), engine, keep=keep)
    return Dataset(plan.schema(), arrays, specs=specs, problem=plan.problem)


def _on_disk(plan: Plan, path: Path, engine: _Engine) -> Dataset:
    if not path.name:
        raise ValueError(f"`out` must be a new folder with a name. Got {str(path)!r}.")
    schema = plan.schema()
    store = _complete(path)
    if store is None:
        with locked(path):
            store = _opened(plan, path, schema)
            _finish(plan, store, schema, engine)
    else:
        _require_same_call(store, schema, ignored=("versions",))
        _say(f"{path} is complete: {plan.num_samples} samples. Nothing to do.", progress=engine.progress)
    return Dataset.of_store(store, problem=plan.problem)


def _complete(path: Path) -> Store | None:
    """Return a store that lacks nothing: it is only read, by as many processes as like.

    Anything else may be the work of another process, this very moment: only who holds the lock can say what it is.
    """
    try:
        store = Store.open(path)
        return None if store.unfinished() else store
    except (DataError, OSError):
        return None


def _opened(plan: Plan, path: Path, schema: Schema) -> Store:
    """Return the store of this call, made if there is none; its chunks may be missing."""
    if (path / "zarr.json").exists():
        _remove_if_bare(Store.open(path), schema)
    if not (path / "zarr.json").exists():  # otherwise `create` says what is wrong with what is there
        Store.create(path, schema, specs=plan.specs(), num_samples=plan.num_samples, chunk_size=plan.chunk_size)
    store = Store.open(path)
    _require_same_call(store, schema, ignored=("versions",))
    return store


def _finish(plan: Plan, store: Store, schema: Schema, engine: _Engine) -> None:
    todo = store.unfinished()
    done = store.num_chunks - len(todo)
    if done:
        _say(f"{store.path}: {done} of {store.num_chunks} chunks are there; resuming.", progress=engine.progress)
    if todo:
        _require_same_call(store, schema)  # other versions may round differently: one store must not mix them
        store.discard(todo)
        _run(plan, todo, engine, store=store)


def _remove_if_bare(store: Store, schema: Schema) -> None:
    """Make way for another call where an earlier one has failed before its first chunk: nothing is lost."""
    if any(store.is_committed(chunk) for chunk in range(store.num_chunks)):
        return
    if differences(store.schema.to_dict(), schema.to_dict()):
        with writing(store.path):
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


def _run(
    plan: Plan,
    chunks: list[int],
    engine: _Engine,
    *,
    store: Store | None = None,
    keep: Callable[[int, Any], None] = lambda chunk, values: None,
) -> None:
    """Make chunks and write each to the store where it was made; or hand its arrays to ``keep``, in this thread."""
    ids = _solve_order(plan) if plan.is_ordered else np.arange(plan.num_samples)
    with _bar(plan, chunks, progress=engine.progress) as advance:

        def done(chunk: int, values: Any) -> None:
            keep(chunk, values)
            rows = plan.rows(chunk)
            advance(rows.stop - rows.start)

        if engine.scheduler is not None:
            from vcycle.data.cluster import on_cluster

            path = None if store is None else store.path
            on_cluster(plan, ids, chunks, done, address=engine.scheduler, path=path)
            return
        with one_torch_thread():
            factors = shared_factors(plan, ids[:2].tolist()) if len(chunks) > 1 else None

        def make(chunk: int) -> Any:
            values = make_chunk(plan, ids[plan.rows(chunk)], factors)
            return values if store is None else store.write(chunk, values)

        on_threads(make, chunks, done, workers=engine.workers)


def _solve_order(plan: Plan) -> np.ndarray:
    """Draw everything once, small, and return sample numbers so that neighbours are similar."""
    from vcycle.solvers.ordering import order_of

    num_axes = plan.problem.grid.num_axes
    most = FEATURE_POINTS if plan.num_samples <= MANY else round(FEW_FEATURES ** (1 / num_axes))
    points = [min(n, most) for n in plan.problem.grid.shape]
    features = torch.empty(0)
    with one_torch_thread():
        for chunk in range(plan.num_chunks):
            rows = plan.rows(chunk)
            stacked = plan.problem.stacked(drawn(plan, list(range(rows.start, rows.stop))))
            small = torch.nn.functional.interpolate(stacked, size=points, mode="area")
            if chunk == 0:
                dtype = torch.float64 if plan.num_samples <= MANY else torch.float32
                features = torch.empty((plan.num_samples, *small.shape[1:]), dtype=dtype)
            features[rows] = torch.nan_to_num(small, posinf=0.0, neginf=0.0)  # the chunk will name such a sample
        deviation = features.std(dim=(0, *range(2, features.ndim)), keepdim=True, correction=0)
        features /= torch.where(deviation > 0, deviation, torch.ones_like(deviation))  # fields have different units
        return order_of(features.flatten(1)).numpy()


# ----------------------------------------------------------------------------------------------------------- helpers


def _chunk_size(problem: Problem, chunk_size: int | None, dtype: str) -> int:
    return usual_chunk_size(problem, dtype) if chunk_size is None else _check.integer("chunk_size", chunk_size, 1)


def _methods(problem: Problem) -> tuple[str, ...]:
    from vcycle.solvers.sequence import METHODS

    return tuple(METHODS)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str, *, progress: bool) -> None:
    if progress:
        sys.stderr.write(f"{line}\n")


@contextmanager
def _bar(plan: Plan, chunks: list[int], *, progress: bool) -> Iterator[Callable[[int], object]]:
    left = sum(rows.stop - rows.start for rows in map(plan.rows, chunks))
    done = plan.num_samples - left
    with _progress.shown(progress=progress), _progress.bar("generate", plan.num_samples, done=done) as advance:
        yield advance
