"""Muon, an optimiser for matrices: momentum whose singular values are all made equal; AdamW for everything else.

A convolution kernel wider than one point is a matrix from its input channels and places to its output channels. Adam
scales each entry by itself; Muon takes the step in which every direction of that matrix moves alike, and learned
stencils converge in about half the steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vcycle.multigrid.layer import Prolongation, Stencil

MOMENTUM = 0.95
"""Share of the momentum that a step keeps (dimensionless)."""
MATCH = 0.2
"""Root mean square of an update's entries over the learning rate: that of a typical step of Adam, so one rate serves
both (Liu et al., eq. (4))."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration; it brings singular values near 1, between 0.7 and 1.2, in few steps (Jordan)."""
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Muon on convolution kernels, AdamW on every other parameter, one learning rate for both.

    Parameters
    ----------
    network
        What is trained; parameters that want no gradient are left alone.
    lr
        Learning rate (dimensionless).
    weight_decay
        Decoupled, per unit of learning rate.

    Notes
    -----
    Differs from the sources in: kernels of equal shape go through the iteration together, in single precision.

    References
    ----------
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024 (a note on the web).
    Liu et al., "Muon is scalable for LLM training", 2025. arXiv:2502.16982.
    """

    def __init__(self, network: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        kernels = convolution_kernels(network)
        apart = {id(kernel) for kernel in kernels}
        others = [p for p in network.parameters() if p.requires_grad and id(p) not in apart]
        groups = [{"params": chosen, "kernels": chosen is kernels} for chosen in (others, kernels) if chosen]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure`` computes the gradients first where it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["kernels"]:
                self._step_kernels(group)
                for kernel in group["params"]:
                    kernel.grad = None  # AdamW passes over what has none
        super().step()
        return loss

    def _step_kernels(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for kernel in group["params"]:
            if kernel.grad is not None:
                alike.setdefault(kernel.flatten(1).shape, []).append(kernel)
        for shape, kernels in alike.items():
            directions = [self._momentum(kernel, kernel.grad).flatten(1) for kernel in kernels]  # type: ignore[arg-type]
            updates = orthogonalised(torch.stack(directions).float())
            size = group["lr"] * MATCH * max(shape) ** 0.5
            for kernel, update in zip(kernels, updates, strict=True):
                kernel.mul_(1.0 - group["lr"] * group["weight_decay"])
                kernel.sub_(update.reshape(kernel.shape).to(kernel.dtype), alpha=size)

    def _momentum(self, kernel: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient as Nesterov's momentum sees it, and keep the average."""
        state = self.state[kernel]
        if not state:
            state["average"] = torch.zeros_like(kernel)
            state["step"] = torch.zeros(())  # AdamW asks for it when a state is loaded
        average = state["average"].lerp_(gradient, 1.0 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)


def convolution_kernels(network: nn.Module) -> list[nn.Parameter]:
    """Return the trained kernels of a network's convolutions that are wider than one point.

    Other weights of that many dimensions, such as Fourier multipliers, are no matrices of this kind.
    """
    convolutions = (
        Stencil,
        Prolongation,
        *(getattr(nn, f"Conv{kind}{d}d") for kind in ("", "Transpose") for d in (1, 2, 3)),
    )
    weights = [m.weight for m in network.modules() if isinstance(m, convolutions)]
    return [w for w in dict.fromkeys(weights) if w.requires_grad and max(w.shape[2:]) > 1]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return ``(batch, m, n)`` matrices of the same singular vectors, whose singular values are near 1.

    Newton-Schulz iteration with an odd polynomial of degree five, on matrices scaled to Frobenius norm one.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
