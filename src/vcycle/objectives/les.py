"""Large-eddy simulation as a loss: the filtered Navier-Stokes equations with Smagorinsky's eddy viscosity."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Grid
from vcycle.solvers.etdrk4 import read_times
from vcycle.solvers.fourier import FourierSpace


def eddy_stress(strain: Tensor, length: "float | Tensor") -> Tensor:
    r"""Return Smagorinsky's stress :math:`\tau_{ij} = -2 \ell^2 |S| S_{ij}` with :math:`|S|^2 = 2 S_{ij} S_{ij}`.

    :math:`\ell^2 |S|` is the eddy viscosity. Gradients are finite where the strain vanishes too: zero, their limit.

    Parameters
    ----------
    strain
        ``S``, the symmetric part of the velocity's gradient, ``(batch, i, j, *space)`` in 1 / time.
    length
        Mixing length :math:`\ell = C_s \Delta`, the constant times the width of the filter.

    Returns
    -------
    Tensor
        Of the strain's shape, in length^2 / time^2.

    References
    ----------
    Smagorinsky, Monthly Weather Review 91 (1963) 99; in this form Pope, Turbulent Flows (2000), section 13.4.2.
    """
    squared = 2 * strain.square().sum((1, 2), keepdim=True)
    moving = squared > 0
    size = torch.where(moving, torch.where(moving, squared, 1.0).sqrt(), 0.0)  # no root of zero, whose slope is none
    return -2 * length**2 * size * strain


@dataclass(frozen=True)
class LargeEddyLoss:
    r"""How far velocities at given times are from the filtered Navier-Stokes equations, without any data.

    On a periodic box in d dimensions, with P the projection on fields without divergence, which takes the pressure's
    gradient out, and :func:`eddy_stress` for what the filter leaves out,

    .. math:: R = \partial_t u - N(u), \quad N(u) = \nu \Delta u - P \nabla \cdot (u u + \tau), \quad
        \tau_{ij} = -2 (C_s \Delta)^2 |S| S_{ij}

    Derivatives are those of trigonometric polynomials, and the product ``u u`` aliases nothing. Steps in time are
    implicit midpoint rules from each state to the next, the first from the initial velocity in the inputs, so that the
    defect of the equation's solution is of second order in the step:
    :math:`R_n = (u_{n+1} - u_n) / \Delta t_n - N((u_n + u_{n+1}) / 2)`. The loss is

    .. math:: \frac{T^2 \langle |R|^2 \rangle}{\langle |u_0|^2 \rangle}
        + w \frac{\langle (\nabla \cdot u)^2 \rangle}{\langle |\nabla u_0|^2 \rangle}

    with means over points, components and times, T the last time, and :math:`u_0` the initial velocity.

    It takes the inputs, as :func:`vcycle.objectives.losses.measured` gives them: ``fit(model, data, loss=...)`` trains
    without targets. Inputs have the d components of the initial velocity first, outputs those of the first time, then
    of the second, and so on.

    Parameters
    ----------
    grid
        Periodic on all axes, 2 or 3; the highest cosine on an even number of points is left out.
    times
        Of the outputs, increasing, after 0.
    viscosity
        Kinematic, in length^2 / time; not negative.
    smagorinsky
        The constant ``C_s`` (dimensionless; not its square), 0 for none; about 0.17 in isotropic turbulence, 0.1 in the
        authors' code.
    filter_width
        ``Delta``; ``None`` is the geometric mean of the spacings.
    divergence_weight
        ``w`` (dimensionless).

    Raises
    ------
    ValueError
        If the grid is not periodic or has one axis, or a number is out of range.

    Notes
    -----
    After the authors' code, whose repository has no licence: the equations are its, nothing else. Differs from it in:
    the authors difference centrally between the states before and after, which leaves one step too few to fix all
    states; their product is cut at two thirds of the modes after it has aliased; both terms are relative here. In one
    of their two flows the divergence is scaled by the inverse number of points, which switches its term off.

    References
    ----------
    Zhao et al., "LESnets (Large-Eddy Simulation nets): Physics-informed neural operator for large-eddy simulation of
    turbulence", arXiv:2411.04502.
    """

    takes_inputs: ClassVar[bool] = True

    grid: Grid
    times: Sequence[float]
    viscosity: float
    smagorinsky: float = 0.1
    filter_width: float | None = None
    divergence_weight: float = 1.0

    def __post_init__(self) -> None:
        if not all(self.grid.periodic) or self.grid.num_axes == 1:
            got = f"{self.grid.num_axes} axes, periodic {self.grid.periodic}"
            raise ValueError(f"`grid` must be periodic on all of 2 or 3 axes. Got {got}.")
        object.__setattr__(self, "times", read_times(self.times))
        for name in ("viscosity", "smagorinsky", "divergence_weight"):
            _check.not_negative(name, getattr(self, name))
        if self.filter_width is not None:
            _check.positive("filter_width", self.filter_width)

    @functools.cached_property
    def space(self) -> FourierSpace:
        """The polynomials; where cells lie in the box makes no difference to their derivatives."""
        return FourierSpace(Grid(self.grid.shape, self.grid.extent, "vertex", self.grid.periodic))

    @property
    def width(self) -> float:
        """``Delta``, the width of the filter, in the unit of length."""
        spacing = math.prod(self.grid.spacing) ** (1 / self.grid.num_axes)
        return spacing if self.filter_width is None else self.filter_width

    def __call__(self, prediction: Tensor, target: Tensor | None, inputs: Tensor) -> Tensor:
        """Return the loss, shape ``()``, dimensionless, float64; gradients flow to ``prediction``.

        Parameters
        ----------
        prediction
            Velocities at all times, ``(batch, time * d, *space)``.
        target
            Not looked at.
        inputs
            ``(batch, d or more, *space)``, of which the first d channels are the initial velocity.
        """
        start = inputs[:, : self.grid.num_axes].to(torch.float64)
        states = self.states(prediction, start)
        with torch.no_grad():
            speed, slope = _mean_square(start), _mean_square(self._gradient(self.space.modes(start)))
        residual = self.times[-1] ** 2 * _relative(_mean_square(self.residual(states)), speed)
        compressed = _relative(_mean_square(self.divergence(states[:, 1:])), slope)
        return (residual + self.divergence_weight * compressed).mean()

    def states(self, prediction: Tensor, start: Tensor) -> Tensor:
        """Return all velocities, the initial ones first, ``(batch, 1 + time, d, *space)``, float64.

        Parameters
        ----------
        prediction
            ``(batch, time * d, *space)``.
        start
            ``(batch, d, *space)``.

        Raises
        ------
        ValueError
            If a shape does not fit the grid and the times.
        """
        times, d = len(self.times), self.grid.num_axes
        shape = (None, times * d, *self.grid.shape)
        _check.shape("prediction", prediction.shape, shape, f"(batch, {times} times x {d} components, *grid.shape)")
        shape = (len(prediction), d, *self.grid.shape)
        _check.shape("inputs", start.shape, shape, f"the initial velocity's {d} components first")
        later = prediction.to(torch.float64).unflatten(1, (times, d))
        return torch.cat([start.to(torch.float64).unsqueeze(1), later], 1)

    def residual(self, states: Tensor, smagorinsky: Tensor | None = None) -> Tensor:
        """Return ``R`` of every step, ``(batch, time, d, *space)``, in length / time^2; differentiable.

        Parameters
        ----------
        states
            As :meth:`states` returns them.
        smagorinsky
            Another constant than the loss has, to fit it to flows.
        """
        steps = torch.tensor(self.times, dtype=torch.float64).diff(prepend=torch.zeros(1, dtype=torch.float64))
        steps = steps.to(states.device).reshape(-1, *(1,) * (states.ndim - 2))
        before, after = states[:, :-1], states[:, 1:]
        middle = (0.5 * (before + after)).flatten(0, 1)
        return (after - before) / steps - self.tendency(middle, smagorinsky).reshape(after.shape)

    def tendency(self, velocity: Tensor, smagorinsky: Tensor | None = None) -> Tensor:
        """Return ``N(u)`` of velocities ``(batch, d, *space)``, of their shape, in length / time^2; differentiable.

        ``smagorinsky`` as in :meth:`residual`.
        """
        space, modes = self.space, self.space.modes(velocity.to(torch.float64))
        u = space.product_values(modes)
        flux = u.unsqueeze(1) * u.unsqueeze(2)
        if smagorinsky is not None or self.smagorinsky:
            constant = self.smagorinsky if smagorinsky is None else smagorinsky
            gradient = self._differentiated(modes)
            strain = self._symmetric(0.5 * (gradient + gradient.transpose(1, 2)), space.product_values)
            flux = flux + eddy_stress(strain, constant * self.width)
        derivatives = self._derivatives(modes)
        moved = (derivatives * self._symmetric(flux, space.product_modes)).sum(2)
        change = space.laplacian.to(modes.device) * self.viscosity * modes - self._solenoidal(moved)
        return space.values(change)

    def divergence(self, velocity: Tensor) -> Tensor:
        """Return the divergence of velocities ``(.., d, *space)``, ``(.., *space)``, in 1 / time; differentiable."""
        gradient = self._gradient(self.space.modes(velocity.to(torch.float64)))
        at = -2 - self.grid.num_axes
        return gradient.diagonal(dim1=at, dim2=at + 1).sum(-1)

    def _derivatives(self, modes: Tensor) -> Tensor:
        """Return the symbols of the first derivatives, ``(d, *modes)``."""
        return torch.stack([symbol.expand(self.space.shape) for symbol in self.space.derivatives]).to(modes.device)

    def _differentiated(self, modes: Tensor) -> Tensor:
        """Return ``d u_i / d x_j`` of amplitudes ``(.., i, *modes)``, ``(.., i, j, *modes)``."""
        return modes.unsqueeze(-1 - self.grid.num_axes) * self._derivatives(modes)

    def _gradient(self, modes: Tensor) -> Tensor:
        return self.space.values(self._differentiated(modes))

    def _symmetric(self, tensor: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        """Transform a symmetric ``(batch, i, j, *points)`` by its components with ``i <= j``."""
        d = self.grid.num_axes
        rows, columns = torch.triu_indices(d, d)
        numbers = torch.zeros(d, d, dtype=torch.long)
        numbers[rows, columns] = numbers[columns, rows] = torch.arange(len(rows))
        return transform(tensor[:, rows, columns])[:, numbers]

    def _solenoidal(self, modes: Tensor) -> Tensor:
        """Return ``P`` of amplitudes ``(batch, d, *modes)``: without the gradient that they contain."""
        derivatives, laplacian = self._derivatives(modes), self.space.laplacian.to(modes.device)
        inverse = torch.where(laplacian < 0, 1 / torch.where(laplacian < 0, laplacian, 1.0), 0.0)
        return modes - derivatives * ((derivatives * modes).sum(1, keepdim=True) * inverse)


def _mean_square(fields: Tensor) -> Tensor:
    """Return the mean square of every sample, ``(batch,)``."""
    return fields.flatten(1).square().mean(1)


def _relative(value: Tensor, scale: Tensor) -> Tensor:
    return value / torch.where(scale > 0, scale, 1.0)
