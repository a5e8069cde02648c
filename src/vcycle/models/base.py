"""What the operators on grids have in common: where they live, their configuration, and the check of their input."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

from torch import Tensor, nn

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.errors import CheckpointError
from vcycle.grid import Centring
from vcycle.layers.conditioning import Conditioning, modulate


class Where(TypedDict, total=False):
    """Where the functions live, and what comes with them: the same for every model on a grid.

    Parameters
    ----------
    boundary
        Kinds of the unknown's faces, as :meth:`vcycle.boundary.Boundary.of` reads them; Dirichlet unless the model says
        otherwise. Models that need no values beyond a wall read only which axes are periodic.
    centring
        ``"cell"`` or ``"vertex"``; cells unless the model says otherwise.
    num_axes
        Space dimensions, 2 if nothing is said; taken from ``boundary`` where that is a :class:`Boundary`.
    num_parameters
        Scalars per sample that ``forward`` takes besides the functions; 0 if nothing is said.
    """

    boundary: "Boundary | str | Sequence[Any]"
    centring: Centring
    num_axes: int
    num_parameters: int


USUAL: Where = {"boundary": "dirichlet", "centring": "cell", "num_axes": 2, "num_parameters": 0}


def _spelled(where: Where) -> dict[str, inspect.Parameter]:
    """Return the arguments of :class:`Where` as those of a signature."""
    kind, types = inspect.Parameter.KEYWORD_ONLY, Where.__annotations__
    return {key: inspect.Parameter(key, kind, default=value, annotation=types[key]) for key, value in where.items()}


class GridModel(nn.Module, ABC):
    """Base of operators ``(batch, in_channels, *space) -> (batch, out_channels, *space)``; a subclass gives `operate`.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output functions.
    where
        See :class:`Where`.
    sites
        Number of places where parameters scale and shift ``width`` hidden channels, see
        :class:`~vcycle.layers.conditioning.Conditioning`; 0 where the model sets its ``condition`` itself.
    settings
        Every other argument of the model, as JSON can hold it; ``width`` and ``depth`` are checked here.

    Raises
    ------
    ValueError
        If a count is not positive, a kind is unknown, or the model does not exist in that many dimensions.
    TypeError
        If ``where`` has an argument that is not of :class:`Where`.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """Space dimensions in which the model exists."""
    resolution_free: ClassVar[bool] = True
    """Whether the same weights tend to one map of functions as the grid is refined."""
    smallest: int = 2
    """Fewest points per axis."""
    condition: Conditioning | None
    """What makes :func:`conditioned` maps of the parameters; None for a model without any."""
    where: ClassVar[Where] = {}
    """What differs from :data:`USUAL` where nothing is said."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Spell ``**where`` out in the signature, for ``help`` and for whoever asks which arguments there are."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        _, *own = signature.parameters.values()
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            last = own.pop()
            direct = last.name == "where"
            passed_on = _spelled(USUAL | cls.where) if direct else inspect.signature(cls.__mro__[1]).parameters
            own += [passed_on[name] for name in passed_on if name not in {one.name for one in own}]
        cls.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]

    @classmethod
    def axes_in(cls, where: Where) -> int:
        """Return the number of space dimensions."""
        known = USUAL | cls.where | where
        return len(known["boundary"].kinds) if isinstance(known["boundary"], Boundary) else known["num_axes"]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        where: Where,
        *,
        sites: int,
        **settings: Any,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels}
        for key, count in (counts | {key: settings[key] for key in ("width", "depth")}).items():
            _check.integer(key, count, 1)
        unknown = [key for key in where if key not in USUAL]
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown[0]!r}")
        known, num_axes = USUAL | self.where | where, self.axes_in(where)
        if num_axes not in self.axes:
            raise ValueError(f"`num_axes` must be one of {', '.join(map(str, self.axes))} here. Got {num_axes!r}.")
        kinds = Boundary.of(known["boundary"], num_axes)
        self.in_channels, self.out_channels, self.num_axes = in_channels, out_channels, num_axes
        self.centring: Centring = _check.choice("centring", known["centring"], ("cell", "vertex"))  # type: ignore[assignment]
        self.kinds, self.periodic = kinds, kinds.periodic
        self.num_parameters = _check.integer("num_parameters", known["num_parameters"], 0)
        place = {"boundary": kinds.to_list(), "centring": self.centring, "num_axes": num_axes}
        self._config = counts | settings | place | {"num_parameters": self.num_parameters}
        if sites:
            self.condition = self._conditioning(settings["width"], sites)

    def _conditioning(self, channels: int, sites: int) -> Conditioning | None:
        """Return what conditions so many channels at so many places, or None without parameters."""
        return Conditioning(self.num_parameters, channels, sites=sites) if self.num_parameters else None

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready constructor arguments; ``type(model)(**model.config())`` has the same architecture."""
        return self._config

    def takes_factor(self, factor: int) -> bool:
        """Return whether the same weights mean the same map on a grid so many times coarser."""
        return factor == 1 or self.resolution_free

    def load_state_dict(  # PyTorch's signature
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001
        assign: bool = False,  # noqa: FBT001
    ) -> Any:
        """Load weights, as PyTorch does; what does not fit is one line.

        Raises
        ------
        CheckpointError
            If a weight has another shape than the model's, or, where ``strict``, a name is missing or unknown.
        """
        own, other = self.state_dict(), f"The weights are of another {type(self).__name__}"
        for name, weight in state_dict.items():
            if name in own and weight.shape != own[name].shape:
                there, here = tuple(weight.shape), tuple(own[name].shape)
                raise CheckpointError(f"{other}: {name} has shape {there} there and {here} here.")
        strangers = sorted(set(own) ^ set(state_dict))
        if strict and strangers:
            count, where = f"{len(state_dict)} tensors there and {len(own)} here", strangers[0] in state_dict
            raise CheckpointError(f"{other}: {count}; {strangers[0]} is only {'there' if where else 'here'}.")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Map ``(batch, in_channels, *space)`` to ``(batch, out_channels, *space)``.

        ``parameters`` are ``(batch, num_parameters)``, or None for a model without any.

        Raises
        ------
        ValueError
            If the number of channels, axes or parameters is wrong.
        """
        return self.operate(u, self.maps_of(u, parameters))

    def maps_of(self, u: Tensor, parameters: Tensor | None) -> Tensor | None:
        """Check an input, and return what its parameters do at every site: the first step of every way to evaluate.

        Raises
        ------
        ValueError
            If the number of channels, axes or parameters is wrong.
        """
        expected = (None, self.in_channels, *(None,) * self.num_axes)
        _check.shape("u", u.shape, expected, f"(batch, {self.in_channels} channels, {self.num_axes} axes)")
        if min(u.shape[2:]) < self.smallest:
            got = f"Got {tuple(u.shape[2:])}."
            raise ValueError(f"`u` must have at least {self.smallest} points per axis for this model. {got}")
        if self.condition is not None:
            return self.condition(parameters, u.shape[0])
        if parameters is not None and parameters.shape[-1] > 0:
            raise ValueError(f"`parameters` are not an input of this model. Got {parameters.shape[-1]} of them.")
        return None

    @abstractmethod
    def operate(self, u: Tensor, maps: Tensor | None) -> Tensor:
        """Do what :meth:`forward` promises, on an input that has been checked.

        ``maps`` are what the parameters do at every site, for :func:`conditioned`.
        """


def conditioned(v: Tensor, maps: Tensor | None, site: int) -> Tensor:
    """Scale and shift hidden channels by what the parameters give for this site; leave them where there are none."""
    return v if maps is None else modulate(v, maps[site])
