"""G-FNO, the group-equivariant Fourier neural operator (Helwig et al., ICML 2023, arXiv:2306.05697)."""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.domain import crop, pad_walls, read_padding
from vcycle.layers.group import GroupPointwise, GroupSpectralConv
from vcycle.layers.positions import squared_distance
from vcycle.models.base import GridModel, Where, conditioned


class GFNO(GridModel):
    """An FNO in the plane that commutes with quarter turns, and with reflections if asked.

    ``v <- gelu(M_l N K_l N v + W_l v)`` on features ``(channel, group element)``, where ``N`` normalises each channel
    over the group and space. Input and output are scalar fields (a vector's components would turn too), and the output
    is the mean over the group of the last features.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions, each a scalar field.
    modes
        Fourier modes kept, the same number on both axes; 12 in the paper.
    width
        Channels per group element; 10 in the paper.
    depth
        Number of Fourier layers.
    reflections
        Whether reflections belong to the group: 8 elements instead of 4.
    position
        Whether the squared distance from the middle of the domain is appended to the input: no other coordinate is
        the same in all directions.
    padding
        As in :class:`~vcycle.models.FNO`, but beyond both faces of an axis.
    **where
        See :class:`~vcycle.models.base.Where`. The boundary is the same on all four faces.

    Raises
    ------
    ValueError
        If a count is not positive, there are not two axes, or the faces are of different kinds.

    References
    ----------
    Helwig et al., "Group Equivariant Fourier Neural Operators for Partial Differential Equations", ICML 2023.
    arXiv:2306.05697.
    """

    name = "gfno"
    axes = (2,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int = 12,
        width: int = 10,
        depth: int = 4,
        reflections: bool = False,
        position: bool = True,
        padding: float = 0.125,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            modes=_check.integer("modes", modes, 1),
            width=width,
            depth=depth,
            reflections=reflections,
            position=position,
            padding=read_padding(padding),
        )
        if len({kind for pair in self.kinds.kinds for kind in pair}) > 1:
            raise ValueError(f"`boundary` must be of one kind on all faces, or nothing can turn. Got {self.kinds}.")
        order = 8 if reflections else 4
        self.order, self.padding, self.position = order, padding, position
        self.P = GroupPointwise(in_channels + position, width, order, lifted=False)
        self.K = nn.ModuleList(GroupSpectralConv(width, width, modes, order) for _ in range(depth))
        self.W = nn.ModuleList(GroupPointwise(width, width, order) for _ in range(depth))
        self.M = nn.ModuleList(_group_mlp(width, width, width, order) for _ in range(depth))
        self.norm = nn.GroupNorm(width, width * order, affine=False)
        self.Q = _group_mlp(width, 4 * width, out_channels, order)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        maps = None if maps is None else maps.repeat_interleave(self.order, -1)  # the same for every element
        if self.position:
            u = torch.cat([u, squared_distance(u, self.periodic, self.centring).expand(u.shape[0], 1, *shape)], 1)
        v = pad_walls(self.P(u), self.periodic, self.padding, self.centring, both=True)
        for layer, (K, W, M) in enumerate(zip(self.K, self.W, self.M, strict=True)):
            v = conditioned(M(self.norm(K(self.norm(v)))) + W(v), maps, layer)
            v = F.gelu(v) if layer < len(self.K) - 1 else v
        return self.Q(crop(v, shape, both=True)).unflatten(1, (-1, self.order)).mean(2)


def _group_mlp(in_channels: int, hidden: int, out_channels: int, order: int) -> nn.Sequential:
    return nn.Sequential(
        GroupPointwise(in_channels, hidden, order), nn.GELU(), GroupPointwise(hidden, out_channels, order)
    )
