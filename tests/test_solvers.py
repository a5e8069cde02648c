"""Every method against a dense solve; statuses; what the fast multigrid path promises."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.errors import SolveError
from vcycle.grid import Grid
from vcycle.multigrid.fluxes import laplacian
from vcycle.solvers import METHODS as EVERY_METHOD
from vcycle.solvers import (
    LinearSystems,
    RecycleSpace,
    Status,
    cg,
    direct,
    gmres,
    jacobi,
    pardiso,
    sequence,
    solve_sequence,
)
from vcycle.solvers.arnoldi import arnoldi
from vcycle.solvers.pattern import Pattern

KINDS = {
    "dirichlet": "dirichlet",
    "neumann": "neumann",
    "periodic": "periodic",
    "mixed": [("dirichlet", "neumann"), "periodic", ("neumann", "dirichlet")],
}
SHAPES = [(16, 8), (8, 4, 8)]
METHODS = [m for m in EVERY_METHOD if m != "pardiso" or pardiso.is_available()]  # MKL is an extra
METHODS_2D_3D = [m for m in METHODS if m != "auto"]


def make_systems(shape, kinds="dirichlet", *, contrast=10.0, num=2, reaction=None, seed=0) -> LinearSystems:
    chosen = KINDS[kinds] if isinstance(KINDS[kinds], str) else KINDS[kinds][: len(shape)]
    periodic = [Boundary.of(chosen, len(shape)).periodic[axis] for axis in range(len(shape))]
    grid = Grid(shape, extent=tuple(n / 8 for n in shape), periodic=periodic)
    boundary = Boundary.on(grid, chosen)
    rng = np.random.default_rng(seed)
    a = torch.from_numpy(np.exp(rng.uniform(0.0, math.log(contrast), (num, *shape))))
    operator = laplacian(grid, boundary, coefficient=a)
    rhs = torch.from_numpy(rng.standard_normal((num, *shape)))
    singular = not boundary.fixes_constant and reaction is None
    if reaction is not None:
        operator = replace(operator, reaction=torch.full_like(rhs, reaction))
    if singular:
        rhs = rhs - rhs.flatten(1).mean(1).reshape(-1, *[1] * len(shape))
    return LinearSystems(operator, rhs, positive_definite=reaction is None or reaction >= 0, singular=singular)


def dense_solutions(systems: LinearSystems) -> torch.Tensor:
    answers = []
    for index in range(len(systems)):
        A, b = systems.to_csr(index)
        answers.append(np.linalg.lstsq(A.toarray(), b, rcond=1e-13)[0].reshape(systems.rhs.shape[1:]))
    return torch.from_numpy(np.stack(answers))


@pytest.mark.parametrize("method", METHODS_2D_3D)
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_agrees_with_a_dense_solve(shape, kinds, method):
    systems = make_systems(shape, kinds)
    result = solve_sequence(systems, method=method, rtol=1e-11).raise_if_failed()
    assert_close(result.solutions, dense_solutions(systems), rtol=1e-8)
    assert_close(result.relative_residuals, systems.relative_residuals(result.solutions))
    assert (result.relative_residuals <= 1e-11).all()
    if systems.singular:
        assert result.solutions.flatten(1).mean(1).abs().max() <= 1e-14


@pytest.mark.parametrize("method", METHODS_2D_3D)
def test_contrast_of_a_thousand(method):
    systems = make_systems((32, 16), "mixed", contrast=1e3)
    result = solve_sequence(systems, method=method, rtol=1e-10).raise_if_failed()
    assert_close(result.solutions, dense_solutions(systems), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS_2D_3D)
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_reaction_is_part_of_the_matrix(shape, method):
    systems = make_systems(shape, "neumann", reaction=0.05)
    result = solve_sequence(systems, method=method, rtol=1e-11).raise_if_failed()
    assert_close(result.solutions, dense_solutions(systems), rtol=1e-8)


@pytest.mark.parametrize("method", ["auto", "direct", "gmres", "gcrodr"])
def test_indefinite(method):
    systems = make_systems((12, 8), "mixed", reaction=-0.5)
    result = solve_sequence(systems, method=method, rtol=1e-11).raise_if_failed()
    assert_close(result.solutions, dense_solutions(systems), rtol=1e-8)
    assert (result.iterations > 0).all() == (method not in ("auto", "direct"))


@pytest.mark.parametrize("method", ["multigrid", "cg"])
def test_definite_methods_refuse_indefinite_systems(method):
    with pytest.raises(ValueError, match=f"`method` must not be '{method}' unless the matrix is positive definite"):
        solve_sequence(make_systems((8, 8), reaction=-0.5), method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (2, 2, 2)])
def test_tiny(shape, method):
    for kinds in KINDS:
        systems = make_systems(shape, kinds)
        result = solve_sequence(systems, method=method, rtol=1e-10).raise_if_failed()
        assert_close(result.solutions, dense_solutions(systems), rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_zero_right_hand_side(method):
    systems = make_systems((8, 8), num=3)
    systems = replace(systems, rhs=systems.rhs * torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1))
    result = solve_sequence(systems, method=method).raise_if_failed()
    assert result.solutions[1].abs().max() == 0
    assert result.relative_residuals[1] == 0
    assert result.solutions[2].abs().max() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ["given", "nearest"])
def test_no_systems_at_all(method, order):
    result = solve_sequence(make_systems((8, 8)).select([]), method=method, order=order).raise_if_failed()
    assert result.solutions.shape == (0, 8, 8)
    assert result.statuses == ()
    assert len(result.order) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["coefficient", "rhs", "reaction"])
def test_not_finite_is_a_status(method, where):
    systems = make_systems((8, 8), num=3, reaction=0.1)
    clean = solve_sequence(systems, method=method)
    values = {"coefficient": systems.operator.faces[1], "rhs": systems.rhs, "reaction": systems.operator.reaction}[
        where
    ]
    values[1, 3, 3] = torch.inf if where == "rhs" else torch.nan
    result = solve_sequence(systems, method=method, order="auto")
    assert [status is Status.NOT_FINITE for status in result.statuses] == [False, True, False]
    assert result.failed == [1]
    assert result.solutions[1].isnan().all()
    assert_close(result.solutions[::2], clean.solutions[::2], rtol=1e-6)
    with pytest.raises(SolveError, match=r"1 of 3 samples not solved: 17 \(residual nan\): the system contains NaN"):
        result.raise_if_failed(sample_ids=[7, 17, 27])


@pytest.mark.parametrize("method", ["multigrid", "cg", "gmres", "gcrodr"])
def test_too_few_steps_is_a_status(method):
    systems = make_systems((16, 16))
    result = solve_sequence(systems, method=method, max_steps=2)
    assert set(result.statuses) == {Status.MAX_STEPS}
    assert (result.iterations == 2).all()
    assert_close(result.relative_residuals, systems.relative_residuals(result.solutions))
    with pytest.raises(SolveError, match=r"2 of 2 samples not solved: 0 \(residual .*Raise `max_steps`"):
        result.raise_if_failed()


@pytest.mark.parametrize("method", ["direct", "multigrid", "cg"])
def test_unreachable_tolerance_stagnates(method):
    result = solve_sequence(make_systems((16, 16), contrast=1e3), method=method, rtol=1e-19)
    assert set(result.statuses) == {Status.STAGNATED}
    assert result.relative_residuals.max() <= 1e-12


def test_singular_matrix_breaks_down_without_raising():
    systems = make_systems((8, 8), "neumann")
    faces = tuple(torch.zeros_like(face) for face in systems.operator.faces)
    systems = replace(systems, operator=replace(systems.operator, faces=faces), singular=False)
    result = solve_sequence(systems, method="direct")
    assert set(result.statuses) == {Status.BREAKDOWN}


def test_auto_falls_back_to_direct_where_multigrid_fails():
    systems = make_systems((16, 16))
    result = solve_sequence(systems, max_steps=2).raise_if_failed()
    assert (result.iterations == 2).all()
    assert result.relative_residuals.max() <= 1e-13


@pytest.mark.parametrize(
    ("shape", "by_multigrid"),
    [((64,), False), ((16, 16), True), ((15, 16), True), ((66, 66), True), ((8, 8, 8), True)],
)
def test_auto_takes_multigrid_where_the_grid_coarsens(shape, by_multigrid):
    result = solve_sequence(make_systems(shape)).raise_if_failed()
    assert (result.iterations > 0).all() == by_multigrid


def test_right_hand_side_outside_the_range_raises():
    systems = make_systems((8, 8), "neumann")
    with pytest.raises(ValueError, match=r"`systems.rhs` must have zero sum .* Got sum .* in system 1"):
        solve_sequence(replace(systems, rhs=systems.rhs + torch.tensor([0.0, 1e-6]).reshape(2, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rtol": 0.0}, ValueError, "`rtol` must be positive"),
        ({"method": "multgrid"}, ValueError, r"`method` must be one of .* Did you mean 'multigrid'\?"),
        ({"order": "sorted"}, ValueError, r"`order` must be one of 'given', 'nearest', 'auto'\. Got 'sorted'\."),
        ({"workers": 0}, ValueError, r"`workers` must be at least 1\. Got 0\."),
        ({"max_steps": 0}, ValueError, r"`max_steps` must be at least 1\. Got 0\."),
        ({"recycle": RecycleSpace(np.ones((64, 1)))}, ValueError, "`recycle` must be None unless `method` is rec"),
        ({"order": "nearest", "features": torch.ones(3, 1)}, ValueError, r"`features` must have shape \(2, p\)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        solve_sequence(make_systems((8, 8)), **arguments)


def test_wrong_systems():
    systems = make_systems((8, 8))
    with pytest.raises(TypeError, match=r"`systems.rhs` must be float64 or complex128\. Got torch.float32"):
        solve_sequence(replace(systems, rhs=systems.rhs.float()))
    with pytest.raises(ValueError, match=r"`systems\.rhs` must have shape"):
        solve_sequence(replace(systems, rhs=systems.rhs[:, :4]))
    with pytest.raises(ValueError, match=r"`systems\.operator` must have 1 or 1 matrices, as `rhs` has rows\. Got 2"):
        solve_sequence(replace(systems, rhs=systems.rhs[:1]))
    with pytest.raises(ValueError, match="`method` must not be 'multigrid' unless"):
        solve_sequence(make_systems((64,)), method="multigrid")


def test_arguments_are_left_alone_and_gradients_allowed():
    systems = make_systems((8, 8), "neumann", contrast=5.0)
    before = [face.clone() for face in systems.operator.faces] + [systems.rhs.clone()]
    for method in METHODS:
        solve_sequence(replace(systems, rhs=systems.rhs.clone().requires_grad_()), method=method).raise_if_failed()
    assert all(torch.equal(a, b) for a, b in zip(before, [*systems.operator.faces, systems.rhs], strict=True))


@pytest.mark.parametrize("method", ["direct", "multigrid"])
def test_workers_change_nothing(method):
    systems = make_systems((16, 16), num=5)
    one, three = (solve_sequence(systems, method=method, workers=workers) for workers in (1, 3))
    assert torch.equal(one.solutions, three.solutions)
    assert torch.equal(one.iterations, three.iterations)


@pytest.mark.parametrize("method", METHODS)
def test_results_come_back_in_the_order_given(method):
    systems = make_systems((8, 8), num=5)
    features = torch.tensor([[0.0], [3.0], [1.0], [4.0], [2.0]])
    result = solve_sequence(systems, method=method, order="nearest", features=features, rtol=1e-10).raise_if_failed()
    assert result.order.tolist() == [0, 2, 4, 1, 3]
    assert_close(result.solutions, dense_solutions(systems), rtol=1e-8)


# --- direct


@pytest.mark.parametrize("kinds", ["neumann", "periodic"])
@pytest.mark.parametrize("method", METHODS)
def test_a_pivot_of_exactly_zero(kinds, method):
    """With equal coefficients elimination is exact, so that nothing but the method keeps the last pivot from zero."""
    grid = Grid((2, 2), periodic=kinds == "periodic")
    operator = laplacian(grid, Boundary.on(grid, kinds))
    rhs = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]], dtype=torch.float64)
    systems = LinearSystems(operator, rhs, positive_definite=True, singular=True)
    result = solve_sequence(systems, method=method, rtol=1e-12).raise_if_failed()
    assert_close(result.solutions, dense_solutions(systems))


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", [(5,), (2,), *SHAPES, (2, 3)])
def test_pattern_is_the_assembled_matrix(shape, kinds):
    systems = make_systems(shape, kinds, reaction=0.3)
    operator, order = systems.operator, np.random.default_rng(1).permutation(math.prod(shape))
    size = math.prod(shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    assembled = operator.select([1]).apply(units).reshape(size, size).T.numpy()  # no assembly, but the stencil itself
    assert_close(operator.to_csr(1).toarray(), assembled)
    plain, permuted = (
        Pattern(operator.grid, operator.boundary, order=o).scatter(operator.entries(1)) for o in (None, order)
    )
    assert_close(plain.toarray(), assembled)
    assert_close(permuted.toarray(), assembled[np.ix_(order, order)])


@pytest.mark.parametrize("kinds", ["dirichlet", "neumann"])
def test_a_shared_matrix_is_factored_once(monkeypatch, kinds):
    systems = make_systems((8, 8), kinds, num=150)
    shared = replace(systems, operator=systems.operator.select(slice(0, 1)))
    calls = []
    splu = sla.splu
    monkeypatch.setattr(sla, "splu", lambda *a, **k: calls.append(k["permc_spec"]) or splu(*a, **k))
    result = solve_sequence(shared, method="direct").raise_if_failed()
    assert calls == ["MMD_AT_PLUS_A", "NATURAL"]  # one for the order, one for the matrix
    one_by_one = torch.cat([solve_sequence(shared.select([i]), method="direct").solutions for i in (0, 70, 149)])
    assert_close(result.solutions[[0, 70, 149]], one_by_one)


def test_the_order_is_found_once_per_family(monkeypatch):
    calls = []
    splu = sla.splu
    monkeypatch.setattr(sla, "splu", lambda *a, **k: calls.append(k["permc_spec"]) or splu(*a, **k))
    direct.solve_all(make_systems((8, 8), num=4), rtol=1e-8)
    assert calls == ["MMD_AT_PLUS_A"] + ["NATURAL"] * 4


@pytest.mark.parametrize("kinds", ["dirichlet", "neumann"])
def test_factors_go_from_one_sequence_to_the_next(monkeypatch, kinds):
    systems = make_systems((8, 8), kinds, num=6)
    shared = replace(systems, operator=systems.operator.select(slice(0, 1)))
    whole = {name: solve_sequence(s, method="direct").solutions for name, s in (("own", systems), ("shared", shared))}
    calls = []
    splu = sla.splu
    monkeypatch.setattr(sla, "splu", lambda *a, **k: calls.append(k["permc_spec"]) or splu(*a, **k))
    for name, family in (("own", systems), ("shared", shared)):
        first = solve_sequence(family.select([0, 1, 2]), method="direct")
        second = solve_sequence(family.select([3, 4, 5]), method="direct", factors=first.factors)
        assert second.factors is first.factors
        assert_close(torch.cat([first.solutions, second.solutions]), whole[name], rtol=1e-14)
        assert calls == ["MMD_AT_PLUS_A"] + ["NATURAL"] * (6 if name == "own" else 1)
        calls.clear()
    other = replace(shared, operator=systems.operator.select(slice(1, 2)))  # another shared matrix, the same order
    result = solve_sequence(other, method="direct", factors=first.factors).raise_if_failed()
    assert calls == ["NATURAL"]
    assert_close(result.solutions, dense_solutions(other), rtol=1e-11)


def test_factors_of_another_family_are_refused():
    factors = solve_sequence(make_systems((8, 8)), method="direct").factors
    for other in (make_systems((8, 4)), make_systems((8, 8), "mixed"), make_systems((8, 8), reaction=-0.5)):
        with pytest.raises(ValueError, match="`factors` must come from systems with the same grid, boundary and def"):
            solve_sequence(other, method="direct", factors=factors)
    with pytest.raises(ValueError, match="`method` must be one of 'direct', 'pardiso', 'auto'"):
        solve_sequence(make_systems((8, 8)), method="cg", factors=factors)


def test_order_is_nearest_only_where_something_is_carried():
    systems = make_systems((8, 8), num=12)
    for method in METHODS_2D_3D:
        order = solve_sequence(systems, method=method).order.tolist()
        assert sorted(order) == list(range(12))
        assert (order == list(range(12))) == (method not in ("gcrodr", "recycling-cg"))


# --- multigrid


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", [(8,), (8, 12), (4, 8, 12)])
def test_coarsened_fluxes_of_a_constant_are_the_coarse_grids_own(shape, kinds):
    operator = make_systems(shape, kinds, contrast=1.0 + 1e-15, reaction=0.5).operator
    coarse, expected = operator.coarsened(), laplacian(operator.grid.coarsened(), operator.boundary)
    assert coarse.grid == expected.grid
    for face, own in zip(coarse.faces, expected.faces, strict=True):
        assert_close(face[0], own[0])
    assert_close(coarse.reaction.flatten(1).sum(1), operator.reaction.flatten(1).sum(1))


def test_coarsened_fluxes_keep_resistance_in_series_and_conductance_in_parallel():
    systems = make_systems((8, 4), contrast=50.0)
    layers = torch.from_numpy(np.exp(np.random.default_rng(2).uniform(0, 3, (1, 8, 1)))).expand(1, 8, 4)
    fine = laplacian(systems.operator.grid, systems.operator.boundary, coefficient=layers)
    coarse = fine.coarsened()
    total = [(1 / op.faces[0]).sum(1).reciprocal().sum(1) for op in (fine, coarse)]
    assert_close(total[1], total[0])


def test_coarsened_raises_where_the_grid_ends():
    with pytest.raises(ValueError, match="even number of intervals"):
        make_systems((6, 9)).operator.coarsened()


def test_steps_do_not_grow_with_the_grid():
    rng = np.random.default_rng(0)
    steps = []
    for n in (32, 64, 128, 256):
        blocks = rng.choice([3.0, 12.0], (1, 8, 8)).repeat(n // 8, 1).repeat(n // 8, 2)
        grid = Grid((n, n))
        operator = laplacian(grid, Boundary.on(grid, "dirichlet"), coefficient=torch.from_numpy(blocks))
        systems = LinearSystems(
            operator, torch.full((1, n, n), 1.0 / n**2, dtype=torch.float64), positive_definite=True
        )
        steps.append(int(solve_sequence(systems, method="multigrid").raise_if_failed().iterations[0]))
    assert max(steps) <= 10
    assert max(steps) - min(steps) <= 2


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_units_do_not_matter(scale):
    systems = make_systems((16, 16))
    operator = replace(systems.operator, faces=tuple(scale * face for face in systems.operator.faces))
    result = solve_sequence(replace(systems, operator=operator), method="multigrid", rtol=1e-10).raise_if_failed()
    assert_close(scale * result.solutions, dense_solutions(systems), rtol=1e-8)


def test_a_bad_system_leaves_its_neighbours_alone():
    systems = make_systems((16, 16), num=3)
    faces = tuple(face.clone() for face in systems.operator.faces)
    for face in faces:
        face[1] *= -1  # not definite, whatever the systems say
    wrong = replace(systems, operator=replace(systems.operator, faces=faces))
    result = solve_sequence(wrong, method="multigrid")
    assert result.failed == [1]
    assert result.statuses[1] in (Status.STAGNATED, Status.BREAKDOWN)
    assert_close(result.solutions[::2], solve_sequence(systems, method="multigrid").solutions[::2])


# --- Krylov functions


def nonsymmetric(n=60, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.eye(n) * 4 + rng.standard_normal((n, n)) / math.sqrt(n) * 2, rng.standard_normal(n)


@pytest.mark.parametrize(("restart", "kind"), itertools.product((5, 20, 60), ("matrix", "sparse", "function")))
def test_gmres_counts_as_scipy_does(restart, kind):
    A, b = nonsymmetric()
    operator = {"matrix": A, "sparse": sla.aslinearoperator(A), "function": lambda v: A @ v}[kind]
    counted = []
    options = {"rtol": 0.95e-8, "atol": 0.0, "restart": restart, "maxiter": 1000}
    sla.gmres(A, b, callback=counted.append, callback_type="pr_norm", **options)
    result = gmres(operator, b, restart=restart)
    assert abs(result.iterations - len(counted)) <= 1
    assert_close(result.solution, np.linalg.solve(A, b), rtol=1e-7)
    assert result.relative_residual == pytest.approx(np.linalg.norm(b - A @ result.solution) / np.linalg.norm(b))


def test_cg_ends_in_as_many_steps_as_there_are_eigenvalues():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    A, b = Q @ np.diag(np.repeat([1.0, 2.0, 5.0, 9.0], 10)) @ Q.T, rng.standard_normal(40)
    result = cg(A, b, rtol=1e-10)
    assert result.iterations == 4
    assert_close(result.solution, np.linalg.solve(A, b), rtol=1e-9)


def test_cg_is_not_deceived_by_its_own_recurrence():
    A, b = make_systems((16, 8)).to_csr(0)
    calls = []

    def rounded_at_first(v):
        calls.append(1)
        return (A @ v).astype(np.float32).astype(float) if len(calls) <= 5 else A @ v

    assert cg(rounded_at_first, b, rtol=1e-11).relative_residual <= 1e-11


def test_arnoldi_keeps_its_basis_orthonormal():
    A, r = np.diag(np.logspace(0, 12, 60)), np.ones(60)
    C = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 3)))[0]
    space = arnoldi(lambda v: A @ v, r - C @ (C.T @ r), steps=30, tolerance=0.0, deflated=C)
    basis = np.hstack([C, space.basis])
    assert_close(basis.T @ basis, np.eye(3 + space.steps + 1), rtol=1e-13)
    assert_close(C @ space.coupling + space.basis @ space.hessenberg, A @ space.basis[:, :-1])


@pytest.mark.parametrize("solve", [cg, gmres])
def test_jacobi_undoes_bad_scaling(solve):
    rng = np.random.default_rng(0)
    A = make_systems((16, 16)).operator.to_csr(0)
    scaling = np.diag(np.exp(rng.uniform(0, 5, 256)))
    scaled, b = scaling @ A.toarray() @ scaling, rng.standard_normal(256)
    plain, preconditioned = solve(scaled, b), solve(scaled, b, preconditioner=jacobi(np.diag(scaled)))
    assert preconditioned.relative_residual <= 1e-8
    assert 3 * preconditioned.iterations < plain.iterations


@pytest.mark.parametrize("solve", [cg, gmres])
def test_krylov_functions_never_raise_on_failure(solve):
    b = np.ones(4)
    assert solve(np.zeros((4, 4)), b).relative_residual == 1.0
    assert not solve(np.full((4, 4), np.nan), b).relative_residual <= 1e-8
    assert solve(np.eye(4), np.zeros(4)).iterations == 0
    for arguments, name in (({"rtol": -1.0}, "rtol"), ({"max_steps": 0}, "max_steps")):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            solve(np.eye(4), b, **arguments)
    with pytest.raises(ValueError, match=r"`b` must have shape \(n,\). Got \(2, 2\)."):
        solve(np.eye(4), b.reshape(2, 2))


def test_constants_named_in_the_docstring_are_those_of_the_code():
    assert sequence.DEFAULT_STEPS["multigrid"] == 500
    assert sequence.DEFAULT_STEPS["gcrodr"] == 10_000
    assert sequence.FALLBACK_POINTS == 100_000
