"""Dirichlet walls as a hard constraint: the nearest function that vanishes on them."""

from torch import Tensor, cat

from vcycle.boundary import Boundary
from vcycle.grid import Centring


def vanish_on_walls(u: Tensor, boundary: Boundary, centring: Centring) -> Tensor:
    """Return the function nearest to ``u`` (in the 2-norm) that vanishes on every Dirichlet face.

    On vertices the outermost values become zero. On cells the trace on a face is the linear continuation of the two
    outermost values, ``t = 3/2 u_0 - 1/2 u_1``; it is taken out of these two in the ratio of its weights,
    ``u_0 - 3/5 t`` and ``u_1 + 1/5 t``. Axes follow each other: what is done along one keeps the traces of the others.

    Parameters
    ----------
    u
        ``(batch, channel, *space)``.
    boundary
        Kinds of the faces; those that are not Dirichlet are left alone.
    centring
        ``"cell"`` or ``"vertex"``.

    Returns
    -------
    Tensor
        Shaped like ``u``.

    Raises
    ------
    ValueError
        If an axis with Dirichlet cells has fewer than 2 points for each such face.
    """
    width = 2 if centring == "cell" else 1
    for axis, kinds in enumerate(boundary.kinds):
        dim, size = axis + 2, u.shape[axis + 2]
        walls = [kind == "dirichlet" for kind in kinds]
        if size < width * sum(walls):
            raise ValueError(f"`u` must have {width} points per Dirichlet face on axis {axis}. Got {size}.")
        low, high = (width if wall else 0 for wall in walls)
        parts = [u.narrow(dim, low, size - low - high)]
        if low:
            parts = _vanishing(u.narrow(dim, 0, 1), u.narrow(dim, width - 1, 1), centring) + parts
        if high:
            parts += _vanishing(u.narrow(dim, size - 1, 1), u.narrow(dim, size - width, 1), centring)[::-1]
        u = cat(parts, dim) if low or high else u
    return u


def _vanishing(edge: Tensor, inner: Tensor, centring: Centring) -> list[Tensor]:
    """Return the corrected values from the face on."""
    if centring == "vertex":
        return [edge * 0.0]
    trace = 1.5 * edge - 0.5 * inner
    return [edge - 0.6 * trace, inner + 0.2 * trace]
