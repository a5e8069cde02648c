"""What lies beyond the wall of a tensor: ghost values that follow the boundary kind and the centring.

A convolution, a restriction and a prolongation meet the same wall, so all of them pad by the same rule.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vcycle.boundary import Boundary
from vcycle.grid import Centring

Rule = Literal["odd", "even", "mirror", "wrap", "zero"]
"""``odd`` and ``even`` reflect at the face, ``mirror`` at the outermost vertex, ``wrap`` closes the axis."""

_RULES: dict[tuple[str, Centring], Rule] = {
    ("dirichlet", "cell"): "odd",
    ("neumann", "cell"): "even",
    ("robin", "cell"): "even",
    ("absorbing", "cell"): "even",
    ("periodic", "cell"): "wrap",
    ("dirichlet", "vertex"): "zero",
    ("neumann", "vertex"): "mirror",
    ("robin", "vertex"): "mirror",
    ("absorbing", "vertex"): "mirror",
    ("periodic", "vertex"): "wrap",
}


@dataclass(frozen=True)
class Padding:
    """Ghost values for tensors ``(batch, channel, *space)``: one ``(low, high)`` pair of rules per axis."""

    rules: tuple[tuple[Rule, Rule], ...]

    @classmethod
    def of(cls, boundary: Boundary, centring: Centring) -> "Padding":
        """Return the padding of an unknown with these boundary kinds on cells or vertices.

        Dirichlet: odd reflection on cells, zero on vertices. Neumann: even reflection on cells, mirrored at the
        outermost vertex. Robin and absorbing faces are padded like Neumann ones.
        """
        return cls(tuple((_RULES[low, centring], _RULES[high, centring]) for low, high in boundary.kinds))

    @classmethod
    def zeros(cls, num_axes: int) -> "Padding":
        """Return zero padding on every face, as the reference MgNO uses it."""
        return cls((("zero", "zero"),) * num_axes)

    @property
    def num_axes(self) -> int:
        """Number of space dimensions."""
        return len(self.rules)

    @property
    def is_zero(self) -> bool:
        """Whether a convolution's own zero padding does the same."""
        return all(rule == "zero" for pair in self.rules for rule in pair)

    def pad(self, u: Tensor, width: int) -> Tensor:
        """Return ``u`` with ``width`` ghost values on both sides of every axis."""
        if self.is_zero:
            return F.pad(u, (width, width) * self.num_axes)
        for axis, (low, high) in enumerate(self.rules):
            dim = axis + 2
            below = _ghosts(u, dim, width, low)
            above = _ghosts(u.flip(dim), dim, width, high).flip(dim) if width > 1 else _ghost(u, dim, high, last=True)
            u = torch.cat([below, u, above], dim)
        return u


def _ghosts(u: Tensor, dim: int, width: int, rule: Rule) -> Tensor:
    """Return the ghost values below index 0, in increasing index order; ``u`` is flipped to get those above."""
    if width == 1:
        return _ghost(u, dim, rule, last=False)
    size = u.shape[dim]
    if rule == "wrap":
        return u.narrow(dim, size - width, width)
    if rule == "zero":
        return torch.zeros_like(u.narrow(dim, 0, width))
    near = u.narrow(dim, 1 if rule == "mirror" else 0, width).flip(dim)
    return -near if rule == "odd" else near


def _ghost(u: Tensor, dim: int, rule: Rule, *, last: bool) -> Tensor:
    """Return the one ghost value next to the first or the last index; avoids the copies that a flip makes."""
    size = u.shape[dim]
    edge, opposite, inner = (size - 1, 0, size - 2) if last else (0, size - 1, 1)
    if rule == "wrap":
        return u.narrow(dim, opposite, 1)
    if rule == "mirror":
        return u.narrow(dim, inner, 1)
    outermost = u.narrow(dim, edge, 1)
    if rule == "even":
        return outermost
    return -outermost if rule == "odd" else torch.zeros_like(outermost)
