"""Moving functions between a grid and the next coarser one: convolutions with stride 2 and their transposes.

The same two functions serve the learned stencils and the classical ones; only the weights differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vcycle.grid import Centring
from vcycle.multigrid.padding import Padding

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def apply_stencil(
    u: Tensor, weight: Tensor, padding: Padding, *, stride: int = 1, shape: Sequence[int] | None = None
) -> Tensor:
    """Convolve ``u`` with a stencil 3 or 4 wide, ghost values by ``padding``.

    Parameters
    ----------
    u
        Functions, ``(batch, in_channels, *space)``.
    weight
        ``(out_channels, in_channels, *kernel)``. A 4-wide kernel is for stride 2 and reaches one value further up: it
        is centred between two values, as a coarse cell is; a 3-wide one on a value, as a coarse vertex is.
    padding
        The rule beyond each wall.
    stride
        1, or 2 to go to the next coarser grid.
    shape
        Size of the result where the stride is 2; ``None`` is that of :meth:`Padding.coarsened`.

    Returns
    -------
    Tensor
        ``(batch, out_channels, *space)`` or ``(batch, out_channels, *shape)``.
    """
    kernel = weight.shape[-1]
    if padding.is_zero and kernel == 3:
        return _CONV[padding.num_axes](u, weight, stride=stride, padding=1)
    sizes = tuple(u.shape[2:])
    if stride == 2:
        sizes = padding.coarsened(sizes)[1] if shape is None else tuple(shape)
    if padding.is_zero:  # an odd size leaves the outer half of the last coarse cell empty
        wanted = [2 * (n - 1) + kernel - 1 for n in sizes]
        extra = zip(reversed(wanted), reversed(u.shape[2:]), strict=True)
        return _CONV[padding.num_axes](F.pad(u, [s for w, n in extra for s in (1, w - n)]), weight, stride=stride)
    exact = torch.compiler.is_compiling()  # then sizes may be symbols, which rounded quotients would pile up in
    reach = tuple(  # a copy is made of what is narrowed: leave values that no output reads
        m + 2 if not exact and (m + 2 - kernel) // stride + 1 == n else stride * (n - 1) + kernel
        for n, m in zip(sizes, u.shape[2:], strict=True)
    )
    return _convolve(u, weight, padding, _Geometry((stride,) * padding.num_axes, reach))


def prolong(u_coarse: Tensor, weight: Tensor, padding: Padding, shape: Sequence[int]) -> Tensor:
    """Apply the transpose of a stencil with stride 2 to the padded coarse values, and crop to ``shape``.

    Parameters
    ----------
    u_coarse
        Functions, ``(batch, in_channels, *coarse)`` with ``coarse`` as :meth:`Padding.coarsened` gives it.
    weight
        ``(in_channels, out_channels, *kernel)``: 4 wide for cells, 3 wide for vertices.
    padding
        The rule beyond each wall of the coarse grid.
    shape
        Size of the fine grid.

    Returns
    -------
    Tensor
        ``(batch, out_channels, *shape)``.
    """
    if padding.is_zero and weight.shape[-1] == 4:
        u = _CONV_TRANSPOSE[padding.num_axes](u_coarse, weight, stride=2, padding=1)
        return _narrowed(u, (0,) * padding.num_axes, shape)
    # a coarse value j reaches from fine 2 j - 1 on, its ghost one spacing earlier: three values to crop at the low end
    missing = [n - 2 * m + 4 - weight.shape[-1] for n, m in zip(shape, u_coarse.shape[2:], strict=True)]
    crops = tuple(3 if extra <= 1 else 2 for extra in missing)
    extend = tuple(min(max(extra, 0), 1) for extra in missing)
    reach = tuple(m + 2 for m in u_coarse.shape[2:])
    u = _convolve(u_coarse, weight, padding, _Geometry((2,) * padding.num_axes, reach, crops, extend, transposed=True))
    return _narrowed(u, tuple(3 - crop for crop in crops), shape)


def linear_weight(num_axes: int, centring: Centring = "cell") -> Tensor:
    """Return linear interpolation's weights, ``(1, 1, *kernel)``, float64.

    Between cell centres 1/4, 3/4, 3/4, 1/4 on each axis; between vertices 1/2, 1, 1/2.
    """
    values = [0.25, 0.75, 0.75, 0.25] if centring == "cell" else [0.5, 1.0, 0.5]
    one_axis = torch.tensor(values, dtype=torch.float64)
    weight = one_axis
    for _ in range(num_axes - 1):
        weight = weight.unsqueeze(-1) * one_axis
    return weight[None, None]


def _narrowed(u: Tensor, starts: Sequence[int], shape: Sequence[int]) -> Tensor:
    for axis, (start, size) in enumerate(zip(starts, shape, strict=True)):
        if u.shape[axis + 2] != size:
            u = u.narrow(axis + 2, start, size)
    return u


@dataclass(frozen=True)
class _Geometry:
    """Strides, how much of the padded values is used, and for transposes what is cropped low and added high."""

    stride: tuple[int, ...]
    reach: tuple[int, ...]
    crop: tuple[int, ...] = ()
    extend: tuple[int, ...] = ()
    transposed: bool = False

    def apply(self, u: Tensor, weight: Tensor, padding: Padding) -> Tensor:
        """Return the convolution of padded values."""
        padded = _narrowed(padding.pad(u), (0,) * padding.num_axes, self.reach)
        if padding.num_axes == 1:
            return self._of_rows()._convolved(padded.unsqueeze(2), weight.unsqueeze(2)).squeeze(2)
        return self._convolved(padded, weight)

    def gradients(
        self, gradient: Tensor, padded: Tensor, weight: Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of what was padded and of the weight, where ``wanted``."""
        if gradient.ndim == 3:
            rows = gradient.unsqueeze(2), padded.unsqueeze(2), weight.unsqueeze(2)
            for_padded, for_weight = self._of_rows().gradients(*rows, wanted)
            return _line(for_padded), _line(for_weight)
        zeros = [0] * len(self.stride)
        crop, extend = self.crop or zeros, self.extend or zeros
        dilation, groups, mask = [1] * len(zeros), 1, [*wanted, False]
        return torch.ops.aten.convolution_backward(
            gradient, padded, weight, None, self.stride, crop, dilation, self.transposed, extend, groups, mask
        )[:2]

    def _of_rows(self) -> "_Geometry":
        """Return the same for lines that are written as planes of one row.

        On lines PyTorch would leave the layout in which convolutions are fastest.
        """
        crop, extend = ((0, *sizes) if sizes else () for sizes in (self.crop, self.extend))
        return _Geometry((1, *self.stride), (1, *self.reach), crop, extend, self.transposed)

    def _convolved(self, padded: Tensor, weight: Tensor) -> Tensor:
        num_axes = padded.ndim - 2
        if self.transposed:
            transpose = _CONV_TRANSPOSE[num_axes]
            return transpose(padded, weight, stride=self.stride, padding=self.crop, output_padding=self.extend)
        return _CONV[num_axes](padded, weight, stride=self.stride)


def _line(row: Tensor | None) -> Tensor | None:
    return None if row is None else row.squeeze(2)


def _convolve(u: Tensor, weight: Tensor, padding: Padding, geometry: _Geometry) -> Tensor:
    wanted = torch.is_grad_enabled() and (u.requires_grad or weight.requires_grad)
    if wanted and not torch.compiler.is_compiling():  # a compiler writes its own way back
        return _PaddedConvolution.apply(u, weight, padding, geometry)
    return geometry.apply(u, weight, padding)


class _PaddedConvolution(torch.autograd.Function):
    """Padding and convolution in one: keeps ``u`` for the way back, not its padded copy, and folds ghosts in place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, weight: Tensor, padding: Padding, geometry: _Geometry) -> Tensor:
        return geometry.apply(u, weight, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, weight, ctx.padding, ctx.geometry = inputs
        ctx.save_for_backward(u, weight)
        ctx.save_for_forward(u, weight)

    @staticmethod
    def jvp(ctx: Any, du: Tensor | None, dweight: Tensor | None, *_: Any) -> Tensor:
        u, weight = ctx.saved_tensors
        parts = [] if du is None else [ctx.geometry.apply(du, weight, ctx.padding)]
        parts += [] if dweight is None else [ctx.geometry.apply(u, dweight, ctx.padding)]
        return torch.stack(parts).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (u, weight), padding, geometry = ctx.saved_tensors, ctx.padding, ctx.geometry
        padded = padding.pad(u.to(gradient.dtype))  # under autocast the result may be of lower precision
        read = _narrowed(padded, (0,) * padding.num_axes, geometry.reach)
        for_u, for_weight = geometry.gradients(gradient, read, weight.to(gradient.dtype), ctx.needs_input_grad[:2])
        if for_u is not None:
            missing = [p - r for p, r in zip(padded.shape[2:], geometry.reach, strict=True)]
            if any(missing):
                for_u = F.pad(for_u, [s for m in reversed(missing) for s in (0, m)])
            for_u = padding.fold(for_u).to(u.dtype)
        if for_weight is not None:
            for_weight = for_weight.to(weight.dtype)
        return for_u, for_weight, None, None
