"""The compiled multigrid solver: equal to the plain cycle, and robust where that is not."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid import classical
from vcycle.multigrid.fluxes import FaceFluxes, laplacian
from vcycle.problems.coefficients import Inclusions, TwoPhase
from vcycle.solvers import LinearSystems, Status, blackbox, cg, multigrid, solve_sequence

KINDS = {
    "dirichlet": "dirichlet",
    "neumann": "neumann",
    "periodic": "periodic",
    "mixed": [("dirichlet", "neumann"), "periodic", ("neumann", "dirichlet")],
}


ONE_WALL = [("neumann", "dirichlet"), ("neumann", "neumann"), ("neumann", "neumann")]


def make_systems(shape, kinds="dirichlet", *, contrast=10.0, num=2, reaction=None, extent=None, a=None, seed=0):
    chosen = KINDS.get(kinds, ONE_WALL)
    chosen = chosen if isinstance(chosen, str) else chosen[: len(shape)]
    periodic = Boundary.of(chosen, len(shape)).periodic
    grid = Grid(shape, extent=tuple(n / 8 for n in shape) if extent is None else extent, periodic=periodic)
    boundary = Boundary.on(grid, chosen)
    rng = np.random.default_rng(seed)
    if a is None:
        a = np.exp(rng.uniform(0.0, math.log(contrast), (num, *shape)))
    operator = laplacian(grid, boundary, coefficient=torch.from_numpy(a))
    rhs = torch.from_numpy(rng.standard_normal((len(a), *shape)))
    singular = not boundary.fixes_constant and reaction is None
    if reaction is not None:
        operator = replace(operator, reaction=torch.full_like(rhs, reaction))
    if singular:
        rhs = rhs - rhs.flatten(1).mean(1).reshape(-1, *[1] * len(shape))
    return LinearSystems(operator, rhs, positive_definite=True, singular=singular)


def dense_solutions(systems):
    answers = []
    for index in range(len(systems)):
        A, b = systems.to_csr(index)
        answers.append(np.linalg.lstsq(A.toarray(), b, rcond=1e-13)[0].reshape(systems.rhs.shape[1:]))
    return torch.from_numpy(np.stack(answers))


def solved(systems, *, by=None, **options):
    """Solve and check; ``by`` is the cycle that must have done it."""
    solves = multigrid.solve_all(systems, **({"rtol": 1e-8} | options))
    assert (systems.relative_residuals(solves.solutions) <= options.get("rtol", 1e-8)).all()
    if by is not None:
        assert by == ("blackbox" if _went_to_blackbox(systems) else "plain")
    return solves


def _went_to_blackbox(systems) -> bool:
    if not multigrid.plain_fits(systems):
        return True
    first = multigrid.Solves.blank(systems.rhs)
    multigrid._solve_plainly(systems, first, rtol=1e-8, max_steps=500, workers=1)
    return bool((first.iterations < 0).all())


# --- the plain cycle


def built(systems, index: int):
    """The levels of one matrix as the kernels hold them: a workspace, and the factor on the matrix."""
    workspace = multigrid._Workspace(systems)
    kernels, matrix = workspace.kernels, tuple(part[min(index, len(part) - 1)] for part in workspace.matrices)
    scale = kernels.build(workspace.work, workspace.table, matrix, workspace.wrap, workspace.line)
    kernels.coarsest_matrix(workspace.work, workspace.table, workspace.wrap, workspace.inverse)
    kernels.invert(workspace.inverse, systems.singular)
    return workspace, scale


def field(workspace, row, level: int) -> np.ndarray:
    """One array of one level, ghosts included."""
    *shape, offset = (int(n) for n in workspace.table[level])
    first = int(row) * (len(workspace.work) // workspace.kernels.ROWS) + offset
    size = math.prod(n + 2 for n in shape)
    return workspace.work[first : first + size].reshape([n + 2 for n in shape])


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", [(8, 16), (8, 4, 16)], ids=["2d", "3d"])
def test_kernel_levels_are_the_coarsened_fluxes(shape, kinds):
    systems = make_systems(shape, kinds, contrast=1e3, reaction=0.3)
    workspace, scale = built(systems, 1)
    operator: FaceFluxes = systems.operator.select([1])
    for level in range(len(workspace.table)):
        for axis, face in enumerate(operator.faces):
            held = field(workspace, workspace.kernels.TX + np.uint64(axis), level)
            inside = tuple(slice(1, n + 1 + (i == axis)) for i, n in enumerate(operator.grid.shape))
            assert_close(torch.tensor(held[inside]), scale * face[0], rtol=1e-6)
        inside = tuple(slice(1, n + 1) for n in operator.grid.shape)
        for row, expected in (
            (workspace.kernels.A, operator.diagonal()),
            (workspace.kernels.D, 1 / operator.diagonal()),
        ):
            power = scale if row == workspace.kernels.A else 1 / scale
            assert_close(torch.tensor(field(workspace, row, level)[inside]), power * expected[0], rtol=1e-6)
        if operator.grid.can_coarsen:
            operator = operator.coarsened()
    product = torch.from_numpy(workspace.inverse) @ (scale * torch.from_numpy(operator.to_csr().toarray()))
    assert_close(product, torch.eye(operator.grid.num_points).double(), rtol=1e-4)


@pytest.mark.parametrize("singular", [False, True])
def test_inverse_is_the_pseudo_inverse(singular):
    from vcycle.solvers import _vectors

    A = make_systems((4, 3), "neumann" if singular else "mixed").to_csr(0)[0].toarray()
    inverse = A.copy()
    _vectors.invert(inverse, singular)
    assert_close(inverse, np.linalg.pinv(A, rcond=1e-10, hermitian=True), rtol=1e-10)


def preconditioner_matrix(systems: LinearSystems) -> np.ndarray:
    """``B`` column by column, through the compiled cycle."""
    workspace, scale = built(systems, 0)
    kernels, inside = workspace.kernels, (slice(1, -1),) * systems.operator.grid.num_axes
    u, v, f, d = (field(workspace, row, 0) for row in (kernels.U, kernels.V, kernels.F, kernels.D))
    columns = []
    for unit in np.eye(systems.operator.grid.num_points):
        f[inside] = unit.reshape(systems.rhs.shape[1:])
        v[:] = np.float32(classical.chebyshev_weights(3)[0]) * d * f
        arrays = (workspace.work, workspace.table, workspace.inverse, workspace.signs, workspace.wrap, workspace.line)
        products = kernels.vcycle(*arrays)
        columns.append(u[inside].astype(float).ravel())
        assert products[0] == pytest.approx(columns[-1] @ unit, rel=1e-5)
    return scale * np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("shape", "kinds"), [*(((16, 8), kinds) for kinds in KINDS), *(((8, 16, 4), kinds) for kinds in KINDS)], ids=str
)
def test_compiled_cycle_is_the_plain_one(shape, kinds):
    systems = make_systems(shape, kinds, contrast=100.0)
    operator = systems.operator.select([0])
    units = torch.eye(operator.grid.num_points, dtype=torch.float64).reshape(-1, *shape)
    plain = classical.v_cycle(classical.hierarchy(operator), units).flatten(1).T
    assert_close(preconditioner_matrix(systems), plain, rtol=3e-6)


@pytest.mark.parametrize("width", [1024, 336, 64])
def test_pipeline_stages_do_not_overtake(width):
    """The number of lines that a stage takes at a time follows from the width: here 1, 3 and 15."""
    systems = make_systems((32, width), "dirichlet", contrast=100.0, num=1)
    workspace, scale = built(systems, 0)
    kernels = workspace.kernels
    f, v, d = (field(workspace, row, 0) for row in (kernels.F, kernels.V, kernels.D))
    f[1:-1, 1:-1] = systems.rhs[0]
    v[:] = np.float32(classical.chebyshev_weights(3)[0]) * d * f
    kernels.vcycle(workspace.work, workspace.table, workspace.inverse, workspace.signs, workspace.wrap, workspace.line)
    plain = classical.v_cycle(classical.hierarchy(systems.operator), systems.rhs)
    assert_close(torch.tensor(scale * field(workspace, kernels.U, 0)[1:-1, 1:-1].astype(float)), plain[0], rtol=3e-6)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)], ids=["2d", "3d"])
def test_cycle_is_symmetric_positive_and_contracts(shape, kinds):
    systems = make_systems(shape, kinds, contrast=1.0 + 1e-15)
    B = preconditioner_matrix(systems)
    assert_close(B, B.T, rtol=1e-5)
    spectrum = np.sort(np.linalg.eigvals(B @ systems.operator.to_csr().toarray()).real)
    spectrum = spectrum[1:] if systems.singular else spectrum
    assert spectrum[0] >= 0.85
    assert spectrum[-1] <= 1.0 + 1e-3


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)], ids=["2d", "3d"])
def test_steps_are_those_of_textbook_conjugate_gradients(shape, monkeypatch):
    monkeypatch.setattr(multigrid, "JUMP", math.inf)
    monkeypatch.setattr(multigrid, "PATIENCE", 500)
    systems = make_systems(shape, "mixed", contrast=1e5, num=1)
    B = preconditioner_matrix(systems)
    A, b = systems.to_csr(0)
    expected = cg(A, b, preconditioner=lambda r: B @ r).iterations
    steps = int(solved(systems).iterations[0])
    assert abs(steps - expected) <= 1
    assert expected >= 12  # many enough that steepest descent would need more


@pytest.mark.slow
def test_kernels_load_from_cache_in_another_process():
    code = (
        "import time; start = time.process_time(); "
        "from vcycle.solvers import _blackbox, _kernels, _kernels3, _vectors; "
        "print(time.process_time() - start); "
        "modules = (_blackbox, _kernels, _kernels3, _vectors); "
        "kernels = [k for m in modules for k in vars(m).values() if hasattr(k, 'stats')]; "
        "print(sum(k.stats.cache_hits.total() for k in kernels), sum(k.stats.cache_misses.total() for k in kernels))"
    )
    from vcycle.solvers import _blackbox, _kernels, _kernels3  # noqa: F401 - fills the cache

    run = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    seconds, hits, misses = run.stdout.split()
    assert float(seconds) < 5.0
    assert int(hits) > 30
    assert int(misses) == 0


# --- which cycle takes what


def two_phase(shape, contrast, num=2, seed=0):
    grid, rng = Grid(shape), np.random.default_rng(seed)
    return np.stack([TwoPhase(contrast, 1.0).draw(grid, rng) for _ in range(num)])


def test_smooth_and_mild_coefficients_go_to_the_plain_cycle():
    solved(make_systems((32, 32), a=two_phase((32, 32), 12.0)), by="plain")
    white = np.exp(np.random.default_rng(0).standard_normal((2, 64, 64)))  # few faces jump far: not a line of them
    assert solved(make_systems((64, 64), a=white), by="plain").iterations.max() <= 12


def test_jumps_stretched_cells_and_other_sizes_go_to_black_box():
    solved(make_systems((32, 32), a=two_phase((32, 32), 1e4)), by="blackbox")
    solved(make_systems((8, 8, 8), a=np.where(np.arange(8) < 4, 1e4, 1.0) * np.ones((2, 8, 8, 8))), by="blackbox")
    solved(make_systems((32, 32), extent=(1.0, 2.0)), by="blackbox")
    solved(make_systems((34, 34)), by="blackbox")


def test_a_mixed_batch_is_solved_by_both_and_in_place(monkeypatch):
    a = np.concatenate([two_phase((32, 32), c, num=1, seed=int(c)) for c in (12.0, 1e4, 3.0, 1e4)])
    systems = make_systems((32, 32), a=a)
    visited = []
    original = blackbox.Workspace.solve_into
    monkeypatch.setattr(
        blackbox.Workspace, "solve_into", lambda self, s, i, **k: visited.append(i) or original(self, s, i, **k)
    )
    solves = solved(systems, rtol=1e-11)
    assert visited == [1, 3]
    assert_close(solves.solutions, dense_solutions(systems), rtol=1e-7)
    three = multigrid.solve_all(systems, rtol=1e-11, workers=3)
    assert torch.equal(solves.solutions, three.solutions)
    assert torch.equal(solves.iterations, three.iterations)
    assert (solves.seconds > 0).all()


def test_what_the_plain_cycle_does_not_finish_goes_to_black_box(monkeypatch):
    monkeypatch.setattr(multigrid, "JUMP", math.inf)
    monkeypatch.setattr(multigrid, "PATIENCE", 5)
    systems = make_systems((32, 32), a=two_phase((32, 32), 1e4))
    steps = solved(systems).iterations
    assert (steps > 5).all()
    assert (steps <= 5 + 15).all()
    assert multigrid.solve_all(systems, rtol=1e-8, max_steps=5).iterations.max() == 5


# --- black-box multigrid

BOUNDARIES = [*KINDS, "one wall"]
ODD = [(13, 10), (17, 6), (3, 40), (6, 7, 5), (5, 4, 9)]


@pytest.mark.parametrize("kinds", BOUNDARIES)
@pytest.mark.parametrize("shape", [*ODD, (12, 10), (6, 8, 10)], ids=str)
def test_black_box_agrees_with_a_dense_solve(shape, kinds, monkeypatch):
    monkeypatch.setattr(multigrid, "PLAIN_COARSEST", 0)
    systems = make_systems(shape, kinds, contrast=100.0)
    if not multigrid.can_solve(systems):
        pytest.skip("an odd periodic axis leaves too many points")
    solves = solved(systems, by="blackbox", rtol=1e-11)
    assert_close(solves.solutions, dense_solutions(systems), rtol=1e-8)
    assert solves.iterations.max() <= 16


@pytest.mark.parametrize("shape", [(13, 10), (6, 7, 5)], ids=str)
def test_black_box_knows_the_reaction(shape):
    systems = make_systems(shape, "neumann", reaction=0.05)
    assert_close(solved(systems, rtol=1e-11).solutions, dense_solutions(systems), rtol=1e-8)


def blackbox_levels(systems):
    """Per level of black-box multigrid: the matrix that the kernels hold, and the interpolation from the next level."""
    workspace = blackbox.Workspace(systems)
    workspace.build(0)
    coefs, vectors = workspace.work[:2]
    wraps, kernels = workspace.levels[1], workspace.kernels
    lines = [[int(n) for n in line] for line in workspace.levels[0]]
    matrices, transfers = [], []
    for level, (n0, n1, n2, at, axis, _, planes) in enumerate(lines):
        shape, padded = (n0, n1, n2), (planes, n1 + 2, n2 + 2)
        inside = (slice(None) if planes == 1 else slice(1, -1), slice(1, -1), slice(1, -1))
        held = [row[at : at + math.prod(padded)].reshape(padded)[inside] for row in coefs]
        number = np.arange(math.prod(shape)).reshape(shape)
        A = np.zeros((number.size, number.size))
        for row, values in enumerate(held):
            shift = (row // 9 - 1, row // 3 % 3 - 1, row % 3 - 1)
            there = np.stack(np.indices(shape)) + np.reshape(shift, (3, 1, 1, 1))
            exists = np.ones(shape, bool)
            for a in range(3):
                exists &= wraps[a] | ((there[a] >= 0) & (there[a] < shape[a]))
            there = number[tuple(there[a] % shape[a] for a in range(3))]
            np.add.at(A, (number[exists], there[exists]), values[exists])
            assert (values[~exists] == 0).all()
        matrices.append(A)
        if level + 1 < len(lines):
            coarse = np.arange(math.prod(lines[level + 1][:3])).reshape(lines[level + 1][:3])
            left, right = (
                vectors[k, at : at + math.prod(padded)].reshape(padded)[inside] for k in (kernels.L, kernels.R)
            )
            T = np.zeros((number.size, coarse.size))
            for place in np.ndindex(*shape):
                target, own = list(place), place[axis] // 2
                target[axis] = own
                if place[axis] % 2 == 0:
                    T[number[place], coarse[tuple(target)]] = 1.0
                    continue
                T[number[place], coarse[tuple(target)]] += left[place]
                target[axis] = (own + 1) % coarse.shape[axis]
                if own + 1 < coarse.shape[axis] or wraps[axis]:
                    T[number[place], coarse[tuple(target)]] += right[place]
            transfers.append(T)
    return workspace, matrices, transfers


@pytest.mark.parametrize("kinds", BOUNDARIES)
@pytest.mark.parametrize("shape", [(12, 8), (13, 10), (6, 5, 8)], ids=str)
def test_coarse_matrices_are_galerkin_products(shape, kinds):
    """Dense ``P' A P`` against the kernels, level by level; interpolation from the collapsed rows."""
    systems = make_systems(shape, kinds, contrast=1e3, num=1)
    workspace, matrices, transfers = blackbox_levels(systems)
    assert len(matrices) >= (2 if kinds == "periodic" else 3)
    assert_close(matrices[0], workspace.scale * systems.operator.to_csr().toarray(), rtol=1e-6)
    for A, P, coarse in zip(matrices, transfers, matrices[1:], strict=False):
        assert_close(P.T @ A @ P, coarse, rtol=1e-5)
    if systems.singular:  # what interpolates constants exactly keeps them in the kernel
        for A, P in zip(matrices, transfers, strict=False):
            assert_close(P.sum(1), np.ones(len(P)), rtol=1e-5)
            assert np.abs(A.sum(1)).max() <= 1e-5 * A.diagonal().max()
    inverse = np.linalg.pinv(matrices[-1], rcond=1e-5, hermitian=True)
    assert_close(workspace.work[3], inverse, rtol=1e-4)


@pytest.mark.parametrize("kinds", BOUNDARIES)
@pytest.mark.parametrize("shape", [(12, 10), (6, 5, 8)], ids=str)
def test_black_box_cycle_is_symmetric_positive_and_contracts(shape, kinds):
    systems = make_systems(shape, kinds, num=1)
    workspace = blackbox.Workspace(systems)
    workspace.build(0)
    B = np.stack([workspace.cycle(unit) for unit in np.eye(math.prod(shape))], axis=1)
    assert_close(B, B.T, rtol=1e-10)
    spectrum = np.sort(np.linalg.eigvals(B @ systems.operator.to_csr().toarray()).real)[int(systems.singular) :]
    assert spectrum[0] >= 0.7
    assert spectrum[-1] <= 1.0 + 1e-8


@pytest.mark.parametrize("contrast", [1.0, 1e4])
def test_interpolation_keeps_fluxes(contrast):
    """Layers across y: between two coarse points the interpolated function carries one flux, in series."""
    layers = np.where(np.random.default_rng(3).uniform(size=16) < 0.5, 1.0, contrast) * np.ones((1, 16, 16))
    systems = make_systems((16, 16), "neumann", a=layers, reaction=1e-9)
    workspace = blackbox.Workspace(systems)
    workspace.build(0)
    at = int(workspace.levels[0][1, 3])  # the second level is the one coarsened along y
    kernels, vectors = workspace.kernels, workspace.work[1]
    left, right = (vectors[k, at : at + 10 * 18].reshape(10, 18)[1:-1, 2:16:2] for k in (kernels.L, kernels.R))
    faces = systems.operator.faces[1][0, 0].numpy()
    assert_close(left[3].astype(float), faces[1:14:2] / (faces[1:14:2] + faces[2:15:2]), rtol=1e-3)
    assert_close(left + right, np.ones_like(left), rtol=1e-3)


HARD = {
    "two-phase": lambda grid, rng: TwoPhase(1e4, 1.0).draw(grid, rng),
    "two-phase, inverted": lambda grid, rng: TwoPhase(1.0, 1e4).draw(grid, rng),
    "inclusions": lambda grid, rng: Inclusions(1e4, 1.0, 30).draw(grid, rng),
    "weak inclusions": lambda grid, rng: Inclusions(1e-4, 1.0, 30).draw(grid, rng),
    "white": lambda grid, rng: np.exp(2.0 * rng.standard_normal(grid.shape)),
}


@pytest.mark.parametrize("family", HARD)
@pytest.mark.parametrize("n", [64, 101, 256])
def test_hard_coefficients_take_few_steps(n, family):
    a = np.stack([HARD[family](Grid((n, n)), np.random.default_rng(seed)) for seed in range(4)])
    assert solved(make_systems((n, n), extent=1.0, a=a), by="blackbox").iterations.max() <= 25


@pytest.mark.parametrize(
    "extents", [[(1.0, 1.0), (1.0, 8.0), (8.0, 1.0)], [(1.0,) * 3, (8.0, 1.0, 1.0), (1.0, 8.0, 8.0)]]
)
def test_steps_do_not_grow_with_the_aspect_ratio(extents, monkeypatch):
    shape = {2: (64, 64), 3: (16, 16, 16)}[len(extents[0])]
    a, steps = two_phase(shape, 4.0), []
    monkeypatch.setattr(multigrid, "PLAIN_COARSEST", 0)
    for extent in extents:
        steps.append(int(solved(make_systems(shape, a=a, extent=extent)).iterations.max()))
    assert max(steps[1:]) <= 1.5 * steps[0]
    assert steps[0] <= 9


@pytest.mark.parametrize("kinds", ["dirichlet", "neumann", "periodic", "mixed"])
@pytest.mark.parametrize("shape", [(17, 12), (20, 20), (7, 8, 6)], ids=str)
def test_vertex_grids(shape, kinds):
    """Points at the ends; Dirichlet points stand alone, and what held to them is a reaction of their neighbours."""
    chosen = KINDS[kinds] if isinstance(KINDS[kinds], str) else KINDS[kinds][: len(shape)]
    grid = Grid(shape, centring="vertex", periodic=Boundary.of(chosen, len(shape)).periodic)
    boundary, rng = Boundary.on(grid, chosen), np.random.default_rng(0)
    fixed = torch.zeros(1, *shape, dtype=torch.bool)
    for axis, (low, high) in enumerate(boundary.kinds):
        for end, kind in ((0, low), (shape[axis] - 1, high)):
            if kind == "dirichlet":
                fixed.select(axis + 1, end).fill_(True)
    faces, reaction = [], torch.where(fixed, 3.0, 0.0).double()
    for axis in range(len(shape)):
        dim, size = axis + 1, shape[axis]
        own = torch.from_numpy(np.exp(rng.uniform(0, 3, (1, *shape))))  # of the face below each point
        if not boundary.periodic[axis]:
            own.select(dim, 0).zero_()
        beyond = fixed.roll(1, dim)
        reaction += torch.where(~fixed & beyond, own, 0.0)
        reaction += torch.where(~fixed & fixed.roll(-1, dim), own.roll(-1, dim), 0.0)
        own = torch.where(fixed | beyond, 0.0, own)
        first = own.narrow(dim, 0, 1)
        faces.append(torch.cat([own, first if boundary.periodic[axis] else torch.zeros_like(first)], dim))
        assert faces[-1].shape[dim] == size + 1
    rhs = torch.from_numpy(rng.standard_normal((1, *shape)))
    singular = not bool(fixed.any())
    rhs = rhs - rhs.mean() if singular else rhs
    operator = FaceFluxes(grid, boundary, tuple(faces), None if singular else reaction)
    systems = LinearSystems(operator, rhs, positive_definite=True, singular=singular)
    assert multigrid.can_solve(systems)
    solves = solved(systems, by="blackbox", rtol=1e-11)
    assert_close(solves.solutions, dense_solutions(systems), rtol=1e-8)
    assert solves.iterations.max() <= 16


def test_what_can_be_solved():
    assert multigrid.can_solve(make_systems((101, 37)))
    assert multigrid.can_solve(make_systems((30, 30, 30)))
    assert not multigrid.can_solve(make_systems((35, 36), "periodic"))  # an odd ring stays as long as it is
    assert multigrid.can_solve(make_systems((35, 36), "periodic"), max_coarsest=35 * 9)
    assert not multigrid.can_solve(make_systems((64,)))
    assert not multigrid.can_solve(replace(make_systems((8, 8)), positive_definite=False))
    with pytest.raises(ValueError, match=r"its periodic axes even down to 256 points. Got \(351, 36\)"):
        multigrid.solve_all(make_systems((351, 36), "periodic"), rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_black_box_does_not_mind_units(scale):
    systems = make_systems((13, 10))
    operator = replace(systems.operator, faces=tuple(scale * face for face in systems.operator.faces))
    solves = solved(replace(systems, operator=operator), rtol=1e-10)
    assert_close(scale * solves.solutions, dense_solutions(systems), rtol=1e-8)


def test_black_box_leaves_bad_systems_to_their_status():
    systems = make_systems((13, 10), num=3)
    faces = tuple(face.clone() for face in systems.operator.faces)
    for face in faces:
        face[1] *= -1  # not definite, whatever the systems say
    result = solve_sequence(
        replace(systems, operator=replace(systems.operator, faces=faces)), method="multigrid", max_steps=20
    )
    assert result.failed == [1]
    assert result.statuses[1] is not Status.SOLVED
    assert_close(result.solutions[::2], multigrid.solve_all(systems, rtol=1e-8).solutions[::2], rtol=1e-6)


def test_one_matrix_for_all_is_built_once(monkeypatch):
    systems = make_systems((13, 10), num=3)
    shared = replace(systems, operator=systems.operator.select(slice(0, 1)))
    calls = []
    original = blackbox.Workspace.build
    monkeypatch.setattr(blackbox.Workspace, "build", lambda self, m: calls.append(m) or original(self, m))
    assert_close(solved(shared, rtol=1e-11).solutions, dense_solutions(shared), rtol=1e-8)
    assert calls == [0]
