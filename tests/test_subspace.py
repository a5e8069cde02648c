"""The distance of spaces by known angles, and what it says about recycled ones."""

import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp

from test_gcrodr import matrix, right_hand_sides
from vcycle.solvers import gcrodr
from vcycle.solvers.subspace import recycled_distances, smallest_invariant_space, subspace_distance


def turned(angles, n=12, *, complex_entries=False):
    """Two spaces with these principal angles, in random coordinates and random bases."""
    rng = np.random.default_rng(0)
    k = len(angles)
    first, second = np.zeros((n, k)), np.zeros((n, k))
    for i, angle in enumerate(angles):
        first[i, i] = 1
        second[i, i], second[k + i, i] = np.cos(angle), np.sin(angle)
    X = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_entries else 0)
    rotation = np.linalg.qr(X)[0]
    return rotation @ first @ rng.standard_normal((k, k)), rotation @ second @ rng.standard_normal((k, k))


@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("angles", [(0.3,), (0.1, 0.7), (1e-9, 1e-12), (0.2, np.pi / 2), (0.0, 1.2, 0.5)])
def test_known_angles(angles, complex_entries):
    Q, C = turned(angles, complex_entries=complex_entries)
    assert subspace_distance(Q, C) == pytest.approx(np.sin(max(angles)), rel=1e-6, abs=1e-14)
    assert subspace_distance(Q, C) == pytest.approx(np.sin(sl.subspace_angles(Q, C).max()), rel=1e-6, abs=1e-14)


def test_one_sided():
    rng = np.random.default_rng(0)
    C = rng.standard_normal((9, 4))
    Q = C @ rng.standard_normal((4, 2))
    assert subspace_distance(Q, C) <= 1e-14
    assert subspace_distance(C, Q) == pytest.approx(1.0)
    assert subspace_distance(np.zeros((9, 1)), C) == 0.0
    assert subspace_distance(Q, np.zeros((9, 1))) == pytest.approx(1.0)
    dependent = np.hstack([C, C[:, :1] * 1e6])
    assert subspace_distance(dependent, C) <= 1e-12


def test_is_the_norm_of_the_product_of_projections():
    rng = np.random.default_rng(0)
    Q, C = rng.standard_normal((20, 3)), rng.standard_normal((20, 8))
    P = [X @ np.linalg.pinv(X) for X in (Q, C)]
    assert subspace_distance(Q, C) == pytest.approx(np.linalg.norm((np.eye(20) - P[1]) @ P[0], 2), rel=1e-10)


@pytest.mark.parametrize("size", [1, 2, 4, 6])  # where no complex pair is cut in two
def test_smallest_invariant_space(size):
    A = matrix(60)
    values, vectors = np.linalg.eig(A.toarray())
    ranked = vectors[:, np.argsort(np.abs(values), kind="stable")]
    Q = smallest_invariant_space(A, size)
    assert Q.shape == (60, size)
    assert np.isrealobj(Q)
    assert subspace_distance(Q, np.hstack([ranked[:, : size + 1].real, ranked[:, : size + 1].imag])) <= 1e-8
    scaled = smallest_invariant_space(A, size, preconditioner=lambda v: 2 * v)
    assert subspace_distance(scaled, Q) <= 1e-6
    assert np.iscomplexobj(smallest_invariant_space(sp.csr_matrix(A * (1 + 1j)), size))


def test_recycling_brings_the_space_near():
    A, matrices, spaces, space = matrix(), [], [], None
    rng = np.random.default_rng(3)
    for b in right_hand_sides(4):
        A = A + 1e-4 * sp.csr_matrix(rng.standard_normal(A.shape))
        if space is not None:
            matrices.append(A)
            spaces.append(space.vectors)
        _, space = gcrodr(A, b, space=space)
    distances = recycled_distances(matrices, spaces, size=3)
    assert len(distances) == 3
    assert max(distances) < 0.4
    chance = [rng.standard_normal(U.shape) for U in spaces]
    assert min(recycled_distances(matrices, chance, size=3)) > 0.9


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`C` must have shape \(3, vectors\). Got \(4, 1\)."):
        subspace_distance(np.ones((3, 1)), np.ones((4, 1)))
    with pytest.raises(ValueError, match="`Q` must be finite"):
        subspace_distance(np.full((3, 1), np.nan), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"`spaces` must have 1 entries, one per matrix\. Got 0\."):
        recycled_distances([matrix(20)], [])
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        smallest_invariant_space(matrix(20), 0)
