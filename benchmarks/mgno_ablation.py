"""What MgNO's options buy: first weights, a classical start, other resolutions, hard walls, and the cost of a step.

Run ``python benchmarks/mgno_ablation.py init start resolution walls cost``, or some of these; ``--size 16`` is quick.
Errors are relative L2 on a validation split of two-phase Darcy, one thread; every variant of a row trains on the same
data for the same number of steps. ``cost`` compares with the reference code where ``VCYCLE_MGNO_REFERENCE`` names a
folder with its ``models.py``. Prints Markdown.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import vcycle as vc
from vcycle import metrics
from vcycle.models import MgNO
from vcycle.models.reference import convert_reference_weights
from vcycle.models.start import solver_start

VALIDATION = 100
SEEDS = (0, 1, 2)


def darcy(size: int, samples: int) -> tuple[vc.problems.Darcy, Tensor, Tensor]:
    """Return the problem, coefficients and solutions ``(sample, 1, *space)``, float32; the same fields on any grid."""
    problem = vc.problems.Darcy(vc.Grid((size, size)))
    inputs = problem.sample(0, range(samples))
    systems = problem.systems(inputs)
    solution = vc.solvers.solve_sequence(systems, rtol=1e-8).raise_if_failed().solutions
    return problem, inputs["coefficient"].float(), solution.reshape(samples, 1, size, size).float()


class Scaled(nn.Module):
    """A network between fixed normalisations."""

    def __init__(self, network: nn.Module, a: Tensor, u: Tensor) -> None:
        super().__init__()
        self.network = network
        self.a, self.u = (a.mean(), a.std()), (0.0, u.square().mean().sqrt())

    def forward(self, a: Tensor) -> Tensor:
        """Map coefficients to solutions."""
        return self.u[0] + self.u[1] * self.network((a - self.a[0]) / self.a[1])


def fit(
    network: nn.Module,
    problem: vc.problems.Darcy,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    epochs: int,
    seed: int,
    batch: int = 20,
    rate: float = 2e-3,
) -> tuple[Scaled, list[float]]:
    """Train by AdamW on the H1 loss with a one-cycle rate; return the model and the validation error per epoch."""
    model, generator = Scaled(network, *train), torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(train[0]) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    history = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0]), generator=generator).split(batch):
            a, u = (values[rows] for values in train)
            if torch.rand((), generator=generator) < 0.5:  # the problem's symmetries
                a, u = a.transpose(2, 3), u.transpose(2, 3)
            for dim in (2, 3):
                if torch.rand((), generator=generator) < 0.5:
                    a, u = a.flip(dim), u.flip(dim)
            optimiser.zero_grad()
            loss = metrics.relative_h1(model(a), u, grid=problem.grid, boundary=problem.boundary, zero_on_walls=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        history.append(error(model, *validation))
    return model, history


def error(model: Callable[[Tensor], Tensor], a: Tensor, u: Tensor) -> float:
    """Return the mean relative L2 error."""
    with torch.no_grad():
        return metrics.relative_l2(model(a), u).item()


def build(options: argparse.Namespace, seed: int, **arguments: object) -> MgNO:
    torch.manual_seed(seed)
    sizes = {"width": options.width, "depth": options.depth, "levels": options.levels}
    return MgNO(1, 1, **sizes, **arguments)  # type: ignore[arg-type]


def split(fields: tuple[Tensor, Tensor], samples: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and validation data."""
    a, u = fields
    return (a[VALIDATION : VALIDATION + samples], u[VALIDATION : VALIDATION + samples]), (
        a[:VALIDATION],
        u[:VALIDATION],
    )


def init(options: argparse.Namespace) -> None:
    """Compare the first weights, three seeds."""
    problem, *fields = darcy(options.size, VALIDATION + options.samples)
    train, validation = split(tuple(fields), options.samples)
    for name in ("published", "scaled"):
        started = time.process_time()
        errors = [
            fit(build(options, s, init=name), problem, train, validation, epochs=options.epochs, seed=s)[1]
            for s in SEEDS
        ]
        row(f"init={name}", errors, time.process_time() - started)


def start(options: argparse.Namespace) -> None:
    """Compare random and classical first weights, for several numbers of samples and the same number of steps."""
    problem, *fields = darcy(options.size, VALIDATION + max(options.counts))
    for samples in options.counts:
        train, validation = split(tuple(fields), samples)
        epochs = max(1, options.epochs * max(options.counts) // samples) if options.same_steps else options.epochs
        for restricted in (False, True):
            for name in ("published", "scaled", "solver"):
                started, errors = time.process_time(), []
                for seed in SEEDS[: options.seeds]:
                    drawn = "scaled" if name == "scaled" else "published"
                    model = build(options, seed, residual_restriction=restricted, init=drawn)
                    model = solver_start(model, problem, seed=seed) if name == "solver" else model
                    errors.append(fit(model, problem, train, validation, epochs=epochs, seed=seed)[1])
                form = "residual restricted" if restricted else "published form"
                row(f"{samples} samples, {form}, {name}", errors, time.process_time() - started)


def resolution(options: argparse.Namespace) -> None:
    """Train at one size and apply at half and twice of it: stencils as they are, or at their own spacing."""
    problem, *fields = darcy(options.size, VALIDATION + options.samples)
    train, validation = split(tuple(fields), options.samples)
    model, history = fit(build(options, 0), problem, train, validation, epochs=options.epochs, seed=0)
    row(f"trained and tested at {options.size}", [history], 0.0)
    native = MgNO(**(model.network.config() | {"native_shape": (options.size,) * 2}))
    native.load_state_dict(model.network.state_dict())
    for size in (options.size // 2, 2 * options.size, 4 * options.size):
        _, a, u = darcy(size, VALIDATION)
        variants = {"stencils as they are": model.network, "native_shape": native}
        for name, network in variants.items():
            other = Scaled(network, *train)
            try:
                print(f"| at {size}, {name} | {100 * error(other, a, u):.2f} % |")
            except ValueError as reason:
                print(f"| at {size}, {name} | {reason} |")
        outer = error(lambda x, s=size: whole(model, x, s, options.size), a, u)
        print(f"| at {size}, whole network at its own spacing | {100 * outer:.2f} % |")


def whole(model: Scaled, a: Tensor, size: int, native: int) -> Tensor:
    """Average or repeat the coefficient, predict, and interpolate or average the solution."""
    from vcycle.layers.spacing import at_spacing, halvings
    from vcycle.multigrid.padding import Padding

    walls = Padding.of(vc.Boundary.of("dirichlet", 2), "cell")
    free = Padding.of(vc.Boundary.of("neumann", 2), "cell")
    steps, kept = halvings((size,) * 2, (native,) * 2), []
    at_spacing(lambda x: kept.append(x) or x, a, free, steps)
    prediction = model(kept[0])
    return at_spacing(lambda _: prediction, a, walls, steps)


def walls(options: argparse.Namespace) -> None:
    """Compare soft and hard walls; and how far the solutions themselves are from a zero linear trace."""
    from vcycle.layers.walls import vanish_on_walls

    problem, *fields = darcy(options.size, VALIDATION + options.samples)
    train, validation = split(tuple(fields), options.samples)
    nearest = error(lambda _: vanish_on_walls(validation[1], problem.boundary, "cell"), *validation)
    print(f"| solutions, their traces taken out | {100 * nearest:.3f} % |")
    for hard in (False, True):
        network = build(options, 0, hard_boundary=hard)
        row(f"hard_boundary={hard}", [fit(network, problem, train, validation, epochs=options.epochs, seed=0)[1]], 0.0)


def cost(options: argparse.Namespace) -> None:
    """Time a training step and an inference against the reference code, interleaved, and what autograd keeps."""
    stubs = {"torchinfo": types.SimpleNamespace(summary=None), "utilities3": types.SimpleNamespace(count_params=None)}
    sys.modules.update({name: stub for name, stub in stubs.items() if name not in sys.modules})
    path = Path(os.environ["VCYCLE_MGNO_REFERENCE"]) / "models.py"
    spec = importlib.util.spec_from_file_location("mgno_reference", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    reference = module.MgNO_DC(4, 24, 1, 1, [[1, 0]] * 5 + [[2, 0]])
    models = {"reference": reference}
    for boundary, keep in (("zeros", False), ("dirichlet", False), ("neumann", False), ("dirichlet", True)):
        model = MgNO(1, 1, width=24, depth=4, levels=6, boundary=boundary, checkpoint=keep)
        model.load_state_dict(convert_reference_weights(reference.state_dict()))
        models[boundary + (", checkpoint" if keep else "")] = model
    for size in (64, 128):
        x = torch.randn(8, 1, size, size)
        times = {name: ([], []) for name in models}
        for _ in range(options.repeats + 1):
            for name, model in models.items():
                for kind in (0, 1):
                    started = time.process_time()
                    with torch.set_grad_enabled(kind == 0):
                        result = model(x)
                    if kind == 0:
                        model.zero_grad()
                        result.square().sum().backward()
                    times[name][kind].append(time.process_time() - started)
        base = [statistics.median(t[1:]) for t in times["reference"]]
        for name, model in models.items():
            step, inference = (statistics.median(t[1:]) for t in times[name])
            print(
                f"| {size} | {name} | {step:.3f} s ({step / base[0]:.2f}) | {inference:.3f} s "
                f"({inference / base[1]:.2f}) | {kept_bytes(model, x) / 2**20:.1f} MiB |"
            )


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes of distinct storages that autograd keeps for the way back, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


def row(name: str, histories: list[list[float]], seconds: float) -> None:
    """Print the last validation errors, and the mean at a quarter and half of the epochs."""
    last = [100 * history[-1] for history in histories]
    on_the_way = [100 * statistics.mean(h[max(0, len(h) * k // 4 - 1)] for h in histories) for k in (1, 2, 3)]
    each = ", ".join(f"{e:.2f}" for e in last)
    way = ", ".join(f"{e:.2f}" for e in on_the_way)
    print(f"| {name} | {statistics.mean(last):.2f} % | {each} | {way} | {seconds:.0f} s |", flush=True)


PARTS = {"init": init, "start": start, "resolution": resolution, "walls": walls, "cost": cost}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 400, 1000])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--same-steps", action="store_true", help="more epochs for fewer samples")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        print(f"\n**{part}**\n")
        PARTS[part](arguments)
