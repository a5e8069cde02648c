"""Fine-tuning for one input, without labels: the last, linear layer is fitted to the equation."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from vcycle import _check
from vcycle.layers.spectral import SpectralConv
from vcycle.layers.transforms import fourier_analysis
from vcycle.models.spectral_refiner import SpectralRefiner
from vcycle.objectives.sobolev import SobolevNorm
from vcycle.training.normaliser import Normaliser
from vcycle.training.operator import TrainedOperator

Residual = Callable[[Tensor, Tensor], Tensor]
"""Of inputs and outputs ``(sample, channel, *space)`` in physical units, differentiable in the outputs."""


def refine(
    operator: TrainedOperator,
    inputs: Any,
    residual: Residual,
    parameters: Any = None,
    *,
    norm: SobolevNorm | None = None,
    modes: Sequence[int] | None = None,
    steps: int = 50,
) -> Tensor:
    """Return the operator's outputs after its last layer was fitted to each input on its own.

    For every sample the multipliers of the last layer minimise ``norm(residual)^2``, from those that were trained; all
    else stays. For a linear equation that is a convex quadratic problem. The operator is not changed.

    Parameters
    ----------
    operator
        Whose network is a :class:`~vcycle.models.SpectralRefiner`.
    inputs
        ``(sample, channel, *space)`` in physical units.
    residual
        What the outputs miss; :meth:`vcycle.problems.Problem.residual` of the problem whose data trained the operator.
    parameters
        As for :meth:`TrainedOperator.predict`. A residual that needs them too is given for one sample at a time.
    norm
        By default the Sobolev norm of order -1 on the operator's grid, which must be periodic: for the residual of an
        equation of second order. What a state misses, in its own unit, as an evolution's ``residual`` says it, goes
        with order 0.
    modes
        Numbers of frequencies of the fitted layer per axis of space, and in time; those that the trained layer does not
        have start from zero. By default those that it has.
    steps
        Most iterations of L-BFGS per sample.

    Returns
    -------
    Tensor
        ``(sample, channel, *space)`` in physical units, float64.

    Raises
    ------
    TypeError
        If the network is of another kind.
    ValueError
        If the inputs do not fit, or fewer ``modes`` are asked for than were trained.

    Notes
    -----
    Differs from the authors' code in: L-BFGS in place of Adam; the residual is the problem's own.

    References
    ----------
    Cao, Brarda, Li, Xia, "Spectral-Refiner: Accurate Fine-Tuning of Spatiotemporal Fourier Neural Operator for
    Turbulent Flows", ICLR 2025, algorithm 1. arXiv:2405.17211.
    """
    _check.instance("operator.network", operator.network, SpectralRefiner, "a SpectralRefiner")
    _check.integer("steps", steps, 1)
    norm = SobolevNorm(operator.grid) if norm is None else norm
    network = cast(SpectralRefiner, deepcopy(operator.network).double().requires_grad_(requires_grad=False))
    entering, leaving = (deepcopy(n).double() for n in (operator.input_normaliser, operator.output_normaliser))
    given = _check.real_tensor("inputs", inputs, "an array or tensor, such as dataset.inputs").double()
    predicted = operator.predict(given, parameters)  # says what does not fit
    scalars = None
    if operator.parameter_normaliser is not None:
        scalars = deepcopy(operator.parameter_normaliser).double().normalise(torch.as_tensor(parameters).double())
    made = []
    for row, sample in enumerate(given.split(1)):
        normalised = entering.normalise(sample)
        maps = network.maps_of(normalised, None if scalars is None else scalars[row : row + 1])
        hidden = network.hidden(normalised, maps)
        made.append(_fitted(network, leaving, normalised, hidden, partial(residual, sample), norm, modes, steps))
    return torch.cat(made) if made else predicted.double()


def _fitted(
    network: SpectralRefiner,
    leaving: Normaliser,
    normalised: Tensor,
    hidden: Tensor,
    missed: Callable[[Tensor], Tensor],
    norm: SobolevNorm,
    modes: Sequence[int] | None,
    steps: int,
) -> Tensor:
    """Return the outputs of one sample, physical, after the last layer was fitted to it."""
    last = enlarged(network.last, modes)
    start, scale = last.weight.detach(), _scale(hidden, last)

    def outputs(z: Tensor) -> Tensor:
        return leaving.denormalise(network.finish(normalised, hidden, last, start + scale * z))

    best = _minimiser(lambda z: norm.squared(missed(outputs(z))).sum(), torch.zeros_like(start), steps)
    return outputs(best).detach()


def enlarged(layer: SpectralConv, modes: Sequence[int] | None) -> SpectralConv:
    """Return a copy of a layer, in double precision, with more modes; the new ones have the multiplier zero.

    Raises
    ------
    ValueError
        If the number of axes differs, or an axis would lose modes.
    """
    had = layer.frequencies
    least = [max(f) + 1 for f in had]
    modes = least if modes is None else list(modes)
    if len(modes) != len(had) or any(more < few for more, few in zip(modes, least, strict=True)):
        raise ValueError(f"`modes` must be at least {tuple(least)}, space and time. Got {tuple(modes)}.")
    with torch.random.fork_rng(devices=[]):
        larger = SpectralConv(layer.weight.shape[0], layer.weight.shape[1], modes, layer.offset).double()
    weight = torch.zeros_like(larger.weight)
    where = [[large.index(k) for k in small] for large, small in zip(larger.frequencies, had, strict=True)]
    places = torch.meshgrid(*(torch.tensor(line) for line in where), indexing="ij")
    weight.movedim((0, 1), (-2, -1))[places] = layer.weight.detach().double().movedim((0, 1), (-2, -1))
    larger.weight = torch.nn.Parameter(weight)
    return larger


def _scale(hidden: Tensor, layer: SpectralConv) -> Tensor:
    """Return the sizes of multipliers that change the output alike: what they multiply is small at high frequencies."""
    spectrum = fourier_analysis(hidden, layer.frequencies, layer.offset)[0].norm(dim=-1)
    return (spectrum + 1e-4 * spectrum.max()).reciprocal()[:, None, ..., None]


def _minimiser(loss: Callable[[Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """Return where a function is smallest, from ``z`` on."""
    z = z.requires_grad_()
    # a residual may be small from the start: relative to it, not to one, is what must become small
    scale = float(loss(z).detach()) or 1.0
    method = torch.optim.LBFGS(
        [z],
        max_iter=steps,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value = loss(z) / scale
        (gradient,) = torch.autograd.grad(value, z)
        z.grad = gradient.contiguous()  # L-BFGS takes no other
        return value

    method.step(closure)
    return z.detach()
