"""Spectral convolutions whose multiplier is a tensor of low rank."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.spectral import convolve
from vcycle.layers.transforms import signed

Factorisation = Literal["tucker", "cp", "tensor-train"]
FACTORISATIONS = ("tucker", "cp", "tensor-train")


class FactorisedSpectralConv(nn.Module):
    """A spectral convolution with a factorised multiplier ``(in, out, *modes, 2)``.

    ``"tucker"``: a core times one matrix per index; the index of real and imaginary part stays whole.
    ``"cp"``: a sum of ``rank`` outer products. ``"tensor-train"``: a chain of three-way cores, one per index.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    modes
        As in :class:`~vcycle.layers.spectral.SpectralConv`.
    factorisation
        Which format.
    rank
        Wanted share of the dense number of weights, in (0, 1], or the ranks themselves: one per index but the last for
        Tucker, one number for CP, one per inner link for tensor-train.

    Raises
    ------
    ValueError
        If the format is unknown or the ranks do not fit it.

    References
    ----------
    Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs", TMLR 2024.
    arXiv:2310.00120.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: Sequence[int],
        *,
        factorisation: Factorisation = "tucker",
        rank: float | Sequence[int] = 0.1,
    ) -> None:
        super().__init__()
        self.factorisation = _check.choice("factorisation", factorisation, FACTORISATIONS)
        self.frequencies = signed(modes)
        self.dense_shape = (in_channels, out_channels, *(len(f) for f in self.frequencies), 2)
        ranks = read_ranks(self.factorisation, self.dense_shape, rank)
        shapes = factor_shapes(self.factorisation, self.dense_shape, ranks)
        # Entries of the product get the variance of a dense layer's: every index summed over adds up `rank` terms.
        terms = {"tucker": ranks, "cp": ranks[:1], "tensor-train": ranks}[self.factorisation]
        variance = 1.0 / (in_channels + out_channels) / math.prod(terms)
        scale = variance ** (0.5 / len(shapes))
        self.factors = nn.ParameterList(scale * torch.randn(*shape) for shape in shapes)

    def multiplier(self) -> Tensor:
        """Return the multiplier as a dense tensor ``(in, out, *modes, 2)``."""
        if self.factorisation == "tucker":
            core, *matrices = self.factors
            for index, matrix in enumerate(matrices):  # (size, rank)
                core = (core.movedim(index, -1) @ matrix.T).movedim(-1, index)
            return core
        if self.factorisation == "cp":
            *heads, pair = self.factors  # (size, rank) each
            product = heads[0]
            for matrix in heads[1:]:
                product = product.unsqueeze(-2) * matrix
            return product @ pair.T
        train = self.factors[0]
        for core in self.factors[1:]:  # (rank, size, rank)
            train = _link(train, core)
        return train.squeeze(-1).squeeze(0)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        return convolve(v, self.multiplier(), self.frequencies)


def _link(train: Tensor, core: Tensor) -> Tensor:
    rank, size, following = core.shape
    return (train @ core.reshape(rank, size * following)).unflatten(-1, (size, following))


def factor_shapes(factorisation: str, shape: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the factors, see :class:`FactorisedSpectralConv`."""
    if factorisation == "tucker":
        return [(*ranks, shape[-1]), *zip(shape[:-1], ranks, strict=True)]
    if factorisation == "cp":
        return [(size, ranks[0]) for size in shape]
    links = (1, *ranks, 1)
    return [(links[i], size, links[i + 1]) for i, size in enumerate(shape)]


def read_ranks(factorisation: str, shape: Sequence[int], rank: float | Sequence[int]) -> tuple[int, ...]:
    """Return the ranks: those given, or the largest common choice with at most a share ``rank`` of the dense weights.

    Raises
    ------
    ValueError
        If the share is not in (0, 1], or the number of ranks does not fit.
    """
    wanted = {"tucker": len(shape) - 1, "cp": 1, "tensor-train": len(shape) - 1}[factorisation]
    if isinstance(rank, Sequence):
        if len(rank) != wanted:
            raise ValueError(f"`rank` must have {wanted} numbers for {factorisation!r}. Got {rank!r}.")
        return tuple(_check.integer("rank", r, 1) for r in rank)
    if rank != 1:
        _check.share("rank", rank)
    budget = rank * math.prod(shape)

    def ranks_at(scale: float) -> tuple[int, ...]:
        if factorisation == "tucker":  # every index keeps the same share of its size
            return tuple(max(1, min(size, round(scale * size))) for size in shape[:-1])
        if factorisation == "cp":
            return (max(1, round(scale * math.prod(shape))),)
        left = [math.prod(shape[: i + 1]) for i in range(wanted)]
        right = [math.prod(shape[i + 1 :]) for i in range(wanted)]
        largest = [min(pair) for pair in zip(left, right, strict=True)]
        return tuple(max(1, min(most, round(scale * max(shape)))) for most in largest)

    def count(scale: float) -> int:
        return sum(math.prod(s) for s in factor_shapes(factorisation, shape, ranks_at(scale)))

    low, high = 0.0, float(max(shape)) * math.prod(shape)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return ranks_at(low)
