"""Krylov recycling on the matrices of its paper, on correct ones beside them, and where it is the fastest of all.

Writes ``benchmarks/skr_paper.md``. Run ``python benchmarks/skr_paper.py``, or some of it: ``python
benchmarks/skr_paper.py published search --sizes 52 82 --systems 20``. Sections that were not run again are kept. All
times are CPU milliseconds per system on one thread, set-up included; set ``OMP_NUM_THREADS=1``.

Wang et al., Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling, ICLR 2024
(arXiv:2401.09516v2), compare GCRO-DR(40,20) after a greedy sort ("SKR") with GMRES(40), both left-preconditioned, in
HPDDM. The families named "as published" are the matrices that its code builds, which are not the operators that it
names: each neighbour's unknown is multiplied by the neighbour's coefficient, ``-Laplace(a u)``, and one of the five
diagonals stands two columns from its place. That makes them indefinite and almost singular: GMRES(40) stagnates there.
"""

import argparse
import inspect
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
import torch

import vcycle as vc
from vcycle.multigrid.fluxes import laplacian
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers import LinearSystems, gcrodr, gmres, nearest_neighbour_order, solve_sequence
from vcycle.solvers.krylov_sequence import Krylov, solve_all
from vcycle.solvers.ordering import fourier_features, order_of, space_filling_order
from vcycle.solvers.preconditioners import preconditioner
from vcycle.solvers.subspace import recycled_distances

TABLE = Path(__file__).with_suffix(".md")
MAX_STEPS = 10_000
DRAWN = 100
"""Systems drawn and sorted, as in the paper; the first ``--systems`` of them are solved."""

# Iterations of SKR and GMRES(40) in the paper's tables 3, 9, 24 and 31, and of the reference (PETSc 3.22.2 with HPDDM
# 2.3.1, one process, other seeds); milliseconds of SKR in the paper, there with 72 processes ("none") or one ("ilu0").
PAPER = {
    ("darcy", 2500, "none"): (183, 3983, 186.9, None),
    ("darcy", 2500, "ilu0"): (42, None, 43.0, None),
    ("darcy", 6400, "none"): (387, 8193, 372.9, 230),
    ("darcy", 6400, "ilu0"): (85, 1237, 86.0, 180),
    ("darcy", 10000, "none"): (682, 9375, 563.0, 410),
    ("darcy", 10000, "ilu0"): (123, None, 124.6, 390),
    ("helmholtz", 2500, "none"): (185, None, 189.5, None),
    ("helmholtz", 6400, "none"): (388, None, 374.5, None),
    ("helmholtz", 10000, "sor"): (148, 4906, 148.0, 13),
}


def periodic_field(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the paper's field: ``alpha = 2.5``, ``tau = 7``, periodic, without its mean mode."""
    alpha, tau = 2.5, 7.0
    k = np.fft.fftfreq(size, 1 / size)
    spectrum = (4 * np.pi**2 * (k[:, None] ** 2 + k[None] ** 2) + tau**2) ** (-alpha / 2)
    spectrum *= size**2 * np.sqrt(2) * tau ** (alpha - 1)
    spectrum[0, 0] = 0.0
    noise = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))
    return np.fft.ifft2(spectrum * noise / np.sqrt(2)).real


def published_matrix(a: np.ndarray, wave_number: float = 0.0) -> sp.csr_matrix:
    """Return the published matrix for coefficients ``(S, S)``: its entry ``(q, q - s)`` is that of column ``q - 2``."""
    s, inner = a.shape[0] - 2, a[1:-1, 1:-1]
    before, after = a[1:-1, :-2].copy(), a[1:-1, 2:].copy()
    before[:, 0] = after[:, -1] = 0.0
    north, south = a[:-2, 1:-1].ravel(), a[2:, 1:-1].ravel()
    main = 4 * inner.ravel() - (wave_number / (s - 1)) ** 2
    lines = [main, -before.ravel()[1:], -after.ravel()[:-1], -south[:-s], -north[s - 2 : s * s - 2]]
    return sp.diags(lines, [0, -1, 1, s, -s], format="csr")


def published(family: str, size: int, *, ordered: bool = True) -> tuple[list[sp.csr_matrix], np.ndarray]:
    """Return the sorted matrices of one published family, and the right-hand side."""
    rng = np.random.default_rng(0)
    a = [np.exp(periodic_field(size, rng)).astype(np.float32).astype(float) for _ in range(DRAWN)]
    k = rng.uniform(size=DRAWN) if family == "helmholtz" else np.zeros(DRAWN)
    features = np.column_stack([np.reshape(a, (DRAWN, -1)), k])
    order = nearest_neighbour_order(torch.from_numpy(features)).tolist() if ordered else range(DRAWN)
    return [published_matrix(a[i], k[i]) for i in order], np.full((size - 2) ** 2, (size - 3.0) ** -2)


def thermal(size: int) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return a five-point stand-in for the slotted plate of finite elements, and two loads that span the data."""
    h = 1.6 / (1.26 * size)
    x, y = np.arange(-0.5 + h, 0.5, h), np.arange(-0.8 + h, 0.8, h)
    X, Y = np.meshgrid(x, y, indexing="ij")
    solid = ~((np.abs(X) < 0.05) & (np.abs(Y) < 0.4))
    lines = [sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) for n in X.shape]
    whole = (sp.kron(lines[0], sp.eye(X.shape[1])) + sp.kron(sp.eye(X.shape[0]), lines[1])).tocsr()
    kept = np.flatnonzero(solid.ravel())
    loads = [np.where(np.abs(edge) < 1.5 * h, 1.0, 0.0).ravel()[kept] for edge in (Y - 0.8, X - 0.5)]
    return whole[kept][:, kept], *loads


def constant(family: str, size: int, num: int) -> tuple[sp.csr_matrix, list[np.ndarray]]:
    """Return the one matrix of a constant-matrix family, and right-hand sides."""
    rng = np.random.default_rng(0)
    if family == "thermal":
        A, edge, flux = thermal(size)
        return A, [rng.uniform(0, 100) * edge + rng.uniform(-1, 0) * flux for _ in range(num)]
    s = size - 2
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(s, s))
    A = (sp.kron(line, sp.eye(s)) + sp.kron(sp.eye(s), line)).tocsr()
    t = np.linspace(-1, 1, s)
    sums = [np.polynomial.chebyshev.chebval(t, c) for c in rng.uniform(-1, 1, (num, 6))]
    return A, [(np.ones((s, 1)) * f / s**2).ravel() for f in sums]


@dataclass
class Run:
    """Mean iterations and CPU milliseconds per system; how many reached the tolerance."""

    iterations: float
    milliseconds: float
    solved: str = ""

    def __str__(self) -> str:
        return f"{self.iterations:.1f} it, {self.milliseconds:.1f} ms{self.solved}"


def left(A: sp.csr_matrix, b: np.ndarray, name: str) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Return ``M^-1 A`` and ``M^-1 b``: the reference stops at ``|M^-1 r| <= rtol |M^-1 b|``, unlike vcycle itself."""
    if name == "none":
        return lambda v: A @ v, b
    M = preconditioner(name, A)
    return lambda v: M(A @ v), M(b)


def run_krylov(
    pairs: Sequence[tuple[sp.csr_matrix, np.ndarray]], name: str, rtol: float, *, recycled: bool, same: bool = False
) -> tuple[Run, list[np.ndarray]]:
    """Solve a sequence by SKR or GMRES(40) on the reference's criterion; return also the spaces handed on."""
    space, steps, solved, spaces, started = None, [], 0, [], time.process_time()
    operator = None
    for A, b in pairs:
        if operator is None or not same:
            operator, _ = left(A, b, name)
            M = preconditioner(name, A)
        rhs = M(b)
        if recycled:
            spaces.append(None if space is None else space.vectors)
            keep = same and space is not None
            result, space = gcrodr(operator, rhs, space=space, same_matrix=keep, rtol=rtol, max_steps=MAX_STEPS)
        else:
            result = gmres(operator, rhs, restart=40, rtol=rtol, max_steps=MAX_STEPS)
        steps.append(result.iterations)
        solved += result.relative_residual <= rtol
    spent = 1000 * (time.process_time() - started) / len(pairs)
    note = "" if solved == len(pairs) else f" ({solved} of {len(pairs)} solved)"
    return Run(float(np.mean(steps)), spent, note), spaces


def run_direct(pairs: Sequence[tuple[sp.csr_matrix, np.ndarray]], *, same: bool = False) -> float:
    """Return the CPU milliseconds of SuperLU per system, one column order for all."""
    first = spl.splu(pairs[0][0].tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    order = np.argsort(first.perm_c)
    started, factor = time.process_time(), None
    for A, b in pairs:
        if factor is None or not same:
            options = {"permc_spec": "NATURAL", "options": {"SymmetricMode": True}}
            factor = spl.splu(A[order][:, order].tocsc(), **options)
        x = factor.solve(b[order])
        if not np.linalg.norm(b[order] - A[order][:, order] @ x) <= 1e-8 * np.linalg.norm(b):
            raise RuntimeError("sparse LU missed 1e-8")
    return 1000 * (time.process_time() - started) / len(pairs)


def section_published(options: argparse.Namespace) -> Iterator[str]:
    """Solve the paper's matrices as its code builds them, to 1e-5 on its criterion, ``|M^-1 r| <= rtol |M^-1 b|``.

    "darcy as published" is ``-Laplace(a u)`` with one diagonal misplaced by two columns, "helmholtz as published" the
    same with ``4 a - h^2 k^2`` on the diagonal, k in (0, 1): indefinite, almost singular matrices, the best case for
    deflation. Iterations of "reference" were measured with PETSc and HPDDM on other draws of the family. The paper's
    milliseconds are of 72 processes ("none") or one ("ilu0"), with start-up and files, and for "sor" the throughput of
    72 workers. GMRES(40) runs on the first systems only, and gives up after 10 000 steps or three stalled cycles.
    """
    yield "| family | n | preconditioner | SKR | reference | paper | GMRES(40) | paper | SuperLU, to 1e-8 at least |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for family in ("darcy", "helmholtz"):
        for size in options.sizes:
            matrices, b = published(family, size)
            pairs = [(A, b) for A in matrices[: options.systems]]
            direct = run_direct(pairs[:10])
            for name in ("none", "sor", "ilu0"):
                key = (family, len(b), name)
                if key not in PAPER:
                    continue
                paper, paper_gmres, reference, paper_time = PAPER[key]
                skr, _ = run_krylov(pairs, name, 1e-5, recycled=True)
                plain, _ = run_krylov(pairs[: options.gmres], name, 1e-5, recycled=False)
                paper_skr = f"{paper} it" + ("" if paper_time is None else f", {paper_time} ms")
                gmres_paper = "" if paper_gmres is None else f"{paper_gmres} it"
                yield (
                    f"| {family} as published | {len(b)} | {name} | {skr} | {reference} it | {paper_skr} | {plain} | "
                    f"{gmres_paper} | {direct:.1f} ms |"
                )


def section_constant(options: argparse.Namespace) -> Iterator[str]:
    """Solve the two families whose matrix never changes, five-point stand-ins for finite elements, to 1e-8.

    The paper's thermal data are combinations of two solutions, its Poisson data of thirty: a factorisation, shared by
    all systems here, is what such a family asks for. "Images kept" is recycling that knows that the matrix stayed.
    """
    yield "| family | n | preconditioner | SKR | SKR, images kept | GMRES(40) | SuperLU, factored once |"
    yield "|---|---|---|---|---|---|---|"
    for family in ("thermal", "poisson"):
        A, loads = constant(family, 108, options.systems)
        pairs = [(A, b) for b in loads]
        direct = run_direct(pairs, same=True)
        for name in ("none", "ilu0"):
            skr, kept = (run_krylov(pairs, name, 1e-8, recycled=True, same=same)[0] for same in (False, True))
            plain, _ = run_krylov(pairs[: options.gmres], name, 1e-8, recycled=False)
            yield f"| {family} stand-in | {A.shape[0]} | {name} | {skr} | {kept} | {plain} | {direct:.2f} ms |"


def run_sequence(systems: LinearSystems, method: str, rtol: float, krylov: Krylov | None = None) -> Run:
    """Solve grid systems in the order given, to a true residual."""
    started = time.process_time()
    if krylov is None:
        solves = solve_sequence(systems, method=method, rtol=rtol, order="given")
        solutions, steps = solves.solutions, solves.iterations
    else:
        answer = solve_all(systems, method=method, rtol=rtol, max_steps=1000, options=krylov)
        solutions, steps = answer.solutions, answer.iterations
    spent = 1000 * (time.process_time() - started) / len(systems)
    solved = int((systems.relative_residuals(solutions) <= rtol).sum())
    note = "" if solved == len(systems) else f" ({solved} of {len(systems)} solved)"
    return Run(float(steps.double().mean()), spent, note)


def in_greedy_order(problem: vc.problems.Problem, num: int) -> LinearSystems:
    inputs = problem.sample(0, range(num))
    order = nearest_neighbour_order(torch.cat([field.flatten(1) for field in inputs.values()], dim=1))
    return problem.systems({name: field[order] for name, field in inputs.items()})


def table_of(rows: dict[str, LinearSystems], methods: dict[str, tuple], rtol: float) -> Iterator[str]:
    """Yield a table with a line per family and a column per method: (name, options, most systems)."""
    yield f"| systems | {' | '.join(methods)} | fastest |"
    yield "|---" * (len(methods) + 2) + "|"
    for title, systems in rows.items():
        cells = []
        for method, krylov, most in methods.values():
            if method in ("multigrid", "cg", "recycling-cg") and not systems.positive_definite:
                cells.append("not definite")
                continue
            v_cycle = krylov is not None and krylov.preconditioner == "multigrid"
            if v_cycle and (systems.positive_definite or not systems.symmetric):
                cells.append("see multigrid CG" if systems.positive_definite else "not symmetric")
                continue
            cells.append(str(run_sequence(systems.select(slice(0, most)), method, rtol, krylov)))
        yield f"| {title} | {' | '.join(cells)} | {fastest(list(methods), cells)} |"


def fastest(methods: Sequence[str], cells: Sequence[str]) -> str:
    """Return the method with the least time of those that solved everything, and how much longer the next one takes."""
    times = {}
    for method, cell in zip(methods, cells, strict=True):
        if cell.endswith(" ms"):
            times[method] = float(cell.removesuffix(" ms").split()[-1])
    first, second = sorted(times, key=times.__getitem__)[:2]
    return f"**{first}**; {second} takes {times[second] / times[first]:.2f} times as long"


def section_correct(options: argparse.Namespace) -> Iterator[str]:
    """Solve correct operators in 2-D, sorted greedily, to a true residual of 1e-8, preconditioned on the right.

    Means over a sequence that starts cold. Not one of these is a case for recycling.
    """
    rows = {}
    for size in (64, 128):
        grid = vc.Grid((size, size))
        for family in ("two-phase", "lognormal"):
            rows[f"Darcy {family} {size} x {size}"] = in_greedy_order(vc.problems.Darcy(grid, coefficient=family), 12)
    wave = vc.problems.Helmholtz(vc.Grid((64, 64)), wave_number=12.0, variation=0.05)
    rows["Helmholtz 64 x 64, k0 = 12"] = in_greedy_order(wave, 12)
    for key in rows:
        run_sequence(rows[key].select(slice(0, 1)), "auto", 1e-8)  # loads the kernels
    methods = {
        "SKR, sor": ("gcrodr", Krylov("sor"), 12),
        "SKR, ilu0": ("gcrodr", Krylov("ilu0"), 12),
        "GMRES(40), ilu0": ("gmres", Krylov("ilu0"), 6),
        "CG, ic0": ("cg", Krylov("ic0"), 12),
        "recycling CG(40,20), ic0": ("recycling-cg", Krylov("ic0"), 12),
        "SuperLU, shared order": ("direct", None, 12),
        "multigrid CG": ("multigrid", None, 12),
    }
    yield from table_of(rows, methods, 1e-8)


def section_delta(options: argparse.Namespace) -> Iterator[str]:
    """Measure the theory's delta: the distance of the 3 smallest eigenvalues' space from the recycled one; n = 2500.

    "darcy as published", no preconditioner, first systems of the sequence. Delta is the sine of the largest angle, as
    the theory defines it; the paper's 0.90 sorted and 0.95 unsorted are sines of smallest angles between vectors. The
    bound's factor ``1 / (1 - delta)`` says little at such values: recycling works by most of the space, not all of it.
    """
    yield "| order | mean delta | least | largest | SKR |"
    yield "|---|---|---|---|---|"
    num = min(options.systems, 20)
    for title, ordered in (("greedy", True), ("as drawn", False)):
        matrices, b = published("darcy", 52, ordered=ordered)
        run, spaces = run_krylov([(A, b) for A in matrices[:num]], "none", 1e-5, recycled=True)
        delta = recycled_distances(matrices[1:num], spaces[1:], size=3)
        yield f"| {title} | {np.mean(delta):.4f} | {min(delta):.4f} | {max(delta):.4f} | {run} |"


def section_ordering(options: argparse.Namespace) -> Iterator[str]:
    """Measure the way through parameter space as a share of that in random order, and the CPU seconds of sorting.

    Features are Gaussian, so that neighbours are far apart in many dimensions: ordering can only gain so much.
    """
    yield "| fields | features | greedy, grouped beyond 10 000 | Hilbert curve | `order_of` |"
    yield "|---|---|---|---|---|"
    grid = vc.Grid((32, 32))
    field = vc.fields.GaussianField.natural(grid, alpha=2.5, tau=3.0)
    drawn = np.stack([field.sample(np.random.default_rng(i)) for i in range(2000)])
    cases = {"smooth fields 32 x 32, 4 modes": fourier_features(torch.from_numpy(drawn), 4, size=32)}
    decay = 1.0 / (1.0 + torch.arange(32.0, dtype=torch.float64))
    for num in (30_000, 1_000_000):
        noise = torch.randn(num, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        cases["32 features of falling spread"] = cases.get("32 features of falling spread", noise * decay)
        cases[f"the same, {num}"] = noise * decay
    cases.pop("32 features of falling spread")
    for title, features in cases.items():
        cells = []
        for order in (nearest_neighbour_order, space_filling_order, order_of):
            if order is nearest_neighbour_order and len(features) > 100_000:
                cells.append("not run")
                continue
            started = time.process_time()
            way = features[order(features)].diff(dim=0).norm(dim=1).sum() / features.diff(dim=0).norm(dim=1).sum()
            cells.append(f"{way:.3f} ({time.process_time() - started:.1f} s)")
        yield f"| {title} | {len(features)} x {features.shape[1]} | {' | '.join(cells)} |"


def waves(size: int, wave_number: float, num: int) -> LinearSystems:
    """Helmholtz' equation in 3-D: few negative eigenvalues, a slowly varying speed, a source anywhere."""
    grid = vc.Grid((size, size, size))
    problem = vc.problems.Helmholtz(grid, wave_number=wave_number, variation=0.05, source="random")
    return problem.systems(problem.sample(0, range(num)))


def inclusions(size: int, contrast: float, num: int) -> LinearSystems:
    """Darcy flow in 3-D with twelve balls in fixed places, whose large coefficient is drawn: tiny eigenvalues."""
    rng, grid = np.random.default_rng(0), vc.Grid((size, size, size))
    places = np.stack(grid.mesh())
    a = np.ones((num, size, size, size))
    for _ in range(12):
        centre, radius = rng.uniform(0.12, 0.88, (3, 1, 1, 1)), rng.uniform(0.06, 0.11)
        inside = ((places - centre) ** 2).sum(0) < radius**2
        a[:, inside] = contrast * rng.lognormal(0.0, 0.5, (num, 1))
    operator = laplacian(grid, vc.Boundary.on(grid, "dirichlet"), coefficient=torch.from_numpy(a))
    rhs = torch.full((num, size, size, size), grid.cell_volume, dtype=torch.float64)
    return LinearSystems(operator, rhs, positive_definite=True)


def transport(size: int, peclet: float, num: int) -> LinearSystems:
    """Convection and diffusion in 3-D, upwind, with a rotating flow whose strength varies by a tenth."""
    grid = vc.Grid((size, size, size))
    boundary = vc.Boundary.on(grid, "dirichlet")
    plain = laplacian(grid, boundary)
    x, y, z = (torch.from_numpy(axis - 0.5) for axis in grid.mesh())
    strength = torch.from_numpy(1 + 0.1 * np.sort(np.random.default_rng(0).standard_normal(num))).reshape(num, 1, 1, 1)
    flow = [peclet * strength * axis * grid.cell_volume / grid.spacing[0] for axis in (-y, x, 0.3 + 0 * z)]
    centre, lower, upper = plain.diagonal(), [], []
    for axis, speed in enumerate(flow):
        face, dim = plain.faces[axis], axis + 1
        lower.append(-face.narrow(dim, 0, size) - speed.clamp(min=0))
        upper.append(-face.narrow(dim, 1, size) + speed.clamp(max=0))
        centre = centre + speed.abs()
    operator = Stencil(grid, boundary, centre, tuple(lower), tuple(upper))
    rhs = torch.full((num, size, size, size), grid.cell_volume, dtype=torch.float64)
    return LinearSystems(operator, rhs, positive_definite=False)


def section_search(options: argparse.Namespace) -> Iterator[str]:
    """Search 3-D sequences for one where recycling is the fastest of all methods, to a true residual of 1e-6.

    Means over a sequence of 8 that starts cold; GMRES and SuperLU over its first 2 to 4. Sparse LU fills in 3-D, and a
    good preconditioner is missing where a matrix is indefinite or its coefficient jumps by orders of magnitude: if
    recycling pays anywhere, then here. The V-cycle for indefinite systems is that of the faces without the negative
    term.
    """
    size = options.search
    yield f"Grids of {size} x {size} x {size}.\n"
    rows = {f"Helmholtz, k0 = {k:g}, random source": waves(size, k, 8) for k in (8.0, 12.0)} | {
        "transport, Peclet number 50": transport(size, 50.0, 8),
        "inclusions, contrast 1e4": inclusions(size, 1e4, 8),
        "inclusions, contrast 1e6": inclusions(size, 1e6, 8),
    }
    methods = {
        "SKR(40,20), ilu0": ("gcrodr", Krylov("ilu0"), 8),
        "GCRO-DR(100,60), ilu0": ("gcrodr", Krylov("ilu0", restart=100, recycled=60), 8),
        "GCRO-DR(60,30), V-cycle of the Laplacian": ("gcrodr", Krylov("multigrid", restart=60, recycled=30), 8),
        "GMRES(100), ilu0": ("gmres", Krylov("ilu0", restart=100), 2),
        "GMRES(100), V-cycle of the Laplacian": ("gmres", Krylov("multigrid", restart=100), 4),
        "CG, ic0": ("cg", Krylov("ic0"), 8),
        "recycling CG(60,16), ic0": ("recycling-cg", Krylov("ic0", restart=60, recycled=16), 8),
        "multigrid CG": ("multigrid", None, 8),
        "SuperLU, shared order": ("direct", None, 2),
    }
    yield from table_of(rows, methods, 1e-6)


def section_long(options: argparse.Namespace) -> Iterator[str]:
    """Solve longer sequences of what the search found, 24 systems, so that the cold start is paid off.

    Waves with some fifty negative eigenvalues in 3-D: LU fills, and the V-cycle of the Laplacian leaves exactly those
    eigenvalues on the wrong side of zero. GMRES finds them anew for every system, in half its steps; GCRO-DR carries
    them along, as the speed of sound, and with it their vectors, varies little. That halves the steps, and what is
    saved goes into keeping fifty more vectors orthogonal: both grow alike with the grid, so that it stays near a tie.
    Stiff inclusions, whose tiny eigenvalues a local preconditioner leaves, were a case for recycling CG until multigrid
    took its transfers from the matrix.
    """
    yield f"Grids of {options.search} x {options.search} x {options.search}.\n"
    cycle = {"preconditioner": "multigrid"}
    of_waves = {
        "GCRO-DR(100,50), V-cycle of the Laplacian": ("gcrodr", Krylov(**cycle, restart=100, recycled=50), 24),
        "GMRES(100), the same": ("gmres", Krylov(**cycle, restart=100), 24),
        "GMRES(200), the same": ("gmres", Krylov(**cycle, restart=200), 24),
        "GCRO-DR(100,50), ilu0": ("gcrodr", Krylov("ilu0", restart=100, recycled=50), 24),
        "SuperLU, shared order": ("direct", None, 2),
    }
    yield from table_of({"Helmholtz, k0 = 14, random source": waves(options.search, 14.0, 24)}, of_waves, 1e-6)
    yield ""
    of_inclusions = {
        "recycling CG(60,16), ic0": ("recycling-cg", Krylov("ic0", restart=60, recycled=16), 24),
        "CG, ic0": ("cg", Krylov("ic0"), 24),
        "CG, ic0, warm start": ("cg", Krylov("ic0", warm_start="projection"), 24),
        "multigrid CG": ("multigrid", None, 24),
    }
    yield from table_of({"inclusions, contrast 1e6": inclusions(options.search, 1e6, 24)}, of_inclusions, 1e-6)


SECTIONS = {
    "published": section_published,
    "constant": section_constant,
    "correct": section_correct,
    "delta": section_delta,
    "ordering": section_ordering,
    "search": section_search,
    "long": section_long,
}


def read_table() -> dict[str, str]:
    """Return the sections that stand in the table already."""
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    blocks = [block.split("\n", 1) for block in ("\n" + text).split("\n## ")[1:]]
    return {title.strip(): body.strip() for title, body in blocks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[52, 82, 102], help="S of the published families")
    parser.add_argument("--systems", type=int, default=40, help="systems per sequence")
    parser.add_argument("--gmres", type=int, default=2, help="systems for GMRES(40), which takes long")
    parser.add_argument("--search", type=int, default=32, help="cells per axis of the 3-D search")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sections or SECTIONS:
        body = [inspect.cleandoc(SECTIONS[name].__doc__ or ""), ""]
        for line in SECTIONS[name](options):
            print(line, flush=True)
            body.append(line)
        stamp = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, torch {torch.__version__}"
        blocks = read_table() | {name: "\n".join([*body, "", f"Run on {stamp}."])}
        parts = [f"## {title}\n\n{blocks[title]}" for title in SECTIONS if title in blocks]
        TABLE.write_text(
            "\n\n".join(["# Krylov recycling: results of `skr_paper.py`", *parts]) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
