"""Who makes the chunks: the calling thread, threads of this process, or the workers of a Dask cluster."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

Make = Callable[[int], Any]
Done = Callable[[int, Any], None]
Submit = Callable[[int], "Future[Any]"]

WATCH_SECONDS = 5.0
"""How often ``width`` is asked for even where nothing ends."""


def on_threads(make: Make, chunks: list[int], done: Done, *, workers: int) -> None:
    """Make chunks on threads of this process, or on the calling one if one is enough.

    Parameters
    ----------
    make
        Number of a chunk to whatever there is to say of it.
    chunks
        Numbers, in the order of making.
    done
        Called in the calling thread, with number and answer, when a chunk is made; in any order.
    workers
        Number of threads.

    Raises
    ------
    Exception
        Whatever ``make`` raises: the first failure stops what has not begun, and what has is finished. Of several
        failures the lowest chunk's is raised, so that the message does not depend on the threads' luck.
    """
    workers = min(workers, len(chunks))
    with one_torch_thread():
        if workers == 1:
            for chunk in chunks:
                done(chunk, make(chunk))
            return

        def alone(chunk: int) -> Any:
            with one_torch_thread():
                return make(chunk)

        with ThreadPoolExecutor(workers, thread_name_prefix="vcycle-generate") as pool:
            drive(lambda chunk: pool.submit(alone, chunk), chunks, done, width=lambda: workers)


def drive(submit: Submit, chunks: Iterable[int], done: Done, *, width: Callable[[], int]) -> None:
    """Keep ``width()`` chunks under way: answers are handed on and dropped as they come.

    Raises
    ------
    Exception
        As :func:`on_threads`.
    """
    left, under_way = iter(chunks), dict[Future[Any], int]()
    failures = dict[int, BaseException]()
    while True:
        while not failures and len(under_way) < width():
            chunk = next(left, None)
            if chunk is None:
                break
            under_way[submit(chunk)] = chunk
        if not under_way:
            break
        for future in wait(under_way, WATCH_SECONDS, return_when=FIRST_COMPLETED).done:
            chunk = under_way.pop(future)
            error = future.exception()
            if error is None:
                done(chunk, future.result())
            else:
                failures[chunk] = error
    if failures:
        raise failures[min(failures)]


_torch_threads = threading.Lock()
_inside, _before = 0, 0


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep tensor work on the calling thread: no core is asked for twice, no sum depends on their number.

    Several threads may be inside at once; the last to leave gives back what the first found.
    """
    global _inside, _before  # noqa: PLW0603 - PyTorch's number of threads is one for the process, too
    with _torch_threads:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)  # in every thread: Fourier transforms would use their own number in a new one
    try:
        yield
    finally:
        with _torch_threads:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
