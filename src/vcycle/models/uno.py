"""U-NO, the U-shaped neural operator (Rahman, Ross, Azizzadenesheli, TMLR 2023, arXiv:2204.11127)."""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.spectral import SpectralConv
from vcycle.layers.transforms import offset_of, resample
from vcycle.models.base import GridModel, Where, conditioned


class UNO(GridModel):
    """Fourier layers on halved and re-doubled grids, with more channels where there are fewer points.

    Layer l maps to its own number of points: ``v <- gelu(K_l v + R_l W_l v)``, with ``K_l`` a
    :class:`~vcycle.layers.spectral.SpectralConv` evaluated on the new grid and ``R_l`` resampling by Fourier series.
    What went down is appended to what comes up at the same number of points.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis on the finest grid; every halving halves them.
    width
        Channels on the finest grid; every halving doubles them.
    depth
        Number of halvings: there are ``2 depth + 1`` layers.
    padding
        As in :class:`~vcycle.models.FNO`; here a share of the box.
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Checked against neuraloperator's U-NO with converted weights: the whole network, to 1e-12, given its skips where
    ours are, no skip around its networks of the channels, and the resampling of ours. Differs from the authors' code
    in: the pointwise path is resampled by Fourier series, not by bicubic interpolation, so that nothing aliases; the
    numbers of channels and points follow one rule, not a table per experiment.

    References
    ----------
    Rahman, Ross, Azizzadenesheli, "U-NO: U-shaped Neural Operators", TMLR 2023. arXiv:2204.11127.
    """

    name = "uno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 24,
        depth: int = 2,
        padding: float = 0.25,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=2,
            modes=list(modes),
            width=width,
            depth=depth,
            padding=read_padding(padding),
        )
        d, self.padding = self.num_axes, padding
        self.P = ChannelMLP(in_channels + d, 2 * width, width, d)
        channels = [width * 2**level for level in range(depth + 1)]
        # From which level to which; on the way up with the skip beside.
        self.steps = [(0, 0), *((i, i + 1) for i in range(depth)), *((i + 1, i) for i in reversed(range(depth)))]
        self.K, self.W = nn.ModuleList(), nn.ModuleList()
        for source, target in self.steps:
            into = channels[source] * (2 if target < source and source < depth else 1)
            kept = [max(1, k // 2 ** min(source, target)) for k in modes]
            self.K.append(SpectralConv(into, channels[target], kept, offset_of(self.centring)))
            self.W.append(pointwise(into, channels[target], d))
        self.Q = ChannelMLP(2 * width, 4 * width, out_channels, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        v = self.P(append_coordinates(u, self.centring, self.periodic))
        v = pad_walls(v, self.periodic, self.padding, self.centring)
        shapes = [tuple(max(2, -(-n // 2**level)) for n in v.shape[2:]) for level in range(self._config["depth"] + 1)]
        around = (True,) * self.num_axes
        skips: list[Tensor] = []
        for (source, target), K, W in zip(self.steps, self.K, self.W, strict=True):
            v = K(v, shapes[target]) + resample(W(v), shapes[target], around, self.centring)
            v = F.gelu(conditioned(v, maps, int(source > 0)) if target == 0 else v)
            if target >= source and target < len(shapes) - 1:
                skips.append(v)
            elif target < source:
                v = torch.cat([v, skips.pop()], 1)
        return self.Q(crop(v, u.shape[2:]))
