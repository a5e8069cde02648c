"""What of one field is found where in another: attention between two fields of something that moves."""

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.attention import AttentionHeads, AttentionKind


class CrossFieldAttention(AttentionHeads):
    r"""Looks up every point of a field in another one: what is there, and how far away it is.

    With queries :math:`q` of the first field, keys :math:`k` and values :math:`v` of the second, embedded places
    :math:`c` and quadrature weights :math:`w_j`, per head and written for the Galerkin kind of
    :class:`~vcycle.layers.attention.KernelAttention`,

    * appearance :math:`a_i + M_a\big(a_i + \sum_j w_j (q_i \cdot \tilde k_j) \tilde v_j\big)`;
    * motion :math:`M_m(d_i)` with :math:`d_i = \sum_j w_j (q_i \cdot \tilde k_j) c_j - c_i`: the place of what matches
      minus the point's own, whatever carried it there.

    Parameters
    ----------
    width, heads
        As in :class:`~vcycle.layers.attention.KernelAttention`.
    num_coordinates
        Coordinates of a point.
    kind
        ``"galerkin"``, of linear cost, or ``"softmax"``.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``width`` or the kind is another.

    Notes
    -----
    Structure inferred from the authors' test code. Differs from it in: sums are quadratures; coordinates are embedded
    by one affine map without normalisation, so that differences of places are read off them; no convolution in the
    networks ``M``.

    References
    ----------
    Zhang et al., "Space-Time Video Super-resolution with Neural Operator", 2024. arXiv:2404.06036.
    """

    def __init__(self, width: int, heads: int, num_coordinates: int, *, kind: AttentionKind = "galerkin") -> None:
        _check.choice("kind", kind, ("galerkin", "softmax"))
        super().__init__(width, heads, kind=kind, num_coordinates=0, gain=1.0, diagonal=0.0)
        self.place = nn.Linear(_check.integer("num_coordinates", num_coordinates, 1), width)
        self.what = _network(width)
        self.where = _network(width)

    def forward(self, v: Tensor, source: Tensor, coordinates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return appearance and motion.

        Parameters
        ----------
        v, source
            Features of the field whose points are looked up and of the one they are looked up in, ``(batch, point,
            width)``.
        coordinates
            ``(point, num_coordinates)``, dimensionless; around a periodic axis sine and cosine.
        weights
            ``(point,)`` quadrature weights whose sum is one.

        Returns
        -------
        tuple
            Two tensors ``(batch, point, width)``.
        """
        found, displacement = self.matched(v, source, coordinates, weights)
        return v + self.what(v + self.out(found)), self.where(displacement)

    def matched(self, v: Tensor, source: Tensor, coordinates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values that match, and their embedded places minus the points' own, ``(batch, point, width)``."""
        query, key, value = self.parts(v, source)
        c = self.split(self.place(coordinates.to(v.dtype)).expand(len(v), -1, -1))
        both = self.integrate(query, key, torch.cat([value, c], -1), weights)
        found, there = both.chunk(2, -1)
        joined = [part.transpose(1, 2).flatten(2).to(v.dtype) for part in (found, there - c)]
        return joined[0], joined[1]


def _network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
