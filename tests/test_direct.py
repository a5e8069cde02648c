"""Sparse direct solvers: orders, both engines, all kinds of matrices, adjoints, and what is shared between systems."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from scipy.sparse.csgraph import connected_components

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers import LinearSystems, direct, elimination_order, factors, pardiso
from vcycle.solvers.elimination_order import fill_reducing_order, nested_dissection
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.pattern import Pattern

needs_mkl = pytest.mark.skipif(not pardiso.is_available(), reason="MKL is not installed")
ENGINES = ["superlu", pytest.param("pardiso", marks=needs_mkl)]
KINDS = ["definite", "indefinite", "complex", "nonsymmetric", "complex nonsymmetric", "singular", "complex rhs"]
SHAPES = [(5,), (12, 10), (4, 2), (5, 6, 4)]  # on a periodic axis of two cells pairs of entries meet


def make_systems(kind, shape, *, num=3, shared=False, seed=0) -> LinearSystems:
    rng = np.random.default_rng(seed)
    grid = Grid(shape, extent=tuple(n / 8 for n in shape), periodic=[axis == 1 for axis in range(len(shape))])
    kinds = ["neumann" if kind == "singular" else "dirichlet"] * len(shape)
    boundary = Boundary.on(grid, [(k, k) if axis != 1 else "periodic" for axis, k in enumerate(kinds)])

    def draw(low, high):
        return torch.from_numpy(rng.uniform(low, high, (1 if shared else num, *shape)))

    rhs = torch.from_numpy(rng.standard_normal((num, *shape)))
    if "complex" in kind:
        rhs = rhs + 1j * torch.from_numpy(rng.standard_normal(rhs.shape))
    if "nonsymmetric" in kind:
        lower, upper = (tuple(draw(-1.5, -0.5) for _ in shape) for _ in range(2))
        centre = draw(2.5, 3.5) * len(shape) * (1 + 0.3j if "complex" in kind else 1)
        return LinearSystems(Stencil(grid, boundary, centre, lower, upper), rhs, positive_definite=False)
    operator = laplacian(grid, boundary, coefficient=draw(0.2, 2.0))
    if kind == "singular":
        rhs = rhs - rhs.flatten(1).mean(1).reshape(-1, *[1] * len(shape))
        return LinearSystems(operator, rhs, positive_definite=True, singular=True)
    if kind in ("indefinite", "complex"):
        scale = float(operator.diagonal().mean())
        operator = replace(operator, reaction=-scale * draw(0.2, 0.5) * (1 + 0.5j if kind == "complex" else 1))
        return LinearSystems(operator, rhs, positive_definite=False)
    return LinearSystems(operator, rhs, positive_definite=True)


def dense_solution(systems, index) -> torch.Tensor:
    """By NumPy, from products with unit vectors: not from what is assembled."""
    size = systems.operator.grid.num_points
    units = torch.eye(size, dtype=systems.dtype).reshape(size, *systems.operator.grid.shape)
    A = systems.operator.select([index]).apply(units).reshape(size, size).T.numpy()
    b = systems.rhs[index].numpy().ravel()
    u = np.linalg.lstsq(A, b, rcond=1e-12)[0] if systems.singular else np.linalg.solve(A, b)
    return torch.from_numpy(u).reshape(systems.operator.grid.shape)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "two cells", "3d"])
def test_agrees_with_a_dense_solve(shape, kind, shared, engine):
    systems = make_systems(kind, shape, shared=shared)
    result = direct.solve_all(systems, rtol=1e-11, engine=engine)
    assert result.solutions.dtype == systems.dtype
    for index in range(len(systems)):
        assert_close(result.solutions[index], dense_solution(systems, index), rtol=1e-9)
    assert (systems.relative_residuals(result.solutions) <= 1e-11).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_adjoint(kind, engine):
    systems = make_systems(kind, (6, 8), shared=True, num=11)  # more than one block
    shared = DirectFactors.of(systems, engine=engine).shared
    rhs = systems.rhs.numpy().reshape(len(systems), -1)
    adjoint = replace(systems, operator=systems.operator.adjoint())
    solutions = shared.solve(rhs, rtol=1e-11, adjoint=True)
    solutions = solutions - (solutions.mean(axis=1, keepdims=True) if systems.singular else 0)
    for index in range(len(systems)):
        assert_close(torch.from_numpy(solutions[index]), dense_solution(adjoint, index).flatten(), rtol=1e-9)
    forward = shared.solve(rhs, rtol=1e-11)
    assert np.isclose(np.vdot(rhs[0], forward[1]), np.vdot(solutions[0], rhs[1]), rtol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["definite", "nonsymmetric", "complex"])
def test_workers_and_earlier_factors_change_nothing(kind, engine):
    systems = make_systems(kind, (20, 18), num=7)
    one = direct.solve_all(systems, rtol=1e-10, engine=engine)
    three = direct.solve_all(systems, rtol=1e-10, engine=engine, workers=3)
    assert torch.equal(one.solutions, three.solutions)
    parts = [systems.select([0, 1, 2]), systems.select([3, 4, 5, 6])]
    first = direct.solve_all(parts[0], rtol=1e-10, engine=engine)
    second = direct.solve_all(parts[1], rtol=1e-10, factors=first.factors)
    assert second.factors is first.factors
    assert second.factors.engine == engine
    assert torch.equal(torch.cat([first.solutions, second.solutions]), one.solutions)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_one_factor(engine):
    systems = make_systems("nonsymmetric", (24, 24), shared=True, num=60)
    shared = DirectFactors.of(systems, engine=engine).shared
    rhs, solutions = systems.rhs.numpy().reshape(60, -1), np.empty((60, 576))

    def work(share):
        for index in share:
            solutions[index] = shared.solve(rhs[index : index + 1], adjoint=index % 3 == 0)[0]

    direct.share_out(work, 60, 4)
    expected = shared.solve(rhs)
    expected[::3] = shared.solve(rhs[::3], adjoint=True)
    assert_close(torch.from_numpy(solutions), torch.from_numpy(expected), rtol=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
def test_refinement_reaches_what_inaccurate_factors_do_not(engine, monkeypatch):
    systems = make_systems("definite", (16, 16))
    family = DirectFactors.of(systems, engine=engine)
    eliminate = family._superlu if engine == "superlu" else family._pardiso()
    factor = family.factored(systems.operator.entries(0), lambda A: eliminate(A * 1.001))
    rhs = systems.rhs[:1].numpy().reshape(1, -1)

    def residual(x):
        return float(systems.select([0]).relative_residuals(torch.from_numpy(x).reshape(1, 16, 16))[0])

    assert residual(factor.solve(rhs, rtol=1e-8)) <= 1e-8
    assert residual(factor.solve(rhs, rtol=1e-2)) >= 1e-4  # no step where none is asked for
    monkeypatch.setattr(factors, "REFINEMENTS", 0)
    assert residual(factor.solve(rhs, rtol=1e-8)) >= 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_singular_matrix_is_not_solved(engine):
    systems = make_systems("indefinite", (6, 6))
    faces = tuple(torch.zeros_like(face) for face in systems.operator.faces)
    zero = torch.zeros_like(systems.operator.reaction)
    systems = replace(systems, operator=replace(systems.operator, faces=faces, reaction=zero))
    for definite in (False, True):
        systems = replace(systems, positive_definite=definite)
        solutions = direct.solve_all(systems, rtol=1e-8, engine=engine).solutions
        assert not (systems.relative_residuals(solutions) <= 1e-8).any()
        assert solutions.isnan().all() or not definite  # Pardiso goes on with perturbed pivots where it looks for them


@pytest.mark.parametrize("engine", ENGINES)
def test_a_large_grid_in_3d(engine, monkeypatch):
    """Supernodes of many columns, and the order of large grids."""
    monkeypatch.setattr(elimination_order, "DISSECTED_POINTS", 1)
    systems = make_systems("nonsymmetric", (14, 16, 12), num=1)
    result = direct.solve_all(systems, rtol=1e-12, engine=engine)
    A, b = systems.to_csr(0)
    assert_close(result.solutions[0].flatten(), torch.from_numpy(sla.spsolve(A.tocsc(), b)), rtol=1e-10)


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 2), (7, 12), (3, 4, 5), (1, 6)])
@pytest.mark.parametrize("wraps", [False, True])
def test_nested_dissection_is_a_permutation(shape, wraps):
    order = nested_dissection(shape, (wraps,) * len(shape))
    assert sorted(order) == list(range(np.prod(shape)))


@pytest.mark.parametrize("wraps", [False, True])
def test_the_last_planes_of_a_dissection_separate_the_halves(wraps):
    grid = Grid((9, 6), periodic=[wraps, False])
    order = nested_dissection(grid.shape, grid.periodic)
    A = laplacian(grid, Boundary.on(grid, [("periodic" if wraps else "dirichlet"), "dirichlet"])).to_csr()
    rest = order[: -6 * (1 + wraps)]
    parts, labels = connected_components(A[rest][:, rest])
    assert parts == 2
    assert sorted(np.bincount(labels)) == ([18, 24] if wraps else [24, 24])


def test_nested_dissection_leaves_little_fill():
    """A band of n = 64 unknowns a row fills 2 n^3, minimum degree 1/8 of that; dissection is of the same order."""
    grid = Grid((64, 64))
    boundary = Boundary.on(grid, "dirichlet")
    entries = laplacian(grid, boundary).entries()

    def fill(order):
        A = Pattern(grid, boundary, order=order).scatter(entries)
        return sla.splu(A, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).L.nnz

    dissected, minimum = fill(nested_dissection(grid.shape, grid.periodic)), fill(fill_reducing_order(grid, boundary))
    assert dissected < 1.5 * minimum
    assert minimum < 0.3 * fill(None)


def test_large_grids_are_dissected(monkeypatch):
    grid = Grid((12, 12))
    boundary = Boundary.on(grid, "dirichlet")
    monkeypatch.setattr(elimination_order, "DISSECTED_POINTS", 144)
    expected = nested_dissection(grid.shape, grid.periodic)
    assert (fill_reducing_order(grid, boundary) == expected).all()
    monkeypatch.setattr(elimination_order, "DISSECTED_POINTS", 145)
    assert not (fill_reducing_order(grid, boundary) == expected).all()


def test_wrong_engine_and_other_families():
    systems = make_systems("definite", (8, 8))
    with pytest.raises(ValueError, match=r"`engine` must be one of 'superlu', 'pardiso'\. Got 'superl'"):
        direct.solve_all(systems, rtol=1e-8, engine="superl")
    family = DirectFactors.of(systems)
    nonsymmetric = make_systems("nonsymmetric", (8, 8))
    symmetric = make_systems("indefinite", (8, 8))
    others = [(family, nonsymmetric), (DirectFactors.of(nonsymmetric), symmetric)]
    for given, other in others:
        with pytest.raises(ValueError, match="`factors` must come from systems with the same grid, boundary"):
            direct.solve_all(other, rtol=1e-8, factors=given)


def test_without_mkl_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(pardiso, "_candidates", list)
    pardiso._library.cache_clear()
    try:
        assert not pardiso.is_available()
        with pytest.raises(ModuleNotFoundError, match=r'pip install "vcycle\[direct\]"'):
            direct.solve_all(make_systems("definite", (4, 4)), rtol=1e-8, engine="pardiso")
    finally:
        pardiso._library.cache_clear()


# --- Pardiso


@needs_mkl
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' account of memory")
def test_pardiso_gives_its_memory_back():
    systems = make_systems("definite", (128, 128), num=1)
    grid, boundary = systems.operator.grid, systems.operator.boundary
    pattern, used = Pattern(grid, boundary, order=nested_dissection(grid.shape, grid.periodic)), []
    A = pattern.scatter(systems.operator.entries(0))
    for _ in range(10):
        pardiso.Pardiso(pattern, symmetric=True, positive_definite=True, dtype=A.dtype).factor(A)
        used.append(4096 * int(Path("/proc/self/statm").read_text().split()[1]))
    assert used[-1] - used[3] < 10e6  # one factor takes 6e6


@needs_mkl
def test_metis_order_is_a_permutation_with_little_fill():
    grid = Grid((40, 40))
    boundary = Boundary.on(grid, "dirichlet")
    order = pardiso.dissection(Pattern(grid, boundary))
    assert sorted(order) == list(range(1600))
    A = laplacian(grid, boundary).to_csr().tocsc()
    fills = [sla.splu(M, permc_spec="NATURAL", options={"SymmetricMode": True}).L.nnz for M in (A, A[order][:, order])]
    assert fills[1] < 0.6 * fills[0]


@needs_mkl
def test_pardiso_keeps_to_one_thread_and_restores_the_callers(monkeypatch):
    library, seen = pardiso._library(), []

    class Watched:
        MKL_Set_Num_Threads_Local = library.MKL_Set_Num_Threads_Local

        def pardiso(self, *arguments):
            seen.append(library.MKL_Get_Max_Threads())
            return library.pardiso(*arguments)

    monkeypatch.setattr(pardiso, "_library", Watched)
    before = library.MKL_Set_Num_Threads_Local(2)
    try:
        direct.solve_all(make_systems("definite", (8, 8)), rtol=1e-8, engine="pardiso")
        assert library.MKL_Get_Max_Threads() == 2
    finally:
        library.MKL_Set_Num_Threads_Local(before)
    assert set(seen) == {1}


@needs_mkl
def test_pardiso_says_that_a_pivot_is_zero_and_takes_the_next_matrix():
    systems = make_systems("definite", (6, 6))
    pattern = Pattern(systems.operator.grid, systems.operator.boundary)
    A = pattern.scatter(systems.operator.entries(0))
    handle = pardiso.Pardiso(pattern, symmetric=True, positive_definite=True, dtype=A.dtype)
    assert handle.factor(-A) is None
    b = np.arange(36.0)
    assert_close(torch.from_numpy(A @ handle.factor(A).solve(b)), torch.from_numpy(b))


@needs_mkl
def test_pardiso_analyses_a_pattern_once_per_thread(monkeypatch):
    phases, call = [], pardiso._Handle.__call__

    def watched(handle, phase, *arguments, **keywords):
        phases.append(phase)
        return call(handle, phase, *arguments, **keywords)

    monkeypatch.setattr(pardiso._Handle, "__call__", watched)
    systems = make_systems("indefinite", (8, 8), num=6)
    first = direct.solve_all(systems.select([0, 1, 2]), rtol=1e-8, engine="pardiso")
    direct.solve_all(systems.select([3, 4, 5]), rtol=1e-8, factors=first.factors)
    assert phases.count(11) == 2  # one for the order, one for all matrices
    assert phases.count(22) == 6
