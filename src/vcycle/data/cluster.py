"""Generation on a Dask cluster: one task per chunk, and every worker writes its chunk into the store itself."""

import contextlib
import functools
import json
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcycle.data.chunks import Chunk, Plan, make_chunk, shared_factors
from vcycle.data.engines import Done, drive, one_torch_thread
from vcycle.data.schema import differences, versions
from vcycle.data.store import Store
from vcycle.errors import DataError, SolveError
from vcycle.solvers.factors import DirectFactors

CONNECT_SECONDS = 10.0
"""How long the scheduler may take to answer."""
WORKER_SECONDS = 120.0
"""How long there may be no worker, at the start or later."""
COUNT_SECONDS = 5.0
"""How often workers are counted: clusters grow and shrink."""
CHUNKS_PER_THREAD = 2
"""Chunks under way per thread of a worker, so that none waits for the way there and back."""
KEPT = "Finished chunks are kept; give the same command again."


@dataclass(frozen=True)
class _Job:
    """What a worker must know: what to make, where it goes, and what it must have in common with us."""

    plan: bytes
    first: tuple[int, ...]
    path: str | None
    versions: tuple[tuple[str, str], ...]


def on_cluster(plan: Plan, ids: np.ndarray, chunks: list[int], done: Done, *, address: str, path: Path | None) -> None:
    """Make chunks on the workers of a Dask cluster; a chunk whose worker dies is made by another one.

    Parameters
    ----------
    plan
        What is made.
    ids
        Numbers of all samples in the order of solution.
    chunks
        Numbers of the chunks to make.
    done
        Called with a chunk's number and its arrays, ``None`` where there is a store, when it is made; in any order.
    address
        Of the scheduler, such as ``"tcp://10.0.0.1:8786"``, or the path of its ``.json`` file.
    path
        The store that the workers write to, on a file system that all of them share; ``None`` returns the arrays.

    Raises
    ------
    ImportError
        If dask.distributed is missing.
    ValueError
        If nobody answers at the address, or workers run other versions.
    DataError
        If there is no worker, or one does not see the store or cannot write to it, or the scheduler is lost.
    SolveError
        As :func:`vcycle.data.chunks.make_chunk`; or if a chunk's workers died several times.
    """
    with _connected(address) as client:
        import cloudpickle
        from distributed.scheduler import KilledWorker

        where = None if path is None else str(path.resolve())
        job = _Job(cloudpickle.dumps(plan), tuple(ids[:2].tolist()), where, _our_versions())
        _require_fit(client, job, address)
        # a task, not scattered data: when the worker that holds it dies, another one makes it again
        there, executor = client.submit(_itself, job, key=f"vcycle-{uuid.uuid4().hex}"), client.get_executor(pure=False)
        try:
            drive(
                lambda chunk: executor.submit(_made, there, chunk, ids[plan.rows(chunk)]),
                chunks,
                done,
                width=_width(client, address),
            )
        except KilledWorker as error:
            raise SolveError(
                f"one chunk has ended {error.allowed_failures + 1} workers of {address}, perhaps for want of memory. "
                f"Give the workers more, or choose a smaller `chunk_size`. {KEPT}"
            ) from error
        except (CancelledError, OSError) as error:
            raise DataError(f"the scheduler at {address} is gone. {KEPT}") from error


# ------------------------------------------------------------------------------------------------------ on the workers


def _itself(job: _Job) -> _Job:
    return job


def _made(job: _Job, chunk: int, ids: np.ndarray) -> Chunk | None:
    """Make a chunk, and write it where there is a store."""
    with one_torch_thread():
        plan, factors, store = _prepared(job)
        values = make_chunk(plan, ids, factors)
    if store is None:
        return {spec.name: values[spec.name] for spec in plan.specs()}
    store.write(chunk, values)
    return None


@functools.lru_cache(maxsize=2)
def _prepared(job: _Job) -> tuple[Plan, DirectFactors | None, Store | None]:
    """Return what all chunks of this process share; factors stay where they are made, they do not travel."""
    import cloudpickle

    unfit = _unfit(job)
    if unfit is not None:
        raise DataError(unfit)
    plan = cloudpickle.loads(job.plan)
    store = None if job.path is None else Store.open(Path(job.path))
    return plan, shared_factors(plan, list(job.first)), store


def _unfit(job: _Job) -> str | None:
    """Return why this process cannot work on a job, or ``None``."""
    here = socket.gethostname()
    found = differences(dict(_our_versions()), dict(job.versions))
    if found:
        return f"`scheduler` has workers on {here} with other versions ({'; '.join(found)}). Install the same there."
    if job.path is None:
        return None
    if not (Path(job.path) / "zarr.json").is_file():
        return f"{job.path} is not visible to the workers on {here}. Give an `out` on a file system that all share."
    trial = Path(job.path) / f"trial.{uuid.uuid4().hex}.partial"
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        return f"{job.path} cannot be written by the workers on {here}: {error.strerror}. Give them the right to."
    return None


def _our_versions() -> tuple[tuple[str, str], ...]:
    python = ".".join(platform.python_version_tuple()[:2])
    return tuple(({"python": python} | versions()).items())


# --------------------------------------------------------------------------------------------------- from where we are


def find_scheduler(address: str) -> str:
    """Return the address of a scheduler that answers, which may be named by its ``.json`` file.

    Raises
    ------
    ImportError
        If dask.distributed is missing.
    ValueError
        If nobody answers.
    """
    try:
        from distributed.comm.addressing import parse_host_port
    except ImportError as error:
        raise ImportError('`scheduler` needs Dask. Install it with `pip install "vcycle[cluster]"`.') from error
    try:
        found = json.loads(Path(address).read_text())["address"] if address.endswith(".json") else address
        # a client whose first connection fails prints tracebacks when it is collected: knock first
        socket.create_connection(parse_host_port(found.partition("://")[2] or found), CONNECT_SECONDS).close()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unreachable(address, error) from error
    return found


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Give a client of the scheduler."""
    found = find_scheduler(address)
    from distributed import Client

    try:
        client = Client(found, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error
    with client:
        yield client


def _unreachable(address: str, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error)
    wanted = "`scheduler` must be the address of a running Dask scheduler, such as tcp://host:8786, or its .json file."
    return ValueError(f"{wanted} Got {address}: {reason}.")


def _require_fit(client: Any, job: _Job, address: str) -> None:
    """Ask all workers that are there, and wait for one where none is."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
        answers = client.run(_unfit, job)
    except TimeoutError as error:
        raise _without_workers(address) from error
    except ImportError as error:
        raise ValueError(f"`scheduler` has workers that cannot import vcycle ({error}). Install it there.") from error
    for answer in answers.values():
        if answer is not None:
            raise (ValueError if answer.startswith("`") else DataError)(answer)


def _width(client: Any, address: str) -> Callable[[], int]:
    """Return a function that says how many chunks to keep under way, and raises when nobody is left to make them."""
    threads, asked, seen = 1, -np.inf, time.monotonic()

    def width() -> int:
        nonlocal threads, asked, seen
        now = time.monotonic()
        if now - asked >= COUNT_SECONDS:
            threads, asked = sum(client.nthreads().values()), now
            seen = now if threads else seen
            if now - seen > WORKER_SECONDS:
                raise _without_workers(address)
        return max(1, CHUNKS_PER_THREAD * threads)

    return width


def _without_workers(address: str) -> DataError:
    return DataError(f"the scheduler at {address} has had no worker for {WORKER_SECONDS:.0f} s. Start one. {KEPT}")
