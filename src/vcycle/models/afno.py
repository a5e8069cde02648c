"""AFNO, the adaptive Fourier neural operator (Guibas et al., ICLR 2022, arXiv:2111.13587)."""

from typing import Unpack

from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.convolution import CONV, unpatch
from vcycle.layers.domain import divisible
from vcycle.layers.mlp import ChannelMLP
from vcycle.layers.norm import ChannelNorm
from vcycle.layers.positions import GaussianFeatures, points
from vcycle.layers.spectral_mlp import Mixer, SpectralMLP
from vcycle.layers.transforms import resample
from vcycle.models.base import GridModel, Where, conditioned


class AFNO(GridModel):
    """A vision transformer on patches whose tokens are mixed by one network for all Fourier coefficients.

    Blocks ``v <- v + S N v``, ``v <- v + M N v`` with ``S`` a :class:`~vcycle.layers.spectral_mlp.SpectralMLP`, ``M`` a
    network of the channels and ``N`` layer normalisation, between an embedding of patches and its transpose. This is
    the architecture of FourCastNet.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of a token, a multiple of ``blocks``.
    depth
        Number of blocks.
    patch
        Points of a patch per axis. A grid that it does not divide is resampled to the next one that it does.
    blocks
        Diagonal blocks of the spectral network.
    expansion
        Hidden channels of the networks over ``width``.
    threshold
        Soft threshold of the coefficients, in units of the features.
    mixer
        ``"mlp"``, or ``"mask"`` for the adaptive frequency filter of Huang et al. (ICCV 2023).
    **where
        See :class:`~vcycle.models.base.Where`.

    Raises
    ------
    ValueError
        If a count is not positive or ``blocks`` does not divide ``width``.

    Notes
    -----
    Checked against FourCastNet's code with converted weights: the whole network, to 1e-12, on an odd number of tokens
    per axis; on an even one theirs keeps the highest frequency too. Differs from it in: positions are a learned map of
    random Fourier features of the place, not a table, which would tie it to one grid (without them the mixer, which is
    the same for all frequencies, could not tell them apart); coefficients are those of the function, not growing with
    the number of points, and the threshold is scaled to that; weights start with unit gain and no bias. A patch is a
    number of points, so that the map changes with the grid.

    References
    ----------
    Guibas et al., "Adaptive Fourier Neural Operators: Efficient Token Mixers for Transformers", ICLR 2022.
    arXiv:2111.13587. Pathak et al., "FourCastNet", 2022. arXiv:2202.11214.
    """

    name = "afno"
    resolution_free = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        depth: int = 4,
        patch: int = 2,
        blocks: int = 8,
        expansion: int = 4,
        threshold: float = 1e-3,
        mixer: Mixer = "mlp",
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            where,
            sites=depth,
            width=width,
            depth=depth,
            patch=_check.integer("patch", patch, 1),
            blocks=blocks,
            expansion=_check.integer("expansion", expansion, 1),
            threshold=threshold,
            mixer=mixer,
        )
        d, self.patch = self.num_axes, patch
        self.embed = CONV[d](in_channels, width, patch, stride=patch)
        self.features = GaussianFeatures(self.periodic, 64, scale=3.0)
        self.E = nn.Linear(64, width)
        self.mix = nn.ModuleList(SpectralMLP(width, blocks, threshold=threshold, mixer=mixer) for _ in range(depth))
        self.M = nn.ModuleList(ChannelMLP(width, expansion * width, width, d) for _ in range(depth))
        self.norms = nn.ModuleList(ChannelNorm(width, eps=1e-6) for _ in range(2 * depth))
        self.recover = unpatch(width, out_channels, patch, d)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        shape = u.shape[2:]
        u = divisible(u, self.patch, self.periodic, self.centring, least=2)
        v = self.embed(u)
        place = self.E(self.features(points(v, self.periodic, "cell")))  # a token stands for the middle of its patch
        v = v + place.T.unflatten(1, v.shape[2:])
        blocks = zip(self.mix, self.M, self.norms[::2], self.norms[1::2], strict=True)
        for layer, (mix, M, before, after) in enumerate(blocks):
            v = v + mix(before(v))  # which has its own skip inside
            v = conditioned(v + M(after(v)), maps, layer)
        return resample(self.recover(v), shape, self.periodic, self.centring)
