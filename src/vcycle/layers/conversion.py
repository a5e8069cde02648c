"""Networks of images made into operators: convolutions that mean the same on every grid.

A kernel of a convolution is a number of points wide. Here it becomes a function of the distance, known at the points of
the grid that the network was made or trained for, its base, and interpolated between them; see
``docs/neural-network-to-operator.md``.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcycle import _check
from vcycle.layers.local import LocalConv, enlarge, wrapped

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SIZED = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def interpolated_kernel(weight: Tensor, scales: Sequence[float]) -> Tensor:
    r"""Return a kernel for grids that are finer by some factor per axis; odd sizes in, odd sizes out.

    Between the ``k`` points of the base a kernel is piecewise linear. On a grid that is ``s`` times as fine it has
    ``s k - s + 1`` points, over the same distance (rounded up to the next odd number where that is none), and every
    value of the base keeps its share of the integral: constants are mapped to what they were, exactly, and smooth
    functions up to the order of the spacing. On a coarser grid a value is split between the two nearest points.

    Parameters
    ----------
    weight
        ``(out, in, *kernel)``.
    scales
        Points of the grid over points of the base, per axis; 1 leaves the kernel as it is.

    Notes
    -----
    The published code interpolates the values and divides by the ratio of the numbers of points. That keeps the
    integral of constant kernels only: for others the error does not vanish on fine grids.
    """
    for axis, s in enumerate(scales, 2):
        if s == 1:
            continue
        reach = weight.shape[axis] // 2
        base = torch.arange(-reach, reach + 1, dtype=torch.float64, device=weight.device)
        least = -int(-reach * s // 1)  # rounded up
        new = torch.arange(-least, least + 1, dtype=torch.float64, device=weight.device)[:, None]
        # Over one spacing of the coarser grid, a value belongs to the points around it in linearly falling parts.
        shares = (1 - (new / s - base).abs() * min(s, 1.0)).clamp(min=0)
        shares = (shares / shares.sum(0)).to(weight.dtype)
        weight = (weight.movedim(axis, -1) @ shares.T).movedim(-1, axis)
    return weight


class InterpolatedConv(nn.Module):
    """A convolution that keeps the size and whose kernel covers the same distance on every grid.

    On grids of the base it is the convolution that it was made of, bit by bit.

    Parameters
    ----------
    conv
        The convolution: odd kernel, stride and dilation 1.
    base
        Points per axis of the grid for which its kernel is meant.
    periodic
        Per axis, whether it wraps around or sees zeros beyond the walls.
    """

    def __init__(self, conv: nn.Module, base: Sequence[int], periodic: Sequence[bool]) -> None:
        super().__init__()
        self.conv: Any = conv  # of one, two or three axes
        self.base, self.periodic = tuple(base), tuple(periodic)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in, *space)`` to ``(batch, out, *space)``."""
        scales = [n / b for n, b in zip(v.shape[2:], self.base, strict=True)]
        weight = interpolated_kernel(self.conv.weight, scales)
        zeros: list[int] = []
        for axis, (size, closed) in enumerate(zip(weight.shape[2:], self.periodic, strict=True)):
            v = wrapped(v, axis + 2, size // 2) if closed else v
            zeros = [0 if closed else size // 2] * 2 + zeros
        return _CONV[len(self.base)](F.pad(v, zeros), weight, self.conv.bias, groups=self.conv.groups)


class ResizedLayer(nn.Module):
    """A layer with strides, which changes the size: averaged or interpolated to its base, applied, and brought back.

    A patch embedding becomes, on a grid that is finer by a whole number, the integral of the function over the patch
    against a kernel that is constant in each cell of the base. What is finer than the base does not pass.

    Parameters
    ----------
    layer
        The layer, a convolution or transposed convolution.
    base, base_out
        Points per axis that it maps from and to.
    periodic
        Per axis, whether interpolation closes it; none if empty.
    """

    def __init__(
        self, layer: nn.Module, base: Sequence[int], base_out: Sequence[int], periodic: Sequence[bool] = ()
    ) -> None:
        super().__init__()
        self.layer, self.base, self.base_out = layer, tuple(base), tuple(base_out)
        self.periodic = tuple(periodic)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(batch, in, *space)`` to ``(batch, out, *other)``, sizes in the ratio that they have on the base."""
        if tuple(v.shape[2:]) == self.base:
            return self.layer(v)
        pairs = list(zip(v.shape[2:], self.base, self.base_out, strict=True))
        made = self.layer(_to(v, self.base, self.periodic))
        return enlarge(made, [round(n * out / b) for n, b, out in pairs], self.periodic)


def _to(v: Tensor, shape: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """Return averages over the cells of a coarser grid where these are made of whole cells, else interpolate."""
    for axis, n in enumerate(shape, 2):
        if v.shape[axis] % n == 0:
            v = v.unflatten(axis, (n, v.shape[axis] // n)).mean(axis + 1)
    return v if tuple(v.shape[2:]) == tuple(shape) else enlarge(v, shape, periodic)


def convert(module: nn.Module, base_shape: Sequence[int], in_channels: int | None = None) -> nn.Module:
    """Return a copy of a network whose convolutions mean the same on every grid, for functions on cells.

    One run on zeros of ``base_shape`` finds the grid of every layer. Convolutions that keep the size become
    :class:`InterpolatedConv`, pointwise ones stay, and those with strides, patch embeddings and transposed ones become
    :class:`ResizedLayer`. What has no points in it, such as maps of the channels, norms and softmax attention with
    equal weights, is left alone; so are averages over pairs of points, interpolation, and what that run did not call.

    Parameters
    ----------
    module
        The network; it is called with one tensor ``(1, in_channels, *base_shape)``.
    base_shape
        Points per axis of the grid that its weights are for.
    in_channels
        Channels of its input; None takes ``module.in_channels``.

    Returns
    -------
    nn.Module
        On ``base_shape`` it computes what ``module`` does. Weights are copies; what was shared is shared.

    Raises
    ------
    ValueError
        If the channels are not known, a convolution has an even kernel, a dilation or a padding that changes the size
        or neither wraps around nor adds zeros, one is called at two sizes, or the network says that its points are
        vertices between walls.

    References
    ----------
    Berner et al., "Principled Approaches for Extending Neural Architectures to Function Spaces for Operator Learning",
    2025. arXiv:2506.10973.
    """
    channels: Any = getattr(module, "in_channels", None) if in_channels is None else in_channels
    if channels is None:
        raise ValueError("`in_channels` must be given: `module` does not know its own. Got None.")
    copied = copy.deepcopy(module)
    calls = _calls(copied, (1, _check.integer("in_channels", channels, 1), *base_shape))
    if calls:
        _refuse_vertices(copied)
    return _replaced(copied, calls, {}, ())


def _calls(module: nn.Module, shape: Sequence[int]) -> dict[nn.Module, tuple[str, Any, Any]]:
    """Return the name of every convolution that is called and has points in it, and the sizes it maps from and to."""
    calls: dict[nn.Module, tuple[str, Any, Any]] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            call = name, tuple(arguments[0].shape[2:]), tuple(output.shape[2:])
            if calls.setdefault(layer, call) != call:
                raise ValueError(
                    f"`module` must call a convolution at one size. Got {calls[layer][1]} and {call[1]} at {name!r}: "
                    f"give each size a layer of its own, with the same weights."
                )

        return hook

    inner = {m.conv for m in module.modules() if isinstance(m, LocalConv)}  # they see what was added at the ends, too
    pointed = [(name, m) for name, m in module.named_modules() if _has_points(m) and m not in inner]
    handles = [m.register_forward_hook(note(name)) for name, m in pointed]
    modes = [(m, m.training) for m in module.modules()]
    parameter = next(module.parameters())
    with torch.no_grad():
        module.eval()(torch.zeros(*shape, dtype=parameter.dtype, device=parameter.device))
    for m, training in modes:
        m.training = training
    for handle in handles:
        handle.remove()
    return calls


def _has_points(module: nn.Module) -> bool:
    """Return whether a module is a convolution that is more than a map of the channels at every point."""
    if isinstance(module, LocalConv):
        return module.reach > 0
    return isinstance(module, (*_SIZED, *_TRANSPOSED)) and max(*module.kernel_size, *module.stride) > 1


def _refuse_vertices(module: nn.Module) -> None:
    for part in module.modules():
        closed = _closed(part)
        if getattr(part, "centring", "cell") == "vertex" and not all(closed):
            raise ValueError(
                f"`centring` of `module` must be 'cell' between walls. Got 'vertex' with periodic={closed}: make and "
                f"train it on cells."
            )


def _closed(module: nn.Module, otherwise: tuple[bool, ...] = ()) -> tuple[bool, ...]:
    """Return which axes a network says are periodic, or what is known ``otherwise``."""
    periodic = getattr(module, "periodic", None)
    return tuple(periodic) if isinstance(periodic, Sequence) else otherwise


def _replaced(
    module: nn.Module,
    calls: dict[nn.Module, tuple[str, Any, Any]],
    done: dict[nn.Module, nn.Module],
    closed: tuple[bool, ...],
) -> nn.Module:
    """Return what becomes of a module, once for all its names; ``closed`` are the periodic axes of what it is in."""
    if module in done:
        return done[module]
    if module in calls:
        done[module] = _converted(module, calls[module], closed)
        return done[module]
    done[module] = module
    for name, child in module._modules.items():  # `named_children` leaves out second names
        if child is not None:
            module._modules[name] = _replaced(child, calls, done, _closed(module, closed))
    return module


def _converted(layer: Any, call: tuple[str, Any, Any], closed: tuple[bool, ...]) -> nn.Module:
    name, base, base_out = call
    if isinstance(layer, LocalConv):
        return InterpolatedConv(layer.conv, base, layer.periodic)
    if isinstance(layer, _SIZED) and max(layer.stride) == 1:
        return _same(layer, name, base)
    around = (True,) * len(base) if layer.padding_mode == "circular" else closed
    return ResizedLayer(layer, base, base_out, around if len(around) == len(base) else ())


def _same(conv: Any, name: str, base: Sequence[int]) -> InterpolatedConv:
    """Return a plain convolution of PyTorch that keeps the size as one that is interpolated."""
    same = conv.padding == "same" or tuple(conv.padding) == tuple(k // 2 for k in conv.kernel_size)
    odd = all(k % 2 for k in conv.kernel_size) and max(conv.dilation) == 1
    if not (same and odd and conv.padding_mode in ("zeros", "circular")):
        raise ValueError(
            f"`module` must have convolutions that keep the size, with odd kernels, without dilation, padded by zeros "
            f"or around. Got {conv} at {name!r}."
        )
    return InterpolatedConv(conv, base, (conv.padding_mode == "circular",) * len(base))
