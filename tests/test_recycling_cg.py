"""Deflated conjugate gradients: right answers, exact deflation against theory, and what is learnt."""

import numpy as np
import pytest

from helpers import assert_close
from test_preconditioners import plane
from vcycle.solvers import RecycleSpace, cg, jacobi
from vcycle.solvers.preconditioners import preconditioner
from vcycle.solvers.recycling_cg import recycling_cg
from vcycle.solvers.subspace import subspace_distance


def outlying(n=200, few=6, *, complex_entries=False, seed=0):
    """Positive definite with a few eigenvalues far below the rest; its eigenvectors, smallest first."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_entries else 0)
    Q = np.linalg.qr(X)[0]
    values = np.concatenate([np.geomspace(1e-5, 1e-3, few), np.linspace(1, 3, n - few)])
    return (Q * values) @ Q.conj().T, Q


@pytest.mark.parametrize("complex_entries", [False, True])
def test_answers_of_a_sequence(complex_entries):
    A, _ = outlying(complex_entries=complex_entries)
    rng, space, steps = np.random.default_rng(1), None, []
    for _ in range(4):
        change = 1e-4 * rng.standard_normal(A.shape)
        A = A + change @ change.T
        b = rng.standard_normal(200) + (1j * rng.standard_normal(200) if complex_entries else 0)
        result, space = recycling_cg(A, b, space=space, recycle_size=8, window=10, rtol=1e-10)
        assert result.relative_residual <= 1e-10
        assert result.relative_residual == pytest.approx(np.linalg.norm(b - A @ result.solution) / np.linalg.norm(b))
        assert_close(result.solution, np.linalg.solve(A, b), rtol=1e-4)
        steps.append(result.iterations)
    assert max(steps[1:]) < 0.5 * steps[0]


def test_exact_deflation_leaves_the_rest_of_the_spectrum():
    A, Q = outlying()
    b = np.random.default_rng(1).standard_normal(200)
    result, _ = recycling_cg(A, b, space=RecycleSpace(Q[:, :6]), renew=False)
    inside = Q[:, :6].T @ b
    rest = Q[:, 6:].T @ b  # the same problem without the small eigenvalues
    few = cg(np.diag(np.linspace(1, 3, 194)), rest, rtol=1e-8 * np.linalg.norm(b) / np.linalg.norm(rest))
    assert abs(result.iterations - few.iterations) <= 1
    assert_close(Q[:, :6].T @ result.solution, inside / np.geomspace(1e-5, 1e-3, 6), rtol=1e-10)


def test_each_iterate_is_the_best_of_space_and_krylov_space():
    A, b, steps = plane(), np.random.default_rng(1).standard_normal(144), 6
    M, W = preconditioner("ic0", A), np.random.default_rng(2).standard_normal((144, 5))
    A = A.toarray()
    outside = np.eye(144) - A @ W @ np.linalg.solve(W.T @ A @ W, W.T)
    krylov = [M(outside @ b)]
    while len(krylov) < steps:
        krylov.append(M(outside @ A @ krylov[-1]))
    V = np.linalg.qr(np.column_stack([W, *krylov]))[0]
    best = V @ np.linalg.solve(V.T @ A @ V, V.T @ b)
    result, _ = recycling_cg(A, b, space=RecycleSpace(W), preconditioner=M, max_steps=steps)
    assert result.iterations == steps
    assert_close(result.solution, best, rtol=1e-9)


def test_without_a_space_it_is_cg():
    A, b = plane(), np.ones(144)
    M = preconditioner("ic0", A)
    plain, (learning, space) = cg(A, b, preconditioner=M), recycling_cg(A, b, preconditioner=M)
    assert plain.iterations == learning.iterations
    assert_close(plain.solution, learning.solution, rtol=1e-12)
    assert space.size == min(20, plain.iterations - 1)  # the last direction lacks its preconditioned image
    idle, none = recycling_cg(A, b, preconditioner=M, renew=False)
    assert none is None
    assert_close(idle.solution, plain.solution, rtol=1e-12)


@pytest.mark.parametrize("window", [15, 1000])
@pytest.mark.parametrize("name", ["none", "jacobi", "ic0"])
def test_learns_the_smallest_eigenvectors_of_the_preconditioned_matrix(name, window):
    A = plane(16)
    M = preconditioner(name, A)
    result, space = recycling_cg(
        A, np.random.default_rng(0).standard_normal(256), preconditioner=M, recycle_size=10, window=window, rtol=1e-12
    )
    assert result.relative_residual <= 1e-12
    product = np.stack([M(column) for column in A.toarray().T], axis=1)
    values, vectors = np.linalg.eig(product)
    smallest = vectors[:, np.argsort(values.real)[:2]].real
    assert subspace_distance(smallest, space.vectors) <= (0.1 if window == 15 else 0.01)


def test_products_are_counted():
    A, Q = outlying()
    calls = []
    result, _ = recycling_cg(lambda v: calls.append(1) or A @ v, np.ones(200), space=RecycleSpace(Q[:, :4]))
    assert len(calls) - 1 == result.products
    assert result.products >= result.iterations + 4


def test_a_space_that_is_kept_as_it_is():
    A, Q = outlying()
    space = RecycleSpace(Q[:, :4])
    assert recycling_cg(A, np.ones(200), space=space, renew=False)[1] is space
    assert recycling_cg(A, np.zeros(200), space=space)[1] is space


def test_dependent_vectors_and_a_good_start():
    A, Q = outlying()
    b = np.random.default_rng(3).standard_normal(200)
    doubled = RecycleSpace(np.hstack([Q[:, :3], Q[:, :3] @ np.ones((3, 2))]))
    result, _ = recycling_cg(A, b, space=doubled)
    assert_close(result.solution, np.linalg.solve(A, b), rtol=1e-3)
    assert result.relative_residual <= 1e-8
    exact = np.linalg.solve(A, b)
    started, _ = recycling_cg(A, b, start=exact, preconditioner=jacobi(np.diag(A)), rtol=1e-6)
    assert started.iterations == 0
    assert_close(started.solution, exact, rtol=1e-14)


@pytest.mark.parametrize("A", [-np.eye(3), np.zeros((3, 3)), np.full((3, 3), np.nan)], ids=["negative", "zero", "nan"])
def test_never_raises_on_failure(A):
    result, _ = recycling_cg(A, np.ones(3), space=RecycleSpace(np.eye(3)[:, :1]))
    assert not result.relative_residual <= 1e-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recycle_size": 0}, "`recycle_size` must be at least 1"),
        ({"window": 0}, "`window` must be at least 1"),
        ({"space": RecycleSpace(np.ones((5, 1)))}, "`space` must have 144 rows, one per unknown. Got 5."),
        ({"start": np.ones(3)}, r"`start` must have shape \(144,\), as `b`. Got \(3,\)."),
        ({"rtol": 0.0}, "`rtol` must be positive"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        recycling_cg(plane(), np.ones(144), **arguments)
