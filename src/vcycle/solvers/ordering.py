"""The order in which a sequence is solved: neighbours in parameter space have neighbouring recycled spaces."""

import torch
from torch import Tensor

GROUP = 4096
"""Systems sorted together; longer sequences are cut into groups, as the cost grows with the square."""


def nearest_neighbour_order(features: Tensor) -> Tensor:
    """Return the greedy order: from system 0 on, always the nearest one left.

    Parameters
    ----------
    features
        One row per system, shape ``(num, p)``, finite; distances are Euclidean, the unit is the caller's affair.

    Returns
    -------
    Tensor
        A permutation of ``range(num)``, int64. Of equally near systems, up to rounding, the one given first is taken.
        Sequences longer than 4096 are cut into groups of that length, each sorted from its first system on.

    Raises
    ------
    ValueError
        If ``features`` does not have two axes, or is not finite.

    References
    ----------
    Wang et al., Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling, ICLR 2024,
    Algorithm 1.
    """
    if features.dim() != 2:
        raise ValueError(f"`features` must have shape (num, p). Got {tuple(features.shape)}.")
    if not torch.isfinite(features).all():
        raise ValueError("`features` must be finite. Got NaN or infinity.")
    starts = range(0, len(features), GROUP)
    groups = [_greedy(features[start : start + GROUP]) + start for start in starts]
    return torch.cat(groups) if groups else torch.zeros(0, dtype=torch.int64)


def _greedy(features: Tensor) -> Tensor:
    points = features.detach().to(torch.float64)
    points = points - points.mean(0)  # so that squares of distances do not cancel
    squares = (points * points).sum(1)
    distances = squares[:, None] + squares[None, :] - 2.0 * points @ points.T
    order = torch.zeros(len(points), dtype=torch.int64)
    here = 0
    for position in range(1, len(points)):
        distances[:, here] = torch.inf  # visited
        here = int(distances[here].argmin())
        order[position] = here
    return order
