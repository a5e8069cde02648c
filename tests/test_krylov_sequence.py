"""Sequences: every combination of options gives true answers; what is carried over saves work."""

import numpy as np
import pytest
import torch

from helpers import assert_close
from test_solvers import dense_solutions, make_systems
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.multigrid.stencil import Stencil
from vcycle.solvers import LinearSystems, krylov_sequence
from vcycle.solvers.krylov_sequence import METHODS, RECYCLING, Krylov, solve_all
from vcycle.solvers.preconditioners import PRECONDITIONERS

NAMES = [*PRECONDITIONERS, "multigrid"]


def slowly_changing(num=5, *, shared=False) -> LinearSystems:
    """Darcy systems whose coefficients and right-hand sides change by a few per cent from one to the next."""
    rng = np.random.default_rng(0)
    grid = Grid((24, 24))
    base, steps = rng.standard_normal((24, 24)), 0.01 * rng.standard_normal((num, 24, 24))
    a = torch.from_numpy(np.exp(base + steps.cumsum(0)))
    rhs = torch.from_numpy(1 + 0.1 * rng.standard_normal((num, 24, 24)).cumsum(0))
    operator = laplacian(grid, Boundary.on(grid, "dirichlet"), coefficient=a[:1] if shared else a)
    return LinearSystems(operator, rhs, positive_definite=True)


def solved(systems, method, **options):
    solves = solve_all(systems, method=method, rtol=1e-9, max_steps=3000, options=Krylov(**options))
    assert systems.relative_residuals(solves.solutions).max() <= 1e-9
    return solves


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_every_preconditioner_gives_the_answer(method, name):
    systems = make_systems((16, 8), num=3)
    solves = solved(systems, method, preconditioner=name)
    assert_close(solves.solutions, dense_solutions(systems), rtol=1e-7)
    if method not in RECYCLING or solves.iterations.max() > 1:  # one step leaves CG nothing to learn from
        assert (solves.recycle is not None) == (method in RECYCLING)


@pytest.mark.parametrize("warm_start", krylov_sequence.WARM_STARTS)
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_carried_does_not_change_answers(method, shared, reuse, warm_start):
    systems = slowly_changing(shared=shared)
    options = {"preconditioner": "ilu0", "warm_start": warm_start, "reuse_preconditioner": reuse, "recycled": 10}
    assert_close(solved(systems, method, **options).solutions, dense_solutions(systems), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_warm_starts_save_steps(method):
    systems = slowly_changing()
    cold, last, best = (
        solved(systems, method, warm_start=word).iterations[1:].sum() for word in krylov_sequence.WARM_STARTS
    )
    assert last < cold
    assert best < cold


@pytest.mark.parametrize("method", RECYCLING)
def test_recycling_saves_steps(method):
    systems = slowly_changing()
    plain = solved(systems, {"recycling-cg": "cg", "gcrodr": "gmres"}[method])
    recycled = solved(systems, method)
    assert recycled.iterations[1:].sum() < 0.8 * plain.iterations[1:].sum()


def test_reused_preconditioners_are_made_once_until_steps_grow(monkeypatch):
    made = []
    build = krylov_sequence.preconditioner
    monkeypatch.setattr(krylov_sequence, "preconditioner", lambda name, A: made.append(name) or build(name, A))
    solved(slowly_changing(), "cg", preconditioner="ic0")
    assert len(made) == 5
    made.clear()
    solved(slowly_changing(), "cg", preconditioner="ic0", reuse_preconditioner=True)
    assert len(made) == 1
    made.clear()
    solved(slowly_changing(shared=True), "cg", preconditioner="ic0")
    assert len(made) == 1  # one matrix
    made.clear()
    jumping = make_systems((16, 16), num=6, contrast=1e4)  # nothing in common
    solved(jumping, "cg", preconditioner="ic0", reuse_preconditioner=True)
    assert 2 <= len(made) <= 6


def test_an_old_preconditioner_that_fails_is_replaced():
    systems = make_systems((16, 16), num=3, contrast=1e6)
    limit = int(solve_all(systems, method="cg", rtol=1e-9, max_steps=3000, options=Krylov("ic0")).iterations.max())
    options = Krylov("ic0", reuse_preconditioner=True)
    solves = solve_all(systems, method="cg", rtol=1e-9, max_steps=limit, options=options)
    assert systems.relative_residuals(solves.solutions).max() <= 1e-9
    assert solves.iterations.max() > limit  # both attempts are counted


@pytest.mark.parametrize("method", ["gmres", "gcrodr"])
@pytest.mark.parametrize("name", ["jacobi", "ilu0", "sor", "schwarz", "block-jacobi", "none"])
@pytest.mark.parametrize("complex_entries", [False, True])
def test_nonsymmetric_and_complex_matrices(method, name, complex_entries):
    rng = np.random.default_rng(0)
    grid, dtype = Grid((10, 12)), torch.complex128 if complex_entries else torch.float64

    def values():
        return torch.from_numpy(rng.uniform(-1, 0, (2, 10, 12))).to(dtype) * (1 + 0.3j if complex_entries else 1)

    centre = torch.full((2, 10, 12), 4.0, dtype=dtype)
    operator = Stencil(grid, Boundary.on(grid, "dirichlet"), centre, (values(), values()), (values(), values()))
    systems = LinearSystems(operator, torch.from_numpy(rng.standard_normal((2, 10, 12))).to(dtype), False)
    solves = solved(systems, method, preconditioner=name)
    for index in range(2):
        A, b = systems.to_csr(index)
        assert_close(solves.solutions[index].ravel(), np.linalg.solve(A.toarray(), b), rtol=1e-7)


def test_multigrid_serves_an_indefinite_matrix():
    grid = Grid((32, 32))
    plain = laplacian(grid, Boundary.on(grid, "dirichlet"))
    reaction = torch.full((3, 32, 32), -300.0 * grid.cell_volume, dtype=torch.float64)  # some modes are negative
    faces = tuple(face.expand(3, -1, -1) for face in plain.faces)
    operator = FaceFluxes(plain.grid, plain.boundary, faces, reaction)
    rhs = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 32, 32)))
    systems = LinearSystems(operator, rhs, positive_definite=False)
    multigrid, none = (solved(systems, "gcrodr", preconditioner=name).iterations for name in ("multigrid", "jacobi"))
    assert 3 * multigrid.sum() < none.sum()


def test_a_space_is_handed_on():
    systems = slowly_changing()
    for method in RECYCLING:
        whole = solved(systems, method)
        first = solved(systems.select([0, 1]), method)
        second = solve_all(systems.select([2, 3, 4]), method=method, rtol=1e-9, max_steps=3000, recycle=first.recycle)
        assert torch.equal(whole.iterations, torch.cat([first.iterations, second.iterations]))
        assert_close(torch.cat([first.solutions, second.solutions]), whole.solutions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preconditioner": "ilu"}, "`preconditioner` must be one of .*Did you mean 'ilu0'"),
        ({"side": "centre"}, "`side` must be one of"),
        ({"strategy": "C"}, "`strategy` must be one of"),
        ({"warm_start": "cold"}, "`warm_start` must be one of 'none', 'previous', 'projection'. Got 'cold'."),
        ({"recycled": 0}, "`recycled` must be at least 1"),
        ({"restart": 21}, "`restart` must be at least 22. Got 21."),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        Krylov(**arguments)


def test_wrong_methods():
    with pytest.raises(TypeError, match=r"`reuse_preconditioner` must be True or False\. Got int\."):
        Krylov(reuse_preconditioner=1)
    indefinite = make_systems((8, 8), reaction=-1.0)
    with pytest.raises(ValueError, match="`method` must not be 'recycling-cg' unless the matrix is positive definite"):
        solve_all(indefinite, method="recycling-cg", rtol=1e-8, max_steps=10)
    grid, one = Grid((4, 4)), torch.ones(1, 4, 4, dtype=torch.float64)
    stencil = Stencil(grid, Boundary.on(grid, "dirichlet"), 4 * one, (one, one), (one, one))
    options = Krylov("multigrid")
    rhs = one.to(torch.complex128) * 1j
    with pytest.raises(ValueError, match="`preconditioner` must not be 'multigrid' where the matrix is complex"):
        solve_all(LinearSystems(stencil, rhs, False), method="gmres", rtol=1e-8, max_steps=10, options=options)
