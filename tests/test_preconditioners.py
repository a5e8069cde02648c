"""Every preconditioner against its definition, by dense matrices."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.problems import ConvectionDiffusion, Helmholtz
from vcycle.solvers import cg, gmres, preconditioners
from vcycle.solvers.preconditioners import (
    PRECONDITIONERS,
    block_jacobi,
    definite_part,
    multigrid,
    preconditioner,
    schwarz,
    ssor,
)

DEFINITE = [name for name in PRECONDITIONERS if name != "none"]


def plane(n=12, seed=0, *, complex_entries=False) -> sp.csr_matrix:
    """Hermitian positive definite, five entries a row, coefficients of contrast 10."""
    rng = np.random.default_rng(seed)
    grid = Grid((n, n))
    a = torch.from_numpy(10 ** rng.uniform(0, 1, (1, n, n)))
    A = laplacian(grid, Boundary.on(grid, "dirichlet"), coefficient=a).to_csr()
    if complex_entries:
        phase = sp.diags(np.exp(1j * rng.uniform(0, 6, n * n)))
        A = (phase @ A @ phase.conj()).tocsr()
    return A


def tilted(n=12, *, complex_entries=False) -> sp.csr_matrix:
    """Nonsymmetric, with the pattern of the plane."""
    A = plane(n)
    A.data *= 1 + 0.3 * np.random.default_rng(1).standard_normal(A.nnz)
    return (A + 0.4j * sp.diags(A.diagonal())).tocsr() if complex_entries else A


def dense(apply, n, dtype) -> np.ndarray:
    return np.stack([apply(column) for column in np.eye(n, dtype=dtype)], axis=1)


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("name", ["ilu0", "ic0", "schwarz", "block-jacobi"])
def test_exact_where_nothing_is_dropped(name, complex_entries):
    n = 60  # a tridiagonal matrix has no fill; one block and one subdomain hold all of it
    rng = np.random.default_rng(0)
    off = rng.uniform(-1, 1, n - 1) + (1j * rng.uniform(-1, 1, n - 1) if complex_entries else 0)
    A = sp.diags([4.0 + rng.uniform(0, 1, n), off, off.conj()], [0, 1, -1], format="csr")
    b = rng.standard_normal(n)
    assert_close(preconditioner(name, A)(b), np.linalg.solve(A.toarray(), b), rtol=1e-11)


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("name", ["ilu0", "ic0"])
def test_exact_for_a_full_matrix(name, complex_entries):
    rng = np.random.default_rng(0)  # unlike five-point matrices it has triangles, where rows of the factor meet
    X = rng.standard_normal((12, 12)) + (1j * rng.standard_normal((12, 12)) if complex_entries else 0)
    A, b = X @ X.conj().T + np.eye(12), rng.standard_normal(12)
    assert_close(preconditioner(name, sp.csr_matrix(A))(b), np.linalg.solve(A, b), rtol=1e-10)


@pytest.mark.parametrize("complex_entries", [False, True])
def test_ilu0_product_equals_the_matrix_on_its_pattern(complex_entries):
    A = tilted(complex_entries=complex_entries)
    M = np.linalg.inv(dense(preconditioner("ilu0", A), A.shape[0], A.dtype))
    pattern = A.toarray() != 0
    assert_close(M[pattern], A.toarray()[pattern], rtol=1e-10)
    assert np.abs(M[~pattern]).max() > 1e-3 * np.abs(A.data).max()  # the fill that was dropped
    two_away = np.abs(np.subtract.outer(np.arange(144), np.arange(144))) > 13
    assert np.abs(M[two_away]).max() <= 1e-10 * np.abs(A.data).max()  # the product of the factors reaches no farther


@pytest.mark.parametrize("complex_entries", [False, True])
def test_ic0_product_equals_the_matrix_on_its_pattern(complex_entries):
    A = plane(complex_entries=complex_entries)
    M = np.linalg.inv(dense(preconditioner("ic0", A), A.shape[0], A.dtype))
    pattern = A.toarray() != 0
    assert_close(M[pattern], A.toarray()[pattern], rtol=1e-10)
    assert_close(M, M.conj().T, rtol=1e-10)
    r = np.random.default_rng(2).standard_normal(A.shape[0])
    assert_close(preconditioner("ilu0", A)(r), preconditioner("ic0", A)(r), rtol=1e-10)


def test_ic0_shifts_the_diagonal_where_there_is_no_factor():
    # Kershaw's matrix: positive definite, but its incomplete factorisation meets a negative pivot
    A = sp.csr_matrix(np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]]))
    assert np.linalg.eigvalsh(A.toarray()).min() > 0
    factors = preconditioner("ic0", A)
    assert factors.shift > 0
    M = np.linalg.inv(dense(factors, 4, float))
    assert np.linalg.eigvalsh(M).min() > 0
    shifted = A.toarray() + factors.shift * np.diag(A.diagonal())
    assert_close(M[A.toarray() != 0], shifted[A.toarray() != 0], rtol=1e-10)
    assert preconditioner("ic0", plane()).shift == 0


def test_ilu0_replaces_zero_pivots():
    A = sp.csr_matrix(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 2]]))
    assert np.isfinite(preconditioner("ilu0", A)(np.ones(3))).all()
    with_zero = sp.csr_matrix((np.array([1.0, 0.0, 1.0]), ([0, 1, 2], [0, 1, 2])), shape=(3, 3))
    assert np.isfinite(preconditioner("ilu0", with_zero)(np.ones(3))).all()


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.7, 1.6])
def test_ssor_is_two_sweeps(weight, complex_entries):
    A = tilted(complex_entries=complex_entries)
    full = A.toarray()
    D, L, U = np.diag(np.diag(full)), np.tril(full, -1), np.triu(full, 1)
    r = np.random.default_rng(0).standard_normal(A.shape[0])
    once = np.linalg.solve(D / weight + L, r)  # a forward sweep from zero, then a backward sweep from there
    twice = once + np.linalg.solve(D / weight + U, r - full @ once)
    assert_close(ssor(A, weight=weight)(r), twice, rtol=1e-10)


@pytest.mark.parametrize("size", [5, 16, 144])
def test_block_jacobi_inverts_the_blocks(size):
    A = tilted()
    blocks = A.toarray()
    for i, j in np.ndindex(blocks.shape):
        if i // size != j // size:
            blocks[i, j] = 0.0
    r = np.random.default_rng(0).standard_normal(144)
    assert_close(block_jacobi(A, size=size)(r), np.linalg.solve(blocks, r), rtol=1e-10)


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("overlap", [0, 2])
def test_schwarz_adds_exact_solves(overlap, complex_entries):
    A = plane(complex_entries=complex_entries)
    parts = preconditioners._bisected(preconditioners._graph(A), 20)
    assert sorted(np.concatenate(parts).tolist()) == list(range(144))
    assert max(len(part) for part in parts) <= 20
    expected = np.zeros((144, 144), A.dtype)
    for part in parts:
        member = np.zeros(144)
        member[part] = 1
        for _ in range(overlap):
            member = np.abs(A).toarray() @ member > 0
        here = np.flatnonzero(member)
        expected[np.ix_(here, here)] += np.linalg.inv(A.toarray()[np.ix_(here, here)])
    assert_close(dense(schwarz(A, size=20, overlap=overlap), 144, A.dtype), expected, rtol=1e-9)


def test_overlap_helps():
    A, b = plane(40), np.ones(1600)
    steps = [cg(A, b, preconditioner=schwarz(A, size=100, overlap=overlap)).iterations for overlap in (0, 2)]
    assert steps[1] < 0.8 * steps[0]


def test_schwarz_takes_apart_what_is_not_connected():
    A = sp.block_diag([plane(6), plane(6)], format="csr")
    parts = preconditioners._bisected(preconditioners._graph(A), 40)
    assert all(len({index // 36 for index in part.tolist()}) == 1 for part in parts)


@pytest.mark.parametrize("kind", ["dirichlet", "neumann"])
def test_multigrid_is_symmetric_definite_and_a_fast_iteration(kind):
    grid = Grid((8, 4, 8))
    a = torch.from_numpy(np.random.default_rng(0).uniform(1, 4, (1, 8, 4, 8)))
    operator = laplacian(grid, Boundary.on(grid, kind), coefficient=a)
    apply, A = multigrid(operator), operator.to_csr().toarray()
    B = dense(apply, 256, A.dtype)
    assert_close(B, B.T, rtol=1e-12)
    values = np.linalg.eigvals(B @ A).real
    values = values[values > 1e-8]
    assert len(values) == (256 if kind == "dirichlet" else 255)
    assert abs(1 - values).max() < 0.25
    r = np.random.default_rng(1).standard_normal(256)
    assert_close(apply(r + 2j * r), apply(r) * (1 + 2j), rtol=1e-12)
    two = laplacian(grid, operator.boundary, coefficient=a.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match=r"`operator` must have one matrix\. Got 2\."):
        multigrid(two)


def test_the_definite_part_of_transport_is_its_diffusion_and_of_waves_their_faces():
    wave = Helmholtz(Grid((8, 8)), resolution_tolerance=None)
    fluxes = wave.systems(wave.sample(0, [0])).fluxes
    assert_close(definite_part(fluxes).to_csr().toarray(), laplacian(wave.grid, wave.boundary).to_csr().toarray())
    free = replace(fluxes, boundary=Boundary.on(wave.grid, "neumann"))
    assert np.linalg.eigvalsh(definite_part(free).to_csr().toarray()).min() > 0
    flow = ConvectionDiffusion(Grid((16, 16)), peclet=5.0)
    matrix = flow.systems(flow.sample(0, [0])).operator
    expected = laplacian(flow.grid, flow.boundary).to_csr().toarray()
    assert_close(definite_part(matrix).to_csr().toarray(), expected, rtol=1e-12)


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("name", DEFINITE)
def test_definite_where_the_matrix_is_and_worth_it(name, complex_entries):
    A = plane(complex_entries=complex_entries)
    A = sp.csr_matrix(sp.diags(np.geomspace(1, 10, 144)) @ A @ sp.diags(np.geomspace(1, 10, 144)))  # badly scaled
    apply = preconditioner(name, A)
    M = dense(apply, 144, A.dtype)
    assert_close(M, M.conj().T, rtol=1e-9)
    assert np.linalg.eigvalsh(M).min() > 0
    b = np.random.default_rng(0).standard_normal(144) + (1j if complex_entries else 0.0)
    helped, plain = cg(A, b, preconditioner=apply), cg(A, b)
    assert helped.relative_residual <= 1e-8
    assert helped.iterations < 0.5 * plain.iterations
    assert_close(helped.solution, np.linalg.solve(A.toarray(), b), rtol=1e-6)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_real_matrices_act_on_complex_vectors_and_leave_them_alone(name):
    A = plane()
    rng = np.random.default_rng(0)
    r = rng.standard_normal(144) + 1j * rng.standard_normal(144)
    before, apply = r.copy(), preconditioner(name, A)
    assert_close(apply(r), apply(r.real.copy()) + 1j * apply(r.imag.copy()), rtol=1e-12)
    assert np.array_equal(r, before)


@pytest.mark.parametrize("name", ["ilu0", "sor"])
def test_any_sparse_format_will_do(name):
    A = tilted()
    shuffled = sp.csr_matrix((A.data.copy(), A.indices.copy(), A.indptr.copy()), shape=A.shape)
    for row in range(144):
        ends = slice(A.indptr[row], A.indptr[row + 1])
        shuffled.indices[ends], shuffled.data[ends] = A.indices[ends][::-1], A.data[ends][::-1]
    shuffled.has_canonical_format = False
    r = np.ones(144)
    expected = preconditioner(name, A)(r)
    for other in (shuffled, A.tocsc(), A.tocoo()):
        assert_close(preconditioner(name, other)(r), expected)
    assert_close(gmres(A, r, preconditioner=preconditioner(name, A)).solution, np.linalg.solve(A.toarray(), r), 1e-6)


@pytest.mark.parametrize(
    ("name", "A", "message"),
    [
        ("ilu", sp.eye(3), "`preconditioner` must be one of .*Did you mean 'ilu0'"),
        ("none", sp.csr_matrix((2, 3)), r"`A` must be square. Got \(2, 3\)."),
        ("ilu0", sp.csr_matrix(np.array([[1.0, 1], [1, 0]])), "`A` must store its diagonal. Got none in row 1."),
        ("ic0", sp.csr_matrix(np.diag([1.0, -1])), "`A` must have a positive diagonal for 'ic0'"),
    ],
)
def test_wrong_arguments(name, A, message):
    with pytest.raises(ValueError, match=message):
        preconditioner(name, A)


def test_wrong_weight():
    with pytest.raises(ValueError, match=r"`weight` must lie between 0 and 2\. Got 2\.0\."):
        ssor(plane(), weight=2.0)
