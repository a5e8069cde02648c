"""Training asks for the same large tensors at every step: let the C library keep their memory in between."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of the options in glibc's ``malloc.h``."""
LARGEST_FROM_HEAP = 2**30
"""Bytes up to which a block comes from the heap."""


def keep_freed_memory() -> bool:
    """Tell glibc to reuse the memory of large tensors in place of returning it to the system at once.

    By default every block above 32 MiB, and many a smaller one, is mapped afresh and its pages are zeroed by the kernel
    at first touch, which took up to 40 % of a training step's CPU time. Afterwards the process keeps the memory that it
    once had. Holds for the whole process; other systems and C libraries are left alone.

    Returns
    -------
    bool
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # not glibc
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
