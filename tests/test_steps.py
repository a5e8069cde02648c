"""Trajectories as pairs of states against loops over them, and rollouts against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

import vcycle as vc
from helpers import assert_close
from vcycle.data import Dataset, Window
from vcycle.evaluation import rollout_errors
from vcycle.models import MODELS
from vcycle.problems.problem import FieldInfo
from vcycle.training import Normaliser, TrainedOperator, fit
from vcycle.training.samples import Transitions

GRID = vc.Grid((6,), periodic=True)
TIMES = (0.5, 1.0, 1.5, 2.0)


def trajectories(samples: int = 7, *, times=TIMES, seed: int = 0, components: int = 1) -> Dataset:
    """Random states of ``components``, and a constant field."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, components + 1, 6, generator=generator, dtype=torch.float64)
    outputs = torch.randn(samples, len(times), components, 6, generator=generator, dtype=torch.float64)
    names = [f"start{i}" for i in range(components)] + ["force"]
    return Dataset.from_arrays(
        inputs,
        outputs,
        grid=GRID,
        boundary="periodic",
        times=times,
        input_names=names,
        output_names=[f"state{i}" for i in range(components)],
        parameters={"viscosity": torch.arange(float(samples))},
    )


def states_of(data: Dataset, components: int = 1) -> torch.Tensor:
    later = torch.cat([data.field(f"state{i}") for i in range(components)], dim=2)
    return torch.cat([data.inputs[:, None, :components], later], dim=1)


# --------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("stride", [1, 3])
def test_rows_are_the_pairs_of_a_loop(components, stride):
    data = trajectories(components=components)
    states, steps = states_of(data, components), data.steps(stride)
    row = 0
    for i in range(7):
        for k in range(5 - stride):
            assert torch.equal(steps.inputs[row], torch.cat([states[i, k], data.inputs[i, components:]]))
            assert torch.equal(steps.outputs[row], states[i, k + stride])
            assert steps.sample_id[row] == i
            assert steps.parameters[row].tolist() == [i]
            row += 1
    assert len(steps) == row
    assert [info.name for info in steps.input_fields] == [f"state{i}" for i in range(components)] + ["force"]
    assert [info.times for info in (*steps.input_fields, *steps.output_fields)] == [None] * (2 * components + 1)
    some = np.array([row - 1, 0, row - 1])
    inputs, outputs = steps.read(some)
    assert torch.equal(inputs, steps.inputs[some])
    assert torch.equal(outputs, steps.outputs[some])


def test_all_to_all_has_every_pair_with_its_lead_time():
    data = trajectories(times=(0.25, 1.0, 3.0))
    states, times = states_of(data), (0.0, 0.25, 1.0, 3.0)
    steps = data.steps(all_to_all=True)
    assert len(steps) == 7 * 6
    assert steps.parameter_names == ("viscosity", "lead_time")
    pairs = [(i, k, m) for i in range(7) for k in range(4) for m in range(k + 1, 4)]
    for row, (i, k, m) in enumerate(pairs):
        assert torch.equal(steps.inputs[row, :1], states[i, k])
        assert torch.equal(steps.outputs[row], states[i, m])
        assert steps.parameters[row].tolist() == [i, times[m] - times[k]]
    chosen = data.steps(lead_times=(0.75, 3.0))
    assert chosen.parameters[:, 1].tolist() == [3.0, 0.75] * 7
    assert torch.equal(chosen.outputs, steps.outputs.reshape(7, 6, 1, 6)[:, [2, 3]].flatten(0, 1))


def test_trajectories_that_begin_at_time_zero_have_no_state_before():
    data = trajectories(times=(0.0, 1.0, 2.0))
    steps = data.steps()
    assert len(steps) == 14
    assert torch.equal(steps.inputs[0, 0], data.field("state0")[0, 0, 0])
    assert [info.name for info in steps.input_fields] == ["state0", "force"]
    without = trajectories().steps(initial=())
    assert len(without) == 21
    assert [info.name for info in without.input_fields] == ["state0", "start0", "force"]


def test_windows_choose_the_times_and_fields_of_steps():
    data = trajectories()
    steps = data.windowed(Window(inputs=("start0",), output_times=(1.0, 2.0))).steps()
    states = states_of(data)[:, [0, 2, 4]]
    assert torch.equal(steps.outputs, states[:, 1:].flatten(0, 1))
    assert torch.equal(steps.inputs, states[:, :-1].flatten(0, 1))
    assert steps.step_time == 1.0


def test_no_trajectory_is_on_both_sides_of_a_split():
    data = trajectories(20)
    parts = data.steps().split(5, validation=0.2, seed=3)
    ids = [set(part.sample_id.tolist()) for part in parts]
    assert [len(i) for i in ids] == [11, 4, 5]
    assert len(set.union(*ids)) == 20
    for part, whole in zip(parts, data.split(5, validation=0.2, seed=3), strict=True):
        assert part.fingerprint() == whole.steps().fingerprint()
        assert torch.equal(part.outputs, whole.steps().outputs)
        assert len(part.trajectories) == len(whole)  # the others are out of reach


def test_rows_can_be_chosen_and_fingerprints_tell_them_apart(tmp_path):
    data = trajectories()
    steps = data.steps()
    some = steps.subset([9, 2, 26]).subset([1, 2])
    assert torch.equal(some.outputs, steps.outputs[[2, 26]])
    assert torch.equal(some.parameters, steps.parameters[[2, 26]])
    assert len(some.trajectories) == 2
    different = [steps, some, steps.subset(slice(0, 27)), data.steps(2), data.steps(lead_times=(0.5,))]
    different += [data.steps(initial=()), trajectories(seed=1).steps()]
    assert len({part.fingerprint() for part in different}) == len(different)
    opened = data.save(tmp_path / "data.zarr").steps()
    assert opened.fingerprint() == steps.fingerprint()
    assert torch.equal(opened.subset([26, 2]).inputs, steps.inputs[[26, 2]])


def test_training_keeps_every_state_once():
    data = trajectories()
    rows = data.steps(all_to_all=True)
    whole = rows.read_trajectories(dtype=torch.float32)
    source = Transitions(whole, torch.from_numpy(rows.pairs), rows.parameters.float())
    assert whole.states.numel() == 7 * 5 * 6
    batch = source.batch(torch.tensor([3, 69, 8]))
    assert torch.equal(batch.inputs, rows.inputs[[3, 69, 8]].float())
    assert torch.equal(batch.outputs, rows.outputs[[3, 69, 8]].float())
    assert torch.equal(batch.parameters, rows.parameters[[3, 69, 8]].float())
    inputs, outputs = source.distinct()
    assert (len(inputs), len(outputs)) == (7 * 4, 7 * 4)


def test_later_states_follow_and_rows_near_the_end_begin_earlier():
    data = trajectories()
    states, rows = states_of(data).float(), data.steps()
    source = Transitions(rows.read_trajectories(dtype=torch.float32), torch.from_numpy(rows.pairs))
    batch = source.batch(torch.arange(4, 8), steps=3)  # the second trajectory, from each of its states
    for row, start in enumerate([0, 1, 1, 1]):
        assert torch.equal(batch.inputs[row, :1], states[1, start])
        assert torch.equal(batch.outputs[row], states[1, start + 1])
        assert torch.equal(batch.later[row], states[1, start + 2 : start + 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vc.Dataset.from_arrays(np.ones((2, 1, 6)), np.ones((2, 1, 6)), grid=GRID).steps(), "a time axis"),
        (lambda: trajectories().steps(5), r"`stride` must be below the number of states, 5\. Got 5"),
        (lambda: trajectories(times=(0.5, 2.0)).steps(), r"equally spaced.* Got steps from 0\.5 to 1\.5"),
        (lambda: trajectories().steps(2, all_to_all=True), "`stride` must be 1 where rows have lead times"),
        (lambda: trajectories().steps(lead_times=(0.7,)), r"Got 0\.7; the nearest is 0\.5"),
        (lambda: trajectories().steps(initial=("forse",)), "Did you mean 'force'"),
        (lambda: trajectories().steps(initial=("start0", "force")), r"must name the inputs that are state0"),
        (lambda: trajectories().steps().steps(), "Got steps already"),
        (lambda: trajectories().steps().windowed(Window()), r"dataset\.windowed\(window\)\.steps\(\)"),
        (lambda: trajectories().steps().save("x"), "must be where trajectories go"),
        (lambda: trajectories().steps().split(7), r"must leave samples for training\. Got 7 of 7"),
    ],
)
def test_what_cannot_be_divided_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ----------------------------------------------------------------------------------------------------- rollouts


class Affine(nn.Module):
    """``a u + b f + c p u`` of a state, a constant field and a scalar."""

    name = "affine"

    def __init__(self, a: float = 1.0, b: float = 0.0, c: float = 0.0, num_parameters: int = 0) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weights = nn.Parameter(torch.tensor([a, b, c], dtype=torch.float64))

    def forward(self, u: torch.Tensor, parameters: torch.Tensor | None = None) -> torch.Tensor:
        a, b, c = self.weights.to(u.dtype)
        steered = 0 if parameters is None else c * parameters[:, -1:, None] * u[:, :1]
        return a * u[:, :1] + (b * u[:, 1:] if u.shape[1] > 1 else 0) + steered


def unit(shape: tuple[int, ...]) -> Normaliser:
    return Normaliser(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))


def operator(a: float, b: float = 0.0, c: float | None = None, fields=("state0", "force")) -> TrainedOperator:
    return TrainedOperator(
        Affine(a, b, c or 0.0, num_parameters=0 if c is None else 1),
        unit((len(fields), 1)),
        unit((1, 1)),
        grid=GRID,
        boundary=vc.Boundary.of("periodic", 1),
        input_fields=tuple(FieldInfo(name) for name in fields),
        output_fields=(FieldInfo("state0"),),
        parameter_names=() if c is None else ("lead_time",),
        parameter_normaliser=None if c is None else unit((1,)),
    )


def test_a_rollout_is_the_recursion():
    generator = torch.Generator().manual_seed(1)
    u, f = torch.randn(2, 5, 1, 6, generator=generator, dtype=torch.float64)
    states = operator(0.5, 2.0).rollout(u, 4, inputs=f, batch_size=2)
    for step in range(4):
        u = 0.5 * u + 2.0 * f
        assert_close(states[:, step], u)
    lead = torch.full((5, 1), 0.25, dtype=torch.float64)
    steered = operator(0.5, c=2.0, fields=("state0",)).rollout(f.numpy(), 3, lead)
    assert_close(steered, torch.stack([f, f, f], dim=1))  # 0.5 + 2 / 4 = 1
    assert operator(0.5).rollout(u[:0], 4, inputs=f[:0]).shape == (0, 4, 1, 6)


def decaying(samples: int = 6, rate: float = 0.5) -> Dataset:
    """States that halve from snapshot to snapshot."""
    start = torch.randn(samples, 2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    states = start[:, None, :1] * rate ** torch.arange(1.0, 5.0, dtype=torch.float64).reshape(-1, 1, 1)
    return Dataset.from_arrays(
        start,
        states,
        grid=GRID,
        boundary="periodic",
        times=TIMES,
        input_names=["start0", "force"],
        output_names=["state0"],
    )


def test_rollout_errors_are_those_of_the_closed_form():
    data, wrong = decaying(), operator(0.6)
    errors = rollout_errors(wrong, data)
    truth, states = (np.array([rate**n for n in range(1, 5)]) for rate in (0.5, 0.6))
    by_step = np.abs(states - truth) / truth
    assert errors["rollout_l2_by_step"] == pytest.approx(by_step)
    assert errors["rollout_l2_step"] == pytest.approx(by_step.mean())
    assert errors["rollout_l2_full"] == pytest.approx(np.linalg.norm(states - truth) / np.linalg.norm(truth))
    assert rollout_errors(wrong, data, steps=2)["rollout_l2_by_step"] == pytest.approx(by_step[:2])
    assert rollout_errors(operator(0.25), data.steps(2).subset([0, 1, 17]))["rollout_l2_full"] < 1e-12
    assert vc.evaluate(wrong, data.steps()).relative_l2 == pytest.approx(0.2)
    with_lead = operator(0.25, c=0.5)  # 0.25 + 0.5 * 0.5
    assert rollout_errors(with_lead, data)["rollout_l2_full"] < 1e-12
    assert rollout_errors(with_lead, data.steps(lead_times=(1.0,)))["rollout_l2_full"] < 1e-12


def test_an_overflow_is_said_and_never_nan():
    data, growing = decaying(), operator(1e120)
    errors = rollout_errors(growing, data)
    assert np.isfinite(errors["rollout_l2_by_step"][:1]).all()
    assert errors["rollout_l2_by_step"][2:] == [np.inf, np.inf]
    assert errors["rollout_l2_full"] == errors["rollout_l2_step"] == np.inf
    start, force = data.inputs[:, :1].clone(), data.inputs[:, 1:]
    start[:2] = 0.0
    with pytest.raises(ValueError, match=r"keep the states finite\. Sample 2 overflowed in step 3\."):
        growing.rollout(start, 4, inputs=force)
    states = growing.rollout(start, 4, inputs=force, allow_overflow=True)
    assert torch.equal(states[:2], torch.zeros(2, 4, 1, 6, dtype=torch.float64))
    assert bool(torch.isposinf(states[2:, 2:]).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: operator(1.0).rollout(u, 0, inputs=u), "`steps` must be at least 1"),
        (lambda u: operator(1.0).rollout(u, 1), r"`inputs` must have shape \(3, 1, 6\), that is the 1 input channels"),
        (
            lambda u: operator(1.0).rollout(torch.cat([u, u], 1), 1, inputs=u),
            r"`initial` must have shape \(any, 1, any",
        ),
        (lambda u: operator(1.0).rollout(u / 0, 1, inputs=u), "must be finite"),
        (lambda u: rollout_errors(operator(1.0), decaying(), steps=5), "`steps` must be at most 4"),
        (lambda u: rollout_errors(operator(1.0), decaying().subset([])), "at least one trajectory"),
    ],
)
def test_rollouts_that_cannot_be_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(3, 1, 6, dtype=torch.float64))


def test_steps_of_an_evolution_are_learnt(monkeypatch):
    monkeypatch.setitem(MODELS, "affine", Affine)
    start = torch.randn(24, 2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    states = [start[:, :1]]
    for _ in range(4):
        states.append(0.5 * states[-1] + 0.25 * start[:, 1:])
    data = Dataset.from_arrays(
        start, torch.stack(states[1:], 1), grid=GRID, boundary="periodic", times=TIMES, input_names=["start0", "force"]
    )
    train, validation, test = data.steps().split(6, validation=4)
    config = {"gradient_clip": None, "weight_decay": 0.0, "input_normaliser": "scale", "output_normaliser": "scale"}
    trained = fit(
        Affine(0.0),
        train,
        validation=validation,
        epochs=20,
        batch_size=8,
        learning_rate=0.1,
        loss="l2",
        config=config,
        progress=False,
    )
    assert vc.evaluate(trained, test).relative_l2 < 0.01
    errors = rollout_errors(trained, test)
    assert errors["rollout_l2_full"] < 0.02
    assert errors == rollout_errors(trained, test.trajectories)
