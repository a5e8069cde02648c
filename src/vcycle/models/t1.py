"""T1, transform once (Poli et al., NeurIPS 2022, arXiv:2211.14453)."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.axial import AxialMix
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import along, series
from vcycle.models.base import GridModel, Where, conditioned


class T1(GridModel):
    """A network between series coefficients: one transform at the start, one at the end.

    Coefficients ``z`` of the lifted input (cosine series, Fourier series on periodic axes, orthonormal for the mean
    over the box) pass layers ``z <- z + M_l gelu(A_l z)``, where ``A_l`` mixes the channels of every coefficient with
    its own matrix and ``M_l`` mixes the coefficients of every channel along each axis, and a head that maps the
    channels of every coefficient, with one nonlinear layer.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Coefficients kept per axis, one number or one per axis; 24 in the paper's flows. Around a periodic axis an odd
        number holds whole waves; the last of an even number is a cosine without its sine.
    width
        Channels of the hidden coefficients.
    depth
        Number of layers.
    head
        ``"gelu"``: a network with a gelu, plus a linear map; ``"sine"``: the authors', a sine between two linear maps.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring choose the series.

    Raises
    ------
    ValueError
        If a count is not positive or ``head`` is unknown.

    Notes
    -----
    Differs from the authors' code in: Fourier series on periodic axes; coefficients that do not grow with the number of
    points, so that the nonlinearity means the same on every grid; coordinates of the points where the functions are
    known, not from 0 to 1; a gelu in the head too, which is added to a linear map, unless ``head="sine"``. The output
    has no more than ``modes`` coefficients per axis: finer detail than that cannot be represented.

    Checked against the authors' whole two-dimensional network with converted weights: with ``head="sine"``, on cells,
    the outputs agree to rounding. For a given grid the growth of the coefficients and the other range of the
    coordinates go into the weights.

    References
    ----------
    Poli et al., "Transform Once: Efficient Operator Learning in Frequency Domain", NeurIPS 2022. arXiv:2211.14453.
    """

    name = "t1"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 16,
        width: int = 24,
        depth: int = 4,
        head: Literal["gelu", "sine"] = "gelu",
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=1,
            modes=[_check.integer("modes", k, 1) for k in modes],
            width=width,
            depth=depth,
            head=_check.choice("head", head, ("gelu", "sine")),
        )
        d, self.modes = self.num_axes, tuple(modes)
        self.P = pointwise(in_channels + d, width, d)
        # The variance of coefficients is kept by every mixing of channels, whatever the number of modes.
        self.A = nn.ParameterList(torch.randn(width, width, *modes) / math.sqrt(width) for _ in range(depth))
        self.M = nn.ModuleList(AxialMix(width, self.modes) for _ in range(depth))
        between = _Sine() if head == "sine" else nn.GELU()
        self.Q = nn.Sequential(
            pointwise(width, 128, d, bias=False), between, pointwise(128, out_channels, d, bias=False)
        )
        self.linear = pointwise(width, out_channels, d, bias=False) if head == "gelu" else None

    def coefficients(self, v: Tensor) -> Tensor:
        """Return the coefficients ``(batch, channel, *modes)`` of functions on the grid."""
        for axis, k in enumerate(self.modes):
            v = along(self._series(v, axis, v.shape[2 + axis], k)[0], v, 2 + axis)
        return v

    def evaluate(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the functions on ``shape`` points with given coefficients."""
        for axis, k in enumerate(self.modes):
            z = along(self._series(z, axis, shape[axis], k)[1], z, 2 + axis)
        return z

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape, v = u.shape[2:], self.P(append_coordinates(u, self.centring, self.periodic))
        v = conditioned(v, maps, 0)
        with no_autocast(v):
            z = self.coefficients(single(v))
            for A, M in zip(self.A, self.M, strict=True):
                z = z + M(F.gelu(torch.einsum("bi...,io...->bo...", z, A)))
            z = self.Q(z) if self.linear is None else self.Q(z) + self.linear(z)
            return self.evaluate(z, shape).to(v.dtype)

    def _series(self, v: Tensor, axis: int, n: int, modes: int) -> tuple[Tensor, Tensor]:
        return series(v, n, n, periodic=self.periodic[axis], centring=self.centring, modes=modes)


class _Sine(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.sin()
