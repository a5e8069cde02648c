"""MG-TFNO, the multi-grid tensorised Fourier neural operator (Kossaifi et al., TMLR 2024, arXiv:2310.00120)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from vcycle import _check
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.factorised import Factorisation
from vcycle.layers.patching import Patching
from vcycle.models.base import GridModel, Where
from vcycle.models.tfno import TFNO


class MGTFNO(GridModel):
    """A :class:`~vcycle.models.TFNO` that maps patches of the domain, each seen with its surroundings.

    The input and its coordinates are cut by :class:`~vcycle.layers.patching.Patching`; all patches pass the same
    network, as samples of a batch; the answers are put together. Memory for one patch at a time is that of a grid of
    ``2^-levels`` as many points per axis.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    levels
        Number of halvings: there are ``2^levels`` patches per axis, seen at ``levels + 1`` resolutions.
    margin
        What patches overlap on each side, as a share of a patch.
    modes
        Fourier modes of a patch with its margins kept per axis, one number or one per axis.
    width, depth, factorisation, rank
        As in :class:`~vcycle.models.TFNO`.
    **where
        See :class:`~vcycle.models.base.Where`. Patches at walls see their mirror images beyond.

    Raises
    ------
    ValueError
        If a count is not positive, or the ranks do not fit.

    Notes
    -----
    Patches after the authors' code. Differs from it in: one part of the network, not of the data, so that any grid and
    any boundary can be taken; the coordinates of the domain are among what is cut, around a periodic axis by sine and
    cosine, so that no window has a jump in it; coarse windows in cells are centred on the patch by means of two cells,
    where the code takes one; the margin of a patch is all that keeps its series from wrapping around. Every layer has
    its own tensor, as in :class:`~vcycle.models.TFNO`.

    References
    ----------
    Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs", TMLR 2024.
    arXiv:2310.00120.
    """

    name = "mg_tfno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        levels: int = 1,
        margin: float = 0.25,
        modes: int | Sequence[int] = 8,
        width: int = 32,
        depth: int = 4,
        factorisation: Factorisation = "tucker",
        rank: float | Sequence[int] = 0.1,
        **where: Unpack[Where],
    ) -> None:
        modes = _check.per_axis("modes", modes, self.axes_in(where))
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            levels=_check.integer("levels", levels, 0),
            margin=_check.not_negative("margin", margin),
            modes=list(modes),
            width=width,
            depth=depth,
            factorisation=factorisation,
            rank=list(rank) if isinstance(rank, Sequence) else rank,
        )
        self.patching = Patching(levels, margin, self.periodic, self.centring)
        self.network = TFNO(
            (in_channels + count_smooth_coordinates(self.periodic)) * (levels + 1),
            out_channels,
            modes=modes,
            width=width,
            depth=depth,
            factorisation=factorisation,
            rank=rank,
            padding=0,
            boundary="neumann",
            num_axes=self.num_axes,
        )

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        if maps is not None:  # (site, 2, batch, channel): patches are samples
            maps = maps.repeat_interleave(self.patching.num_patches, 2)
        placed = append_smooth_coordinates(u, self.centring, self.periodic)
        return self.patching.around(lambda patches: self.network.operate(patches, maps), placed)
