"""What one sample costs: ours against other libraries, to a true residual of 1e-8; writes table and plot.

Run ``python benchmarks/data_generation.py``: a quarter of an hour on one core. ``--quick`` takes a minute, ``--cases``
picks some. Peers that are not installed are left out and named: ``pip install -e ".[bench]"``, and for CHOLMOD
``apt-get install libsuitesparse-dev`` before it. PETSc may live in another Python, which ``--petsc`` names.
"""

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import petsc
import torch
from measuring import RTOL, SLOW, Method, Row, Solve, Start, measure, quiet
from peers import Assembled, applicable

import vcycle as vc
from vcycle.problems.convection_diffusion import ConvectionDiffusion
from vcycle.problems.problem import Problem
from vcycle.solvers import METHODS, DirectFactors, solve_sequence
from vcycle.solvers.krylov_sequence import RECYCLING
from vcycle.solvers.sequence import resolved_method

HERE = Path(__file__).parent
VARIABLES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
ONE_THREAD = dict.fromkeys(VARIABLES, "1")  # the limit is for CHOLMOD, which asks for four in so many words
AUTO = "vcycle auto"

RULES = """- One thread each (`OMP_NUM_THREADS=1`, `OMP_THREAD_LIMIT=1` and the like). Times are CPU time.
- System after system, and for each system method after method: whatever else the machine does meets all of them.
- Every solution counts only with a true residual `|b - A u| / |b|` of at most 1e-8, computed from the assembled matrix;
  where a solver stops too early by its own estimate, its tolerance is halved until it does.
- Setup is included: what serves all systems of a family (an order, a symbolic analysis) is shared out evenly over the
  samples of the run, everything else is done for each.
- Peers get assembled matrices in the format they like best, for nothing. Ours count from the coefficient field:
  discretisation, assembly where there is one, solution, and our own check of the residual. Drawing fields is left out.
- Medians over the samples; solves shorter than 30 ms are timed up to 16 in a row. Where one solve takes more than a
  second there are fewer samples; what takes longer than the limit is stopped.
- Memory is the peak beyond what the process held before, of one solve with its setup, in a process of its own."""

GOALS = {"64^2": 4.5, "128^2": 7.0, "256^2": 9.0}
"""Fastest peer over ours, geometric mean over both Darcy fields."""


@dataclass(frozen=True)
class Case:
    """A family at one resolution."""

    family: str
    shape: tuple[int, ...]
    build: Callable[[vc.Grid], Problem]

    @property
    def size(self) -> str:
        """As in ``64^2``."""
        return f"{self.shape[0]}^{len(self.shape)}"

    @property
    def name(self) -> str:
        """As in ``two-phase-64^2``."""
        return f"{self.family}-{self.size}"


def _darcy(coefficient: str) -> Callable[[vc.Grid], Problem]:
    return lambda grid: vc.problems.Darcy(grid, coefficient=coefficient)


FAMILIES: dict[str, tuple[Callable[[vc.Grid], Problem], tuple[tuple[int, ...], ...]]] = {
    "two-phase": (_darcy("two-phase"), ((64,) * 2, (128,) * 2, (256,) * 2, (32,) * 3, (64,) * 3)),
    "lognormal": (_darcy("lognormal"), ((64,) * 2, (128,) * 2, (256,) * 2, (32,) * 3, (64,) * 3)),
    "helmholtz": (vc.problems.Helmholtz, ((64,) * 2, (128,) * 2)),
    "convection-diffusion": (ConvectionDiffusion, ((128,) * 2, (32,) * 3)),
}
CASES = {
    case.name: case for family, (build, shapes) in FAMILIES.items() for case in (Case(family, s, build) for s in shapes)
}


def run(case: Case, *, samples: int, limit: float, petsc_python: str | None = None) -> list[Row]:
    """Measure all methods on one case, the cheapest first; with PETSc where a Python that has it is given."""
    problem = case.build(vc.Grid(case.shape))
    small = _methods(case.build(vc.Grid((32,) * 2 if len(case.shape) == 2 else (16,) * 3)), samples=1)[0]
    methods, given = _methods(problem, samples=samples)
    for method, example in zip(methods, small, strict=True):
        method.warm_up = functools.partial(_warm_up, example.start)
        method.warm_up()  # loads libraries and compiled kernels

    def residuals(indices: Sequence[int], solutions: Sequence[np.ndarray]) -> float:
        pairs = [(given.rows[i] @ u - given.rhs[i], given.rhs[i]) for i, u in zip(indices, solutions, strict=True)]
        return max(float(np.linalg.norm(r) / np.linalg.norm(b)) for r, b in pairs)

    methods += petsc.methods(given, petsc_python) if petsc_python else []
    return measure(methods, residuals, samples=samples, limit=limit)


def _warm_up(start: Start) -> None:
    try:
        start()([0], RTOL)
    except (ModuleNotFoundError, RuntimeError, ValueError):
        return  # the trial says it


def _methods(problem: Problem, *, samples: int) -> tuple[list[Method], Assembled]:
    inputs = problem.sample(0, range(samples))
    given = Assembled(problem.systems(inputs))
    ours = [Method(f"vcycle {m}", _ours(problem, inputs, m), ours=True, carries=m in RECYCLING) for m in _names(given)]
    theirs = [
        Method(name, _peer(given, peer), carries="recycled" in name) for name, peer in applicable(given.systems).items()
    ]
    return ours + theirs, given


def _names(given: Assembled) -> list[str]:
    """Return our methods that take such systems."""
    refused = set() if given.systems.positive_definite else {"multigrid", "batched", "cg", "recycling-cg"}
    return [name for name in METHODS if name not in refused]


def _peer(given: Assembled, peer: Callable) -> Start:
    def start() -> Solve:
        solve = peer(given)
        return lambda indices, rtol: [solve(index, rtol) for index in indices]

    return start


def _ours(problem: Problem, inputs: dict[str, torch.Tensor], method: str) -> Start:
    def discretised(indices: Sequence[int]) -> vc.solvers.LinearSystems:
        return problem.systems({name: values[list(indices)] for name, values in inputs.items()})

    def start() -> Solve:
        engine = "pardiso" if method == "pardiso" else "superlu"
        asked, first = "direct" if method == "pardiso" else method, discretised([0])
        is_direct = resolved_method(asked, first) == "direct"
        factors = DirectFactors.of(first, engine=engine) if is_direct else None
        state = {"recycle": None}

        def solve(indices: Sequence[int], rtol: float) -> list[np.ndarray]:
            systems = discretised(indices)
            result = solve_sequence(systems, rtol=rtol, method=asked, order="given", factors=factors, **state)
            state["recycle"] = result.recycle
            return [u.numpy().ravel() for u in result.solutions]

        return solve

    return start


def table(case: Case, rows: Sequence[Row], *, samples: int) -> list[str]:
    """Return the lines of one case."""
    auto = _row(rows, AUTO)
    lines = [
        "",
        f"### {case.family}, {case.size}",
        "",
        "| method | CPU ms a sample | 10 to 90 % | over auto | samples | shared setup, ms | peak, MB | residual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.times:
            lines.append(f"| {row.method} | {row.note} | | | | | | |")
            continue
        low, high = (1e3 * np.quantile(row.times, q) for q in (0.1, 0.9))
        memory = "" if np.isnan(row.memory) else f"{row.memory / 2**20:.1f}"
        name = f"**{row.method}**" if row.ours else row.method
        count = str(len(row.times)) if len(row.times) >= samples else f"{len(row.times)} (over {SLOW:.0f} s)"
        lines.append(
            f"| {name} | {1e3 * row.median:.3g} | {low:.3g} to {high:.3g} | {row.median / auto.median:.2f} | {count} "
            f"| {1e3 * row.setup:.1f} | {memory} | {row.residual:.0e} |"
        )
    return lines


def _row(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.method == name)


def _fastest_peer(rows: Sequence[Row]) -> Row:
    return min((row for row in rows if not row.ours), key=lambda row: row.median)


def _best_of_ours(rows: Sequence[Row]) -> Row:
    return min((row for row in rows if row.ours and row.method != AUTO), key=lambda row: row.median)


def _ratios(rows: Sequence[Row], peer: Row) -> np.ndarray:
    """Return the peer's time over auto's, sample by sample where both have all of them."""
    times, ours = np.array(peer.times), np.array(_row(rows, AUTO).times)
    return times / ours if len(times) == len(ours) else times / np.median(ours)


def _mean(ratios: np.ndarray) -> str:
    logarithms = np.log(ratios)
    low, high = np.exp(np.quantile(logarithms, [0.1, 0.9]))
    return f"{np.exp(logarithms.mean()):.1f} ({low:.1f} to {high:.1f})"


def comparisons(results: dict[str, list[Row]]) -> list[str]:
    """Return the ratios that the goals are about: peer over auto, geometric mean, and the middle 80 per cent."""
    lines = [
        "",
        "## Against the peers",
        "",
        "Time of the peer over that of `auto`: geometric mean over samples and both Darcy fields, and the middle 80 %.",
        "",
        "| against | size | which | ratio | goal |",
        "|---|---|---|---|---|",
    ]
    wanted = [("the fastest peer", size, goal) for size, goal in (GOALS | {"32^3": None, "64^3": 10.0}).items()]
    wanted += [("SciPy spsolve", "128^2", 25.0), ("SciPy GMRES + spilu", "128^2", 80.0)]
    for against, size, goal in wanted:
        cases = [rows for name, rows in results.items() if name in (f"two-phase-{size}", f"lognormal-{size}")]
        pairs = [(r, _fastest_peer(r) if "fastest" in against else _row(r, against)) for r in cases]
        pairs = [(rows, peer) for rows, peer in pairs if peer.times]
        if pairs:
            ratio = _mean(np.concatenate([_ratios(rows, peer) for rows, peer in pairs]))
            names = ", ".join(dict.fromkeys(peer.method for _, peer in pairs))
            lines.append(f"| {against} | {size} | {names} | {ratio} | {goal or ''} |")
    for name, rows in results.items():
        if not name.startswith(("two-phase", "lognormal")):
            peer = _fastest_peer(rows)
            lines.append(f"| the fastest peer | {name} | {peer.method} | {_mean(_ratios(rows, peer))} | |")
    return lines


def choices(results: dict[str, list[Row]]) -> list[str]:
    """Return how `auto` does against the best of our own methods."""
    names = sorted({row.method for rows in results.values() for row in rows if row.ours and row.method != AUTO})
    lines = [
        "",
        "## What `auto` chooses",
        "",
        "CPU ms a sample of our own methods; the goal is that `auto` takes at most 1.3 times the best.",
        "",
        "| case | auto | " + " | ".join(name.removeprefix("vcycle ") for name in names) + " | auto over best |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for case, rows in results.items():
        auto, best = _row(rows, AUTO), _best_of_ours(rows)
        by_name = {row.method: row for row in rows}
        cells = [_cell(by_name.get(name)) for name in names]
        ratio = f"{auto.median / best.median:.2f} ({best.method.removeprefix('vcycle ')})"
        lines.append(f"| {case} | {1e3 * auto.median:.3g} | " + " | ".join(cells) + f" | {ratio} |")
    return lines


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{1e3 * row.median:.3g}" if row.times else row.note


def plot(results: dict[str, list[Row]], path: Path) -> None:
    """Draw the cost of each method against the number of points, one panel per family and dimension."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[tuple[str, int], list[Case]] = {}
    for name in results:
        panels.setdefault((CASES[name].family, len(CASES[name].shape)), []).append(CASES[name])
    columns = min(3, len(panels))
    count = -(-len(panels) // columns)
    figure, axes = plt.subplots(count, columns, figsize=(5 * columns, 4.2 * count), squeeze=False)
    names = sorted({row.method for rows in results.values() for row in rows}, key=lambda n: (n != AUTO, n))
    style = {name: (f"C{i % 10}", "os^vD<>*"[i // 10 % 8]) for i, name in enumerate(names)}
    for axis, ((family, dimension), cases) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            points = [
                (np.prod(case.shape), 1e3 * row.median)
                for case in cases
                for row in results[case.name]
                if row.method == name and row.times
            ]
            if points:
                colour, marker = style[name]
                ours = name.startswith("vcycle")
                width, dash = (2.5 if name == AUTO else 1.2), ("-" if ours else "--")
                axis.loglog(*zip(*points, strict=True), marker + dash, color=colour, lw=width, ms=4, label=name)
        axis.set(title=f"{family}, {dimension}-D", xlabel="points", ylabel="CPU ms a sample")
        axis.grid(visible=True, which="both", alpha=0.2)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.14 if count > 1 else 0.28, 1, 1))
    figure.savefig(path, dpi=110)


def report(results: dict[str, list[Row]], *, samples: int, limit: float, load: float) -> str:
    """Return the whole table."""
    packages = ("torch", "numpy", "scipy", "numba", "mkl", "scikit-sparse", "pyamg", "ilupp")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    about = (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores {platform.machine()}, load {load:.1f} before; {versions}."
    )
    head = [
        "# What one sample costs",
        "",
        f"`python benchmarks/data_generation.py`. {about}",
        "",
        "## Rules",
        "",
        RULES,
    ]
    head += ["", f"{samples} samples, limit {limit:.0f} s for one solve. Ours are in bold type."]
    body = [line for name, rows in results.items() for line in table(CASES[name], rows, samples=samples)]
    return "\n".join([*head, *comparisons(results), *choices(results), "", "## All rows", *body, ""])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Run the cases; write the table and the plot."""
    if not ONE_THREAD.items() <= os.environ.items():  # libraries read it when they are loaded: begin again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--samples", type=int, default=16, help="systems per case, default 16")
    parser.add_argument("--limit", type=float, default=5.0, help="CPU seconds that one solve may take, default 5")
    parser.add_argument("--quick", action="store_true", help="4 samples, limit 2 s, nothing above 20 000 points")
    parser.add_argument(
        "--petsc", metavar="PYTHON", help="command of a Python with petsc4py; default PETSc is left out"
    )
    parser.add_argument("--out", type=Path, help="without ending; default beside this file where all cases are run")
    given = parser.parse_args()
    chosen, samples, limit = given.cases, given.samples, given.limit
    if given.quick:
        chosen = [name for name in chosen if np.prod(CASES[name].shape) <= 20_000]
        samples, limit = 4, 2.0
    out = given.out or (HERE / "data_generation" if chosen == list(CASES) and not given.quick else None)
    quiet()
    torch.set_num_threads(1)
    load, started, results = os.getloadavg()[0], time.perf_counter(), {}
    for name in dict.fromkeys(chosen):
        results[name] = run(CASES[name], samples=samples, limit=limit, petsc_python=given.petsc)
        print("\n".join(table(CASES[name], results[name], samples=samples)), flush=True)
        spent = sum(os.times()[:4])  # with the trials
        print(f"\n{spent:.0f} CPU s, {time.perf_counter() - started:.0f} s so far", flush=True)
        if out:
            out.with_suffix(".md").write_text(report(results, samples=samples, limit=limit, load=load))
            plot(results, out.with_suffix(".png"))
    print("\n".join(comparisons(results) + choices(results)))


if __name__ == "__main__":
    main()
