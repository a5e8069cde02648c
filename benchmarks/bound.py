"""Does the bracket hold, and how sharp is it? Tried on network predictions and on the errors that are hardest to see.

Run ``python benchmarks/bound.py``; it prints one row per contrast. An error equal to the lowest eigenvector of ``B A``
is where a bound made from Lanczos values fails.
"""

import argparse

import torch
from torch import Tensor

import vcycle as vc
from vcycle.multigrid.classical import hierarchy, v_cycle
from vcycle.solvers.systems import LinearSystems


def lowest_eigenvectors(systems: LinearSystems, iterations: int = 400) -> Tensor:
    """Return the eigenvector of the smallest eigenvalue of ``B A`` per system: power iteration with ``I - B A``."""
    levels = hierarchy(systems.operator)
    v = torch.randn(systems.rhs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(iterations):
        v = v - v_cycle(levels, systems.operator.apply(v))
        v = v / systems.operator.energy(v).sqrt().reshape(-1, 1, 1)
    return v


def check(contrast: float, steps: int, size: int, epochs: int) -> str:
    """Return one row: how many errors lie inside, and the largest upper / lower of predictions and of eigenvectors."""
    problem = vc.problems.Darcy(vc.Grid((size, size)), values=(contrast, 1.0))
    data = vc.generate(problem, num_samples=400, seed=0, rtol=1e-11, progress=False)
    train, test = data.split(test=200, seed=0)
    torch.manual_seed(0)
    model = vc.models.MgNO(1, 1, width=12, depth=3, levels=5, boundary=problem.boundary)
    operator = vc.fit(model, train, epochs=epochs, seed=0, progress=False)
    exact = problem.solve(test.inputs, method="direct").solutions.unsqueeze(1)
    inputs, predictions = test.inputs, operator.predict(test.inputs).double()
    systems = problem.systems(inputs)
    eigenvectors = lowest_eigenvectors(systems.select(slice(0, 50))).unsqueeze(1)
    row = f"contrast {contrast:g}, {steps} steps:"
    for name, chosen, guess in (("net", slice(0, 200), predictions), ("eig", slice(0, 50), exact[:50] + eigenvectors)):
        error = systems.select(chosen).operator.energy((guess - exact[chosen]).squeeze(1)).sqrt()
        bracket = vc.certify(problem, inputs[chosen], guess, steps=steps)
        inside = ((bracket.lower <= error) & (error <= bracket.upper)).sum().item()
        ratio = (bracket.upper / bracket.lower).max()
        row += f" {name} {inside} of {len(error)} inside, upper/lower at most {ratio:.4f}"
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="cells per side")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the network whose predictions are checked")
    arguments = parser.parse_args()
    for contrast, steps in ((4, 0), (10, 0), (100, 0), (100, 2), (1000, 4)):
        print(check(contrast, steps, arguments.size, arguments.epochs), flush=True)
