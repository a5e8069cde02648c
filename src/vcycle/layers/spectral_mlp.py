"""A small network that acts on every Fourier coefficient alike."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.precision import no_autocast, single
from vcycle.layers.transforms import fourier_analysis, fourier_synthesis, symmetric

Mixer = Literal["mlp", "mask"]


class SpectralMLP(nn.Module):
    r"""Block-diagonal complex network on Fourier coefficients, with soft thresholds.

    ``y = v + F^-1 S(W_2 relu(W_1 z + b_1) + b_2)`` with ``z = F v`` (``"mlp"``), or ``y = v + F^-1 [M(z) z]`` where the
    same network gives a mask (``"mask"``). The relu and the threshold ``S`` act on real and imaginary parts apart, so
    that the map does not commute with shifts. Coefficients are those of the function, whatever the number of points.

    Parameters
    ----------
    width
        Channels; a multiple of ``blocks``.
    blocks
        Number of diagonal blocks.
    expansion
        Hidden channels over channels.
    threshold
        Soft threshold of real and imaginary parts, in units of the features.
    modes
        Frequencies ``|k| < modes`` kept per axis; None keeps all that the grid resolves.
    mixer
        ``"mlp"`` (AFNO) or ``"mask"`` (adaptive frequency filter).

    Raises
    ------
    ValueError
        If ``blocks`` does not divide ``width``.

    References
    ----------
    Guibas et al., "Adaptive Fourier Neural Operators: Efficient Token Mixers for Transformers", ICLR 2022;
    Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023.
    """

    def __init__(
        self,
        width: int,
        blocks: int,
        *,
        expansion: int = 1,
        threshold: float = 1e-3,
        modes: Sequence[int] | None = None,
        mixer: Mixer = "mlp",
    ) -> None:
        super().__init__()
        if width % _check.integer("blocks", blocks, 1):
            raise ValueError(f"`blocks` must divide `width` = {width}. Got {blocks}.")
        self.threshold = _check.not_negative("threshold", threshold)
        self.modes, self.mixer = modes, _check.choice("mixer", mixer, ("mlp", "mask"))
        size = width // blocks
        hidden = size * _check.integer("expansion", expansion, 1)
        # Of unit gain: with smaller weights everything lies below the threshold and nothing ever learns.
        self.weight1 = nn.Parameter(torch.randn(2, blocks, size, hidden) * size**-0.5)
        self.bias1 = nn.Parameter(torch.zeros(2, blocks, 1, hidden))
        self.weight2 = nn.Parameter(torch.randn(2, blocks, hidden, size) * hidden**-0.5)
        self.bias2 = nn.Parameter(torch.zeros(2, blocks, 1, size))

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, width, *space)`` to the same shape."""
        shape = v.shape[2:]
        frequencies = symmetric([(n + 1) // 2 for n in shape] if self.modes is None else self.modes)
        with no_autocast(v):
            spectrum = fourier_analysis(single(v), frequencies)
            z = self._blocks(spectrum)
            y = self._network(z)
            if self.mixer == "mask":
                y = torch.stack([y[0] * z[0] - y[1] * z[1], y[0] * z[1] + y[1] * z[0]])
            y = y.permute(2, 1, 4, 3, 0).reshape(spectrum.shape)
            return v + fourier_synthesis(y, frequencies, shape).to(v.dtype)

    def _blocks(self, spectrum: Tensor) -> Tensor:
        """Return ``(2, block, batch, mode, channel)``."""
        blocks = self.weight1.shape[1]
        return spectrum.unflatten(1, (blocks, -1)).flatten(3, -2).permute(4, 1, 0, 3, 2)

    def _network(self, z: Tensor) -> Tensor:
        z = F.relu(affine(z, self.weight1, self.bias1))
        return F.softshrink(affine(z, self.weight2, self.bias2), self.threshold)


def affine(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a complex affine map per block, real and imaginary parts first in all three: ``z W + b``."""
    (re, im), (weight_re, weight_im) = z, weight.to(z.dtype).unsqueeze(2)
    product = torch.stack([re @ weight_re - im @ weight_im, re @ weight_im + im @ weight_re])
    return product + bias.to(z.dtype).unsqueeze(2)
