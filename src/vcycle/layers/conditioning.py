"""Scalar parameters of a problem as an input of a network: they scale and shift its hidden channels."""

import torch
from torch import Tensor, nn

from vcycle import _check


class Conditioning(nn.Module):
    """Feature-wise affine maps whose scales and shifts depend on scalar parameters.

    At site ``s`` a hidden function ``v`` becomes ``(1 + gamma_s(p)) v + beta_s(p)``, per channel, where ``gamma`` and
    ``beta`` come from one network with one hidden layer, shared by all sites.

    Parameters
    ----------
    num_parameters
        Number ``p`` of scalars per sample, of order one: normalise them first.
    channels
        Channels of the hidden functions.
    sites
        Number of places in the network that are conditioned.
    hidden
        Width of the hidden layer.

    Raises
    ------
    ValueError
        If a count is not positive.

    References
    ----------
    Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, eqs. (1)-(2).
    """

    def __init__(self, num_parameters: int, channels: int, *, sites: int, hidden: int = 64) -> None:
        super().__init__()
        counts = {"num_parameters": num_parameters, "channels": channels, "sites": sites, "hidden": hidden}
        for name, count in counts.items():
            _check.integer(name, count, 1)
        self.num_parameters, self.channels, self.sites = num_parameters, channels, sites
        last = nn.Linear(hidden, 2 * channels * sites)
        with torch.no_grad():  # starts near the identity, but not on it: a zero layer hides the first one's gradient
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.network = nn.Sequential(nn.Linear(num_parameters, hidden), nn.GELU(), last)

    def forward(self, parameters: Tensor | None, batch: int) -> Tensor:
        """Return ``gamma`` and ``beta`` for every site, ``(sites, 2, batch, channels)``.

        Raises
        ------
        ValueError
            If ``parameters`` is not ``(batch, num_parameters)``.
        """
        if parameters is None:
            raise ValueError(f"`parameters` must be given: {self.num_parameters} per sample. Got None.")
        expected = (batch, self.num_parameters)
        _check.shape("parameters", parameters.shape, expected, f"{self.num_parameters} scalars per sample of the batch")
        maps = self.network(parameters.to(next(self.network.parameters()).dtype))
        return maps.reshape(batch, self.sites, 2, self.channels).permute(1, 2, 0, 3)


def modulate(v: Tensor, maps: Tensor) -> Tensor:
    """Return ``(1 + gamma) v + beta`` for ``v`` of shape ``(batch, channels, *space)`` and one site's maps."""
    gamma, beta = maps.reshape(*maps.shape, *(1,) * (v.ndim - 2)).unbind()
    return torch.addcmul(v + beta, v, gamma)
