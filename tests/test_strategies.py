"""Noise, pushforward, rollouts in the loss and several grids: by hand, by closed forms, and resumed bit for bit."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle import metrics
from vcycle.data import Dataset
from vcycle.models import MODELS
from vcycle.objectives import LabelFree, RelativeH1, RelativeL2
from vcycle.objectives.les import LargeEddyLoss
from vcycle.objectives.residual import ResidualLoss
from vcycle.training import FitConfig, fit
from vcycle.training.batches import stream_seed
from vcycle.training.networks import takes_factor
from vcycle.training.samples import Batch
from vcycle.training.strategies import Moment, Strategies, coarse_grid, factors_of, noisy, restricted

GRID = vc.Grid((8,), periodic=True)


class Tiny(nn.Module):
    """Two periodic convolutions and random zeros, of one state and maybe a constant field."""

    name = "tiny"
    resolution_free = True

    def __init__(self, in_channels: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, 1
        self.first = nn.Conv1d(in_channels, 4, 3, padding=1, padding_mode="circular")
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv1d(4, 1, 3, padding=1, padding_mode="circular")
        self._config = {"in_channels": in_channels, "dropout": dropout}

    def config(self) -> dict:
        return self._config

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.tanh(self.first(u))))


@dataclass(frozen=True)
class OwnGrid:
    """A loss of one's own, of functions on a grid that it knows."""

    grid: vc.Grid

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if prediction.shape[2:] != self.grid.shape:
            raise ValueError("another grid")
        return (prediction - target).square().mean() * self.grid.spacing[0]


@pytest.fixture(autouse=True)
def tiny_is_known(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)


def tiny(**config) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny(**config)


def trajectories(samples: int = 6, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(samples, 2, 8, generator=generator, dtype=torch.float64)
    states = torch.randn(samples, 4, 1, 8, generator=generator, dtype=torch.float64)
    return Dataset.from_arrays(
        start, states, grid=GRID, boundary="periodic", times=(1, 2, 3, 4), input_names=["start", "force"]
    )


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# ------------------------------------------------------------------------------------------------------- pieces


def test_noise_is_relative_to_each_sample_and_channel():
    torch.manual_seed(0)
    size = torch.tensor([[1.0, 1e-3, 50.0], [0.0, 7.0, 2.0]])
    fields = size[:, :, None] * torch.sign(torch.randn(2, 3, 40_000))  # whose root mean square is its size
    disturbed = noisy(fields, 0.05, 2)
    spread = (disturbed - fields).std(dim=2)
    assert_close(spread[:, :2], 0.05 * size[:, :2], rtol=0.01)
    assert torch.equal(disturbed[:, 2], fields[:, 2])  # a constant field is not the state's
    assert abs((disturbed - fields).mean(2)[0, 0]) < 1e-3
    assert not torch.equal(noisy(fields, 0.05)[:, 2], fields[:, 2])
    torch.manual_seed(4)
    first = noisy(fields, 0.05) - fields
    torch.manual_seed(4)
    assert_close(noisy(1000 * fields, 0.05) - 1000 * fields, 1000 * first, rtol=1e-3)
    coarse = noisy(fields[:, :1, :100], 0.05) - fields[:, :1, :100]
    assert coarse[0].std() == pytest.approx(0.05, rel=0.3)  # whatever the number of points


def test_the_curriculum_follows_the_share_of_the_run():
    strategies = Strategies(rollout_steps=((0.25, 2), (0.5, 4)), pushforward=3, epochs=4)
    moments = [Moment(epoch, index, 4) for epoch in range(4) for index in range(4)]
    assert [strategies.pushes(m) for m in moments[:7]] == [False, False, True, False, False, True, False]
    assert [strategies.steps(m) - strategies.pushes(m) for m in moments] == [1] * 4 + [2] * 4 + [4] * 8
    assert strategies.most_steps == 5
    assert Strategies().steps(Moment(3, 0, 4)) == Strategies().most_steps == 1


def batch_of(steps: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(5, 2, 8, generator=generator)
    states = torch.randn(5, steps, 1, 8, generator=generator)
    return Batch(inputs, states[:, 0], None, states[:, 1:] if steps > 1 else None)


def gradient(network: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def test_the_loss_of_a_rollout_is_the_mean_over_its_steps_with_gradients_through_all():
    network, batch = tiny(), batch_of(3)
    strategies = Strategies(rollout_steps=((0.0, 3),))
    loss = strategies.loss(network, batch, RelativeL2(), Moment(0, 0, 1))
    force = batch.inputs[:, 1:]
    one = network(batch.inputs)
    two = network(torch.cat([one, force], 1))
    three = network(torch.cat([two, force], 1))
    targets = (batch.outputs, batch.later[:, 0], batch.later[:, 1])
    errors = [metrics.relative_l2(u, target) for u, target in zip((one, two, three), targets, strict=True)]
    expected = (errors[0] + errors[1] + errors[2]) / 3
    assert_close(loss.detach(), expected.detach())
    assert_close(gradient(network, loss), gradient(network, expected))


def test_a_pushed_batch_begins_with_a_prediction_that_no_gradient_crosses():
    network, batch = tiny(), batch_of(2)
    loss = Strategies(pushforward=1).loss(network, batch, RelativeL2(), Moment(0, 0, 1))
    start = network(batch.inputs).detach()
    expected = metrics.relative_l2(network(torch.cat([start, batch.inputs[:, 1:]], 1)), batch.later[:, 0])
    assert_close(loss.detach(), expected.detach())
    assert_close(gradient(network, loss), gradient(network, expected))


@pytest.mark.parametrize(
    ("grid", "factor"),
    [
        (vc.Grid((12, 6)), 3),
        (vc.Grid((13, 7), centring="vertex"), 3),
        (vc.Grid((12, 8), centring="vertex", periodic=True), 4),
        (vc.Grid((12, 9), centring="vertex", periodic=(True, False)), 4),
    ],
)
def test_coarser_fields_are_those_of_the_coarser_grid(grid, factor):
    def plane(where: vc.Grid) -> torch.Tensor:
        x, y = where.mesh()
        return torch.from_numpy(1 + 2 * x - 3 * y)[None, None]

    coarse = coarse_grid(grid, factor)
    assert [n * factor for n in coarse.num_intervals] == list(grid.num_intervals)
    assert_close(restricted(plane(grid), grid, factor), plane(coarse))
    assert factors_of((coarse.shape[0], grid.shape[0]), grid) == (factor, 1)


def test_a_coarser_batch_is_measured_on_its_own_grid():
    grid = vc.Grid((8,), periodic=True, centring="cell")
    boundary = vc.Boundary.on(grid, "periodic")
    strategies = Strategies(grid=grid, factors=(1, 2), rollout_steps=((0.0, 2),))
    network, fine = tiny(), batch_of(2)
    coarse = strategies.coarsened(fine, 0.5)
    assert torch.equal(strategies.coarsened(fine, 0.49).later, fine.later)
    assert torch.equal(coarse.later[:, 0, :, 1], fine.later[:, 0, :, 2:4].mean(-1))
    loss = strategies.loss(network, coarse, RelativeH1(grid, boundary), Moment(0, 0, 1))
    one = network(coarse.inputs)
    two = network(torch.cat([one, coarse.inputs[:, 1:]], 1))
    there = {"grid": vc.Grid((4,), periodic=True), "boundary": boundary}
    expected = metrics.relative_h1(one, coarse.outputs, **there) + metrics.relative_h1(two, coarse.later[:, 0], **there)
    assert_close(loss.detach(), expected.detach() / 2)


# ------------------------------------------------------------------------------------------------- whole runs


def test_fit_with_a_curriculum_equals_a_loop_written_by_hand():
    data, epochs, rate = trajectories(), 2, 1e-2
    config = {"rollout_steps": [[0.0, 1], [0.5, 2]], "pushforward": 4, "gradient_clip": None, "weight_decay": 0.0}
    config["optimizer"] = "adamw"
    trained = fit(
        tiny(), data.steps(), epochs=epochs, batch_size=8, learning_rate=rate, seed=3, loss="l2", config=config,
        progress=False,
    )  # fmt: skip
    states = torch.cat([data.inputs[:, None, :1], data.outputs.unflatten(1, (4, 1))], 1).float()
    force = data.inputs[:, 1:].float()
    x = data.steps().inputs.float()
    y = data.steps().outputs.float()
    (mx, sx), (my, sy) = ((v.mean((0, 2), keepdim=True), v.std((0, 2), correction=0, keepdim=True)) for v in (x, y))
    network = tiny()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([torch.zeros(1)], lr=1.0), rate, total_steps=6, pct_start=0.2, final_div_factor=1e3
    )

    def step(u: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return network((torch.cat([u, f], 1) - mx) / sx) * sy + my

    number = 0
    for epoch in range(epochs):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(stream_seed(3, epoch, 0)))
        for rows in order.split(8):
            pushed, in_loss = number == 3, epoch + 1
            where, start = rows // 4, (rows % 4).clamp(max=4 - in_loss - pushed)
            u, losses = states[where, start], []
            if pushed:
                u = step(u, force[where]).detach()
            for ahead in range(1 + pushed, 1 + pushed + in_loss):
                u = step(u, force[where])
                losses.append(metrics.relative_l2(u, states[where, start + ahead]))
            optimiser.zero_grad()
            (sum(losses) / in_loss).backward()
            optimiser.param_groups[0]["lr"] = schedule.get_last_lr()[0]
            optimiser.step()
            schedule.optimizer.step()
            schedule.step() if number < 5 else None
            number += 1
    assert_close(weights(trained.network), weights(network), rtol=2e-5)


EVERYTHING = {
    "noise": 0.1,
    "pushforward": 3,
    "rollout_steps": [[0, 1], [0.5, 2]],
    "sizes": [8, 4],
    "augment": ["flip_x"],
    "checkpoint_seconds": 0,
    "ema": 0.9,
}


def run(out=None, *, resume: bool = False, **changes):
    return fit(
        tiny(dropout=0.2),
        trajectories().steps(),
        validation=trajectories(2, seed=1).steps(),
        epochs=4,
        batch_size=7,
        seed=5,
        config=EVERYTHING | changes,
        out=out,
        resume=resume,
        progress=False,
    )


def test_a_killed_run_with_every_strategy_resumes_bit_for_bit(tmp_path, monkeypatch):
    from vcycle.training.module import OperatorModule

    class KilledError(Exception):
        pass

    step, sizes = OperatorModule.training_step, []

    def dying_step(self, batch, batch_index):
        if self.current_epoch == 2 and batch_index == 2:
            raise KilledError
        return step(self, batch, batch_index)

    def looking_step(self, batch, batch_index):
        sizes.append(batch.inputs.shape[2])
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(OperatorModule, "training_step", looking_step)
        whole = run()
    assert sorted(set(sizes)) == [4, 8]
    with monkeypatch.context() as patch:
        patch.setattr(OperatorModule, "training_step", dying_step)
        with pytest.raises(KilledError):
            run(tmp_path / "killed")
    resumed = run(tmp_path / "killed", resume=True)
    assert torch.equal(weights(resumed.network), weights(whole.network))
    assert resumed.history == whole.history
    for name in ("noise", "pushforward", "rollout_steps", "sizes"):
        assert not torch.equal(weights(run(**{name: None}).network), weights(whole.network)), f"{name} does nothing"


class OneGrid(Tiny):
    """A network that is no map of functions."""

    resolution_free = False


def plain(points: int = 8, samples: int = 4) -> Dataset:
    x = torch.randn(samples, 1, points, generator=torch.Generator().manual_seed(0))
    return Dataset.from_arrays(x, x, grid=vc.Grid((points,), periodic=True), boundary="periodic")


def mgno(**options) -> nn.Module:
    where = {"num_axes": 1, "boundary": "periodic"}
    return MODELS["mgno"](1, 1, width=4, depth=2, levels=2, **where, **options)


@pytest.mark.parametrize("resampling", ["layers", "network"])
def test_mgno_is_shown_coarser_grids_where_it_knows_its_own(resampling, monkeypatch):
    from vcycle.training.module import OperatorModule

    step, seen = OperatorModule.training_step, []

    def looking_step(self, batch, batch_index):
        seen.append(batch.inputs.shape[2])
        return step(self, batch, batch_index)

    torch.manual_seed(0)
    monkeypatch.setattr(OperatorModule, "training_step", looking_step)
    model, config = mgno(native_shape=[8], resampling=resampling), {"sizes": [8, 4]}
    trained = fit(model, plain(samples=8), epochs=2, batch_size=2, config=config, progress=False)
    assert set(seen) == {8, 4}
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in trained.history)
    assert trained.predict(torch.randn(1, 1, 4)).shape == (1, 1, 4)


def test_models_say_which_coarser_grids_they_take():
    unet = MODELS["unet"](1, 1, width=4, depth=1)
    fno = MODELS["fno"](1, 1, modes=2, width=4, depth=1)
    knowing = mgno(native_shape=[8])
    for model, taken in ((fno, [1, 2, 3, 4]), (unet, [1]), (mgno(), [1]), (knowing, [1, 2, 4]), (OneGrid(1), [1])):
        assert [factor for factor in (1, 2, 3, 4) if takes_factor(model, factor)] == taken


@pytest.mark.parametrize(
    ("model", "data", "config", "message"),
    [
        (Tiny, trajectories().steps(), {"rollout_steps": [[0, 5]]}, r"at most the 4 steps of a trajectory\. Got 5"),
        (Tiny, trajectories().steps(), {"rollout_steps": [[0, 4]], "pushforward": 2}, r"Got 5\."),
        (Tiny, trajectories().steps(2), {"rollout_steps": [[0, 3]]}, r"at most the 2 steps"),
        (Tiny, trajectories().steps(all_to_all=True), {"pushforward": 2}, r"steps\(stride\).* Got lead times"),
        (lambda: Tiny(1), plain(), {"rollout_steps": [[0, 2]]}, r"steps\(stride\).* Got other data"),
        (lambda: OneGrid(1), plain(), {"sizes": [4]}, r"2 times coarser: .* resolution_free, .*\. Got OneGrid"),
        (lambda: mgno(), plain(), {"sizes": [4]}, r"MgNO with native_shape=\(8,\)\. Got MgNO with native_shape=None"),
        (lambda: mgno(native_shape=[16]), plain(), {"sizes": [8, 4]}, r"2 times .* MgNO with native_shape=\(16,\)"),
        (lambda: mgno(native_shape=[12]), plain(12), {"sizes": [4]}, r"3 times .* MgNO with native_shape=\(12,\)"),
        (lambda: Tiny(1), plain(), {"sizes": [3]}, r"whole cells of \(8,\)\. Got 3"),
        (lambda: Tiny(1), plain(), {"sizes": 16}, r"Got 16"),
        (lambda: Tiny(1), plain(), {"sizes": 4, "input_normaliser": "pointwise"}, "tied to a grid"),
        (Tiny, plain(), {"noise": 0}, "`noise` must be positive"),
        (Tiny, plain(), {"pushforward": 0}, "`pushforward` must be at least 1"),
        (Tiny, plain(), {"rollout_steps": [[0.5, 2], [0.2, 3]]}, "shares that increase"),
        (Tiny, plain(), {"rollout_steps": [[1.0, 2]]}, "below 1"),
        (Tiny, plain(), {"rollout_steps": [[0.1, 0]]}, "`rollout_steps` must be at least 1"),
        (Tiny, plain(), {"rollout_steps": [0.1, 2]}, "pairs of a share and a number"),
    ],
)
def test_what_does_not_go_together_is_named(model, data, config, message):
    with pytest.raises(ValueError, match=message):
        fit(model(), data, epochs=1, config=config, progress=False)


@pytest.mark.parametrize("loss", [OwnGrid(GRID), RelativeH1(GRID, vc.Boundary.of("periodic", 1)), RelativeL2()])
def test_a_loss_that_knows_its_grid_is_put_on_that_of_the_batch(loss):
    trained = fit(Tiny(1), plain(), epochs=2, batch_size=2, loss=loss, config={"sizes": [4, 8]}, progress=False)
    assert all(row["loss"] > 0 for row in trained.history)


def test_large_eddies_are_seen_on_coarser_grids():
    """Its filter is as wide as the cells: on the coarser grid it is the loss that was made for that."""
    grid = vc.Grid((8, 8), periodic=True)
    loss, strategies = LargeEddyLoss(grid, (0.1,), 0.01), Strategies(grid=grid, factors=(2,))
    fields = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = strategies.coarsened(Batch(fields, fields), 0.0)
    assert strategies.on_grid_of(batch, loss) == LargeEddyLoss(coarse_grid(grid, 2), (0.1,), 0.01)
    found = strategies.loss(lambda u: 0.9 * u, batch, loss, Moment(0, 0, 1))
    assert_close(
        found, LargeEddyLoss(vc.Grid((4, 4), periodic=True), (0.1,), 0.01)(0.9 * batch.inputs, None, batch.inputs)
    )


def test_a_loss_of_one_grid_is_refused_before_training(monkeypatch):
    from vcycle.training.module import OperatorModule

    monkeypatch.setattr(OperatorModule, "training_step", None)
    loss = LabelFree(ResidualLoss(vc.problems.Poisson(vc.Grid((8,)))))
    data = Dataset.from_arrays(torch.ones(4, 1, 8), torch.ones(4, 1, 8), grid=vc.Grid((8,)), boundary="dirichlet")
    message = r"`sizes` needs a loss for every grid: .* Got LabelFree.*, which cannot be taken on \(4,\): .*8"
    with pytest.raises(ValueError, match=message) as caught:
        fit(Tiny(1), data, epochs=1, loss=loss, config={"sizes": [4, 8]}, progress=False)
    assert "\n" not in str(caught.value)


def test_strategies_are_off_unless_asked_for():
    config = FitConfig()
    assert (config.noise, config.pushforward, config.rollout_steps, config.sizes) == (None,) * 4
