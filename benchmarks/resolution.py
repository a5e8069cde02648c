"""How far MgNO's error moves when a trained network meets another grid, by what is done about it.

Run ``python benchmarks/resolution.py select neuraloperator darcy``, or some of these. Trained networks are kept in
``--runs`` and used again. Errors are mean relative L2, one thread; means and standard deviations over seeds. Prints
Markdown; the table is in ``resolution.md``.

``select``         what was chosen by: trained at 8x8 on every second point of 800 training samples of neuraloperator's
                   Darcy data, tested at 16x16 on the other 200
``neuraloperator`` the recipe's networks, trained at 16x16, on the test set at 32x32
``darcy``          two-phase Darcy trained at 64x64, at 32, 64 and 128 squared; all against solutions at 256x256,
                   averaged to the grid in question
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mgno_ablation as ablation
import torch
from torch import Tensor

import vcycle as vc
from vcycle import metrics
from vcycle.data import Dataset
from vcycle.layers.spacing import predicted_at_spacing
from vcycle.models import MgNO
from vcycle.multigrid.padding import Padding
from vcycle.recipes import read_data, read_recipe, train
from vcycle.training import TrainedOperator, load

HERE = Path(__file__).parent
HALF_OPEN = Padding((("value", "value"),) * 2, (1.0, 1.0), 0.0)
"""Vertices that begin on the wall and stop one spacing short of the far one."""
TEST, VALIDATION = 60, 40


def relative(prediction: Tensor, truth: Tensor) -> float:
    """Return the mean relative L2 error."""
    return metrics.relative_l2(prediction.double(), truth.double()).item()


def subset(data: Dataset, rows: range, stride: int) -> Dataset:
    """Return some samples on every ``stride``-th point, as the files at lower resolution hold them."""
    arrays = (values[rows.start : rows.stop, :, ::stride, ::stride] for values in (data.inputs, data.outputs))
    size = -(-data.grid.shape[0] // stride)
    extent = stride * data.grid.spacing[0] * (size - 1)
    grid = vc.Grid((size, size), extent=extent, centring=data.grid.centring)
    return Dataset.from_arrays(*arrays, grid=grid, boundary=data.boundary)


def trained(data: Dataset, name: str, seed: int, options: argparse.Namespace) -> TrainedOperator:
    """Train the recipe's network, or read it."""
    folder = options.runs / f"{name}-{seed}"
    if (folder / "operator").exists():
        return load(folder / "operator")
    recipe = read_recipe(HERE.parent / "recipes" / "neuraloperator-darcy-mgno.yaml")
    arguments = {key: value for key, value in recipe.model.items() if key != "name"}
    return train(data, model="mgno", out=folder, model_args=arguments, fit_args=recipe.fit, seed=seed, progress=False)


def variants(operator: TrainedOperator, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to predict on the grid of ``x``, which is twice as fine as the operator's."""

    def single(inputs: Tensor) -> Tensor:
        """Predict from one sampling, and interpolate by the same cubics."""
        return predicted_at_spacing(
            lambda samplings: operator.predict(inputs).repeat(len(samplings) // len(x), 1, 1, 1), x, HALF_OPEN, 1
        )

    def means() -> Tensor:
        near = torch.nn.functional.pad(x, [1, 1, 1, 1], mode="replicate")
        near = 0.25 * near[:, :, :-2] + 0.5 * near[:, :, 1:-1] + 0.25 * near[:, :, 2:]
        near = 0.25 * near[..., :-2] + 0.5 * near[..., 1:-1] + 0.25 * near[..., 2:]
        return single(near[:, :, ::2, ::2])

    def interleaved() -> Tensor:
        result = torch.empty_like(x)
        for i in (0, 1):
            for j in (0, 1):
                result[:, :, i::2, j::2] = operator.predict(x[:, :, i::2, j::2].contiguous()).to(x)
        return result

    return {
        "stride, predict, cubic": lambda: single(x[:, :, ::2, ::2]),
        "each of the four strided grids predicts itself": interleaved,
        "mean of the input's neighbourhood, predict, cubic": means,
        'mean over all samplings, cubic (`resampling="network"`)': lambda: predicted_at_spacing(
            operator.predict, x, HALF_OPEN, 1
        ),
    }


def compare(operators: list[TrainedOperator], coarse: tuple[Tensor, Tensor], fine: tuple[Tensor, Tensor]) -> None:
    """Print the error on the operators' grid and, by variant, on the finer one."""
    table: dict[str, list[float]] = {"on the grid of training": []}
    for operator in operators:
        table["on the grid of training"].append(relative(operator.predict(coarse[0]), coarse[1]))
        for name, predict in variants(operator, fine[0]).items():
            table.setdefault(name, []).append(relative(predict(), fine[1]))
    table["exact values on the grid of training, cubic"] = [
        relative(
            predicted_at_spacing(
                lambda samplings: coarse[1].repeat(len(samplings) // len(fine[0]), 1, 1, 1), fine[0], HALF_OPEN, 1
            ),
            fine[1],
        )
    ]
    base = table["stride, predict, cubic"]
    print("| | error | each | to stride, predict, cubic |\n|---|---|---|---|")
    for name, errors in table.items():
        ratios = [e / b for e, b in zip(errors, base, strict=False)]
        ratio = "" if len(errors) < len(base) else f"{statistics.mean(ratios):.3f}"
        each = ", ".join(f"{e:.4f}" for e in errors)
        print(f"| {name} | {statistics.mean(errors):.4f} | {each} | {ratio} |", flush=True)


def select(options: argparse.Namespace) -> None:
    """Compare at half the resolution, on training samples only."""
    data = read_data(options.data / "darcy_train_16.pt", "neuraloperator")
    operator = trained(subset(data, range(800), 2), "select", 0, options)
    coarse, fine = (subset(data, range(800, 1000), stride) for stride in (2, 1))
    compare([operator], (coarse.inputs, coarse.outputs), (fine.inputs, fine.outputs))


def neuraloperator(options: argparse.Namespace) -> None:
    """Compare on the test sets, three seeds."""
    data = read_data(options.data / "darcy_train_16.pt", "neuraloperator")
    operators = [trained(data, "neuraloperator", seed, options) for seed in range(3)]
    sets = [read_data(options.data / f"darcy_test_{size}.pt", "neuraloperator") for size in (16, 32)]
    compare(operators, *((data.inputs, data.outputs) for data in sets))


def darcy(options: argparse.Namespace) -> None:
    """Train at 64x64 and predict at 32, 64 and 128 squared; truth is at 256x256."""
    size, counts = 64, TEST + VALIDATION
    problem, *fields = ablation.darcy(size, counts + options.samples)
    data = tuple(values[counts:] for values in fields)
    held = tuple(values[TEST:counts] for values in fields)
    truth = ablation.darcy(256, TEST)[2].double()
    torch.manual_seed(0)
    network = MgNO(1, 1, width=16, depth=3, levels=5)
    path = options.runs / "darcy-64.pt"
    if path.exists():
        network.load_state_dict(torch.load(path))
    else:
        started = time.process_time()
        ablation.fit(network, problem, data, held, epochs=options.epochs, seed=0, batch=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), path)
        print(f"trained in {time.process_time() - started:.0f} CPU s")
    print("| tested at | against | variant | error | to 64x64 |\n|---|---|---|---|---|")
    base = None
    for at in (64, 32, 128):
        exact = torch.nn.functional.avg_pool2d(truth, 256 // at)
        _, a, own = ablation.darcy(at, TEST)
        native = {"native_shape": (size, size)}
        kinds = {"stencils as they are": {}, "native_shape, layers": native}
        kinds["native_shape, network"] = native | {"resampling": "network"}
        for name, arguments in kinds.items() if at != size else [("", {})]:
            variant = MgNO(**(network.config() | arguments))
            variant.load_state_dict(network.state_dict())
            with torch.no_grad():
                error = relative(ablation.Scaled(variant, *data)(a), exact)
            base = error if base is None else base
            print(f"| {at} | 256 restricted | {name} | {100 * error:.2f} % | {error / base:.2f} |", flush=True)
        print(f"| {at} | 256 restricted | the solver on this grid | {100 * relative(own, exact):.2f} % | |", flush=True)


PARTS = {"select": select, "neuraloperator": neuraloperator, "darcy": darcy}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path("data/neuraloperator-darcy"))
    parser.add_argument("--runs", type=Path, default=Path("runs/resolution"))
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        print(f"\n**{part}**\n")
        PARTS[part](arguments)
