"""CPU time and peak memory of one solve at a time, in turn, for the benchmark of data generation."""

import ctypes
import os
import pickle
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Solve = Callable[[Sequence[int], float], Sequence[np.ndarray]]
Start = Callable[[], Solve]
Residuals = Callable[[Sequence[int], Sequence[np.ndarray]], float]

RTOL = 1e-8
SLOW = 1.0
"""Seconds per solve from which on fewer samples are enough."""
SHORT = 0.03
"""Seconds that a timed stretch should take at least: short solves are timed a few in a row."""
LONGEST_STRETCH = 16
MEMORY = 12 * 2**30
"""Bytes that a trial may take beyond what is there before it ends as one that has not enough."""
POLL = 0.05
"""Seconds between looks at a trial."""
PATIENCE = 30
"""A trial ends after this many times its limit in wall-clock time: it waits for something."""
TIGHTER = 0.5
SMALLEST_RTOL = 1e-14


@dataclass
class Method:
    """One way to solve the systems of a case.

    Parameters
    ----------
    name
        As in the table.
    start
        Does what serves all systems; returns a function of numbers of systems and a tolerance, to solutions ``(n,)``.
    ours
        Whether it is vcycle's.
    carries
        Whether something goes from each system to the next, so that systems must come one by one.
    warm_up
        Solves something small, so that no library or kernel is loaded while the clock runs.
    clock
        CPU seconds so far; of another process where that does the work, and then memory is not measured.
    """

    name: str
    start: Start
    ours: bool = False
    carries: bool = False
    warm_up: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.process_time


@dataclass
class Row:
    """What was measured of one method on one case; times are CPU seconds per system, memory in bytes."""

    method: str
    ours: bool
    note: str = ""
    setup: float = 0.0
    times: list[float] = field(default_factory=list)
    memory: float = float("nan")
    rtol: float = RTOL
    residual: float = 0.0

    @property
    def median(self) -> float:
        """Median time per system with its share of the setup; infinite where nothing was measured."""
        return float(np.median(self.times)) if self.times else float("inf")


def trial(method: Method, residuals: Residuals, limit: float) -> Row:
    """Solve the first system in a process of its own: finds the tolerance to ask for, the time and the peak memory.

    Parameters
    ----------
    method
        Not started yet.
    residuals
        The largest true relative residual of some solutions.
    limit
        CPU seconds after which the trial ends.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _limit_memory()
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(_tried(method, residuals), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        patience = time.monotonic() + PATIENCE * limit
        while not select.select([pipe], [], [], POLL)[0]:
            # Not by RLIMIT_CPU, which makes the clock coarse.
            if _cpu_seconds(child) > limit or time.monotonic() > patience:
                os.kill(child, signal.SIGKILL)
        content = pipe.read()
    os.waitpid(child, 0)
    if not content:
        return Row(method.name, method.ours, note=f"> {limit:.0f} s")
    return pickle.loads(content)  # noqa: S301 written by our own child


def _tried(method: Method, residuals: Residuals) -> Row:
    row = Row(method.name, method.ours)
    method.warm_up()  # what a library allocates for good is not counted
    ctypes.CDLL(None).malloc_trim(0)  # memory that was given back would hide what is taken again
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    try:
        started = method.clock()
        solve = method.start()
        row.setup = method.clock() - started
        while True:
            started = method.clock()
            solutions = solve([0], row.rtol)
            row.times = [method.clock() - started]
            row.residual = residuals([0], solutions)
            if row.residual <= RTOL:
                break
            row.rtol *= TIGHTER
            if row.rtol < SMALLEST_RTOL:
                return Row(method.name, method.ours, note=f"residual {row.residual:.0e}")
    except MemoryError:
        return Row(method.name, method.ours, note="out of memory")
    except ModuleNotFoundError as error:
        return Row(method.name, method.ours, note=f"not installed: {error.name or error}")
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return Row(method.name, method.ours, note=str(error).splitlines()[0][:80])
    if method.clock is time.process_time:
        row.memory = max(_memory("VmHWM") - before, 0)
    return row


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _limit_memory() -> None:
    space = _memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(methods: Sequence[Method], residuals: Residuals, *, samples: int, limit: float) -> list[Row]:
    """Return one row per method, the cheapest first: system after system, and for each system method after method.

    Parameters
    ----------
    methods
        The ways to solve.
    residuals
        The largest true relative residual of some solutions.
    samples
        Number of systems.
    limit
        CPU seconds that the first system may take.
    """
    rows = [trial(method, residuals, limit) for method in methods]
    order = sorted(range(len(rows)), key=lambda i: rows[i].median)
    runs = [_Run(methods[i], rows[i], residuals, samples) for i in order if rows[i].times and rows[i].median <= SLOW]
    for run in runs:
        run.begin()
    for index in range(samples):
        for run in runs:
            run.step(index)
    for row in rows:
        if row.median > SLOW:
            row.times = [seconds + row.setup / samples for seconds in row.times]
    return sorted(rows, key=lambda row: row.median)


class _Run:
    """One method on its way through the systems."""

    def __init__(self, method: Method, row: Row, residuals: Residuals, samples: int) -> None:
        self.method, self.row, self.residuals, self.samples = method, row, residuals, samples
        together = 1 if method.carries else int(np.clip(SHORT / row.median, 1, LONGEST_STRETCH))
        self.together = min(together, samples)

    def begin(self) -> None:
        started = self.method.clock()
        self.solve = self.method.start()
        self.row.setup, self.row.times = self.method.clock() - started, []

    def step(self, index: int) -> None:
        chosen = [(index + i) % self.samples for i in range(self.together)]
        while True:
            started = self.method.clock()
            solutions = self.solve(chosen, self.row.rtol)
            seconds = (self.method.clock() - started) / len(chosen)
            residual = self.residuals(chosen, solutions)
            if residual <= RTOL or self.row.rtol < SMALLEST_RTOL:
                break
            self.row.rtol *= TIGHTER
        self.row.times.append(seconds + self.row.setup / self.samples)
        self.row.residual = max(self.row.residual, residual)
        if residual > RTOL:
            self.row.note = f"residual {residual:.0e}"


def quiet() -> None:
    """Silence what peers warn of: formats they convert, steps they cut."""
    warnings.filterwarnings("ignore")
