"""The cycle, its classical levels and the learned layer, against dense matrices and against each other."""

import pytest
import torch

from helpers import assert_close, assert_order
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.multigrid.classical import ClassicalLevel, chebyshev_weights, hierarchy, v_cycle
from vcycle.multigrid.coarsest import DenseLevel, SparseLevel
from vcycle.multigrid.cycle import cycle
from vcycle.multigrid.fluxes import laplacian
from vcycle.multigrid.layer import MultigridLayer, Transfers
from vcycle.multigrid.padding import Padding
from vcycle.multigrid.transfers import apply_stencil, linear_weight, prolong

MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))
KINDS = {"dirichlet": "dirichlet", "neumann": "neumann", "periodic": "periodic", "mixed": MIXED}


def poisson(shape, kinds, coefficient=None):
    grid = Grid(shape, periodic=kinds == "periodic")
    return laplacian(grid, Boundary.on(grid, kinds), coefficient=coefficient)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def columns(function, shape):
    """Return the dense matrix of a linear map of fields ``(batch, *shape)``."""
    size = torch.Size(shape).numel()
    return function(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1).T


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_chebyshev_weights_have_the_fourth_kind_polynomial(degree):
    theta = torch.linspace(0.1, 3.0, 20, dtype=torch.float64)
    x = 1 - torch.cos(theta)  # rho (1 - cos) / 2 with rho = 2
    product = torch.ones_like(x)
    for weight in chebyshev_weights(degree):
        product *= 1 - weight * x
    expected = torch.sin((degree + 0.5) * theta) / torch.sin(theta / 2) / (2 * degree + 1)
    assert_close(product, expected)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_restriction_is_the_transpose_of_interpolation(kinds):
    padding = Padding.of(poisson((8, 12), kinds).boundary, "cell")
    weight = linear_weight(2)
    P = columns(lambda u: prolong(u[:, None], weight, padding, (8, 12))[:, 0], (4, 6))
    R = columns(lambda f: apply_stencil(f[:, None], weight, padding, stride=2)[:, 0], (8, 12))
    assert_close(R, P.T)


def test_interpolation_is_exact_for_linear_functions():
    grid, padding = Grid((8, 8), periodic=False), Padding.of(Boundary.of("neumann", 2), "cell")
    fine, coarse = (torch.from_numpy(g.mesh()[0] + 2 * g.mesh()[1]) for g in (grid, grid.coarsened()))
    result = prolong(coarse[None, None], linear_weight(2), padding, (8, 8))[0, 0]
    assert_close(result[1:-1, 1:-1], fine[1:-1, 1:-1])


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_cycle_is_symmetric_and_positive(kinds):
    levels = hierarchy(poisson((16, 16), kinds))
    B = columns(lambda f: v_cycle(levels, f), (16, 16))
    assert_close(B, B.T)
    centred = torch.eye(256, dtype=torch.float64) - (1 / 256 if kinds in ("neumann", "periodic") else 0)
    eigenvalues = torch.linalg.eigvalsh(centred @ B @ centred)
    assert eigenvalues[0 if kinds in ("dirichlet", MIXED) else 1] > 1e-3


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_a_grid_that_does_not_halve_is_solved_by_sparse_lu(kinds):
    """33 by 20 is its own coarsest grid: the cycle is the (pseudo-)inverse, symmetric and positive."""
    operator = poisson((33, 20), kinds, coefficient=1 + random(2, 33, 20).square())
    levels = hierarchy(operator)
    assert [type(level) for level in levels] == [SparseLevel]
    for i in range(2):
        B = columns(lambda f, i=i: v_cycle(hierarchy(operator.select([i])), f), (33, 20))
        A = columns(operator.select([i]).apply, (33, 20))
        assert_close(B, torch.linalg.pinv(A, hermitian=True), rtol=1e-10)
        assert_close(B, B.T, rtol=1e-12)
        assert torch.linalg.eigvalsh(B)[0 if operator.boundary.fixes_constant else 1] > 1e-3
    f, g = random(2, 33, 20), random(2, 33, 20, seed=1)
    assert_close(v_cycle(levels, f), DenseLevel(operator).smooth(f, None), rtol=1e-10)  # each matrix its own side
    f.requires_grad_()
    (gradient,) = torch.autograd.grad((v_cycle(levels, f) * g).sum(), f)
    assert_close(gradient, v_cycle(levels, g), rtol=1e-10)
    assert v_cycle(levels, f.float()).dtype == torch.float32


def test_levels_above_a_large_coarsest_one_are_the_classical_ones():
    operator = poisson((66, 40), "neumann")
    levels = hierarchy(operator)
    assert [type(level) for level in levels] == [ClassicalLevel, SparseLevel]
    f = random(3, 66, 40)
    assert_close(v_cycle(levels, f), v_cycle([levels[0], DenseLevel(operator.coarsened())], f), rtol=1e-10)


def contraction(kinds, size, steps=25):
    """Return the energy-norm contraction of the V(1,1)-cycle: the spectral radius of I - BA, by power iteration."""
    operator = poisson((size, size), kinds)
    levels, singular = hierarchy(operator), not operator.boundary.fixes_constant
    error, previous = random(1, size, size), 1.0
    for _ in range(steps):
        if singular:
            error = error - error.mean()
        error = error / operator.energy(error).sqrt()
        error = error - v_cycle(levels, operator.apply(error))
        previous = operator.energy(error).sqrt().item()
    return previous


@pytest.mark.slow
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_contraction_does_not_depend_on_the_size(kinds):
    rates = [contraction(kinds, size) for size in (64, 128, 256, 512)]
    assert max(rates) <= 0.15, rates
    assert max(rates) - min(rates) <= 0.02, rates


@pytest.mark.parametrize("kind", ["backslash", "V", "W", "F"])
def test_every_kind_of_cycle_converges_to_the_solution(kind):
    operator = poisson((32, 32), "dirichlet", coefficient=1 + random(2, 32, 32).square())
    solution, levels = random(2, 32, 32, seed=1), hierarchy(operator)
    u, f = None, operator.apply(solution)
    for _ in range(60):
        u = v_cycle(levels, f, u, kind)
    assert_close(u, solution, rtol=1e-10)


def test_w_cycle_contracts_at_least_as_fast_as_v():
    operator = poisson((32, 32), "dirichlet")
    levels, f = hierarchy(operator, degree=1), random(1, 32, 32)
    exact = torch.linalg.solve(columns(operator.apply, (32, 32)), f.flatten()).reshape(1, 32, 32)
    kinds = ("backslash", "V", "F", "W")
    errors = {kind: operator.energy(v_cycle(levels, f, None, kind) - exact).item() for kind in kinds}
    assert errors["W"] <= errors["F"] <= errors["V"] < errors["backslash"]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(12,), (8, 12), (8, 4, 4)], ids=["1d", "2d", "3d"])
def test_coarsened_constant_coefficient_is_the_coarse_operator(kinds, shape):
    kinds = kinds if isinstance(kinds, str) else (kinds * 2)[: len(shape)]
    operator = poisson(shape, kinds)
    coarse = laplacian(operator.grid.coarsened(), operator.boundary)
    assert_close(torch.from_numpy(operator.coarsened().to_csr().toarray()), torch.from_numpy(coarse.to_csr().toarray()))


def test_padding_by_kind_and_centring():
    u = torch.arange(1.0, 5.0)[None, None]
    expected = {
        ("dirichlet", "cell"): [-1, 1, 2, 3, 4, -4],
        ("neumann", "cell"): [1, 1, 2, 3, 4, 4],
        ("periodic", "cell"): [4, 1, 2, 3, 4, 1],
        ("dirichlet", "vertex"): [-2, 1, 2, 3, 4, -3],
        ("neumann", "vertex"): [2, 1, 2, 3, 4, 3],
        ("periodic", "vertex"): [4, 1, 2, 3, 4, 1],
    }
    for (kind, centring), values in expected.items():
        assert Padding.of(Boundary.of(kind, 1), centring).pad(u)[0, 0].tolist() == values
    assert Padding.zeros(1).pad(u)[0, 0].tolist() == [0, 1, 2, 3, 4, 0]


CENTRINGS = ["cell", "vertex"]
CONTINUED = {  # functions that the ghosts of a kind continue exactly, of the distance to the wall
    "dirichlet": lambda distance: 3.0 * distance,
    "neumann": lambda distance: 2.0 - distance**2,
    "periodic": lambda distance: 0.0 * distance + 2.0,
}


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("kind", CONTINUED)
@pytest.mark.parametrize("size", [32, 33, 37, 46])
def test_every_level_keeps_the_wall_where_it_is(kind, centring, size):
    padding = Padding.of(Boundary.of(kind, 1), centring)
    length = size - (1.0 if centring == "vertex" and kind != "periodic" else 0.0)
    for level, (ghosts, (count,)) in enumerate(padding.hierarchy((size,), 4)):
        h = 2.0**level
        x = h * (torch.arange(-1, count + 1, dtype=torch.float64) + (0.5 if centring == "cell" else 0.0))
        gap = (length - x[-2].item()) / h
        if kind == "periodic":
            assert 1 <= gap + x[1].item() / h < 2
        else:
            assert gap == 0 or 0.5 <= gap < 1.5
        low, high = (CONTINUED[kind](distance) for distance in (x, length - x))
        assert_close(ghosts.pad(low[1:-1][None, None])[0, 0, 0], low[0])
        assert_close(ghosts.pad(high[1:-1][None, None])[0, 0, -1], high[-1])


def test_a_periodic_axis_that_does_not_halve_closes_linearly():
    """Nine cells leave four pairs and a gap of one and a half coarse spacings between the last and the first."""
    coarse, shape = Padding.of(Boundary.of("periodic", 1), "cell").coarsened((9,))
    assert shape == (4,)
    u = torch.tensor([[[3.0, 0.0, 0.0, 6.0]]], dtype=torch.float64)
    assert_close(coarse.pad(u)[0, 0], torch.tensor([5.0, 3.0, 0.0, 0.0, 6.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(8, 12), (9, 11), (5, 8)])
def test_fold_is_the_transpose_of_padding(kinds, centring, shape):
    for padding, size in Padding.of(poisson((8, 8), kinds).boundary, centring).hierarchy(shape, 3):
        outer = tuple(n + 2 for n in size)
        ghosts = columns(lambda u, p=padding: p.pad(u[:, None])[:, 0], size)
        folded = columns(lambda g, p=padding: p.fold(g[:, None].clone())[:, 0], outer)
        assert_close(folded, ghosts.T)


@pytest.mark.parametrize("num_axes", [1, 2])
@pytest.mark.parametrize(("centring", "kernel"), [("cell", 4), ("vertex", 3)])
def test_gradients_of_padded_convolutions(num_axes, centring, kernel):
    """Derivatives of first and second order, forward and backward, against finite differences."""
    padding = Padding.of(Boundary.of((("dirichlet", "neumann"), "periodic")[:num_axes], num_axes), centring)
    shape = (5, 4)[:num_axes]
    coarse, size = padding.coarsened(shape)
    u, v = random(1, 1, *shape).requires_grad_(), random(1, 1, *size).requires_grad_()
    w = random(2, 1, *(kernel,) * num_axes, seed=2).requires_grad_()
    p = random(1, 2, *(4 if centring == "cell" else 3,) * num_axes, seed=3).requires_grad_()

    def restrict(u, w):
        return apply_stencil(u, w, padding, stride=2)

    def interpolate(v, p):
        return prolong(v, p, coarse, shape)

    for function, arguments in ((restrict, (u, w)), (interpolate, (v, p))):
        options = {"check_forward_ad": num_axes == 2}
        assert torch.autograd.gradcheck(function, arguments, **options)
        assert torch.autograd.gradgradcheck(function, arguments)
        with torch.no_grad():
            assert function(*arguments).equal(function(*(a.detach() for a in arguments)))


WAVES = {
    "dirichlet": lambda x: torch.sin(torch.pi * x),
    "neumann": lambda x: torch.cos(torch.pi * x),
    "periodic": lambda x: torch.sin(2 * torch.pi * x + 0.3),
}


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("kind", WAVES)
@pytest.mark.parametrize("size", [16, 17, 22])
def test_linear_interpolation_is_second_order_up_to_every_wall(kind, centring, size):
    """In the largest error over all points, from grids that halve and from grids that do not."""
    padding, errors, sizes = Padding.of(Boundary.of(kind, 1), centring), [], []
    for factor in (1, 3, 9):
        n = size * factor
        h = 1.0 / (n - 1 if centring == "vertex" and kind != "periodic" else n)
        coarse, (m,) = padding.coarsened((n,))
        fine, values = (
            WAVES[kind]((torch.arange(k, dtype=torch.float64) + padding.offset) * spacing)
            for k, spacing in ((n, h), (m, 2 * h))
        )
        change = prolong(values[None, None], linear_weight(1, centring), coarse, (n,))[0, 0] - fine
        errors.append(change.abs().max().item())
        sizes.append(1 / h)
    assert_order(errors, sizes, 2.0)


def learned_layer(padding, smoothing, **options):
    torch.manual_seed(0)
    return MultigridLayer(2, 3, padding, smoothing=smoothing, **options).double()


@pytest.mark.parametrize("shape", [(17, 12), (16, 16)])
@pytest.mark.parametrize(
    "options", [{"kind": "backslash"}, {"kind": "V"}, {"kind": "W"}, {"residual_restriction": True}]
)
def test_learned_layer_is_linear(shape, options):
    layer = learned_layer(Padding.of(Boundary.of("dirichlet", 2), "cell"), ((1, 1), (2, 1), (2, 0)), **options)
    f, g = random(2, 2, *shape), random(2, 2, *shape, seed=1)
    assert_close(layer(2.0 * f - 3.0 * g), 2.0 * layer(f) - 3.0 * layer(g))


def freeze_poisson(layer, degree, centring="cell"):
    """Give a one-channel layer the stencils of classical multigrid for square cells of size 1."""
    laplace = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)
    point = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
    for level in layer.levels[:-1]:
        for way in (level.pre, level.post):
            for step, weight in zip(way, chebyshev_weights(degree), strict=True):
                step.S.weight.data[0, 0] = point * weight / 4
                if step.A is not None:
                    step.A.weight.data[0, 0] = laplace
        level.A.weight.data[0, 0] = laplace
        level.R.weight.data = level.P.weight.data = linear_weight(2, centring)


def poisson_layer(kinds, centring, levels, degree):
    layer = MultigridLayer(
        1,
        1,
        Padding.of(Boundary.of(kinds, 2), centring),
        smoothing=((degree, degree),) * (levels - 1) + ((1, 0),),
        residual_restriction=True,
        transfers=Transfers(4, 4) if centring == "cell" else Transfers(3, 3),
    ).double()
    freeze_poisson(layer, degree, centring)
    return layer


class _CoarseSolve:
    """The exact (least-norm) solution with the matrix of a function on a small grid."""

    def __init__(self, matrix):
        self.inverse = torch.linalg.pinv(matrix, rcond=1e-10)

    def smooth(self, f, u, *, post=False):
        return (f.flatten(1) @ self.inverse.T).reshape(f.shape)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (48, 32)])
def test_layer_with_poisson_stencils_is_the_classical_cycle(kinds, shape):
    grid = Grid(shape, extent=shape, periodic=kinds == "periodic")  # square cells of size 1
    operator, classical, degree = laplacian(grid, Boundary.on(grid, kinds)), [], 3
    while operator.grid.can_coarsen:
        classical.append(ClassicalLevel(operator, degree=degree, diagonal=torch.tensor(4.0, dtype=torch.float64)))
        operator = operator.coarsened()
    coarsest = columns(operator.apply, operator.grid.shape)
    classical.append(DenseLevel(operator))
    layer = poisson_layer(kinds, "cell", len(classical), degree)
    f = random(3, *shape)
    learned = cycle([*layer.on_grid(shape)[:-1], _CoarseSolve(coarsest)], f[:, None])[:, 0]
    assert_close(learned, v_cycle(classical, f), rtol=1e-12)


@pytest.mark.parametrize("centring", CENTRINGS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(33, 33), (37, 22)])
def test_layer_with_poisson_stencils_converges_on_any_size(kinds, centring, shape):
    """One cycle of the frozen layer contracts the error of the frozen fine operator, whatever the size."""
    levels = 4
    layer = poisson_layer(kinds, centring, levels, degree=3)
    laplace, (bottom, size) = layer.levels[0].A, layer.padding.hierarchy(shape, levels)[-1]
    coarse = columns(lambda u: laplace(u[:, None], bottom)[:, 0], size)
    on_grid, error = [*layer.on_grid(shape)[:-1], _CoarseSolve(coarse)], random(1, 1, *shape)
    for _ in range(8):
        before = unknowns(error, kinds, centring)
        before = before / before.norm()
        error = unknowns(before - cycle(on_grid, laplace(before, layer.padding)), kinds, centring)
    assert error.norm() < 0.35, error.norm()


def unknowns(u, kinds, centring):
    """Leave out what is none: the values on the walls of a vertex grid, the mean where nothing fixes it."""
    if centring == "vertex":
        for axis, pair in enumerate(Boundary.of(kinds, 2).kinds):
            inner = torch.ones(u.shape[axis + 2], dtype=u.dtype)
            inner[[i for i, kind in zip((0, -1), pair, strict=True) if kind == "dirichlet"]] = 0.0
            u = u * inner.reshape([-1 if dim == axis + 2 else 1 for dim in range(u.ndim)])
    return u - u.mean() if kinds in ("neumann", "periodic") else u


def test_wrong_counts_are_named():
    with pytest.raises(ValueError, match="`smoothing` must have at least one step before"):
        learned_layer(Padding.zeros(2), ((0, 1), (1, 0)))(random(1, 2, 8, 8))
