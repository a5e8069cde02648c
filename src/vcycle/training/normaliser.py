"""Between physical units and the numbers of order one that networks work on."""

from typing import Literal

import torch
from torch import Tensor, nn

from vcycle import _check

NormaliserKind = Literal["scalar", "pointwise", "scale", "none"]
NORMALISERS = ("scalar", "pointwise", "scale", "none")

# Relative to a channel's size: a smaller spread is rounding, and dividing by it would only amplify that.
CONSTANT = 1e-6


class Normaliser(nn.Module):
    """The affine map ``(u - mean) / scale`` per channel, or per channel and point; both are buffers.

    Parameters
    ----------
    mean, scale
        In the unit of the field, shape ``(channel, 1, ...)`` or ``(channel, *space)``. ``scale`` is positive.

    Raises
    ------
    ValueError
        If the shapes differ or a scale is not positive.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        _check.shape("scale", scale.shape, mean.shape, "that of the mean")
        if not bool((scale > 0).all()):
            raise ValueError(f"`scale` must be positive. Got {scale.min().item()}.")
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())

    @classmethod
    def of(cls, fields: Tensor, *, kind: NormaliserKind = "scalar") -> "Normaliser":
        """Measure a normaliser on training data.

        Parameters
        ----------
        fields
            ``(sample, channel, *space)`` in physical units.
        kind
            ``"scalar"``: mean and standard deviation of each channel. ``"pointwise"``: of each channel at each point,
            which ties the operator to this grid. ``"scale"``: no mean, only the root mean square, so that zero stays
            zero (on a Dirichlet wall, say). ``"none"``: nothing is changed. A point that is constant, such as one on a
            wall, has the typical scale of its channel; a constant channel has scale 1.

        Raises
        ------
        ValueError
            If the kind is unknown or there are no samples.
        """
        _check.choice("normaliser", kind, NORMALISERS)
        if fields.ndim < 3 or fields.shape[0] == 0:
            raise ValueError(
                f"`fields` must have shape (sample, channel, *space), at least one sample. Got {tuple(fields.shape)}."
            )
        dims = (0,) if kind == "pointwise" else (0, *range(2, fields.ndim))
        double = fields.double()
        mean = double.mean(dims, keepdim=True)
        magnitude = double.square().mean(dims, keepdim=True).sqrt()
        if kind in ("scale", "none"):
            mean = torch.zeros_like(mean)
        spread = torch.ones_like(mean) if kind == "none" else (double - mean).square().mean(dims, keepdim=True).sqrt()
        varies = spread > CONSTANT * magnitude
        typical = (spread * varies).square().mean(tuple(range(2, fields.ndim)), keepdim=True).sqrt()
        scale = torch.where(varies, spread, torch.where(typical > 0, typical, 1.0))
        return cls(mean[0].float(), scale[0].float())

    @classmethod
    def of_parameters(cls, parameters: Tensor) -> "Normaliser":
        """Measure mean and standard deviation of each scalar, ``(sample, parameter)``; both are ``(parameter,)``."""
        measured = cls.of(parameters.unsqueeze(-1))
        return cls(measured.mean[:, 0], measured.scale[:, 0])

    def normalise(self, fields: Tensor) -> Tensor:
        """Return ``(fields - mean) / scale`` (dimensionless), same shape ``(batch, channel, *space)``."""
        return (fields - self.mean) / self.scale

    def denormalise(self, fields: Tensor) -> Tensor:
        """Undo :meth:`normalise`: return physical units, same shape."""
        return fields * self.scale + self.mean
