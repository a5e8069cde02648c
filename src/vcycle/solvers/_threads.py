"""Threads over samples, for kernels that release the interpreter's lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def share_out(work: Callable[[range], None], num: int, workers: int) -> None:
    """Call ``work`` with every ``workers``-th index from 0, from 1, ...; each call in a thread of its own."""
    shares = [range(first, num, workers) for first in range(min(workers, num))]
    if len(shares) == 1:
        work(shares[0])
    elif shares:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(work, shares))
