"""A domain in patches, each with the whole domain around it at ever lower resolution; for any network of fields."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vcycle import _check
from vcycle.grid import Centring
from vcycle.layers.domain import divisible
from vcycle.layers.local import folded
from vcycle.layers.transforms import resample


class Patching:
    """Cuts fields into ``2^levels`` patches per axis, and puts patches together.

    A patch becomes a sample with ``levels + 1`` blocks of channels. Block ``j`` is a window of as many points as the
    patch, centred on it, on which every ``2^j``-th point is seen: block 0 is the patch itself, block ``levels`` is as
    large as the domain. A network that maps patches sees everything, and its memory is that of a patch.

    Parameters
    ----------
    levels
        Number of halvings; 0 cuts nothing.
    margin
        Points added around the windows on each side, which :meth:`stitch` crops, as a share of a patch; at least one.
    periodic, centring
        As in :class:`~vcycle.grid.Grid`. Windows wrap around periodic axes and are reflected at walls. In cells, where
        patches have an even number of points, a point of a coarse window lies between two of the grid, and its value is
        their mean: so the window is centred. On vertices it is a point of the grid, at most half a coarse spacing off.

    Raises
    ------
    ValueError
        If ``levels`` or ``margin`` is negative.

    References
    ----------
    Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs", TMLR 2024, for the idea.
    arXiv:2310.00120.
    """

    def __init__(self, levels: int, margin: float, periodic: Sequence[bool], centring: Centring = "cell") -> None:
        self.levels = _check.integer("levels", levels, 0)
        self.margin = _check.not_negative("margin", margin)
        self.periodic, self.centring = tuple(periodic), centring

    @property
    def num_patches(self) -> int:
        """Number of patches of a sample."""
        return 2 ** (self.levels * len(self.periodic))

    def size(self, n: int) -> int:
        """Return the points of a patch along an axis of ``n`` points.

        Raises
        ------
        ValueError
            If ``2^levels`` does not divide ``n``.
        """
        if n % 2**self.levels:
            raise ValueError(f"`u` must have a multiple of {2**self.levels} points per axis. Got {n}.")
        return n >> self.levels

    def extra(self, n: int) -> int:
        """Return the points of the margin on each side along an axis of ``n`` points."""
        return max(1, round(self.margin * self.size(n)))

    def split(self, u: Tensor) -> Tensor:
        """Return the windows of all patches.

        Parameters
        ----------
        u
            ``(batch, channel, *space)``, every size a multiple of ``2^levels``.

        Returns
        -------
        Tensor
            ``(batch * patch, (levels + 1) * channel, *points)``, patches of a sample side by side, the last axis
            fastest.
        """
        d, sizes = len(self.periodic), [self.size(n) + 2 * self.extra(n) for n in u.shape[2:]]
        blocks = []
        for level in range(self.levels + 1):
            v = u
            for axis in range(d):  # (batch, channel, .., patch * point, ..)
                v = self._windows(v, axis + 2, level)
            blocks.append(v)
        stacked = torch.cat(blocks, 1)
        batch, channels = stacked.shape[:2]
        parts = stacked.reshape(batch, channels, *itertools.chain(*((2**self.levels, n) for n in sizes)))
        patches, points = range(2, 2 + 2 * d, 2), range(3, 3 + 2 * d, 2)
        return parts.permute(0, *patches, 1, *points).reshape(batch * self.num_patches, channels, *sizes)

    def stitch(self, patches: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the fields whose patches are given, without margins.

        Parameters
        ----------
        patches
            ``(batch * patch, channel, *points)``, in the order of :meth:`split`.
        shape
            Points of the fields per axis.

        Returns
        -------
        Tensor
            ``(batch, channel, *shape)``.
        """
        d, count = len(self.periodic), 2**self.levels
        for axis, n in enumerate(shape, 2):
            patches = patches.narrow(axis, self.extra(n), self.size(n))
        channels, points = patches.shape[1], patches.shape[2:]
        parts = patches.reshape(patches.shape[0] // self.num_patches, *(count,) * d, channels, *points)
        order = itertools.chain(*((1 + axis, 2 + d + axis) for axis in range(d)))
        return parts.permute(0, 1 + d, *order).reshape(patches.shape[0] // self.num_patches, channels, *shape)

    def around(self, network: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """Return what a network that maps patches makes of fields of any size.

        Sizes that cannot be halved so often are taken to the next that can, and back, by the fields' series.
        """
        even = divisible(u, 2**self.levels, self.periodic, self.centring, least=2)
        made = self.stitch(network(self.split(even)), even.shape[2:])
        return resample(made, u.shape[2:], self.periodic, self.centring)

    def _windows(self, v: Tensor, axis: int, level: int) -> Tensor:
        """Return the windows along one axis, one after the other."""
        n, step = v.shape[axis], 2**level
        size, extra, closed = self.size(n), self.extra(n), self.periodic[axis - 2]
        patch = torch.arange(2**self.levels, device=v.device)[:, None] * size
        point = torch.arange(-extra, size + extra, device=v.device) * step
        index = (patch + point).flatten()
        if self.centring == "vertex":
            return v.index_select(axis, self._inside(index - (step - 1) * size // 2, n, closed))
        back = (step - 1) * (size - 1)  # twice what takes the middle of the window to that of the patch
        low, high = (self._inside(index - half, n, closed) for half in (back - back // 2, back // 2))
        found = v.index_select(axis, low)
        return (found + v.index_select(axis, high)) / 2 if back % 2 else found

    def _inside(self, index: Tensor, n: int, closed: bool) -> Tensor:  # noqa: FBT001  # one axis of `periodic`
        return index % n if closed else folded(index, n, self.centring)
