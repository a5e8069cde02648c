"""An operator of dynamic modes (Sakovich et al., AIMS Mathematics 2025, arXiv:2507.01117)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.positions import points as places_of
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import resample
from vcycle.models.base import GridModel, Where, conditioned


def dynamic_modes(snapshots: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Return eigenvalues and modes of the linear map of some rank that best takes each snapshot to the next.

    With the snapshots but the last of every trajectory as columns of ``X``, those but the first of ``X'``, and the
    truncated decomposition :math:`X = U S V^T`: the eigenvalues of :math:`U^T X' V S^{-1}`, whose eigenvectors are
    ``W``, and :math:`X' V S^{-1} W`.

    Parameters
    ----------
    snapshots
        ``(trajectory, time, point)``, evenly spaced in time.
    rank
        Number of modes, at most what the data span.

    Returns
    -------
    tuple
        Eigenvalues ``(rank,)`` per step, largest first, and modes ``(point, rank)``, complex128.

    Raises
    ------
    ValueError
        If there are fewer than two times or the snapshots span less than ``rank`` dimensions.

    References
    ----------
    Tu et al., "On Dynamic Mode Decomposition: Theory and Applications", Journal of Computational Dynamics 1 (2014) 391,
    algorithm 2. doi:10.3934/jcd.2014.1.391.
    """
    if snapshots.ndim != 3 or snapshots.shape[1] < 2:
        raise ValueError(
            f"`snapshots` must be (trajectory, time, point) with two times or more. Got {tuple(snapshots.shape)}."
        )
    data = snapshots.detach().to(torch.float64)
    before, after = (part.flatten(0, 1).T for part in (data[:, :-1], data[:, 1:]))
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    spanned = int((values > values[0] * torch.finfo(torch.float64).eps * max(before.shape)).sum())
    if rank > spanned:
        raise ValueError(f"`rank` must be at most {spanned}, what the snapshots span. Got {rank}.")
    moved = after @ right[:rank].T / values[:rank]
    eigenvalues, vectors = torch.linalg.eig(left[:, :rank].T @ moved)
    order = eigenvalues.abs().argsort(descending=True)
    return eigenvalues[order], moved.to(torch.complex128) @ vectors[:, order]


class DMDOperator(GridModel):
    r"""Modes that each turn, grow or decay in time, with corrections made by networks.

    .. math:: u(y, t) = \mathrm{Re} \sum_k b_k(v)\, e^{\omega_k(v) t}\, \phi_k(y)

    Modes ``phi`` and rates ``omega`` come from :meth:`fit_modes`, the amplitudes are those of the input ``v`` in these
    modes. A network of the amplitudes corrects them and the rates, one of the coordinates corrects the modes; both
    corrections start at zero when modes are fitted, so that the operator starts as the dynamic mode decomposition of
    its data. Until then modes and corrections are random and small.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions; equal for :meth:`fit_modes`.
    points
        Points per axis of the grid of the modes, one number or one per axis. Other grids are resampled.
    rank
        Number of modes, conjugates counted.
    width
        Channels of the networks.
    depth
        Hidden layers of the network of the amplitudes.
    steps
        Time between input and output, in steps of the snapshots; ``forward`` takes another.
    bounded
        Whether modes that grow are held constant.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring choose the series for other grids.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Structure inferred: no reference code, and the published text does not say how modes and networks are joined. The
    decomposition itself is the standard one.

    References
    ----------
    Sakovich et al., "A neural operator using dynamic mode decomposition analysis to approximate partial differential
    equations", AIMS Mathematics 10 (2025) 22432. doi:10.3934/math.2025999.
    """

    name = "dmd"
    modes: Tensor
    project: Tensor
    rates: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        points: int | Sequence[int] = 32,
        rank: int = 16,
        width: int = 64,
        depth: int = 2,
        steps: float = 1.0,
        bounded: bool = True,
        **where: Unpack[Where],
    ) -> None:
        points = _check.per_axis("points", points, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=1,
            points=[_check.integer("points", n, 2) for n in points],
            rank=_check.integer("rank", rank, 1),
            width=width,
            depth=depth,
            steps=_check.positive("steps", steps),
            bounded=bool(bounded),
        )
        self.points, self.steps, self.bounded = tuple(points), float(steps), bounded
        count = math.prod(self.points)
        # Real and minus imaginary parts of modes, real and imaginary parts of the functionals and of the rates.
        self.register_buffer("modes", torch.randn(2 * rank, out_channels * count) / math.sqrt(rank))
        self.register_buffer("project", torch.randn(in_channels * count, 2 * rank) / math.sqrt(in_channels * count))
        self.register_buffer("rates", torch.stack([-torch.rand(rank), torch.randn(rank)]))
        sizes = [2 * rank, *[width] * depth, 4 * rank]
        self.branch = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.trunk = ChannelMLP(self.num_axes, width, 2 * rank * out_channels, 1)
        with torch.no_grad():
            for last in (self.branch[-1], self.trunk[2]):
                next(last.parameters()).mul_(0.1)  # the weight

    @torch.no_grad()
    def fit_modes(self, snapshots: Tensor) -> Tensor:
        """Take modes and rates from data, and set the corrections to zero.

        Parameters
        ----------
        snapshots
            ``(trajectory, time, channel, *space)``, evenly spaced in time, normalised as the inputs will be.

        Returns
        -------
        Tensor
            The eigenvalues per step, ``(rank,)``, complex128.

        Raises
        ------
        ValueError
            If the channels of input and output differ, or the snapshots do not fit or span too little.
        """
        if self.in_channels != self.out_channels:
            raise ValueError(
                f"`out_channels` must be `in_channels` = {self.in_channels} for modes. Got {self.out_channels}."
            )
        expected = (None, None, self.in_channels, *(None,) * self.num_axes)
        _check.shape("snapshots", snapshots.shape, expected, "(trajectory, time, channel, *space)")
        fields = resample(snapshots.flatten(0, 1).double(), self.points, self.periodic, self.centring)
        data = fields.flatten(1).unflatten(0, tuple(snapshots.shape[:2]))
        eigenvalues, modes = dynamic_modes(data, self.rates.shape[1])
        # Of mean square one, so that the networks are given amplitudes of the size of the field's.
        modes = modes / modes.abs().square().mean(0).sqrt()
        rates = eigenvalues.log()
        inverse = torch.linalg.pinv(modes).T
        self.modes.copy_(torch.cat([modes.real.T, -modes.imag.T]))
        self.project.copy_(torch.cat([inverse.real, inverse.imag], 1))
        self.rates.copy_(torch.stack([rates.real, rates.imag]))
        for last in (self.branch[-1], self.trunk[2]):
            for parameter in last.parameters():
                parameter.zero_()
        return eigenvalues

    def forward(self, u: Tensor, parameters: Tensor | None = None, steps: float | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``, ``steps`` steps later.

        ``parameters`` are ``(batch, num_parameters)``, or None for a model without any; ``steps`` need not be whole,
        and None takes the model's own.

        Raises
        ------
        ValueError
            If the number of channels, axes or parameters is wrong.
        """
        steps = self.steps if steps is None else _check.not_negative("steps", steps)
        return self._advanced(u, self.maps_of(u, parameters), steps)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises, after the model's own number of steps."""
        return self._advanced(u, maps, self.steps)

    def _advanced(self, u: Tensor, maps: Tensor | None, steps: float) -> Tensor:
        shape = u.shape[2:]
        with no_autocast(u):
            v = resample(single(u), self.points, self.periodic, self.centring)
            amplitudes = v.flatten(1) @ self.project
            hidden = amplitudes
            for layer in self.branch[:-1]:
                hidden = nn.functional.gelu(layer(hidden))
            correction = self.branch[-1](conditioned(hidden, maps, 0))
            real, imaginary = (amplitudes + correction[:, : amplitudes.shape[1]]).chunk(2, 1)
            rate, turn = correction[:, amplitudes.shape[1] :].chunk(2, 1)
            rate = self.rates[0] + rate
            growth = (steps * (rate.clamp(max=0) if self.bounded else rate)).exp()
            angle = steps * (self.rates[1] + turn)
            cosine, sine = growth * angle.cos(), growth * angle.sin()
            moved = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], 1)
            y = (moved @ (self.modes + self._mode_correction(v))).unflatten(1, (self.out_channels, *self.points))
            return resample(y, shape, self.periodic, self.centring).to(u.dtype)

    def _mode_correction(self, v: Tensor) -> Tensor:
        """Return what the network of the coordinates adds to the modes, shaped like them."""
        place = places_of(v, self.periodic, self.centring)
        return self.trunk(place.T[None])[0].reshape(self.modes.shape)
