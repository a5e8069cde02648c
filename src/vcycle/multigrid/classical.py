"""Classical geometric multigrid as levels of the one cycle: the plain form, in torch, for any batch and dimension.

The compiled solver in :mod:`vcycle.solvers` computes the same cycle; this one is read, tested against it, and
differentiated.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from vcycle.multigrid.coarsest import DenseLevel, SparseLevel
from vcycle.multigrid.cycle import CycleKind, Level, cycle
from vcycle.multigrid.fluxes import FaceFluxes
from vcycle.multigrid.padding import Padding
from vcycle.multigrid.transfers import apply_stencil, linear_weight, prolong

SPECTRAL_BOUND = 2.0
"""Gershgorin: the spectrum of ``D^-1 A`` of an M-matrix with zero row sums or less lies in [0, 2]."""
MAX_DENSE = 400
"""Most cells of a coarsest level that is inverted densely; more, where a grid does not halve, take sparse LU."""


def chebyshev_weights(degree: int, spectral_bound: float = SPECTRAL_BOUND) -> tuple[float, ...]:
    """Return the steps of the Jacobi iterations whose product is the fourth-kind Chebyshev smoother.

    The error polynomial of degree k is ``W_k(1 - 2 x / rho) / (2 k + 1)`` with the Chebyshev polynomial of the fourth
    kind (Lottes, "Optimal polynomial smoothers for multigrid V-cycles", 2023, section 3). Its roots are
    ``rho (1 - cos(theta_j)) / 2`` with ``theta_j = j pi / (k + 1/2)``; the steps are their inverses.

    Parameters
    ----------
    degree
        Number of products with ``A``, at least 1.
    spectral_bound
        ``rho``, an upper bound of the spectrum of ``D^-1 A`` (dimensionless).
    """
    angles = [j * math.pi / (degree + 0.5) for j in range(1, degree + 1)]
    return tuple(2.0 / (spectral_bound * (1.0 - math.cos(theta))) for theta in angles)


class ClassicalLevel:
    """A level with Chebyshev-Jacobi smoothing, linear interpolation and its transpose, on cells.

    Functions have the shape ``(batch, *space)``.

    Parameters
    ----------
    operator
        The matrices of this level.
    degree
        Degree of the smoother, the same before and after, so that the V-cycle is symmetric.
    diagonal
        What the smoother divides by, broadcastable to ``(batch, *space)``; ``None`` is the diagonal of the matrices.
    """

    def __init__(self, operator: FaceFluxes, *, degree: int = 3, diagonal: Tensor | None = None) -> None:
        self.operator = operator
        self.padding = Padding.of(operator.boundary, "cell")
        diagonal = operator.diagonal() if diagonal is None else diagonal
        self.steps = [weight / diagonal for weight in chebyshev_weights(degree)]

    def smooth(self, f: Tensor, u: Tensor | None, *, post: bool = False) -> Tensor:
        """Run the Jacobi steps of the Chebyshev polynomial."""
        for step in self.steps:
            u = step * f if u is None else u + step * (f - self.operator.apply(u))
        return u  # type: ignore[return-value]

    def restrict(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the restricted residual, the transpose of interpolation, and a zero start."""
        residual = f - self.operator.apply(u)
        weight = linear_weight(self.padding.num_axes).to(residual)
        return apply_stencil(residual.unsqueeze(1), weight, self.padding, stride=2).squeeze(1), None

    def correct(self, u: Tensor, u_coarse: Tensor) -> Tensor:
        """Add the linearly interpolated coarse correction."""
        weight = linear_weight(self.padding.num_axes).to(u)
        return u + prolong(u_coarse.unsqueeze(1), weight, self.padding, u.shape[1:]).squeeze(1)


def hierarchy(operator: FaceFluxes, *, degree: int = 3) -> list[Level]:
    """Return the levels from ``operator`` down to the coarsest grid that halving reaches, which is solved exactly.

    Parameters
    ----------
    operator
        Symmetric positive (semi-)definite matrices on a cell grid.
    degree
        Degree of the Chebyshev smoother.
    """
    levels: list[Level] = []
    while operator.grid.can_coarsen:
        levels.append(ClassicalLevel(operator, degree=degree))
        operator = operator.coarsened()
    coarsest = DenseLevel if operator.grid.num_points <= MAX_DENSE else SparseLevel
    return [*levels, coarsest(operator)]


def v_cycle(levels: Sequence[Level], f: Tensor, u: Tensor | None = None, kind: CycleKind = "V") -> Tensor:
    """Apply the symmetric cycle ``B`` to ``f`` (from zero), or improve ``u``; shape ``(batch, *space)``."""
    return cycle(levels, f, u, kind)
