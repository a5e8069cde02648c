"""DeepONet (Lu et al., Nature Machine Intelligence 2021, arXiv:1910.03193)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.coordinates import count_smooth_coordinates
from vcycle.layers.positions import points as places_of
from vcycle.layers.positions import wound
from vcycle.layers.transforms import resample
from vcycle.models.base import GridModel, Where, conditioned


class DeepONet(GridModel):
    """A branch network of the input function times a trunk network of the place, ``G(u)(y) = sum_k b_k(u) t_k(y) + c``.

    The input is resampled to a fixed grid of sensors by its Fourier or cosine series, so that any grid will do, and the
    output can be asked for anywhere, see :meth:`at`.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    sensors
        Points per axis at which the branch sees the input, one number or one per axis.
    width
        Width of both networks.
    depth
        Number of hidden layers of both.
    terms
        Number of products per output function.
    **where
        See :class:`~vcycle.models.base.Where`. Periodic axes are resampled by Fourier series, the others by cosine
        series. Parameters condition the branch.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    As in the unstacked form of the paper the branch ends linearly and the trunk with its activation. Differs from it
    in: gelu in place of relu, sensors on a grid, and around periodic axes sine and cosine of the place, so that outputs
    close.

    References
    ----------
    Lu et al., "Learning nonlinear operators via DeepONet based on the universal approximation theorem of operators",
    Nature Machine Intelligence 3 (2021) 218, eq. (1)-(2). arXiv:1910.03193.
    """

    name = "deeponet"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        sensors: int | Sequence[int] = 16,
        width: int = 128,
        depth: int = 3,
        terms: int = 64,
        **where: Unpack[Where],
    ) -> None:
        axes = self.axes_in(where)
        sensors = [_check.integer("sensors", n, 2) for n in _check.per_axis("sensors", sensors, axes)]
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            sensors=sensors,
            width=width,
            depth=depth,
            terms=_check.integer("terms", terms, 1),
        )
        self.sensors = tuple(sensors)
        values = in_channels
        for n in sensors:
            values *= n
        inside, known = [width] * depth, count_smooth_coordinates(self.periodic)
        self.branch = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([values, *inside, terms * out_channels]))
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([known, *inside, terms * out_channels]))
        self.bias = nn.Parameter(torch.full((out_channels,), 0.01))

    def amplitudes(self, u: Tensor, maps: Tensor | None = None) -> Tensor:
        """Return the branch's values ``(batch, out_channels, terms)`` for ``(batch, in_channels, *space)``."""
        b = resample(u, self.sensors, self.periodic, self.centring).flatten(1)
        *inside, last = self.branch
        for layer, linear in enumerate(inside):
            b = F.gelu(conditioned(linear(b), maps, layer))
        return last(b).unflatten(-1, (self.out_channels, -1))

    def functions(self, places: Tensor) -> Tensor:
        """Return the trunk's values ``(.., out_channels, terms)`` at places ``(.., num_axes)`` in the unit box."""
        values = wound(places, self.periodic)
        for linear in self.trunk:
            values = F.gelu(linear(values))
        return values.unflatten(-1, (self.out_channels, -1))

    def at(self, u: Tensor, places: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Return the outputs at any places, ``(batch, out_channels, place)``.

        Parameters
        ----------
        u
            Input functions, ``(batch, in_channels, *space)``.
        places
            In the unit box: ``(place, num_axes)`` for all samples, or ``(batch, place, num_axes)``.
        parameters
            As for ``forward``.

        Raises
        ------
        ValueError
            If ``places`` has another number of axes, or the number of channels, axes or parameters is wrong.
        """
        expected = (*(None,) * (places.ndim - 1), self.num_axes)
        _check.shape("places", places.shape, expected, "(place, num_axes) or (batch, place, num_axes)")
        return self._product(self.amplitudes(u, self.maps_of(u, parameters)), self.functions(places))

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        places = places_of(u, self.periodic, self.centring)
        return self._product(self.amplitudes(u, maps), self.functions(places)).unflatten(-1, u.shape[2:])

    def _product(self, amplitudes: Tensor, functions: Tensor) -> Tensor:
        """Return ``(batch, out_channels, place)``; the trunk's values are shared by the batch or not."""
        functions = functions.movedim(-3, -1)  # (.., out_channels, terms, place)
        return (amplitudes.unsqueeze(-2) @ functions).squeeze(-2) + self.bias[:, None]
