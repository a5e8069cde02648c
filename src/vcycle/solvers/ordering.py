"""The order in which a sequence is solved: neighbours in parameter space have neighbouring recycled spaces."""

import torch
from torch import Tensor

from vcycle import _check

EXACT = 10_000
"""Systems up to which :func:`nearest_neighbour_order` searches among all that are left; 0.8 GB of distances."""
GROUP = 2048
"""Most systems of one group of a longer sequence."""
GROUPED = 100_000
"""Systems up to which :func:`order_of` takes :func:`nearest_neighbour_order`; beyond, a space-filling curve."""
CELL = 512
"""Consecutive systems on the curve that :func:`order_of` sorts greedily."""
CURVE_BITS = 62
"""Bits of a curve position, shared by the axes."""
MAX_AXES = 8
"""Principal axes that a space-filling curve takes at most: the rest has too few bits to matter."""
CHUNK = 2**22
"""Values of fields that are transformed together."""


def order_of(features: Tensor) -> Tensor:
    """Return a good order for the number of systems: greedy, grouped greedy, or greedy along a space-filling curve.

    Parameters
    ----------
    features
        One row per system, shape ``(num, p)``, finite; distances are Euclidean. For many systems reduce fields by
        :func:`fourier_features` first.

    Returns
    -------
    Tensor
        A permutation of ``range(num)``, int64. Up to 100 000 systems that of :func:`nearest_neighbour_order`; beyond,
        :func:`space_filling_order` with every 512 consecutive systems sorted greedily.

    Raises
    ------
    ValueError
        If ``features`` does not have two axes, or is not finite.
    """
    if len(_checked(features)) <= GROUPED:
        return nearest_neighbour_order(features)
    curve = space_filling_order(features)
    parts, here = [], None
    for cell in curve.split(CELL):
        points = features[cell].to(torch.float64)
        first = 0 if here is None else int((points - here).square().sum(1).argmin())
        order = cell[_greedy(points, first)]
        here = features[order[-1]].to(torch.float64)
        parts.append(order)
    return torch.cat(parts)


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
        More than 10 000 systems are cut into groups of neighbours by recursive bisection at the median of the feature
        with the largest spread; each group is sorted greedily, from its system nearest to where the last one ended,
        and the next group is that of the nearest system left.

    Raises
    ------
    ValueError
        If ``features`` does not have two axes, or is not finite.

    References
    ----------
    Wang et al., Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling, ICLR 2024,
    Algorithm 1.
    """
    if len(_checked(features)) <= EXACT:
        return _greedy(features.detach().to(torch.float64), 0)
    points = features.detach().to(torch.float64)
    groups = _bisected(points)
    label = torch.empty(len(points), dtype=torch.int64)
    for number, group in enumerate(groups):
        label[group] = number
    left, parts, here = torch.arange(len(points)), [], 0
    while len(left):
        group = groups[int(label[here])]
        order = group[_greedy(points[group], int(torch.nonzero(group == here)[0]))]
        parts.append(order)
        left = left[label[left] != label[here]]
        if len(left):
            here = int(left[(points[left] - points[order[-1]]).square().sum(1).argmin()])
    return torch.cat(parts)


def _checked(features: Tensor) -> Tensor:
    if features.dim() != 2:
        raise ValueError(f"`features` must have shape (num, p). Got {tuple(features.shape)}.")
    if not torch.isfinite(features).all():
        raise ValueError("`features` must be finite. Got NaN or infinity.")
    return features


def _bisected(points: Tensor) -> list[Tensor]:
    """Return groups of at most GROUP neighbours, each cut in half along its widest feature."""
    groups, done = [torch.arange(len(points))], []
    while groups:
        group = groups.pop()
        if len(group) <= GROUP:
            done.append(group)
            continue
        here = points[group]
        widest = int((here.amax(0) - here.amin(0)).argmax())
        order = here[:, widest].argsort(stable=True)
        half = len(group) // 2
        groups += [group[order[half:]], group[order[:half]]]
    return done


def _greedy(points: Tensor, first: int) -> Tensor:
    """Return the greedy order of float64 points from one of them on."""
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64)
    points = points.detach() - points.mean(0)  # so that squares of distances do not cancel
    squares = (points * points).sum(1)
    distances = (squares[:, None] + squares[None, :]).addmm_(points, points.T, alpha=-2.0).numpy()
    visited = torch.zeros(len(points), dtype=torch.float64).numpy()
    order = torch.zeros(len(points), dtype=torch.int64)
    here = first
    order[0] = here
    for position in range(1, len(points)):
        visited[here] = torch.inf
        here = int((distances[here] + visited).argmin())
        order[position] = here
    return order


def space_filling_order(features: Tensor) -> Tensor:
    """Return the order along a Hilbert curve through the features' leading principal axes.

    Parameters
    ----------
    features
        One row per system, shape ``(num, p)``, finite.

    Returns
    -------
    Tensor
        A permutation of ``range(num)``, int64. All axes have the same scale, so that an axis of small spread gets few
        bits. Time and memory grow like the number of systems.

    Raises
    ------
    ValueError
        If ``features`` does not have two axes, or is not finite.

    References
    ----------
    Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707 (2004) 381. doi:10.1063/1.1751381
    """
    from vcycle.solvers import _hilbert

    num, _ = _checked(features).shape
    if num < 2:
        return torch.arange(num)
    axes = _principal(features.detach().to(torch.float64), MAX_AXES)
    axes = axes - axes.amin(0)
    bits = CURVE_BITS // max(1, axes.shape[1])
    scale = (2.0**bits - 1.0) / max(float(axes.max()), torch.finfo(torch.float64).tiny)
    integers = (axes * scale).to(torch.int64).clamp_(0, 2**bits - 1).contiguous()
    positions = torch.from_numpy(_hilbert.positions(integers.numpy(), bits))
    return positions.argsort(stable=True)


def _principal(points: Tensor, size: int) -> Tensor:
    """Return the coordinates along the axes of largest variance, shape ``(num, at most size)``."""
    points = points - points.mean(0)
    if points.shape[1] > len(points):
        left, values, _ = torch.linalg.svd(points, full_matrices=False)
        return (left * values)[:, :size]
    axes = torch.linalg.eigh(points.T @ points).eigenvectors.flip(1)[:, :size]
    return points @ axes


def fourier_features(fields: Tensor, modes: int, *, size: int | None = None) -> Tensor:
    """Return the low-frequency Fourier coefficients of real fields, whose distances are those of the smoothed fields.

    Parameters
    ----------
    fields
        One field per system, shape ``(num, *space)``, real.
    modes
        Frequencies below this are kept on every axis, of both signs: ``2 modes - 1`` in all.
    size
        Reduce to so many principal components; default none.

    Returns
    -------
    Tensor
        Shape ``(num, p)``, float64. Real and imaginary parts, scaled so that with all frequencies the Euclidean
        distance of two rows is that of the two fields.

    Raises
    ------
    ValueError
        If ``fields`` has no axis in space, ``modes`` is not positive, or more than half the points of an axis and one.
    """
    _check.integer("modes", modes, 1)
    if fields.dim() < 2:
        raise ValueError(f"`fields` must have shape (num, *space). Got {tuple(fields.shape)}.")
    if modes > min(fields.shape[1:]) // 2 + 1:
        raise ValueError(
            f"`modes` must be at most {min(fields.shape[1:]) // 2 + 1} for fields of shape {tuple(fields.shape[1:])}. "
            f"Got {modes}."
        )
    rows = max(1, CHUNK // max(1, fields[0].numel())) if len(fields) else 1
    features = torch.cat([_low_modes(chunk.detach().to(torch.float64), modes) for chunk in fields.split(rows)])
    return features if size is None else _principal(features, size)


def _low_modes(fields: Tensor, modes: int) -> Tensor:
    dims = tuple(range(1, fields.dim()))
    spectrum = torch.fft.rfftn(fields, dim=dims, norm="ortho")
    last = fields.shape[-1]
    kept = torch.arange(modes)
    weight = torch.full((modes,), 2.0**0.5, dtype=torch.float64)  # each stands for its mirror image, too
    weight[(kept == 0) | (2 * kept == last)] = 1.0
    for dim in dims[:-1]:
        frequencies = torch.fft.fftfreq(fields.shape[dim], 1.0 / fields.shape[dim]).abs().round()
        spectrum = spectrum.index_select(dim, torch.nonzero(frequencies < modes).flatten())
    spectrum = spectrum[..., :modes] * weight
    return torch.view_as_real(spectrum.resolve_conj()).flatten(1)
