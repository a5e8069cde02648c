"""Mixers: axial matrices, masks of the spectrum, products of linear maps; and training without data."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vcycle as vc
from helpers import assert_close
from vcycle.layers.multilinear import MuLayer, shifted
from vcycle.layers.transforms import resample
from vcycle.models import LordNet, MONet
from vcycle.models.affnet import AFFNet, FrequencyFilter
from vcycle.models.dmd import DMDOperator, dynamic_modes
from vcycle.objectives.residual import ResidualLoss
from vcycle.solvers.fast_poisson import laplacian_eigenvalues


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(model, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return model(*(arguments or (2, 3)), **options).double()


# LordNet -------------------------------------------------------------------------------------------------------------


def sines(n):
    """The orthonormal eigenvectors of the Laplacian on n cells between Dirichlet walls, one per column."""
    i, k = np.arange(n)[:, None] + 0.5, np.arange(1, n + 1)
    waves = np.sin(np.pi * i * k / n)
    return torch.from_numpy(waves / np.linalg.norm(waves, axis=0))


def poisson_solver(n, rank):
    """A LordNet whose weights spell the fast Poisson solver, with the inverse eigenvalues in `rank` terms.

    Every term has two channels of opposite sign, since gelu(x) - gelu(-x) = x, and a last channel takes the sum.
    """
    grid = vc.Grid((n, n))
    inverse = 1 / laplacian_eigenvalues(grid, vc.Boundary.of("dirichlet", 2))
    left, values, right = np.linalg.svd(inverse)
    model, S = build(LordNet, 1, 1, points=n, width=2 * rank + 1, depth=1), sines(n)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.P.weight[: 2 * rank] = 1.0
        for term in range(rank):
            a = S @ torch.diag(torch.from_numpy(left[:, term] * values[term])) @ S.T
            b = S @ torch.diag(torch.from_numpy(right[term])) @ S.T
            for channel, sign in ((2 * term, 1.0), (2 * term + 1, -1.0)):
                model.M[0].matrices[0][channel], model.M[0].matrices[1][channel] = sign * a, b
                model.W[0].weight[-1, channel] = sign
        model.Q.weight[0, -1] = 1.0
    return model


def test_lordnet_can_be_the_fast_poisson_solver():
    n, problem = 12, vc.problems.Poisson(vc.Grid((12, 12)), boundary_scale=1e-12)
    inputs = problem.sample(0, range(3))
    rhs, solution = problem.systems(inputs).rhs, problem.solve(inputs, rtol=1e-12).solutions
    errors = []
    for rank in (1, 3, 6, n):
        with torch.no_grad():
            errors.append(((poisson_solver(n, rank)(rhs[:, None])[:, 0] - solution).norm() / solution.norm()).item())
    assert errors[-1] < 1e-12
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] > 1e-9


def test_lordnet_has_the_size_of_its_matrices():
    assert sum(p.numel() for p in LordNet(1, 1, points=32, width=16, depth=2).parameters()) == 66_129


def test_lordnet_on_another_grid_interpolates_its_matrices():
    """A function that the grid of the matrices resolves is mixed alike on a finer grid."""
    model = build(LordNet, 1, 1, points=(9, 7), width=3, depth=1, boundary="periodic", centring="vertex")
    coarse = resample(random(1, 3, 5, 5), (9, 7), (True, True), "vertex")
    fine = resample(coarse, (18, 21), (True, True), "vertex")
    mixed = resample(model.M[0](resample(fine, (9, 7), (True, True), "vertex")), (18, 21), (True, True), "vertex")
    assert_close(mixed[..., ::2, ::3], model.M[0](coarse), rtol=1e-12)
    v = model.P(random(1, 1, 9, 7))
    direct = torch.einsum("cij,bcjl,ckl->bcik", model.M[0].matrices[0], v, model.M[0].matrices[1])
    assert_close(model(random(1, 1, 9, 7)), model.Q(v + model.W[0](F.gelu(direct))), rtol=1e-12)


# The residual as a loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic", (("dirichlet", "neumann"), "periodic")])
def test_residual_losses_of_poisson_are_errors_of_the_solution(boundary):
    periodic = tuple(pair == "periodic" for pair in ([boundary] * 2 if isinstance(boundary, str) else boundary))
    problem = vc.problems.Poisson(vc.Grid((8, 6), (1.0, 2.0), periodic=periodic), boundary)
    inputs = problem.sample(0, range(3))
    systems, u = problem.systems(inputs), random(3, 1, 8, 6)
    if systems.singular:
        u = u - u.mean((2, 3), keepdim=True)
    matrix = torch.from_numpy(systems.to_csr(0)[0].toarray())
    b = systems.rhs.flatten(1)
    exact = torch.linalg.lstsq(matrix, b.T, driver="gelsd").solution.T
    error = u.flatten(1) - exact
    expected = {
        0: (error @ matrix).square().sum(1) / b.square().sum(1),
        -1: ((error @ matrix) * error).sum(1) / (b * exact).sum(1),
        -2: error.square().sum(1) / exact.square().sum(1),
    }
    for norm, value in expected.items():
        assert_close(ResidualLoss(problem, norm)(inputs, u), value.mean(), rtol=1e-9)


@pytest.mark.parametrize("norm", [0, -1, -2])
def test_residual_loss_has_the_gradient_of_its_values_and_vanishes_at_the_solution(norm):
    problem = vc.problems.Darcy(vc.Grid((4, 5)))
    inputs = problem.sample(0, range(2))
    loss, u = ResidualLoss(problem, norm), random(2, 1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(inputs, v), (u,), rtol=1e-5)
    assert loss(inputs, torch.zeros_like(u)) == pytest.approx(1.0, rel=1e-12)
    assert loss(inputs, problem.produce(inputs, rtol=1e-12).outputs["solution"]) < 1e-20


def test_negative_norms_do_not_see_noise_between_neighbours_as_the_plain_residual_does():
    problem = vc.problems.Darcy(vc.Grid((32, 32)))
    inputs = problem.sample(0, range(1))
    solution = problem.produce(inputs).outputs["solution"]
    noise = 0.01 * solution.norm() * F.normalize((-1.0) ** torch.arange(1024).double(), dim=0).reshape(1, 1, 32, 32)
    plain, energy, solved = (ResidualLoss(problem, norm)(inputs, solution + noise) for norm in (0, -1, -2))
    assert plain > 0.3
    assert energy < 0.1 * plain
    assert solved < 0.01 * plain


def test_residual_loss_says_what_it_cannot_do():
    problem = vc.problems.Poisson(vc.Grid((5, 5), centring="vertex"))
    with pytest.raises(ValueError, match=r"`norm` must be one of 0, -1, -2. Got 1"):
        ResidualLoss(problem, 1)
    with pytest.raises(ValueError, match=r"`norm` below 0 needs a grid of cells; use `norm=0` on vertices. Got -1"):
        ResidualLoss(problem, -1)
    assert ResidualLoss(problem, 0).norm == 0
    with pytest.raises(ValueError, match=r"`norm` below 0 needs Dirichlet, Neumann or periodic faces. Got 'absorbing'"):
        ResidualLoss(vc.problems.Helmholtz(vc.Grid((8, 8)), boundary="absorbing"), -2)


# AFFNet --------------------------------------------------------------------------------------------------------------


def spectral_filter(mask_input="spectrum"):
    torch.manual_seed(0)
    layer = FrequencyFilter(6, 3, mask_input=mask_input).double()
    with torch.no_grad():
        layer.bias1.normal_()
        layer.bias2.normal_()
    return layer


@pytest.mark.parametrize("mask_input", ["spectrum", "energy"])
def test_a_mask_of_the_spectrum_is_a_circular_convolution(mask_input):
    layer, v, shape = spectral_filter(mask_input), random(1, 6, 5, 7), (5, 7)
    z = torch.fft.rfft2(v, norm="forward").unflatten(1, (3, 2))
    (w1, w2), (b1, b2) = (
        [torch.complex(*parts) for parts in pair]
        for pair in ((layer.weight1, layer.weight2), (layer.bias1[:, :, 0], layer.bias2[:, :, 0]))
    )
    seen = z if mask_input == "spectrum" else torch.log1p(z.abs().square()).to(z.dtype)
    hidden = torch.einsum("bkixy,kio->bkoxy", seen, w1) + b1[..., None, None]
    hidden = torch.complex(F.relu(hidden.real), F.relu(hidden.imag))
    mask = torch.einsum("bkixy,kio->bkoxy", hidden, w2) + b2[..., None, None]
    mask = torch.complex(F.softshrink(mask.real, 0.01), F.softshrink(mask.imag, 0.01)).flatten(1, 2)
    kernel = torch.fft.irfft2(mask, s=shape)
    convolved = sum(
        kernel[..., i, j, None, None] * v.roll((i, j), (2, 3)) for i in range(shape[0]) for j in range(shape[1])
    )
    assert_close(layer(v) - v, convolved, rtol=1e-12)


def test_a_mask_of_one_doubles():
    layer, v = spectral_filter(), random(2, 6, 5, 7)
    with torch.no_grad():
        layer.weight2.zero_()
        layer.bias2.zero_()
        layer.bias2[0] = 1.01  # the threshold takes 0.01
    assert_close(layer(v), 2 * v, rtol=1e-13)


def test_only_the_mask_of_the_energy_commutes_with_shifts():
    v = random(1, 6, 5, 7)
    for mask_input, bound in (("energy", 1e-12), ("spectrum", None)):
        layer = spectral_filter(mask_input)
        difference = (layer(v.roll((2, 3), (2, 3))) - layer(v).roll((2, 3), (2, 3))).norm() / v.norm()
        assert difference < bound if bound else difference > 1e-2


def test_affnet_with_masks_of_the_energy_commutes_with_shifts():
    model = build(AFFNet, width=8, depth=2, blocks=2, mask_input="energy", boundary="periodic")
    with torch.no_grad():
        model.P.weight[:, 2:] = 0  # no coordinates
    u = random(1, 2, 8, 9)
    assert_close(model(u.roll((3, 2), (2, 3))), model(u).roll((3, 2), (2, 3)), rtol=1e-12)


# MONet ---------------------------------------------------------------------------------------------------------------


def differences(function, order, points=None):
    """Differences of an order of a function along a line, at a few places."""
    u, direction = random(1, 2, 6, 8), random(1, 2, 6, 8, seed=1)
    steps = range(points or order + 1)
    values = torch.stack([function(u + 0.5 * i * direction) for i in steps])
    return torch.diff(values, order, dim=0), values


@pytest.mark.parametrize("shift", [True, False])
def test_a_mu_layer_is_a_polynomial_of_degree_two(shift):
    torch.manual_seed(0)
    layer = MuLayer(2, 6, 3, rank=4, periodic=(True, False), shift=shift, norm=False).double()
    with torch.no_grad():
        third, values = differences(layer, 3)
        second, _ = differences(layer, 2)
        assert third.norm() < 1e-13 * values.norm()
        assert second.norm() > 1e-2 * values.norm()
        layer.alpha.zero_()
        assert differences(layer, 2)[0].norm() < 1e-13 * values.norm()  # linear without the product
    normed = MuLayer(2, 6, 3, rank=4, periodic=(True, False), shift=shift).double()
    third, values = differences(normed, 3)
    assert third.norm() > 1e-3 * values.norm()


def test_a_monet_without_norms_is_a_polynomial_whose_degree_doubles_with_every_layer():
    model = build(MONet, width=6, depth=1, levels=1, norm=False)  # two layers in its one block
    with torch.no_grad():
        fifth, values = differences(model, 5)
        fourth, _ = differences(model, 4)
    assert fifth.norm() < 1e-12 * values.norm()
    assert fourth.norm() > 1e-5 * values.norm()


def test_shifts_go_every_way():
    v = random(1, 5, 4, 6)
    moved = shifted(v, (True, False))
    assert torch.equal(moved[:, :2], v[:, :2].roll(1, 2))  # five channels, four directions: the first has two
    assert torch.equal(moved[:, 2], v[:, 2].roll(-1, 1))
    assert torch.equal(moved[:, 3], torch.cat([v[:, 3, :, :1], v[:, 3, :, :-1]], -1))
    assert torch.equal(moved[:, 4], torch.cat([v[:, 4, :, 1:], v[:, 4, :, -1:]], -1))


def test_a_mu_layer_learns_lotka_volterra_and_holds_outside_its_data():
    """``(x, y) -> (a x - b x y, d x y - c y)``: a network with an activation is wrong outside the box of its data.

    The polynomial that the layer is has the coefficients of the equation, to 1e-3.
    """
    a, b, c, d = 1.5, 1.0, 3.0, 1.0

    def field(z):
        x, y = z[:, :1], z[:, 1:]
        return torch.cat([a * x - b * x * y, d * x * y - c * y], 1)

    inside = 1 + random(1, 2, 16, 16).clamp(-1, 1)
    outside = 3 + 2 * random(1, 2, 16, 16, seed=1)
    torch.manual_seed(0)
    mu = MuLayer(2, 6, 2, rank=2, periodic=(True, True), norm=False).double()
    mlp = torch.nn.Sequential(torch.nn.Conv2d(2, 16, 1), torch.nn.GELU(), torch.nn.Conv2d(16, 2, 1)).double()
    errors = {}
    for name, network in (("mu", mu), ("mlp", mlp)):
        optimizer = torch.optim.LBFGS(
            network.parameters(), max_iter=250, line_search_fn="strong_wolfe", tolerance_change=0
        )

        def closure(network=network, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (network(inside) - field(inside)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            errors[name] = [((network(z) - field(z)).norm() / field(z).norm()).item() for z in (inside, outside)]
    assert errors["mu"][0] < 1e-3
    assert errors["mu"][1] < 1e-3
    assert errors["mlp"][1] > 0.05
    x, y = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0]).double()] * 2).T
    with torch.no_grad():
        values = mu(torch.stack([x, y])[None, :, :, None])[0, :, :, 0]
    powers = torch.stack([torch.ones_like(x), x, y, x * y, x * x, y * y], 1)
    found = torch.linalg.lstsq(powers, values.T).solution.T
    expected = torch.tensor([[0.0, a, 0.0, -b, 0.0, 0.0], [0.0, 0.0, -c, d, 0.0, 0.0]]).double()
    assert (found - expected).abs().max() < 1e-3


# Dynamic modes -------------------------------------------------------------------------------------------------------


def linear_system(points, rank, times, trajectories=3):
    """Trajectories of a linear system of a rank, with eigenvalues that turn and decay, and the eigenvalues."""
    pairs = torch.polar(torch.linspace(0.8, 1.0, rank // 2).double(), torch.linspace(0.2, 1.4, rank // 2).double())
    eigenvalues = torch.cat([pairs, pairs.conj()])
    modes = torch.complex(random(points, rank // 2), random(points, rank // 2, seed=1))
    start = torch.complex(random(trajectories, rank // 2, seed=2), random(trajectories, rank // 2, seed=3))
    powers = pairs ** torch.arange(times)[:, None]
    return 2 * torch.einsum("pk,nk,tk->ntp", modes, start, powers).real, eigenvalues


def test_dynamic_modes_recover_the_eigenvalues_of_a_linear_system():
    snapshots, eigenvalues = linear_system(40, 6, 12)
    found, modes = dynamic_modes(snapshots, 6)
    distances = (found[:, None] - eigenvalues).abs()
    assert distances.min(0).values.max() < 1e-9
    assert distances.min(1).values.max() < 1e-9
    x = snapshots[0, 0].to(torch.complex128)
    amplitudes = torch.linalg.lstsq(modes, x[:, None]).solution[:, 0]
    assert_close((modes @ (amplitudes * found**7)).real, snapshots[0, 7], rtol=1e-9)
    with pytest.raises(ValueError, match=r"`rank` must be at most 6, what the snapshots span. Got 7"):
        dynamic_modes(snapshots, 7)


def test_the_operator_of_fitted_modes_forecasts_a_linear_system():
    snapshots, _ = linear_system(63, 6, 12)
    later, _ = linear_system(63, 6, 101)
    model = build(DMDOperator, 1, 1, points=(9, 7), rank=6, steps=5, boundary="periodic")
    model.fit_modes(snapshots.reshape(3, 12, 1, 9, 7))
    assert_close(
        model.modes.unflatten(0, (2, 6)).square().sum(0).mean(1), torch.ones(6).double()
    )  # amplitudes of size u
    u = snapshots[:, 0].reshape(3, 1, 9, 7)
    assert_close(model(u), snapshots[:, 5].reshape(3, 1, 9, 7), rtol=1e-9)
    assert_close(model(u, steps=100), later[:, 100].reshape(3, 1, 9, 7), rtol=1e-8)
    assert_close(model(model(u, steps=0.5), steps=0.5), model(u, steps=1), rtol=1e-9)
    fine = resample(u, (18, 21), (True, True), "cell")
    assert_close(model(fine), resample(model(u), (18, 21), (True, True), "cell"), rtol=1e-12)


def test_modes_that_grow_are_held_where_asked_to():
    t = torch.arange(8).double()
    snapshots = (1.2**t)[None, :, None, None] * random(1, 1, 1, 5)
    u = snapshots[:, 0]
    outputs = []
    for bounded in (True, False):
        model = build(DMDOperator, 1, 1, points=5, rank=1, num_axes=1, bounded=bounded)
        eigenvalue = model.fit_modes(snapshots)
        assert eigenvalue.real.item() == pytest.approx(1.2, rel=1e-12)
        outputs.append(model(u, steps=20))
    assert_close(outputs[0], u, rtol=1e-10)
    assert_close(outputs[1], 1.2**20 * u, rtol=1e-10)


def test_corrections_of_the_modes_learn():
    model = build(DMDOperator, 1, 1, points=(9, 7), rank=6)
    with pytest.raises(ValueError, match=r"`snapshots` must have shape"):
        model.fit_modes(random(3, 1, 9, 7))
    model.fit_modes(linear_system(63, 6, 12)[0].reshape(3, 12, 1, 9, 7))
    model(random(2, 1, 9, 7)).square().sum().backward()
    assert model.branch[-1].weight.grad.abs().max() > 0
    assert model.trunk[2].weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match=r"`out_channels` must be `in_channels` = 2 for modes. Got 3"):
        build(DMDOperator, points=4, rank=2).fit_modes(random(1, 3, 2, 4, 4))


@pytest.mark.full
def test_lordnet_learns_poisson_without_data_where_the_residual_is_measured_in_the_norm_of_the_solution():
    """Errors of the solution, not residuals: the plain residual falls too, and its solutions are as wrong as before."""
    problem = vc.problems.Poisson(vc.Grid((16, 16)), boundary_scale=1e-12)
    inputs = problem.sample(0, range(576))
    exact = problem.produce(inputs).outputs["solution"][512:]
    source = (inputs["source"] / inputs["source"].std()).float()
    errors = {}
    for norm in (-2, 0):
        torch.manual_seed(0)
        model, loss = LordNet(1, 1, points=16, width=12, depth=2), ResidualLoss(problem, norm)
        steps = 400
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            rows = slice(step % 32 * 16, step % 32 * 16 + 16)
            optimizer.zero_grad()
            loss({name: field[rows] for name, field in inputs.items()}, model(source[rows]).double()).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            found = model(source[512:]).double()
        errors[norm] = ((found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).mean().item()
    assert errors[-2] < 0.15  # 0.121 was measured
    assert errors[0] > 4 * errors[-2]  # 0.91
