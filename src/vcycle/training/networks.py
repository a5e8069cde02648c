"""Networks as JSON says them, and back: entries of ``MODELS``, and sums of such."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vcycle import _check, models
from vcycle.training.normaliser import Normaliser

if TYPE_CHECKING:
    from vcycle.training.operator import TrainedOperator


class BoostedNetwork(nn.Module):
    """The sum of networks of which each learned the residual of those before it.

    It maps between the normalised functions of the first.

    Parameters
    ----------
    networks
        In the order of training. All but the first answer with a residual.
    inputs, outputs
        Their normalisers.
    feed
        Whether each network sees, after the input, the sum of those before it.
    """

    name = "boosted"

    def __init__(
        self,
        networks: Sequence[nn.Module],
        inputs: Sequence[Normaliser],
        outputs: Sequence[Normaliser],
        *,
        feed: bool,
    ) -> None:
        super().__init__()
        self.feed = feed
        self.networks, self.inputs, self.outputs = map(nn.ModuleList, (networks, inputs, outputs))

    @classmethod
    def of(cls, stages: "Sequence[TrainedOperator]", *, feed: bool) -> "BoostedNetwork":
        """Return the sum of operators' networks."""
        inputs, outputs = zip(*((stage.input_normaliser, stage.output_normaliser) for stage in stages), strict=True)
        return cls([stage.network for stage in stages], inputs, outputs, feed=feed)

    def config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` builds this from, its weights aside."""
        stages: list[dict[str, Any]] = [
            {"model": describe(network), "input": [*inputs.mean.shape], "output": [*outputs.mean.shape]}  # type: ignore[misc]
            for network, inputs, outputs in zip(self.networks, self.inputs, self.outputs, strict=True)
        ]
        return {"stages": stages, "feed": self.feed}

    @classmethod
    def from_config(cls, stages: Sequence[dict[str, Any]], *, feed: bool) -> "BoostedNetwork":
        """Build the sum that a configuration describes."""
        return cls(
            [rebuilt(stage["model"]) for stage in stages],
            [unfilled(stage["input"]) for stage in stages],
            [unfilled(stage["output"]) for stage in stages],
            feed=feed,
        )

    @property
    def size_step(self) -> int:
        """Sizes that differ by multiples of this number meet the walls alike in every network."""
        return math.lcm(*(getattr(network, "size_step", 1) for network in self.networks))

    def takes_factor(self, factor: int) -> bool:
        """Return whether the same weights mean the same map on a grid so many times coarser."""
        return all(takes_factor(network, factor) for network in self.networks)

    def forward(self, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``, both normalised."""
        scalars = () if parameters is None else (parameters,)
        total = self.networks[0](u, *scalars)
        physical = self.inputs[0].denormalise(u)  # type: ignore[operator]
        first = self.outputs[0]
        for network, inputs, outputs in zip(self.networks[1:], self.inputs[1:], self.outputs[1:], strict=True):
            seen = torch.cat([physical, first.denormalise(total)], 1) if self.feed else physical  # type: ignore[operator]
            # a residual has no mean of its own: only its scale counts
            left = outputs.denormalise(network(inputs.normalise(seen), *scalars))  # type: ignore[operator]
            total = total + left / first.scale
        return total


def takes_factor(network: nn.Module, factor: int) -> bool:
    """Return what a network's ``takes_factor`` says; one without says by ``resolution_free`` whether it takes any."""
    asked = getattr(network, "takes_factor", None)
    return asked(factor) if callable(asked) else factor == 1 or getattr(network, "resolution_free", False)


def describe(network: nn.Module) -> dict[str, Any]:
    """Return name and configuration of a network, as JSON can hold them.

    Raises
    ------
    ValueError
        If it is neither an entry of ``MODELS`` nor a sum of such.
    """
    known = models.MODELS | {BoostedNetwork.name: BoostedNetwork}
    name = next((name for name, model in known.items() if type(network) is model), None)
    if name is None:
        raise ValueError(f"`network` must be one of vcycle.models.MODELS to be saved. Got {type(network).__name__}.")
    return {"name": name, "config": network.config()}  # type: ignore[operator]


def rebuilt(description: dict[str, Any]) -> nn.Module:
    """Build the network of :func:`describe`, its weights at random; PyTorch's random state is left as it was.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    if description["name"] == BoostedNetwork.name:
        return BoostedNetwork.from_config(**description["config"])
    name = _check.choice("model", description["name"], models.MODELS)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return models.MODELS[name](**description["config"])


def unfilled(shape: Sequence[int]) -> Normaliser:
    """Return a normaliser of this shape that does nothing, yet."""
    sizes = tuple(_check.integer("normalisers", size, 1) for size in shape)
    return Normaliser(torch.zeros(sizes), torch.ones(sizes))
