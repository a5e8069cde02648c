"""FNO, the Fourier neural operator (Li et al., ICLR 2021, arXiv:2010.08895)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Centring
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_coordinates
from vcycle.layers.spectral import SpectralConv
from vcycle.models._inputs import check_input


class FNO(nn.Module):
    """Alternates learned Fourier multipliers with pointwise maps.

    ``v_0 = P [u, x]``, ``v_{l+1} = gelu(W_l v_l + b_l + K_l v_l)`` (no gelu after the last), ``out = Q(v_L)``, with
    ``P`` pointwise, ``K_l`` a :class:`~vcycle.layers.spectral.SpectralConv` and ``Q`` two pointwise layers (section 4
    of the paper).

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    modes
        Fourier modes kept per axis, one number or one per axis; 12 in the paper's 2-D experiments.
    width
        Channels of the hidden functions; 32 in the paper.
    depth
        Number of Fourier layers.
    padding
        Zero cells added at the upper end of every non-periodic axis, since Fourier series wrap around; 8 as in the
        authors' code for Darcy.
    boundary
        Kinds of the unknown's faces: the periodic axes are not padded.
    centring
        ``"cell"`` or ``"vertex"``, for the coordinate channels.
    num_axes
        Space dimensions, 1 to 3; taken from ``boundary`` where that is a :class:`Boundary`.

    Raises
    ------
    ValueError
        If a count is not positive.

    Notes
    -----
    Differs from the authors' code in: weights start complex normal with variance ``2 / (c_in + c_out)`` and the
    transform is normalised forward, so that a mode's multiplier does not depend on the grid; weights are stored as real
    pairs.

    References
    ----------
    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021. arXiv:2010.08895.
    """

    name = "fno"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = 12,
        width: int = 32,
        depth: int = 4,
        padding: int = 8,
        boundary: "Boundary | str | Sequence[Any]" = "dirichlet",
        centring: Centring = "cell",
        num_axes: int = 2,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "depth": depth}
        for key, count in counts.items():
            _check.integer(key, count, 1)
        _check.integer("padding", padding, 0)
        if isinstance(boundary, Boundary):
            num_axes = len(boundary.kinds)
        kinds = Boundary.of(boundary, num_axes)
        modes = _check.per_axis("modes", modes, num_axes)
        self.in_channels, self.out_channels, self.num_axes = in_channels, out_channels, num_axes
        self.centring = _check.choice("centring", centring, ("cell", "vertex"))
        self.padding, self.periodic = padding, kinds.periodic
        self._config = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "modes": list(modes),
            "width": width,
            "depth": depth,
            "padding": padding,
            "boundary": kinds.to_list(),
            "centring": centring,
            "num_axes": num_axes,
        }
        self.P = pointwise(in_channels + num_axes, width, num_axes)
        self.K = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(depth))
        self.W = nn.ModuleList(pointwise(width, width, num_axes) for _ in range(depth))
        self.Q = nn.Sequential(pointwise(width, 128, num_axes), nn.GELU(), pointwise(128, out_channels, num_axes))

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments; ``FNO(**model.config())`` has the same architecture."""
        return self._config

    def forward(self, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``.

        Raises
        ------
        ValueError
            If the number of channels or axes is wrong, or ``parameters`` are given.
        """
        check_input(u, parameters, self.in_channels, self.num_axes)
        shape = u.shape[2:]
        v = self.P(append_coordinates(u, self.centring, self.periodic))  # type: ignore[arg-type]
        extra = [0 if periodic else self.padding for periodic in self.periodic]
        v = F.pad(v, [side for width in reversed(extra) for side in (0, width)])
        for layer, (K, W) in enumerate(zip(self.K, self.W, strict=True)):
            v = K(v) + W(v)
            v = F.gelu(v) if layer < len(self.K) - 1 else v
        return self.Q(v[(..., *(slice(0, n) for n in shape))])
