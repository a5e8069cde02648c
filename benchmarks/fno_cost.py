"""CPU time of our FNO and of neuraloperator's, the same architecture, in turn; writes ``fno_cost.md``.

Run ``OMP_NUM_THREADS=1 python benchmarks/fno_cost.py`` with ``neuraloperator`` installed. Both networks compute the
same function of the same number of weights (tests/test_against_neuraloperator.py); times are CPU seconds of one thread,
medians over rounds in which the two take turns.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vcycle.models import FNO

TABLE = Path(__file__).with_suffix(".md")
WIDTH, DEPTH, CHANNELS = 32, 4, 1
CASES: dict[str, tuple[tuple[int, ...], int, int]] = {
    "1-D 1024": ((1024,), 16, 8),
    "2-D 64x64": ((64, 64), 12, 8),
    "2-D 128x128": ((128, 128), 12, 8),
    "3-D 16^3": ((16, 16, 16), 6, 8),
    "3-D 32^3": ((32, 32, 32), 8, 4),
}
"""Grid, modes per axis, batch."""
HEADER = """# What an FNO costs

CPU milliseconds of one thread, float32, width 32, 4 layers; medians of rounds in turn. `python benchmarks/fno_cost.py`

| case | modes | batch | | vcycle | neuraloperator | ratio |
|---|---|---|---|---|---|---|
"""


class EverySecond:
    """Calls a function at the first of every two calls and does nothing at the second.

    Without its channel networks, neuraloperator 2.0 applies each layer's activation twice; the published FNO does once.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """Return ``function(v)`` or ``v``."""
        self.calls += 1
        return self.function(v) if self.calls % 2 else v


def pair(modes: int, num_axes: int) -> tuple[nn.Module, nn.Module]:
    """Return our network and neuraloperator's, of one architecture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop import models as theirs
    ours = FNO(
        CHANNELS,
        CHANNELS,
        modes=modes,
        width=WIDTH,
        depth=DEPTH,
        padding=0,
        boundary="periodic",
        centring="vertex",
        num_axes=num_axes,
    )
    theirs = theirs.FNO(
        n_modes=(*(2 * modes,) * (num_axes - 1), 2 * modes - 2),
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        hidden_channels=WIDTH,
        n_layers=DEPTH,
        lifting_channel_ratio=0,
        projection_channel_ratio=128 / WIDTH,
        use_channel_mlp=False,
    )
    theirs.fno_blocks.non_linearity = EverySecond(theirs.fno_blocks.non_linearity)
    return ours, theirs


def step_of(model: nn.Module, u: torch.Tensor) -> Callable[[], None]:
    """Return one training step: mean square loss, gradient, Adam."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        model(u).square().mean().backward()
        optimiser.step()

    return step


def inference_of(model: nn.Module, u: torch.Tensor) -> Callable[[], None]:
    """Return one evaluation without gradients."""

    def infer() -> None:
        with torch.no_grad():
            model(u)

    return infer


def in_turn(calls: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return each call's median CPU milliseconds; one round, not counted, warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, list_of in zip(calls, times, strict=True):
            started = time.process_time()
            call()
            if number:
                list_of.append(1e3 * (time.process_time() - started))
    return [statistics.median(list_of) for list_of in times]


def main() -> None:
    """Measure what is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}; all of them write the table")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.cases or CASES:
        shape, modes, batch = CASES[name]
        torch.manual_seed(0)
        models = pair(modes, len(shape))
        u = torch.randn(batch, CHANNELS, *shape)
        for what, make in (("training step", step_of), ("inference", inference_of)):
            ours, theirs = in_turn([make(model, u) for model in models], arguments.rounds)
            row = f"| {name} | {modes} | {batch} | {what} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |"
            rows.append(row)
            print(row, flush=True)
    if not arguments.cases:
        TABLE.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
