"""The check that every grid operator makes of what it is given."""

from torch import Tensor

from vcycle import _check


def check_input(u: Tensor, parameters: Tensor | None, in_channels: int, num_axes: int, smallest: int = 2) -> None:
    """Raise ValueError unless ``u`` is ``(batch, in_channels, *space)``, ``num_axes`` axes of at least ``smallest``."""
    expected = (None, in_channels, *(None,) * num_axes)
    _check.shape("u", u.shape, expected, f"(batch, {in_channels} channels, {num_axes} axes)")
    if min(u.shape[2:]) < smallest:
        raise ValueError(f"`u` must have at least {smallest} points per axis for this model. Got {tuple(u.shape[2:])}.")
    if parameters is not None and parameters.shape[-1] > 0:
        raise ValueError(f"`parameters` are not an input of this model. Got {parameters.shape[-1]} of them.")
