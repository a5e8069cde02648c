"""MgNO's options: hard walls, channels per level, parameters, residuals, first weights, spacing, memory."""

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.errors import CheckpointError
from vcycle.grid import Grid
from vcycle.layers import spacing
from vcycle.layers.conditioning import Conditioning, modulate
from vcycle.layers.spacing import at_spacing, halvings, predicted_at_spacing
from vcycle.layers.walls import vanish_on_walls
from vcycle.models import MgNO
from vcycle.models.initial import random_stencils
from vcycle.models.start import mean_stencil, solver_start
from vcycle.multigrid.layer import MultigridLayer
from vcycle.multigrid.padding import Padding
from vcycle.problems import Darcy, Helmholtz
from vcycle.problems.problem import FieldInfo
from vcycle.training.export import export_operator
from vcycle.training.normaliser import Normaliser
from vcycle.training.operator import TrainedOperator

SHAPES = {1: (13,), 2: (12, 9), 3: (6, 5, 8)}
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"), ("dirichlet", "dirichlet"))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def build(*channels, seed=0, **options):
    torch.manual_seed(seed)
    return MgNO(*channels, **({"levels": 3, "width": 5, "depth": 2} | options)).double()


# Hard walls ----------------------------------------------------------------------------------------------------------


def traces(u, kinds, centring):
    """Return the values on all Dirichlet faces, by the line through the two outermost cells or at the vertices."""
    for axis, pair in enumerate(kinds):
        for kind, (i, j) in zip(pair, ((0, 1), (-1, -2)), strict=True):
            if kind == "dirichlet":
                edge, inner = u.select(axis + 2, i), u.select(axis + 2, j)
                yield 1.5 * edge - 0.5 * inner if centring == "cell" else edge


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_hard_walls_hold_for_any_weights(num_axes, centring):
    for kinds in (MIXED[:num_axes], (("dirichlet", "dirichlet"),) * num_axes):
        model = build(1, 2, boundary=kinds, num_axes=num_axes, centring=centring, hard_boundary=True, residual=False)
        output = model(random(2, 1, *SHAPES[num_axes]))
        assert output.abs().max() > 0.1
        faces = list(traces(output, kinds, centring))
        assert len(faces) == sum(pair.count("dirichlet") for pair in kinds)
        assert max(face.abs().max() for face in faces) < 1e-12 * output.abs().max()
        model.hard_boundary = False
        assert max(face.abs().max() for face in traces(model(random(2, 1, *SHAPES[num_axes])), kinds, centring)) > 1e-3


@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_hard_walls_take_the_nearest_such_function(centring):
    """The constraint is linear: the dense orthogonal projection on its null space is the independent answer."""
    kinds, shape = MIXED[:2], (5, 6)
    identity = torch.eye(30, dtype=torch.float64).reshape(30, 1, *shape)
    constraints = torch.cat([face.reshape(30, -1) for face in traces(identity, kinds, centring)], 1).T
    projection = torch.eye(30, dtype=torch.float64) - torch.linalg.pinv(constraints) @ constraints
    result = vanish_on_walls(identity, Boundary.of(kinds, 2), centring).reshape(30, 30).T
    assert_close(result, projection)


def test_hard_walls_need_room_and_a_wall():
    with pytest.raises(ValueError, match=r"`u` must have 2 points per Dirichlet face on axis 0\. Got 3"):
        vanish_on_walls(random(1, 1, 3), Boundary.of("dirichlet", 1), "cell")
    for boundary in ("zeros", "neumann"):
        with pytest.raises(ValueError, match="`boundary` must name a Dirichlet face with `hard_boundary`"):
            build(1, 1, boundary=boundary, hard_boundary=True)


# Channels, parameters, residuals, memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"residual_restriction": True, "cycle": "F"}, {"transfers": "centred"}])
def test_channels_per_level(options):
    model = build(2, 3, width=[4, 6, 7], **options)
    second = model.W[1].levels
    assert [level.pre[0].S.weight.shape[:2] for level in second] == [(4, 4), (6, 6), (7, 7)]
    assert second[0].P.weight.shape[:2] == (6, 4)
    assert second[1].R.weight.shape[:2] == (7, 6)
    assert model(random(1, 2, 17, 12)).shape == (1, 3, 17, 12)
    assert MgNO(**model.config()).config() == model.config()
    with pytest.raises(ValueError, match=r"`width` must be one number or one per level \(3\). Got \[4, 6\]"):
        build(1, 1, width=[4, 6])


def test_scalar_parameters_scale_and_shift_hidden_channels():
    model, u, p = build(1, 1, num_parameters=2), random(3, 1, 12, 9), random(3, 2, seed=1)
    assert "conditioning.network.0.weight" in model.state_dict()  # the name in saved operators, `condition` elsewhere
    assert model.condition is model.conditioning
    maps = model.condition(p, 3)
    v = u
    for W, B, (gamma, beta) in zip(model.W, model.B, maps, strict=True):
        v = F.gelu((W(v) + B(v)) * (1 + gamma[..., None, None]) + beta[..., None, None])
    assert_close(model(u, p), model.head(v))
    assert (model(u, p) - model(u, p + 1.0)).abs().max() > 1e-4
    assert_close(model(u[1:2], p[1:2]), model(u, p)[1:2])  # every sample has its own
    model(u, p).square().sum().backward()
    assert all(w.grad.abs().max() > 0 for w in model.parameters())
    with pytest.raises(ValueError, match=r"`parameters` must be given: 2 per sample\. Got None"):
        model(u)
    with pytest.raises(ValueError, match=r"`parameters` must have shape \(3, 2\)"):
        model(u, p[:, :1])
    with pytest.raises(ValueError, match=r"`sites` must be at least 1\. Got 0"):
        Conditioning(2, 3, sites=0)
    assert_close(modulate(u, torch.zeros(2, 3, 1)), u)


def test_residual_adds_the_first_input_channels():
    plain, stepping = build(3, 2), build(3, 2, residual=True)
    u = random(2, 3, 12, 9)
    assert_close(stepping(u), u[:, :2] + plain(u))
    with pytest.raises(ValueError, match=r"`in_channels` must be at least 2 with `residual`\. Got 1"):
        build(1, 2, residual=True)


@pytest.mark.parametrize("cycle", ["W", "F"])
def test_second_visits_go_on_from_the_first(cycle):
    """With restricted residuals and from zero, two visits must not be one: the first result has to count."""
    model = build(1, 1, cycle=cycle, residual_restriction=True, depth=1)
    on_grid = model.W[0].on_grid((16, 16))
    level = on_grid[1]
    f, u = random(1, 1, 8, 8), random(1, 5, 8, 8, seed=1)
    step = level.stencils.pre[0]
    assert_close(level.smooth(f, u), u + step.S(f - step.A(u, level.padding), level.padding))


class Bytes(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of storages that are alive, by watching every operation's results."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.seen:
                storage = tensor.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
                self.seen.add(address)
                self.alive += size
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self.forget, address, size)
        return out

    def forget(self, address, size):
        self.seen.discard(address)
        self.alive -= size


def test_checkpointed_layers_give_the_same_gradients_from_less_memory():
    plain, saving = build(1, 1, depth=4), build(1, 1, depth=4, checkpoint=True)
    u, alive, peak = random(2, 1, 16, 16), {}, {}
    for model in (plain, saving):
        with Bytes() as memory:
            loss = model(u).square().sum()
            alive[model] = memory.alive
            loss.backward()
        peak[model] = memory.peak
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert_close(a.grad, b.grad)
    assert alive[saving] <= 0.7 * alive[plain]
    assert peak[saving] <= 0.7 * peak[plain]


def test_walls_cost_no_saved_memory():
    """Ghosts are made again on the way back: what is kept is what zero padding keeps."""
    kept = {}
    for boundary in ("zeros", "dirichlet", "neumann", "periodic"):
        model, seen = build(1, 1, boundary=boundary, levels=4), {}
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor, seen=seen, own=own):
            if tensor.untyped_storage().data_ptr() not in own:
                seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(random(2, 1, 32, 32))
        kept[boundary] = sum(t.untyped_storage().nbytes() for t in seen.values())
    assert len(set(kept.values())) == 1, kept


# First weights -------------------------------------------------------------------------------------------------------


def smooth(size, num_axes=2, batch=3, seed=5):
    """Random functions of unit variance whose spectrum falls like |k|^-2 beyond k = 5."""
    axes = tuple(range(2, 2 + num_axes))
    spectrum = torch.fft.fftn(random(batch, 1, *(size,) * num_axes, seed=seed), dim=axes)
    k = torch.meshgrid(*[torch.fft.fftfreq(size, 1 / size)] * num_axes, indexing="ij")
    squared = sum(values**2 for values in k)
    u = torch.fft.ifftn(spectrum * (squared > 0) / (squared + 25), dim=axes).real
    return u / u.std()


@pytest.mark.parametrize(
    ("width", "levels", "options"),
    [
        (8, 3, {}),
        (8, 2, {"cycle": "V", "boundary": "neumann"}),
        pytest.param(24, 4, {}, marks=pytest.mark.full),
    ],
)
def test_scaled_weights_keep_the_size_through_any_depth(width, levels, options):
    spreads = {}
    for depth in (1, 16):
        models = [
            build(1, 1, width=width, levels=levels, depth=depth, seed=s, init="scaled", **options) for s in range(3)
        ]
        with torch.no_grad():
            spreads[depth] = torch.stack([model(smooth(16)).std() for model in models]).median().item()
    assert 0.5 <= spreads[16] / spreads[1] <= 2.0, spreads
    assert 0.5 <= spreads[1] <= 2.0, spreads


def test_published_weights_shrink():
    """What the scaled weights are for; and the published ones are PyTorch's own, as in the reference code."""
    with torch.no_grad():
        spread = [build(1, 1, depth=depth, init="published")(smooth(16)).std().item() for depth in (1, 8)]
    assert spread[1] < 0.1 * spread[0]
    weight = build(1, 1, width=24, init="published").W[1].levels[0].pre[0].S.weight
    assert weight.abs().max() <= (24 * 9) ** -0.5


# A classical start ---------------------------------------------------------------------------------------------------


def test_mean_stencil_is_that_of_the_operator():
    couplings, reaction = mean_stencil(Darcy(Grid((12, 10), extent=(1.0, 2.0))))
    assert couplings[0] / couplings[1] == pytest.approx((12**2) / (10 / 2) ** 2, rel=0.35)  # random coefficients
    assert sum(couplings) == pytest.approx(1.0)
    assert abs(reaction) < 1e-10


@pytest.mark.parametrize("centring", ["cell"])
def test_solver_start_is_a_solver(centring):
    """The linear part of a started layer solves Poisson's equation: its iteration contracts like multigrid."""
    problem = Darcy(Grid((32, 32)), values=(1.0, 1.0 - 1e-9))
    model = solver_start(
        build(1, 1, width=4, levels=5, cycle="V", smoothing=[[2, 2]] * 4 + [[20, 0]], residual_restriction=True,
              transfers="centred"),
        problem,
    )  # fmt: skip
    layer = model.W[1]
    error = random(1, 4, 32, 32)
    laplace = layer.levels[0].A
    scale = layer.levels[0].pre[0].S.weight[0, 0, 1, 1] / (0.8 / 2.0)  # the layer was scaled as a whole
    rates = []
    for _ in range(8):
        change = layer(laplace(error, layer.padding) * scale) / scale
        error, before = error - change, error.norm()
        rates.append((error.norm() / before).item())
    assert max(rates[2:]) < 0.35, rates


def test_additive_start_has_no_restricted_solution_and_bounded_condition():
    """In the published form a started layer is the additive preconditioner: B A is well conditioned on any size."""
    conditions = []
    for levels, size in ((3, 8), (4, 16)):
        model = solver_start(build(1, 1, width=2, levels=levels, transfers="centred"), Darcy(Grid((size, size))))
        layer = model.W[1]
        assert all(level.Pi.weight.abs().max() == 0 for level in layer.levels[:-1])
        identity = torch.zeros(size * size, 2, size, size, dtype=torch.float64)
        identity[:, 0] = torch.eye(size * size, dtype=torch.float64).reshape(-1, size, size)
        laplace = MultigridLayer(1, 1, layer.padding, smoothing=((1, 0),)).double().levels[0].pre[0].S
        laplace.weight.data = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None].double()
        A = laplace(identity[:, :1], layer.padding).reshape(size * size, -1).T
        with torch.no_grad():
            B = layer(identity)[:, 0].reshape(size * size, -1).T
        values = torch.linalg.eigvals(B @ A).real
        assert values.min() > 0
        conditions.append((values.max() / values.min()).item())
    assert conditions[1] < 15
    assert conditions[1] < 2 * conditions[0]  # the matrix's own grows fourfold


def test_solver_start_leaves_its_argument_and_says_what_it_takes():
    model, problem = build(1, 1), Darcy(Grid((8, 8)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (solver_start(model, problem, seed=3) for _ in range(2))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    u = random(1, 1, 8, 8)
    assert first(u).equal(second(u))
    assert not first(u).equal(solver_start(model, problem, seed=4)(u))
    with pytest.raises(TypeError, match="`model` must be an MgNO"):
        solver_start(torch.nn.Identity(), problem)
    with pytest.raises(ValueError, match="`problem` must have 2 axes"):
        solver_start(model, Helmholtz(Grid((6, 6, 6))))


# Other resolutions ---------------------------------------------------------------------------------------------------


def test_halvings_between_grids():
    assert [halvings((n, n), (32, 32)) for n in (8, 16, 31, 32, 44, 48, 64, 65)] == [-2, -1, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("kind", "centring"), [("neumann", "cell"), ("periodic", "cell"), ("neumann", "vertex")])
def test_transfers_keep_constants_and_invert_each_other_on_smooth_functions(kind, centring):
    padding = Padding.of(Boundary.of(kind, 2), centring)
    for steps in (-1, 1, 2):
        shape = (17, 33) if centring == "vertex" else (16, 32)
        one = torch.ones(2, 3, *shape, dtype=torch.float64)
        seen = []
        assert_close(at_spacing(lambda v, seen=seen: (seen.append(v.shape[2:]), v)[1], one, padding, steps), one)
        closed = 1 if centring == "vertex" else 0
        assert seen[0] == tuple(int((n - closed) * 2.0**-steps) + closed for n in shape)
    x = torch.linspace(0, 2 * torch.pi, 65, dtype=torch.float64)[:64] + torch.pi / 64
    wave = torch.cos(x).expand(64, 64)[None, None]
    padding = Padding.of(Boundary.of(kind, 2), "cell")
    assert_close(at_spacing(lambda v: v, wave, padding, 1), wave, rtol=6e-3)


def test_native_shape_runs_the_cycles_at_their_own_spacing():
    """Against PyTorch's own pooling and interpolation, which on cells continue evenly, as at Neumann walls."""
    plain = build(1, 1, depth=1, boundary="neumann")
    native = build(1, 1, depth=1, boundary="neumann", native_shape=(16, 16))
    native.load_state_dict(plain.state_dict())
    u = random(2, 1, 16, 16)
    assert native(u).equal(plain(u))
    assert native.config()["native_shape"] == [16, 16]
    W, B = plain.W[0], plain.B[0]

    def doubled(v):
        return F.interpolate(v, scale_factor=2, mode="bilinear")

    fine = random(2, 1, 32, 32)
    assert_close(native(fine), plain.head(F.gelu(doubled(W(F.avg_pool2d(fine, 2))) + B(fine))))
    coarse = random(2, 1, 8, 8)
    assert_close(native(coarse), plain.head(F.gelu(F.avg_pool2d(W(doubled(coarse)), 2) + B(coarse))))


def test_random_stencils_are_drawn_by_the_callers_generator():
    layer = MultigridLayer(2, 3, Padding.zeros(1), smoothing=((1, 0), (1, 0)))
    with torch.no_grad():
        torch.manual_seed(0)
        random_stencils(layer)
        first = layer.levels[0].P.weight.clone()
        torch.manual_seed(0)
        random_stencils(layer)
    assert layer.levels[0].P.weight.equal(first)


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_whole_predictions_reproduce_cubics(kind, centring):
    """The mean of all samplings keeps lines, the interpolation cubics, up to what walls or closed axes ask of them."""
    padding, n = Padding.of(Boundary.of(kind, 1), centring), 32 if centring == "cell" or kind == "periodic" else 33
    x = (torch.arange(n, dtype=torch.float64) + padding.offset) / (n - 1 + 2 * padding.offset)
    if kind == "periodic":
        x = (torch.arange(n, dtype=torch.float64) + padding.offset) / n
    exact = {"dirichlet": x * (1 - x) * (x + 2), "neumann": x**3 - 2 * x, "periodic": torch.sin(2 * torch.pi * x)}[kind]
    m = n // 2 if padding.offset else (n + 1) // 2
    coarse = (torch.arange(m, dtype=torch.float64) + padding.offset) * 2 / n
    if kind != "periodic" and centring == "vertex":
        coarse = torch.arange(m, dtype=torch.float64) * 2 / (n - 1)
    values = {
        "dirichlet": coarse * (1 - coarse) * (coarse + 2),
        "neumann": coarse**3 - 2 * coarse,
        "periodic": torch.sin(2 * torch.pi * coarse),
    }[kind]
    seen = []

    def answer(u):
        seen.append(u)
        return values.expand(len(u), 1, m)

    result = predicted_at_spacing(answer, x[None, None], padding, 1)
    assert_close(result[0, 0], exact, rtol=1e-12 if kind != "periodic" else 2e-3)
    weights = torch.tensor([0.5, 0.5] if padding.offset else [0.25, 0.5, 0.25], dtype=torch.float64)
    assert_close((weights @ seen[0][:, 0])[1:-1], coarse[1:-1])  # the mean place of a sampling is that of its point


def test_whole_predictions_average_what_the_network_says_of_every_sampling():
    options = {"native_shape": (16, 16), "resampling": "network", "boundary": "neumann"}
    plain, native = build(1, 1, boundary="neumann"), build(1, 1, **options)
    native.load_state_dict(plain.state_dict())
    assert native.config()["resampling"] == "network"
    u = random(2, 1, 32, 32)
    assert native(u[..., :16, :16]).equal(plain(u[..., :16, :16]))
    mean = sum(plain(u[..., i::2, j::2]) for i in (0, 1) for j in (0, 1)) / 4
    same = predicted_at_spacing(lambda samplings: mean.repeat(4, 1, 1, 1), u, plain.W[0].padding, 1)
    assert_close(native(u), same)
    constant = u[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)  # then all samplings are one
    same = predicted_at_spacing(
        lambda samplings: plain(u[..., ::2, ::2]).repeat(4, 1, 1, 1), constant, plain.W[0].padding, 1
    )
    assert_close(native(constant), same)
    coarse = u[..., :8, :8]
    doubled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_close(native(coarse), F.avg_pool2d(plain(doubled), 2))
    assert native(random(2, 1, 64, 64)).shape == (2, 1, 64, 64)
    assert native(random(0, 1, 32, 32)).shape == (0, 1, 32, 32)
    scaled = build(1, 1, num_parameters=1, hard_boundary=True, **(options | {"boundary": "dirichlet"}))
    assert_close(scaled(u, random(2, 1))[1:], scaled(u[1:], random(2, 1)[1:]))  # every sampling has its sample's
    with pytest.raises(ValueError, match=r"`resampling` must be one of 'layers', 'network'\. Got 'cubic'"):
        build(1, 1, resampling="cubic")


# Programs and checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic", (("dirichlet", "neumann"), "periodic")])
@pytest.mark.parametrize("centring", ["cell", "vertex"])
@pytest.mark.parametrize("shape", [(6, 9), (5, 1)])
def test_what_compilers_pad_is_what_is_padded(kind, centring, shape):
    u = random(2, 3, *shape)
    for padding, size in Padding.of(Boundary.of(kind, 2), centring).hierarchy(shape, 2):
        part = u[..., : size[0], : size[1]]
        assert_close(padding._joined(part), padding.pad(part))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "centring", "shape"), [("dirichlet", "cell", (16, 12)), ("neumann", "vertex", (17, 13))]
)
def test_recorded_for_any_number_of_samples_and_size(kind, centring, shape):
    model = build(1, 1, boundary=kind, centring=centring, width=3).eval()
    free = {0: torch.export.Dim("samples", min=1)}
    for axis, size in enumerate(shape):
        step = model.size_step * torch.export.Dim(f"n{axis}", min=2)
        free[axis + 2] = step + size % model.size_step if size % model.size_step else step
    program = torch.export.export(model, (random(2, 1, *shape),), dynamic_shapes=(free,)).module()
    for n, m in ((16, 12), (8, 8), (24, 32)):
        u = random(3, 1, n + shape[0] % 4, m + shape[1] % 4)
        assert_close(program(u), model(u))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"native_shape": (8, 8)}, {"native_shape": (8, 8), "resampling": "network"}], ids=str
)
def test_one_with_parameters_is_recorded_for_any_number_of_samples(options):
    model = build(1, 1, num_parameters=2, levels=2, width=3, **options).eval()
    spacing._cubics.cache_clear()  # what is recorded must not be what is kept
    samples = {0: torch.export.Dim("samples", min=1)}
    example = (random(2, 1, 16, 16), random(2, 2))
    program = torch.export.export(model, example, dynamic_shapes=(samples, samples)).module()
    for batch in (1, 3):
        given = random(batch, 1, 16, 16, seed=1), random(batch, 2, seed=2)
        assert_close(program(*given), model(*given))


def test_weights_of_another_model_are_named_in_one_line():
    model = build(1, 1)
    wanted = r"The weights are of another MgNO: W\.0\.levels\.0\..* has shape \(6, .*\) there and \(5, .*\) here\."
    with pytest.raises(CheckpointError, match=wanted):
        model.load_state_dict(build(1, 1, width=6).state_dict())
    with pytest.raises(
        CheckpointError, match=r"another MgNO: \d+ tensors there and \d+ here; B\.2\.bias is only there"
    ):
        model.load_state_dict(build(1, 1, depth=3).state_dict())
    state = model.state_dict()
    state.pop("head.weight")
    with pytest.raises(CheckpointError, match=r"head\.weight is only here"):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == ["head.weight"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 16, 16), r"`u` must have shape \(any, 1, any, any\), .* Got \(1, 2, 16, 16\)"),
        ((1, 1, 16), r"`u` must have shape \(any, 1, any, any\), .* Got \(1, 1, 16\)"),
        ((1, 1, 3, 16), r"`u` must have at least 4 points per axis .* Got \(3, 16\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_both_numbers(shape, message):
    with pytest.raises(ValueError, match=message):
        build(1, 1)(random(*shape))


@pytest.mark.slow
def test_operators_are_exported_for_any_size(tmp_path):
    grid, field = Grid((8, 8)), FieldInfo("a", "1", 1)
    one = Normaliser(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 2.0))
    network = build(1, 1, depth=1, levels=2, width=3).float()
    operator = TrainedOperator(network, one, one, grid, Boundary.of("dirichlet", 2), (field,), (field,))
    path = export_operator(operator, tmp_path / "operator.pt2", any_size=True)
    program, u = torch.export.load(path).module(), random(3, 1, 12, 18).float()
    assert_close(program(u), 0.5 + 2.0 * network((u - 0.5) / 2.0), rtol=1e-5)
    pointwise = Normaliser(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    operator = TrainedOperator(network, one, pointwise, grid, Boundary.of("dirichlet", 2), (field,), (field,))
    with pytest.raises(ValueError, match=r"`any_size` must not be given with pointwise normalisers\. Got .* \(8, 8\)"):
        export_operator(operator, path, any_size=True)


def test_input_bias_adds_the_input_to_every_hidden_layer():
    torch.manual_seed(0)
    model = MgNO(1, 1, width=4, depth=3, levels=2, input_bias=True).double()
    plain = MgNO(1, 1, width=4, depth=3, levels=2).double()
    plain.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("D.")})
    a = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    u = a
    for i, (W, B) in enumerate(zip(model.W, model.B, strict=True)):
        bias = model.D[i - 1](a) if i else 0.0
        u = torch.nn.functional.gelu(W(u) + B(u) + bias)
    assert_close(model(a), model.head(u), rtol=1e-12)
    assert (model(a) - plain(a)).norm() > 0.1 * plain(a).norm()
    with torch.no_grad():
        for D in model.D:
            D.weight.zero_()
    assert_close(model(a), plain(a), rtol=1e-12)


def test_zero_mean_holds_for_the_output_and_is_kept_by_a_step():
    torch.manual_seed(0)
    u = torch.randn(2, 1, 8, 12, dtype=torch.float64)
    solution, step = (
        MgNO(1, 1, width=4, depth=2, levels=2, boundary="periodic", zero_mean=True, residual=residual).double()
        for residual in (False, True)
    )
    assert solution(u).mean((2, 3)).abs().max() < 1e-15
    assert_close(step(u).mean((2, 3)), u.mean((2, 3)), rtol=1e-12)
    assert MgNO(1, 1, width=4, depth=2, levels=2, boundary="periodic").double()(u).mean((2, 3)).abs().max() > 1e-4


def test_coordinates_are_inputs_of_every_layer_that_sees_the_input():
    options = {"boundary": ("periodic", "dirichlet"), "input_bias": True, "coordinates": True, "centring": "vertex"}
    model, u = build(1, 1, **options), random(2, 1, 8, 9)
    x, y = torch.meshgrid(torch.arange(8) / 8, torch.arange(9) / 8, indexing="ij")
    place = torch.stack([(2 * torch.pi * x).sin(), (2 * torch.pi * x).cos(), y]).double()
    given = build(4, 1, **options | {"coordinates": False})
    given.load_state_dict(model.state_dict())
    assert_close(model(u), given(torch.cat([u, place.expand(2, 3, 8, 9)], 1)), rtol=1e-6)
    assert not model.is_equivariant((8, 9))


@pytest.mark.parametrize("coordinates", [False, True])
def test_only_coordinates_tell_a_periodic_network_where_a_force_acts(coordinates):
    """A shift by half the box turns the force ``sin 2 pi x`` around, but must turn the answer of an equivariant one."""
    model = build(1, 1, boundary="periodic", num_axes=1, init="scaled", coordinates=coordinates).float()
    force = torch.sin(2 * torch.pi * (torch.arange(16) + 0.5) / 16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(300):
        u = random(16, 1, 16, seed=step).float()
        loss = F.mse_loss(model(u), u + force)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = (model(u) - u).mean((0, 1))
    assert (mean @ force / (force @ force) > 0.9) == coordinates, mean


def test_coordinates_are_recorded_for_any_size():
    model = build(1, 1, boundary="periodic", coordinates=True)
    sizes = {axis: 4 * torch.export.Dim(f"n{axis}", min=2, max=128) for axis in (2, 3)}  # what halves on every level
    program = torch.export.export(model, (random(2, 1, 16, 24),), dynamic_shapes=({0: None} | sizes,)).module()
    u = random(2, 1, 32, 16)
    assert_close(program(u), model(u), rtol=1e-10)
