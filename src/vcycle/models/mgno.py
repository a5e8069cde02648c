"""MgNO, the multigrid neural operator (He, Liu, Xu, ICLR 2024, arXiv:2310.19809)."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from vcycle import _check
from vcycle.layers.conditioning import Conditioning
from vcycle.layers.convolution import pointwise
from vcycle.layers.coordinates import append_smooth_coordinates, count_smooth_coordinates
from vcycle.layers.spacing import at_spacing, halvings, predicted_at_spacing
from vcycle.layers.walls import vanish_on_walls
from vcycle.models.base import GridModel, Where, conditioned
from vcycle.models.initial import scale_weights
from vcycle.multigrid.cycle import CYCLE_KINDS, CycleKind
from vcycle.multigrid.layer import MultigridLayer, Transfers
from vcycle.multigrid.padding import Padding

TransferKind = Literal["published", "centred"]
TRANSFERS = {
    "published": {"cell": Transfers(3, 4), "vertex": Transfers(3, 4)},
    "centred": {"cell": Transfers(4, 4), "vertex": Transfers(3, 3)},
}
Init = Literal["scaled", "published"]
INITS = ("scaled", "published")
Resampling = Literal["layers", "network"]
RESAMPLINGS = ("layers", "network")


class MgNO(GridModel):
    """A fully connected network between function spaces whose weights are multigrid cycles.

    ``u_l = gelu(W_Mg u_{l-1} + B u_{l-1} + b)`` for l = 1 .. depth, then a linear combination of the last layer's
    channels. ``W_Mg`` is :class:`~vcycle.multigrid.layer.MultigridLayer`, ``B`` a 1x1 convolution. There is no lifting
    and no projection: the first layer takes the input's channels.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    width
        Channels of the hidden functions: one number, or one per level of the cycles, from the finest.
    depth
        Number of layers.
    levels
        Number of grids in each cycle. Each halves the size, so any size from ``2^(levels - 1)`` on works.
    cycle
        ``"backslash"`` (as published for Darcy), ``"V"``, ``"W"`` or ``"F"``.
    smoothing
        Per level the steps before and after the coarse correction. The default is one step each way and two on the
        coarsest level; a backslash cycle has none on the way up.
    residual_restriction
        Restrict the residual and start coarse levels from zero, as the paper's algorithm is written; the published
        results restrict ``f`` and ``u``.
    transfers
        Kernels between levels. ``"published"``: restrictions 3 wide, prolongations 4 wide. ``"centred"``: as wide as
        the geometry asks for, 4 on cells and 3 on vertices. ``None`` is ``"centred"`` on vertices, else
        ``"published"``.
    hard_boundary
        Make the output vanish on every Dirichlet face, to rounding, whatever the weights:
        :func:`vcycle.layers.walls.vanish_on_walls`. Train with an output normaliser that keeps zero, such as
        ``"scale"``.
    residual
        Add the first ``out_channels`` input channels to the output, for steps of an evolution.
    zero_mean
        Take the mean over all points out of the output, before ``residual`` adds to it: for solutions that are fixed up
        to a constant and have zero mean, and for steps that keep the mean.
    input_bias
        Let the hidden layers' biases be functions, as in the paper's theory, in place of numbers: linear combinations
        of the input's channels are added before gelu.
    coordinates
        Append where a point lies to the input, around a periodic axis by its sine and cosine. Between walls the ghost
        values tell; a periodic model without coordinates answers an input shifted by ``2^(levels - 1)`` points with the
        shifted answer, which is wrong where forces have their places.
    native_shape
        Size of the grid that the stencils belong to, that of the training data. On grids of the same box that are 2, 4,
        ... times finer or coarser the network then works as ``resampling`` says. ``None`` applies the stencils to any
        grid as they are.
    resampling
        What works at the native spacing on another grid. ``"layers"``: every cycle, between classical transfers, while
        ``B`` and gelu act on the grid itself. ``"network"``: the network as a whole, on all samplings of a finer input,
        whose answers are averaged and interpolated by cubics
        (:func:`vcycle.layers.spacing.predicted_at_spacing`): more accurate, since nothing in it differs from training.
    init
        First weights. ``"published"`` is PyTorch's default, as in the reference code, under which functions shrink with
        every layer; ``"scaled"`` keeps their size through any depth (:func:`vcycle.models.initial.scale_weights`).
    checkpoint
        Keep only the input of every layer but the last for the way back, and compute the rest again: less memory, more
        time.
    **where
        See :class:`~vcycle.models.base.Where`. Boundary and centring decide how a wall reflects; ``boundary="zeros"``
        is the zero padding of the reference code.

    Raises
    ------
    ValueError
        If a count is not positive, a kind is unknown, or options contradict each other.

    Notes
    -----
    Differs from the reference code in: ghost values follow the boundary kind, the centring and the level's distance
    from the wall, in prolongations too (its periodic model is not periodic); any size; any number of output channels.

    References
    ----------
    He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid", ICLR 2024. arXiv:2310.19809.
    """

    name = "mgno"
    resolution_free = False

    def __init__(  # noqa: PLR0913  # every option of the paper's architecture and of its geometry, all with defaults
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int | Sequence[int] = 24,
        depth: int = 4,
        levels: int = 5,
        cycle: CycleKind = "backslash",
        smoothing: Sequence[Sequence[int]] | None = None,
        residual_restriction: bool = False,
        transfers: TransferKind | None = None,
        hard_boundary: bool = False,
        residual: bool = False,
        zero_mean: bool = False,
        input_bias: bool = False,
        coordinates: bool = False,
        native_shape: Sequence[int] | None = None,
        resampling: Resampling = "layers",
        init: Init = "published",
        checkpoint: bool = False,
        **where: Unpack[Where],
    ) -> None:
        _check.integer("levels", levels, 1)
        widths, steps = _read_width(width, levels), _read_smoothing(smoothing, levels, cycle)
        native = _read_native(native_shape, self.axes_in(where))
        zeros = where.get("boundary") == "zeros"
        if transfers is None:
            transfers = "centred" if where.get("centring") == "vertex" and not zeros else "published"
        super().__init__(
            in_channels,
            out_channels,
            where | {"boundary": "dirichlet"} if zeros else where,
            sites=0,
            width=widths[0],
            depth=depth,
            levels=levels,
            cycle=_check.choice("cycle", cycle, CYCLE_KINDS),
            smoothing=[list(pair) for pair in steps],
            residual_restriction=residual_restriction,
            transfers=_check.choice("transfers", transfers, TRANSFERS),
            hard_boundary=hard_boundary,
            residual=residual,
            zero_mean=zero_mean,
            input_bias=input_bias,
            coordinates=coordinates,
            native_shape=None if native is None else list(native),
            resampling=_check.choice("resampling", resampling, RESAMPLINGS),
            init=_check.choice("init", init, INITS),
            checkpoint=checkpoint,
        )
        # Other models have neither a width per level nor zeros beyond the walls, which are no boundary.
        self._config |= {"width": list(widths)} if len(set(widths)) > 1 else {}
        self._config |= {"boundary": "zeros"} if zeros else {}
        kinds, num_axes = self.kinds, self.num_axes
        if residual and in_channels < out_channels:
            raise ValueError(f"`in_channels` must be at least {out_channels} with `residual`. Got {in_channels}.")
        if hard_boundary and (zeros or not any("dirichlet" in pair for pair in kinds.kinds)):
            got = "zeros" if zeros else kinds.to_list()
            raise ValueError(f"`boundary` must name a Dirichlet face with `hard_boundary`. Got {got!r}.")
        self.levels, self.native_shape, self.resampling = levels, native, resampling
        self.smallest = 2 if native else self.size_step
        self.hard_boundary, self.zero_mean = hard_boundary, zero_mean
        self.residual, self.coordinates, self.checkpoint = residual, coordinates, checkpoint
        known = in_channels + (count_smooth_coordinates(self.periodic) if coordinates else 0)
        self.W = nn.ModuleList(
            MultigridLayer(
                known if i == 0 else widths,  # hidden right-hand sides are as wide as the solution on each level
                widths,
                Padding.zeros(num_axes) if zeros else Padding.of(kinds, self.centring),
                smoothing=steps,
                kind=cycle,
                residual_restriction=residual_restriction,
                transfers=TRANSFERS[transfers][self.centring],
            )
            for i in range(depth)
        )
        hidden = widths[0]
        self.B = nn.ModuleList(Pointwise(known if i == 0 else hidden, hidden, num_axes) for i in range(depth))
        self.head = Pointwise(hidden, out_channels, num_axes, bias=False)
        self.D = None
        if input_bias:
            self.D = nn.ModuleList(Pointwise(known, hidden, num_axes, bias=False) for _ in range(depth - 1))
        self.conditioning = self._conditioning(hidden, sites=depth)
        if init == "scaled":
            scale_weights(list(self.W), list(self.B), self.head)  # type: ignore[arg-type]
        if num_axes > 1:  # the layout in which convolutions are fastest: on a CPU a third faster
            layout = torch.channels_last if num_axes == 2 else torch.channels_last_3d
            self.to(memory_format=layout)  # type: ignore[call-overload]  # torch's signatures leave it out

    @property
    def condition(self) -> Conditioning | None:  # type: ignore[override]  # the name that saved weights do not have
        """What makes maps of the parameters."""
        return self.conditioning

    @property
    def size_step(self) -> int:
        """Sizes that differ by multiples of this number meet the walls alike on every level."""
        return 2 ** (self.levels - 1)

    def takes_factor(self, factor: int) -> bool:
        """Return whether the same weights mean the same map on a grid so many times coarser than the native one."""
        return factor == 1 or (self.native_shape is not None and factor.bit_count() == 1)  # powers of two have one bit

    def is_equivariant(self, shape: Sequence[int]) -> bool:
        """Return whether shifts by ``2^(levels - 1)`` points along the periodic axes commute with the operator.

        They do where that step divides every periodic axis of ``shape`` and the model is not given coordinates; with no
        periodic axis nothing is shifted.
        """
        step = self.size_step
        periodic = [n for n, closed in zip(shape, self.periodic, strict=True) if closed]
        return bool(periodic) and not self.coordinates and all(n % step == 0 for n in periodic)

    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises."""
        steps = 0 if self.native_shape is None else halvings(u.shape[2:], self.native_shape)
        if self.resampling == "network":

            def answers(samplings: Tensor) -> Tensor:
                copies = samplings.shape[0] // max(u.shape[0], 1)
                return self._network(samplings, None if maps is None else maps.repeat(1, 1, copies, 1), 0)

            v = predicted_at_spacing(answers, u, self.W[0].padding, steps)  # type: ignore[arg-type]
        else:
            v = self._network(u, maps, steps)
        if self.zero_mean:
            v = v - v.mean(tuple(range(2, v.ndim)), keepdim=True)
        if self.residual:
            v = v + u[:, : self.out_channels]
        return vanish_on_walls(v, self.kinds, self.centring) if self.hard_boundary else v

    def _network(self, u: Tensor, maps: Tensor | None, steps: int) -> Tensor:
        """Return the layers and the head, cycles on grids that are ``steps`` times coarser."""
        v = u = append_smooth_coordinates(u, self.centring, self.periodic) if self.coordinates else u
        last = len(self.W) - 1
        for i in range(last + 1):
            if self.checkpoint and torch.is_grad_enabled() and i < last:
                v = recompute(self._layer, i, v, u, maps, steps, use_reentrant=False, preserve_rng_state=False)
            else:
                v = self._layer(i, v, u, maps, steps)
        return self.head(v)

    def _layer(self, index: int, u: Tensor, a: Tensor, maps: Tensor | None, steps: int) -> Tensor:
        W = self.W[index]
        cycle, skip = at_spacing(W, u, W.padding, steps), self.B[index](u)  # type: ignore[arg-type]
        v = cycle + skip if cycle.requires_grad else cycle.add_(skip)
        if self.D is not None and index > 0:
            v = v + self.D[index - 1](a)
        return F.gelu(conditioned(v, maps, index))


class Pointwise(nn.Module):
    """The same affine map of the channels at every point: a 1x1 convolution, computed as a product of matrices.

    Channels-last, as convolutions leave their results here, the product needs no copy, which PyTorch's 1x1 convolution
    makes.

    Parameters
    ----------
    in_channels, out_channels
        Channels in and out.
    num_axes
        Space dimensions.
    bias
        Whether a number per channel is added.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, num_axes: int, *, bias: bool = True) -> None:
        super().__init__()
        convolution: Any = pointwise(
            in_channels, out_channels, num_axes, bias=bias
        )  # whose names and first weights it has
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, u: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``."""
        return F.linear(u.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def _read_width(width: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """Return the channels of every level."""
    widths = (width,) * levels if not isinstance(width, Sequence) else tuple(width)
    if len(widths) != levels:
        raise ValueError(f"`width` must be one number or one per level ({levels}). Got {width!r}.")
    return tuple(_check.integer("width", n, 1) for n in widths)


def _read_native(shape: Sequence[int] | None, num_axes: int) -> tuple[int, ...] | None:
    """Return the native shape."""
    if shape is None:
        return None
    return tuple(_check.integer("native_shape", n, 2) for n in _check.per_axis("native_shape", shape, num_axes))


def _read_smoothing(
    smoothing: Sequence[Sequence[int]] | None, levels: int, cycle: CycleKind
) -> tuple[tuple[int, int], ...]:
    """Return ``(pre, post)`` per level."""
    post = 0 if cycle == "backslash" else 1
    if smoothing is None:
        return ((1, post),) * (levels - 1) + ((2, 0),)
    if len(smoothing) != levels or any(len(steps) != 2 or min(steps) < 0 or steps[0] < 1 for steps in smoothing):
        raise ValueError(f"`smoothing` must have {levels} pairs of steps (before >= 1, after >= 0). Got {smoothing!r}.")
    return tuple((int(pre), int(after)) for pre, after in smoothing)
