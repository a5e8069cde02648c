"""Inference of all models of a data set in turn, in one process, and the classical ways: only so are times comparable.

``python -m vcycle.recipes.timing`` reads a JSON object from standard input: ``cells``, label to
:class:`~vcycle.recipes.cell.Cell`, and ``out``, the file to write.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcycle._files import write_json
from vcycle.recipes.building import RecipeData
from vcycle.recipes.cell import RUN, WEIGHTS, Cell, build_outside, inference_ms
from vcycle.recipes.process import work_on

if TYPE_CHECKING:
    from vcycle.data import Dataset
    from vcycle.training import TrainedOperator


def measure_together(cells: Mapping[str, Cell]) -> dict[str, Any]:
    """Time trained models of one data set against each other and against classical solvers.

    Parameters
    ----------
    cells
        Finished ones, by label.

    Returns
    -------
    dict
        ``ms``, CPU milliseconds per sample by label, medians of repetitions in turn; ``solvers``, rows of name, error
        and milliseconds, empty where the data do not say which problem they solve.
    """
    data = next(iter(cells.values())).data()
    test = next(iter(data.tests.values()))
    operators = {label: restored(cell, data) for label, cell in cells.items()}
    times = inference_ms(operators, test)
    return {"ms": times, "solvers": _classical(next(iter(operators.values())), test)}


def _classical(operator: "TrainedOperator", test: "Dataset") -> list[dict[str, Any]]:
    from vcycle.evaluation import benchmark

    if test.problem is None:
        return []
    return [vars(row) for row in benchmark(test.problem, operator, test).rows[1:]]


def restored(cell: Cell, data: RecipeData) -> "TrainedOperator":
    """Return the trained operator of a finished cell."""
    import torch

    from vcycle.boundary import Boundary
    from vcycle.training import Normaliser, TrainedOperator, load

    folder = Path(cell.folder) / RUN
    if "import" not in cell.model:
        return load(folder)
    tensors = torch.load(folder / WEIGHTS, weights_only=True)
    train = data.train
    normalisers = {
        kind: Normaliser(tensors[f"{kind}_normaliser.mean"], tensors[f"{kind}_normaliser.scale"])
        for kind in ("input", "output", "parameter")
        if f"{kind}_normaliser.mean" in tensors
    }
    operator = TrainedOperator(
        build_outside(cell.model, train, seed=cell.seed).eval(),
        normalisers["input"],
        normalisers["output"],
        grid=train.grid,
        boundary=Boundary.on(train.grid, train.boundary),
        input_fields=tuple(train.input_fields),
        output_fields=tuple(train.output_fields),
        parameter_names=train.parameter_names if "parameter" in normalisers else (),
        parameter_normaliser=normalisers.get("parameter"),
    )
    with torch.no_grad():
        for name, tensor in [*operator.network.named_parameters(), *operator.network.named_buffers()]:
            tensor.copy_(tensors[f"network.{name}"])
    return operator


def write_times(asked: Mapping[str, Any]) -> None:
    """Measure finished cells together, and write down what was found, and of which trainings."""
    cells = {label: Cell(**cell) for label, cell in asked["cells"].items()}
    write_json(asked["out"], {"of": asked["of"], **measure_together(cells)})


if __name__ == "__main__":
    work_on(write_times)
