"""What the multigrid solver needs per sample, setup from the coefficient included, and where it holds up.

Run ``python benchmarks/multigrid.py``; ``--samples 4`` is quicker. Every row is one family on one grid: the cycle that
took it, V-cycles (mean and most), CPU milliseconds per sample to a true relative residual of 1e-8 (median of nine
runs), and the largest residual. One thread, but for ``--threads``, which compares two threads with one.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch

import vcycle as vc
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems.coefficients import Inclusions, Lognormal, TwoPhase
from vcycle.solvers import multigrid
from vcycle.solvers.systems import LinearSystems

RTOL = 1e-8
RUNS = 9


class White:
    """Every cell on its own: lognormal, or one of two values."""

    def __init__(self, spread: float | None = None, values: tuple[float, float] | None = None) -> None:
        self.spread, self.values = spread, values

    def draw(self, grid: vc.Grid, generator: np.random.Generator) -> np.ndarray:
        """Draw the coefficient, of the grid's shape."""
        if self.values is not None:
            return generator.choice(self.values, grid.shape)
        return np.exp(self.spread * generator.standard_normal(grid.shape))


FAST = [
    (name, family, (n,) * axes, 1.0)
    for axes, sizes in ((2, (64, 128, 256)), (3, (32, 64)))
    for name, family in (("two-phase 12 : 3", TwoPhase()), ("lognormal", Lognormal()))
    for n in sizes
]
HARD = [
    (name, family, (n, n), 1.0)
    for name, family in (
        ("two-phase 1e4 : 1", TwoPhase(1e4, 1.0)),
        ("30 inclusions 1e4 : 1", Inclusions(1e4, 1.0, 30)),
        ("white lognormal, deviation 2", White(spread=2.0)),
        ("white two-phase 1e4 : 1", White(values=(1e4, 1.0))),
    )
    for n in (64, 128, 256)
]
SHAPES = [("two-phase 12 : 3", TwoPhase(), shape, 1.0) for shape in ((66, 66), (101, 101), (127, 61), (30, 30, 30))]
ASPECTS = [
    ("two-phase 12 : 3, cells 1 : " + str(round(max(extent) / min(extent))), TwoPhase(), shape, extent)
    for shape, extents in (
        ((128, 128), ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (1.0, 8.0), (8.0, 1.0))),
        ((32, 32, 32), ((1.0, 1.0, 1.0), (8.0, 1.0, 1.0), (1.0, 8.0, 8.0))),
    )
    for extent in extents
]


def measure(family: object, shape: tuple[int, ...], extent: object, samples: int) -> str:
    grid = vc.Grid(shape, extent=extent)
    boundary = vc.Boundary.on(grid, "dirichlet")
    a = torch.from_numpy(np.stack([family.draw(grid, np.random.default_rng(i)) for i in range(samples)]))
    rhs = torch.full((samples, *shape), grid.cell_volume, dtype=torch.float64)
    times, begun = [], time.perf_counter()
    for _ in range(RUNS):
        start = time.process_time()
        systems = LinearSystems(laplacian(grid, boundary, coefficient=a), rhs, positive_definite=True)
        solves = multigrid.solve_all(systems, rtol=RTOL)
        times.append((time.process_time() - start) / samples)
        if time.perf_counter() - begun > 60:
            break
    steps = solves.iterations.double()
    worst = systems.relative_residuals(solves.solutions).max().item()
    plain = multigrid.plain_fits(systems) and steps.max() < multigrid.PATIENCE and _taken_plainly(systems)
    cycle = "plain" if plain else "black-box"
    return f"{cycle:10s} {steps.mean():6.1f} {int(steps.max()):5d} {1e3 * statistics.median(times):9.3f} {worst:9.1e}"


def _taken_plainly(systems: LinearSystems) -> bool:
    solves = multigrid.Solves.blank(systems.rhs)
    multigrid._solve_plainly(systems, solves, rtol=RTOL, max_steps=multigrid.PATIENCE, workers=1)
    return bool((solves.iterations >= 0).all())


def threads(samples: int) -> None:
    """Print how many times faster two threads are than one: medians of interleaved runs, wall time."""
    for n in (64, 128, 256):
        problem = vc.problems.Darcy(vc.Grid((n, n)))
        systems = problem.systems(problem.sample(0, range(samples * 256 // n)))
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(RUNS):
            for workers, times in seconds.items():
                start = time.perf_counter()
                multigrid.solve_all(systems, rtol=RTOL, workers=workers)
                times.append(time.perf_counter() - start)
        one, two = (statistics.median(times) for times in seconds.values())
        print(f"{n} x {n}: {len(systems)} samples, one thread {one:.3f} s, two {two:.3f} s: {one / two:.2f} times")


def print_load() -> None:
    print("load average " + " ".join(f"{load:.1f}" for load in os.getloadavg()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8, help="samples per row; fewer in three dimensions")
    parser.add_argument("--threads", action="store_true", help="compare two threads with one instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_load()
    if options.threads:
        threads(options.samples)
        return
    print(f"{'problem':34s} {'grid':14s} {'cycle':10s} {'mean':>6s} {'most':>5s} {'ms':>9s} {'residual':>9s}")
    for name, family, shape, extent in (*FAST, *HARD, *SHAPES, *ASPECTS):
        measure(family, (4,) * len(shape), extent, 1)  # compiles, or loads
        samples = options.samples if len(shape) == 2 else max(1, options.samples // 4)
        grid = " x ".join(map(str, shape))
        print(f"{name:34s} {grid:14s} {measure(family, shape, extent, samples)}", flush=True)
    print_load()


if __name__ == "__main__":
    main()
