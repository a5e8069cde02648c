"""Recycling: right answers, the invariants of the method, and fewer steps than GMRES."""

import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp
import torch

from helpers import assert_close
from test_solvers import make_systems
from vcycle.solvers import RecycleSpace, gcrodr, gmres, jacobi, solve_sequence
from vcycle.solvers.recycle import harmonic_ritz_space


def matrix(n=300, seed=0) -> sp.csr_matrix:
    """Nonsymmetric, with a few small eigenvalues, some of them complex."""
    rng = np.random.default_rng(seed)
    blocks = [np.array([[0.02, 0.05], [-0.05, 0.02]]), np.array([[0.1, 0.2], [-0.2, 0.1]]), np.diag([0.01, 0.04, 0.3])]
    core = sl.block_diag(*blocks, np.diag(np.linspace(1, 5, n - 7)))
    mix = np.eye(n) + 0.3 / np.sqrt(n) * rng.standard_normal((n, n))
    return sp.csr_matrix(mix @ core @ np.linalg.inv(mix))


def right_hand_sides(num, n=300):
    return np.random.default_rng(1).standard_normal((num, n))


@pytest.mark.parametrize("preconditioned", [False, True])
def test_answers_and_true_residuals(preconditioned):
    A, space = matrix(), None
    options = {"preconditioner": jacobi(A.diagonal())} if preconditioned else {}
    for b in right_hand_sides(3):
        result, space = gcrodr(A, b, space=space, rtol=1e-10, **options)
        assert_close(result.solution, np.linalg.solve(A.toarray(), b), rtol=1e-7)
        assert result.relative_residual <= 1e-10
        assert result.relative_residual == pytest.approx(np.linalg.norm(b - A @ result.solution) / np.linalg.norm(b))


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_harmonic_ritz_space_is_that_of_the_generalised_problem(size):
    rng = np.random.default_rng(size)
    m = 12
    G = np.triu(rng.standard_normal((m + 1, m)), -1)
    WV = np.eye(m + 1, m) + 0.1 * rng.standard_normal((m + 1, m))
    values, vectors = sl.eig(G.T @ G, G.T @ WV)
    P = harmonic_ritz_space(G, WV, size)
    assert P.shape[1] in (size, size + 1)
    assert np.isrealobj(P)
    nearest = np.argsort(np.abs(values))[: P.shape[1]]
    assert np.abs(np.sort(values[nearest].imag).sum()) <= 1e-12  # whole pairs
    basis = np.linalg.qr(P)[0]
    outside = vectors[:, nearest] - basis @ (basis.T @ vectors[:, nearest])
    assert np.abs(outside).max() <= 1e-8
    assert any(values.imag != 0)


def test_rank_loss_keeps_no_space():
    assert harmonic_ritz_space(np.zeros((4, 3)), np.eye(4, 3), 2) is None


def test_the_space_kept_is_near_the_smallest_eigenvectors():
    A = matrix()
    _, space = gcrodr(A, right_hand_sides(1)[0], rtol=1e-10)
    values, vectors = np.linalg.eig(A.toarray())
    smallest = vectors[:, np.argsort(np.abs(values))[:6]]
    basis = np.linalg.qr(space.vectors)[0]
    outside = smallest - basis @ (basis.T @ smallest)
    assert np.linalg.norm(outside, axis=0).max() <= 1e-2


def test_first_cycle_is_gmres():
    A, b = matrix(), right_hand_sides(1)[0]
    cold, _ = gcrodr(A, b, max_steps=40)
    assert_close(cold.solution, gmres(A, b, max_steps=40, restart=40).solution, rtol=1e-10)


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("strategy", ["A", "B"])
@pytest.mark.parametrize("side", ["left", "right", "flexible"])
def test_every_variant_solves_a_sequence(side, strategy, complex_entries):
    scaling = np.random.default_rng(0).permutation(np.geomspace(1, 30, 300))  # so that M^-1 r and r differ much
    A = sp.csr_matrix(sp.diags(scaling) @ (matrix() + (0.02j if complex_entries else 0.0) * sp.eye(300)))
    rng, space, steps = np.random.default_rng(3), None, []
    for b in right_hand_sides(4):
        A = A + 1e-4 * sp.diags(rng.standard_normal(300))
        options = {"preconditioner": jacobi(scaling), "side": side, "strategy": strategy}
        result, space = gcrodr(A, b, space=space, rtol=1e-9, basis_size=16, recycle_size=8, **options)
        assert result.relative_residual <= 1e-9
        assert result.relative_residual == pytest.approx(np.linalg.norm(b - A @ result.solution) / np.linalg.norm(b))
        assert_close(result.solution, np.linalg.solve(A.toarray(), b), rtol=1e-4)
        steps.append(result.iterations)
        assert gmres(A, b, preconditioner=options["preconditioner"], side=side, rtol=1e-9).relative_residual <= 1e-9
    assert max(steps[1:]) < 0.6 * steps[0]


@pytest.mark.parametrize("strategy", ["A", "B"])
def test_left_preconditioning_is_the_preconditioned_system(strategy):
    A, (b, c), options = matrix(), right_hand_sides(2), {"strategy": strategy, "rtol": 1e-6}
    M = jacobi(np.random.default_rng(0).uniform(1, 5, 300))
    space = other = None
    for rhs in (b, c):
        left, space = gcrodr(A, rhs, space=space, preconditioner=M, side="left", max_steps=30, **options)
        plain, other = gcrodr(lambda v: M(A @ v), M(rhs), space=other, max_steps=30, **options)
        assert_close(left.solution, plain.solution, rtol=1e-8)
    assert_close(space.vectors, other.vectors, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["A", "B"])
def test_flexible_gmres_with_a_constant_preconditioner_is_right_gmres(strategy):
    A, b = matrix(), right_hand_sides(1)[0]
    M = jacobi(np.random.default_rng(0).uniform(1, 5, 300))
    pair = [
        gcrodr(A, b, preconditioner=M, side=side, strategy=strategy, max_steps=40)[0] for side in ("flexible", "right")
    ]
    assert_close(pair[0].solution, pair[1].solution, rtol=1e-8)


def test_flexible_takes_a_preconditioner_that_changes():
    A = sp.csr_matrix(np.diag(np.geomspace(1, 1e4, 300)) + 0.1 * matrix().toarray())
    rng, space = np.random.default_rng(0), None

    def inner(r):
        return gmres(A, r, preconditioner=jacobi(A.diagonal()), restart=int(rng.integers(2, 6)), max_steps=4).solution

    for b in right_hand_sides(2):
        result, space = gcrodr(A, b, space=space, preconditioner=inner, side="flexible")
        assert result.relative_residual <= 1e-8


@pytest.mark.parametrize("side", ["left", "right"])
def test_harmonic_residuals_of_the_space_kept(side):
    # strategy A: images C of U fulfil the invariant of the method, and U holds what the operator shrinks most
    A, b = matrix(), right_hand_sides(1)[0]
    M = jacobi(np.random.default_rng(0).uniform(1, 5, 300))
    _, space = gcrodr(A, b, preconditioner=M, side=side)
    product = (lambda v: M(A @ v)) if side == "left" else (lambda v: A @ M(v))
    images = np.stack([product(u) for u in space.vectors.T], axis=1)
    assert_close(images, space.images, rtol=1e-7)
    assert_close(space.images.T @ space.images, np.eye(space.size), rtol=1e-10)


def test_strategies_differ():
    A, space = matrix(), {}
    for strategy in ("A", "B"):
        _, space[strategy] = gcrodr(A, right_hand_sides(1)[0], strategy=strategy, recycle_size=5, basis_size=12)
    gap = np.linalg.norm(space["A"].images - space["B"].images @ (space["B"].images.T @ space["A"].images))
    assert gap > 1e-3


@pytest.mark.parametrize("side", ["left", "right", "flexible"])
def test_same_matrix_spends_nothing_on_refreshing(side):
    A, (b, c) = matrix(), right_hand_sides(2)
    options = {"preconditioner": jacobi(A.diagonal()), "side": side}
    _, space = gcrodr(A, b, **options)
    refreshed, _ = gcrodr(A, c, space=space, **options)
    kept, _ = gcrodr(A, c, space=space, same_matrix=True, **options)
    assert refreshed.products - kept.products == space.size
    assert kept.iterations == refreshed.iterations
    assert_close(kept.solution, refreshed.solution, rtol=1e-6)
    with pytest.raises(ValueError, match="`same_matrix` must be False for a space without images"):
        gcrodr(A, c, space=RecycleSpace(space.vectors), same_matrix=True)


@pytest.mark.parametrize("solve", [gcrodr, gmres])
def test_a_good_start_saves_steps(solve):
    A, b = matrix(), right_hand_sides(1)[0]
    exact = np.linalg.solve(A.toarray(), b)
    near = exact + 1e-7 * np.linalg.norm(exact) * right_hand_sides(1)[0]
    results = [solve(A, b, start=start) for start in (None, near, exact)]
    results = [result[0] if isinstance(result, tuple) else result for result in results]
    assert results[0].iterations > results[1].iterations > results[2].iterations == 0
    assert all(result.relative_residual <= 1e-8 for result in results)


def test_second_identical_system_needs_no_more_steps():
    A, b = matrix(), right_hand_sides(1)[0]
    for rtol in (1e-2, 1e-5, 1e-10):
        cold, space = gcrodr(A, b, rtol=rtol)
        again, _ = gcrodr(A, b, space=space, rtol=rtol)
        assert again.iterations <= cold.iterations
        assert again.relative_residual <= rtol


def test_a_changing_sequence_needs_fewer_steps_than_gmres():
    A, space, recycled, plain = matrix(), None, [], []
    rng = np.random.default_rng(3)
    for b in right_hand_sides(6):
        A = A + 1e-4 * sp.csr_matrix(rng.standard_normal(A.shape))
        result, space = gcrodr(A, b, space=space)
        recycled.append(result.iterations)
        plain.append(gmres(A, b).iterations)
        assert result.relative_residual <= 1e-8
    assert max(recycled[1:]) < recycled[0]
    assert 2 * sum(recycled[1:]) < sum(plain[1:])


def test_products_are_counted():
    A, (b, c) = matrix(), right_hand_sides(2)
    calls = []
    result, space = gcrodr(lambda v: calls.append(1) or A @ v, b)
    assert result.iterations < result.products
    assert len(calls) - 1 == result.products
    again, _ = gcrodr(A, c, space=space)
    assert again.products >= again.iterations + space.size


def test_complex():
    rng = np.random.default_rng(0)
    A = np.diag(np.linspace(0.05, 3, 80)) + 1j * np.diag(rng.uniform(0, 1, 80)) + 0.02 * rng.standard_normal((80, 80))
    space = None
    for _ in range(2):
        b = rng.standard_normal(80) + 1j * rng.standard_normal(80)
        result, space = gcrodr(A, b, space=space, basis_size=20, recycle_size=6, rtol=1e-10)
        assert_close(result.solution, np.linalg.solve(A, b), rtol=1e-7)


def test_small_and_special_systems():
    result, space = gcrodr(np.diag([2.0, 4.0]), np.array([2.0, 2.0]))
    assert_close(result.solution, np.array([1.0, 0.5]))
    again, _ = gcrodr(np.diag([2.0, 5.0]), np.array([2.0, 2.0]), space=space)
    assert_close(again.solution, np.array([1.0, 0.4]))
    zero, kept = gcrodr(np.eye(2), np.zeros(2), space=space)
    assert kept is space
    assert zero.iterations == 0
    assert not zero.solution.any()
    assert gcrodr(np.zeros((2, 2)), np.ones(2))[0].relative_residual == 1.0
    assert not gcrodr(np.full((2, 2), np.nan), np.ones(2), space=space)[0].relative_residual <= 1e-8


def test_a_space_of_dependent_vectors_is_reduced():
    A, b = matrix(), right_hand_sides(1)[0]
    U = np.random.default_rng(5).standard_normal((300, 3))
    result, _ = gcrodr(A, b, space=RecycleSpace(np.hstack([U, U[:, :2]])), rtol=1e-10)
    assert_close(result.solution, np.linalg.solve(A.toarray(), b), rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recycle_size": 0}, "`recycle_size` must be at least 1"),
        ({"basis_size": 21}, "`basis_size` must be at least 22"),
        ({"space": RecycleSpace(np.ones((5, 1)))}, "`space` must have 300 rows, one per unknown. Got 5."),
        ({"space": RecycleSpace(np.ones((300, 40)))}, "`space` must have fewer vectors than `basis_size`, 40. Got 40."),
        ({"rtol": 0.0}, "`rtol` must be positive"),
        ({"side": "both"}, "`side` must be one of 'right', 'left', 'flexible'. Got 'both'."),
        ({"strategy": "C"}, "`strategy` must be one of 'A', 'B'. Got 'C'."),
        ({"start": np.ones(3)}, r"`start` must have shape \(300,\), as `b`. Got \(3,\)."),
        ({"max_steps": 0}, "`max_steps` must be at least 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        gcrodr(matrix(), right_hand_sides(1)[0], **arguments)


def test_sequence_hands_the_space_on():
    systems = make_systems((16, 16), num=4, contrast=4.0)
    given = {"method": "gcrodr", "order": "given"}
    whole = solve_sequence(systems, **given).raise_if_failed()
    first = solve_sequence(systems.select([0, 1]), **given)
    second = solve_sequence(systems.select([2, 3]), **given, recycle=first.recycle)
    assert torch.equal(whole.iterations, torch.cat([first.iterations, second.iterations]))
    assert torch.equal(whole.solutions, torch.cat([first.solutions, second.solutions]))
    cold = solve_sequence(systems.select([2, 3]), **given)
    assert second.iterations[0] < cold.iterations[0]
