"""What MgNO learns and what it does not: errors by frequency, by amount of data, at the walls, and by architecture.

Run ``python benchmarks/mgno_understanding.py``, a quarter of an hour on one core, or some parts: ``frequency
overfitting boundary levels``. Every finished run is written at once to ``docs/figures/mgno-PART.json``, and the same
command goes on from there; then the figures and the blocks of ``docs/mgno.md`` are made again. ``--plot`` makes only
these, ``--quick`` is for looking whether all works. One thread; the clock is the CPU time of the process.

Every network trains through :func:`vcycle.fit` on the H1 loss, with one learning rate for all; errors are those of
validation samples that no training sees.
"""

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from mgno_page import BASE, KINDS, PADDINGS, Record, Runs, show
from torch import Tensor, nn

import vcycle as vc
from vcycle import metrics
from vcycle._files import whole
from vcycle.data.window import Window
from vcycle.models import FNO, MgNO
from vcycle.models.start import solver_start
from vcycle.objectives.losses import Loss, data_loss
from vcycle.training.task import walls

DOCS = Path(__file__).parents[1] / "docs"
NEGLIGIBLE = 1e-12
"""Scale of Poisson's boundary values, which must be positive: solutions then meet homogeneous conditions."""


@dataclass(frozen=True)
class Settings:
    """All sizes; what begins with the name of a part belongs to that part alone."""

    size: int = 32
    width: int = 16
    depth: int = 4
    levels: int = 5
    fno_modes: int = 10
    fno_width: int = 24
    batch: int = 16
    rate: float = 0.004
    validation: int = 200
    frequency_samples: int = 600
    frequency_epochs: int = 16
    overfitting_samples: tuple[int, ...] = (100, 500, 2000)
    overfitting_steps: int = 300
    boundary_samples: int = 400
    boundary_epochs: int = 8
    levels_samples: int = 400
    levels_epochs: int = 8
    levels_seeds: int = 1

    def of(self, part: str) -> Record:
        """Return what the results of a part depend on."""
        others = tuple(f"{name}_" for name in PARTS if name != part)
        own = {name: value for name, value in asdict(self).items() if not name.startswith(others)}
        return json.loads(json.dumps(own))  # tuples become lists, as in a file


QUICK = Settings(
    size=16, width=4, depth=2, levels=3, fno_modes=4, fno_width=6, batch=8, validation=8, frequency_samples=16,
    frequency_epochs=2, overfitting_samples=(8, 16), overfitting_steps=4, boundary_samples=16, boundary_epochs=1,
    levels_samples=16, levels_epochs=1, levels_seeds=2,
)  # fmt: skip


# -- data, networks, training ------------------------------------------------------------------------------------------


@functools.cache
def darcy(size: int, samples: int, validation: int) -> tuple[vc.Dataset, vc.Dataset]:
    """Return training and validation data of two-phase Darcy, contrast 6, tau 5; the validation's are always the same.

    Sample i depends on i alone, so more samples are the same and others.
    """
    coefficient = {"name": "two-phase", "high": 12.0, "low": 2.0, "tau": 5.0}
    problem = vc.problems.Darcy(vc.Grid((size, size)), coefficient=coefficient)
    return _split(problem, samples, validation)


@functools.cache
def poisson(kind: str, size: int, samples: int, validation: int) -> tuple[vc.Dataset, vc.Dataset]:
    """Return training and validation data of Poisson's equation, sources to solutions, all sides of one kind."""
    grid = vc.Grid((size, size), periodic=kind == "periodic")
    problem = vc.problems.Poisson(grid, kind, boundary_scale=NEGLIGIBLE)
    train, validation_data = _split(problem, samples, validation)
    window = Window(inputs=("source",))
    return train.windowed(window), validation_data.windowed(window)


def _split(problem: Any, samples: int, validation: int) -> tuple[vc.Dataset, vc.Dataset]:
    data = vc.generate(problem, num_samples=validation + samples, seed=0, workers=1, order="given", progress=False)
    return data.subset(slice(validation, None)), data.subset(slice(0, validation))


def mgno(settings: Settings, data: vc.Dataset, *, seed: int = 0, **options: Any) -> MgNO:
    """Return a fresh MgNO for these data."""
    sizes = {"width": settings.width, "depth": settings.depth, "levels": settings.levels, "boundary": data.boundary}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MgNO(1, 1, **(sizes | options))


def fno(settings: Settings, data: vc.Dataset, *, seed: int = 0) -> FNO:
    """Return a fresh FNO for these data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FNO(1, 1, modes=settings.fno_modes, width=settings.fno_width, boundary=data.boundary)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mgno": mgno, "fno": fno}


class Watch:
    """The H1 loss, which also looks on: how long steps take, and what every validation finds.

    Parameters
    ----------
    data
        The training data, for their grid and walls.
    measure
        Maps prediction and target of a validation batch to one row of numbers per sample.
    """

    def __init__(self, data: vc.Dataset, measure: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        kinds, zero = walls(data)
        self.loss: Loss = data_loss("h1", grid=data.grid, boundary=kinds, zero_on_walls=zero)
        self.measure = measure
        self.times: list[float] = []
        self.count = 0
        self._last: float | None = None
        self._parts: list[Tensor] = []
        self._rows: list[list[float]] = []

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, shape ``()``."""
        if torch.is_grad_enabled():
            self._close()
            now = time.process_time()
            if self._last is not None:
                self.times.append(now - self._last)
            self._last, self.count = now, self.count + 1
        else:
            self._last = None  # what validation takes is no step's
            if self.measure is not None:
                self._parts.append(self.measure(prediction.double(), target.double()))
        return self.loss(prediction, target)

    def _close(self) -> None:
        if self._parts:
            self._rows.append(torch.cat(self._parts).mean(0).tolist())
            self._parts = []

    @property
    def rows(self) -> list[list[float]]:
        """Means over the validation samples, one row per epoch."""
        self._close()
        return self._rows

    @property
    def step(self) -> float:
        """Median CPU seconds of a step of training, all of it."""
        return statistics.median(self.times)


def train(
    settings: Settings,
    network: nn.Module,
    data: vc.Dataset,
    *,
    epochs: int,
    watch: Watch,
    validation: vc.Dataset | None = None,
    seed: int = 0,
    **config: Any,
) -> Any:
    """Run :func:`vcycle.fit` and return the operator."""
    return vc.fit(
        network,
        data,
        epochs=epochs,
        validation=validation,
        seed=seed,
        loss=watch,
        batch_size=settings.batch,
        learning_rate=settings.rate,
        config={"accelerator": "cpu", "logger": (), **config},
        progress=False,
    )


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# -- the parts ---------------------------------------------------------------------------------------------------------

Planned = Iterator[tuple[str, Callable[[], Record]]]


def frequency(settings: Settings, done: Runs) -> Planned:
    """Error of every frequency band after every epoch, MgNO and FNO for the same CPU time."""
    yield "calibration", lambda: calibration(settings)
    for name in NETWORKS:
        yield name, lambda name=name: frequency_run(settings, name, done["calibration"])


def calibration(settings: Settings) -> Record:
    """Return CPU seconds of a step by network, the smaller of two medians, taken in turn."""
    data, _ = darcy(settings.size, settings.frequency_samples, settings.validation)
    few, steps = data.subset(slice(0, 8 * settings.batch)), dict.fromkeys(NETWORKS, math.inf)
    for _ in range(2):
        for name, build in NETWORKS.items():
            watch = Watch(data)
            train(settings, build(settings, data), few, epochs=1, watch=watch)
            steps[name] = min(steps[name], watch.step)
    return steps


def frequency_run(settings: Settings, name: str, steps: Record) -> Record:
    data, validation = darcy(settings.size, settings.frequency_samples, settings.validation)
    network = NETWORKS[name](settings, data)
    epochs = max(1, round(settings.frequency_epochs * steps["mgno"] / steps[name]))
    place: Record = {"grid": data.grid, "boundary": data.boundary, "reduction": "none"}

    def measure(prediction: Tensor, target: Tensor) -> Tensor:
        whole_error = metrics.relative_l2(prediction, target, reduction="none")
        return torch.cat([whole_error[:, None], metrics.band_errors(prediction, target, **place)], dim=1)

    watch = Watch(data, measure)
    train(settings, network, data, epochs=epochs, watch=watch, validation=validation)
    return {
        "parameters": parameters(network),
        "step": watch.step,
        "steps_per_epoch": watch.count // epochs,
        "l2": [row[0] for row in watch.rows],
        "error_bands": [row[1:] for row in watch.rows],
    }


def overfitting(settings: Settings, done: Runs) -> Planned:
    """Errors on the training and the validation samples, by the number of the former, after as many steps."""
    for samples in settings.overfitting_samples:
        for name in NETWORKS:
            yield f"{name} {samples}", lambda name=name, samples=samples: overfitting_run(settings, name, samples)


def overfitting_run(settings: Settings, name: str, samples: int) -> Record:
    data, validation = darcy(settings.size, max(settings.overfitting_samples), settings.validation)
    data = data.subset(slice(0, samples))
    epochs = max(1, round(settings.overfitting_steps / -(-samples // settings.batch)))
    network, watch = NETWORKS[name](settings, data), Watch(data)
    # the symmetries of the square would make eight samples of each
    operator = train(settings, network, data, epochs=epochs, watch=watch, augment=False)
    errors = {key: vc.evaluate(operator, part) for key, part in (("train", data), ("validation", validation))}
    record: Record = {"parameters": parameters(network), "step": watch.step, "steps": watch.count}
    for key, error in errors.items():
        record |= {f"{key}_l2": error.relative_l2, f"{key}_h1": error.relative_h1}
    return record


OPTIONS: dict[str, Record] = {"by kind": {}, "zeros": {"boundary": "zeros"}, "hard": {"hard_boundary": True}}
"""Of MgNO, by what its stencils see beyond the sides."""


def boundary(settings: Settings, done: Runs) -> Planned:
    """Error by the distance from the sides, by their kind and by what the stencils see beyond them."""
    for kind in KINDS:
        for padding in PADDINGS:
            if padding != "hard" or kind == "dirichlet":
                yield f"{kind}, {padding}", lambda k=kind, p=padding: boundary_run(settings, k, p)


def boundary_run(settings: Settings, kind: str, padding: str) -> Record:
    data, validation = poisson(kind, settings.size, settings.boundary_samples, settings.validation)
    network, watch = mgno(settings, data, **OPTIONS[padding]), Watch(data)
    # a normaliser that keeps zero where it is, which hard walls need, for all
    operator = train(settings, network, data, epochs=settings.boundary_epochs, watch=watch, output_normaliser="scale")
    prediction, target = operator.predict(validation.inputs).double(), validation.outputs.double()
    return {
        "step": watch.step,
        "l2": metrics.relative_l2(prediction, target).item(),
        "profile": profile(prediction, target).tolist(),
        "counts": [int(n) for n in torch.bincount(distance(settings.size).flatten())],
    }


def distance(size: int) -> Tensor:
    """Return each cell's number of cells to the nearest side, ``(size, size)``; 0 in the outermost rows."""
    line = torch.arange(size)
    line = torch.minimum(line, size - 1 - line)
    return torch.minimum(line[:, None], line[None, :])


def profile(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the root mean square error at each distance from the sides, over that of the whole target.

    Mean over samples, shape ``(distances,)``, dimensionless.
    """
    rings = distance(target.shape[-1]).flatten()
    squared = (prediction - target).square().mean(1).flatten(1)
    sums = squared.new_zeros(len(squared), int(rings.max()) + 1).index_add(1, rings, squared)
    scale = target.square().flatten(1).mean(1, keepdim=True)
    return (sums / torch.bincount(rings) / scale).sqrt().mean(0)


def levels(settings: Settings, done: Runs) -> Planned:
    """Errors and cost by architecture, one change at a time, for as many steps."""
    for name, change in variants(settings).items():
        for seed in range(settings.levels_seeds if name == BASE else 1):
            yield f"{name}, seed {seed}", lambda c=change, s=seed: levels_run(settings, c, s)


def variants(settings: Settings) -> dict[str, Record]:
    """Return the changes by name."""
    result: dict[str, Record] = {BASE: {}}
    result |= {f"levels {n}": {"levels": n} for n in range(2, settings.levels)}
    result |= {f"depth {n}": {"depth": n} for n in range(2, 7) if n != settings.depth}
    result |= {
        "smoothing 2": {"smoothing": [[2, 0]] * settings.levels},  # the base has two steps on the coarsest level alone
        "cycle V": {"cycle": "V"},
        "cycle W": {"cycle": "W"},
        "residual restriction": {"residual_restriction": True},
        "solver start": {"start": True},
        "residual restriction, solver start": {"residual_restriction": True, "start": True},
    }
    return result


def levels_run(settings: Settings, change: Record, seed: int) -> Record:
    data, validation = darcy(settings.size, settings.levels_samples, settings.validation)
    options = {name: value for name, value in change.items() if name != "start"}
    network, watch = mgno(settings, data, seed=seed, **options), Watch(data)
    if change.get("start"):
        network = solver_start(network, data.problem, seed=seed)
    operator = train(settings, network, data, epochs=settings.levels_epochs, watch=watch, seed=seed)
    error = vc.evaluate(operator, validation)
    record = {"l2": error.relative_l2, "h1": error.relative_h1, "step": watch.step, "steps": watch.count}
    return record | {"parameters": parameters(network)}


# -- files and the command ---------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Settings, Runs], Planned]] = {
    "frequency": frequency,
    "overfitting": overfitting,
    "boundary": boundary,
    "levels": levels,
}


def run_part(part: str, settings: Settings, path: Path) -> bool:
    """Do the runs of a part that its file lacks, each written when it has finished; return whether all could be."""
    content: Record = {"settings": settings.of(part), "runs": {}}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["settings"] != settings.of(part):
            raise SystemExit(f"{path} was made with other settings. Give another --out, or remove it to begin again.")
    complete = True
    for name, run in PARTS[part](settings, content["runs"]):
        if name in content["runs"]:
            continue
        started = time.process_time()
        try:
            record = run()
        except FloatingPointError as error:  # one that diverges leaves a gap; it shall not take the others with it
            print(f"{part}: {name} failed: {error}", flush=True)
            complete = False
            continue
        record["cpu_seconds"] = time.process_time() - started
        content["runs"][name] = record
        with whole(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {name}, {record['cpu_seconds']:.0f} CPU s", flush=True)
    return complete


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for, then draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--plot", action="store_true", help="train nothing: figures and tables of what is there")
    parser.add_argument("--quick", action="store_true", help="tiny networks; give another --out and --page")
    parser.add_argument("--out", type=Path, default=DOCS / "figures", help="folder of results and figures")
    parser.add_argument("--page", type=Path, default=DOCS / "mgno.md", help="page whose blocks are written")
    for field in fields(Settings):
        listed = isinstance(field.default, tuple)
        kind = int if listed else type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, nargs="+" if listed else None)
    given = parser.parse_args(arguments)
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"`parts` must be some of {', '.join(PARTS)}. Got {part}.")
    torch.set_num_threads(1)
    changes = {f.name: getattr(given, f.name) for f in fields(Settings) if getattr(given, f.name) is not None}
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    settings = replace(QUICK if given.quick else Settings(), **changes)
    complete = True
    for part in given.parts or PARTS:
        path = given.out / f"mgno-{part}.json"
        complete &= given.plot or run_part(part, settings, path)
        if path.exists():
            show(part, path, given.page)
        else:
            print(f"{part}: {path} is not there yet")
    if not complete:
        raise SystemExit("Some runs failed; the same command tries them again.")


if __name__ == "__main__":
    main()
