"""Weights of ``neuralop.models.FNO`` and ``TFNO`` (github.com/neuraloperator/neuraloperator, 2.0) in our names."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

LINEAR_PART = 16.0
"""Where gelu(x) = x to all digits of a single, for values that are this far from zero and positive."""


def convert_fno_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Translate a ``state_dict`` of neuraloperator's FNO without channel networks for :class:`~vcycle.models.FNO`.

    The reference is ``FNO(n_modes=(2 k, .., 2 k, 2 k - 2), lifting_channel_ratio=0, use_channel_mlp=False,
    projection_channel_ratio=128 / width)``; ours is ``FNO(modes=k, boundary="periodic", centring="vertex")``.

    Parameters
    ----------
    state
        The reference network's weights.

    Returns
    -------
    dict
        Weights for ``FNO.load_state_dict``.

    Raises
    ------
    ValueError
        If a weight is missing.

    Notes
    -----
    What does not carry over. Without channel networks the reference applies its activation twice in a row, which is not
    the published FNO: put the identity in the place of the second one. On odd grids of two or more axes its two shifts
    of the spectrum are not each other's inverse, so that it multiplies other modes than it means to. Where the grid is
    so coarse that the highest negative frequency is not resolved, it keeps it and we do not.
    """
    converted = _pointwise_chain(state, "lifting", ["P"]) | _pointwise_chain(state, "projection", ["Q.0", "Q.2"])
    for layer in range(_depth(state)):
        block = f"fno_blocks.convs.{layer}"
        converted[f"K.{layer}.weight"] = _real_pairs(_get(state, f"{block}.weight.tensor"))
        converted |= _skip(state, layer)
    return converted


def convert_tfno_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Translate a ``state_dict`` of neuraloperator's TFNO (Tucker) for :class:`~vcycle.models.TFNO`.

    Ours is ``TFNO(modes=k, rank=ranks, padding=0.0, boundary="periodic", centring="vertex")`` with twice the
    reference's :func:`tucker_ranks`: a complex factor is a real one with twice the columns.

    Parameters
    ----------
    state
        The reference network's weights.

    Returns
    -------
    dict
        Weights for ``TFNO.load_state_dict``.

    Raises
    ------
    ValueError
        If a weight is missing.

    Notes
    -----
    The reference leaves out the activation before the channel network of the last block. The last skip's bias therefore
    gets :data:`LINEAR_PART` added, where the activation is the identity, and the channel network's bias takes it away:
    exact as long as hidden values stay above minus ten. Odd and coarse grids: see :func:`convert_fno_weights`.
    """
    converted = _pointwise_chain(state, "lifting", ["P.0", "P.2"])
    converted |= _pointwise_chain(state, "projection", ["Q.0", "Q.2"])
    depth = _depth(state)
    for layer in range(depth):
        core = _get(state, f"fno_blocks.convs.{layer}.weight.core")
        matrices = [_get(state, f"fno_blocks.convs.{layer}.weight.factors.factor_{i}") for i in range(core.ndim)]
        factors = [_real_core(core, matrices), *(torch.cat([m.real, m.imag], 1) for m in matrices)]
        # Negative frequencies come first there, last here.
        for index in range(3, core.ndim):
            factors[index] = _unshifted(factors[index], 0)
        converted |= {f"K.{layer}.factors.{i}": factor for i, factor in enumerate(factors)}
        converted |= _skip(state, layer)
        converted |= _pointwise_chain(state, f"fno_blocks.channel_mlp.{layer}", [f"M.{layer}.0", f"M.{layer}.2"])
        converted[f"gates.{layer}.scale"] = _get(state, f"fno_blocks.channel_mlp_skips.{layer}.weight")[0]
    last = depth - 1
    first = converted[f"M.{last}.0.weight"].flatten(1)
    converted[f"W.{last}.bias"] = converted[f"W.{last}.bias"] + LINEAR_PART
    converted[f"M.{last}.0.bias"] = converted[f"M.{last}.0.bias"] - LINEAR_PART * first.sum(1)
    return converted


def tucker_ranks(state: Mapping[str, Any]) -> list[int]:
    """Return the ranks of the first block's complex Tucker tensor: in, out, and one per axis."""
    return list(_get(state, "fno_blocks.convs.0.weight.core").shape)


def _get(state: Mapping[str, Any], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"`state` must hold the weights of neuraloperator's network. It has no {name!r}.")
    return state[name]


def _depth(state: Mapping[str, Any]) -> int:
    return len({name.split(".")[2] for name in state if name.startswith("fno_blocks.convs.")})


def _axes(state: Mapping[str, Any]) -> int:
    return _get(state, "fno_blocks.convs.0.bias").ndim - 1


def _pointwise_chain(state: Mapping[str, Any], theirs: str, ours: list[str]) -> dict[str, Tensor]:
    """Return the pointwise maps of one network: there they act on flattened points."""
    trailing = (1,) * _axes(state)
    found = {}
    for index, name in enumerate(ours):
        found[f"{name}.weight"] = _get(state, f"{theirs}.fcs.{index}.weight")[..., 0].unflatten(1, (-1, *trailing))
        found[f"{name}.bias"] = _get(state, f"{theirs}.fcs.{index}.bias")
    return found


def _skip(state: Mapping[str, Any], layer: int) -> dict[str, Tensor]:
    """Return the pointwise map beside the convolution; there the bias belongs to the latter."""
    weight = _get(state, f"fno_blocks.fno_skips.{layer}.conv.weight")[..., 0]
    return {
        f"W.{layer}.weight": weight.unflatten(1, (-1, *(1,) * _axes(state))),
        f"W.{layer}.bias": _get(state, f"fno_blocks.convs.{layer}.bias").flatten(),
    }


def _unshifted(weight: Tensor, axis: int) -> Tensor:
    return torch.roll(weight, -(weight.shape[axis] // 2), axis)


def _real_pairs(weight: Tensor) -> Tensor:
    """Return ``(in, out, *modes)``, complex, with negative frequencies last, as real pairs."""
    for axis in range(2, weight.ndim - 1):
        weight = _unshifted(weight, axis)
    return torch.view_as_real(weight.resolve_conj())


def _real_core(core: Tensor, matrices: list[Tensor]) -> Tensor:
    """Return the core that belongs to factors ``[real, imaginary]``: every choice of parts has its power of i."""
    ranks = core.shape
    big = torch.empty(*(2 * r for r in ranks), 2, dtype=core.real.dtype)
    for choice in product((0, 1), repeat=len(matrices)):
        block = torch.view_as_real((core * 1j ** sum(choice)).resolve_conj())
        big[tuple(slice(r * part, r * (part + 1)) for r, part in zip(ranks, choice, strict=True))] = block
    return big
