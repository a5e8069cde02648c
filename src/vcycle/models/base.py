"""What the operators on grids have in common: where they live, their configuration, and the check of their input."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Centring
from vcycle.layers.conditioning import Conditioning, modulate
from vcycle.models._inputs import check_input


class GridModel(nn.Module, ABC):
    """Base of operators ``(batch, in_channels, *space) -> (batch, out_channels, *space)``; a subclass gives `operate`.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    boundary
        Kinds of the unknown's faces, as :meth:`vcycle.boundary.Boundary.of` reads them.
    centring
        ``"cell"`` or ``"vertex"``.
    num_axes
        Space dimensions; taken from ``boundary`` where that is a :class:`Boundary`.
    num_parameters
        Scalars per sample that ``forward`` takes besides the functions; 0 for none.
    sites
        Number of places where they scale and shift ``width`` hidden channels, see
        :class:`~vcycle.layers.conditioning.Conditioning`.
    settings
        Every other argument of the model, as JSON can hold it; ``width`` and ``depth`` are checked here.

    Raises
    ------
    ValueError
        If a count is not positive, a kind is unknown, or the model does not exist in that many dimensions.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """Space dimensions in which the model exists."""
    resolution_free: ClassVar[bool] = True
    """Whether the same weights tend to one map of functions as the grid is refined."""
    smallest: ClassVar[int] = 2
    """Fewest points per axis."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        boundary: "Boundary | str | Sequence[Any]",
        centring: Centring,
        num_axes: int,
        num_parameters: int,
        sites: int,
        **settings: Any,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels}
        for key, count in (counts | {key: settings[key] for key in ("width", "depth")}).items():
            _check.integer(key, count, 1)
        if isinstance(boundary, Boundary):
            num_axes = len(boundary.kinds)
        if num_axes not in self.axes:
            raise ValueError(f"`num_axes` must be one of {', '.join(map(str, self.axes))} here. Got {num_axes!r}.")
        kinds = Boundary.of(boundary, num_axes)
        self.in_channels, self.out_channels, self.num_axes = in_channels, out_channels, num_axes
        self.centring: Centring = _check.choice("centring", centring, ("cell", "vertex"))  # type: ignore[assignment]
        self.kinds, self.periodic = kinds, kinds.periodic
        where = {"boundary": kinds.to_list(), "centring": centring, "num_axes": num_axes}
        where["num_parameters"] = _check.integer("num_parameters", num_parameters, 0)
        self._config = counts | settings | where
        self.condition = Conditioning(num_parameters, settings["width"], sites=sites) if num_parameters else None

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments; ``type(model)(**model.config())`` has the same architecture."""
        return self._config

    def forward(self, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``.

        ``parameters`` are ``(batch, num_parameters)``, or None for a model without any.

        Raises
        ------
        ValueError
            If the number of channels, axes or parameters is wrong.
        """
        check_input(u, parameters if self.condition is None else None, self.in_channels, self.num_axes, self.smallest)
        maps = None if self.condition is None else self.condition(parameters, u.shape[0])
        return self.operate(u, maps)

    @abstractmethod
    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises, on an input that has been checked.

        ``maps`` are what the parameters do at every site, for :func:`conditioned`.
        """


def conditioned(v: Tensor, maps: Tensor | None, site: int) -> Tensor:
    """Scale and shift hidden channels by what the parameters give for this site; leave them where there are none."""
    return v if maps is None else modulate(v, maps[site])
