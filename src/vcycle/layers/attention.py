"""Attention as a kernel integral over the points of a domain."""

from typing import Literal

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.precision import no_autocast, single

AttentionKind = Literal["galerkin", "fourier", "softmax"]
ATTENTION_KINDS = ("galerkin", "fourier", "softmax")


class AttentionHeads(nn.Module):
    """Maps to queries, keys and values of every head, and the integral over keys: what attention of any kind shares.

    Parameters
    ----------
    width, heads, kind, gain, diagonal
        As in :class:`KernelAttention`.
    num_coordinates
        Coordinates that a subclass appends to the values of every head before they are joined.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``width`` or the kind is unknown.
    """

    def __init__(
        self, width: int, heads: int, *, kind: AttentionKind, num_coordinates: int, gain: float, diagonal: float
    ) -> None:
        super().__init__()
        if width % _check.integer("heads", heads, 1):
            raise ValueError(f"`heads` must divide `width` = {width}. Got {heads}.")
        self.kind = _check.choice("kind", kind, ATTENTION_KINDS)
        self.heads, self.size = heads, width // heads
        maps = [nn.Linear(width, width) for _ in range(3)]
        for linear in maps:
            nn.init.xavier_uniform_(linear.weight, gain=gain)
            linear.weight.data += diagonal * torch.eye(width)
            nn.init.zeros_(linear.bias)
        self.to_query, self.to_key, self.to_value = maps
        count = 0 if kind == "softmax" else 2
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(self.size, eps=1e-5) for _ in range(heads)) for _ in range(count)
        )
        self.out = nn.Linear(width + heads * num_coordinates, width)

    def parts(self, v: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of ``v``, keys and values of ``source``, ``(batch, head, point, size)``, normalised."""
        query, key, value = (
            self.split(self.to_query(v)),
            self.split(self.to_key(source)),
            self.split(self.to_value(source)),
        )
        if self.kind == "galerkin":
            key, value = self._normalised(0, key), self._normalised(1, value)
        elif self.kind == "fourier":
            query, key = self._normalised(0, query), self._normalised(1, key)
        return query, key, value

    def integrate(self, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        """Return the integral over keys, in float32 at least, ``(batch, head, point, size of value)``."""
        with no_autocast(query):
            query, key, value = single(query), single(key), single(value)
            weights = weights.to(query.dtype)
            if self.kind == "softmax":
                scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
                return (scores + weights.log()).softmax(-1) @ value
            scale = query.shape[-1] ** -0.5 if self.kind == "fourier" else 1.0
            return scale * (query @ (key.transpose(-1, -2) @ (weights[:, None] * value)))

    def split(self, v: Tensor) -> Tensor:
        """Return ``(batch, head, point, size)`` of ``(batch, point, width)``."""
        return v.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _normalised(self, which: int, part: Tensor) -> Tensor:
        return torch.stack([norm(part[:, head]) for head, norm in enumerate(self.norms[which])], 1)  # type: ignore[arg-type,var-annotated]


class KernelAttention(AttentionHeads):
    r"""Multi-head attention in which every sum over points is a quadrature.

    With quadrature weights :math:`w_j`, :math:`\sum_j w_j = 1`, and per head

    * ``"galerkin"``: :math:`z_i = \sum_j w_j (q_i \cdot \tilde k_j) \tilde v_j`, with keys and values normalised;
    * ``"fourier"``: :math:`z_i = \sum_j w_j (\tilde q_i \cdot \tilde k_j) v_j / \sqrt d`, with queries and keys
      normalised;
    * ``"softmax"``: :math:`z_i = \sum_j w_j e^{q_i \cdot k_j / \sqrt d} v_j / \sum_j w_j e^{q_i \cdot k_j / \sqrt d}`.

    The first two cost as much as there are points, the third its square.

    Parameters
    ----------
    width
        Channels; a multiple of ``heads``.
    heads
        Number of heads.
    kind
        Which kernel.
    num_coordinates
        Coordinates appended to queries, keys and values of every head.
    gain, diagonal
        The maps to queries, keys and values start as ``gain`` times Xavier plus ``diagonal`` times the identity; 1e-2
        both in the paper, without which training is unstable.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``width`` or the kind is unknown.

    References
    ----------
    Cao, "Choose a Transformer: Fourier or Galerkin", NeurIPS 2021. arXiv:2105.14995.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kind: AttentionKind = "galerkin",
        num_coordinates: int = 0,
        gain: float = 1e-2,
        diagonal: float = 1e-2,
    ) -> None:
        super().__init__(width, heads, kind=kind, num_coordinates=num_coordinates, gain=gain, diagonal=diagonal)

    def forward(self, v: Tensor, coordinates: Tensor | None, weights: Tensor) -> Tensor:
        """Map features of points to features of points.

        Parameters
        ----------
        v
            ``(batch, point, width)``.
        coordinates
            ``(point, num_coordinates)``, dimensionless, or None for none.
        weights
            ``(point,)`` quadrature weights whose sum is one.

        Returns
        -------
        Tensor
            ``(batch, point, width)``.
        """
        query, key, value = self.parts(v, v)
        if coordinates is not None:
            place = coordinates.to(query.dtype).expand(*query.shape[:2], -1, -1)
            query, key, value = (torch.cat([part, place], -1) for part in (query, key, value))
        mixed = self.integrate(query, key, value, weights)
        return self.out(mixed.transpose(1, 2).flatten(2).to(v.dtype))


def rotate(v: Tensor, coordinate: Tensor, scale: float = 64.0, base: float = 1e4) -> Tensor:
    """Turn pairs of features by angles proportional to the coordinate, so that products see differences alone.

    Parameters
    ----------
    v
        ``(.., point, size)``, ``size`` even: pairs ``(i, i + size / 2)``.
    coordinate
        ``(point,)`` in the unit box.
    scale
        The first pair turns by this many radians over the box.
    base
        Ratio of the largest and the smallest angle, to the power of almost one.

    References
    ----------
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. arXiv:2104.09864.
    """
    half = v.shape[-1] // 2
    rates = scale * base ** (-torch.arange(half, dtype=torch.float64, device=v.device) / half)
    angle = coordinate.to(torch.float64)[:, None] * rates
    cosine, sine = angle.cos().to(v.dtype), angle.sin().to(v.dtype)
    first, second = v[..., :half], v[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
