"""The choices of a training run that have good defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vcycle import _check
from vcycle.objectives.losses import LOSSES
from vcycle.training.normaliser import NORMALISERS, NormaliserKind

PRECISIONS = ("32", "16-mixed", "bf16-mixed")
OPTIMIZERS = ("adamw", "muon")
LOGGERS = ("csv", "tensorboard")
INCIDENTAL = ("checkpoint_seconds", "logger")
"""What is written meanwhile: the trained operator does not depend on it, and a run may be continued with another."""


@dataclass(frozen=True)
class FitConfig:
    """How :func:`vcycle.fit` trains, apart from its own arguments.

    Parameters
    ----------
    optimizer
        ``"muon"``: :class:`vcycle.training.muon.Muon` on the kernels of convolutions, which then need about half the
        steps, and AdamW on everything else. ``"adamw"``: on all.
    weight_decay
        Of AdamW (decoupled), per unit of learning rate.
    gradient_clip
        Largest 2-norm of the gradient over all weights; ``None`` clips nothing.
    warmup
        Share of all steps in which the one-cycle learning rate rises, from ``learning_rate / 25``; afterwards it falls
        like a cosine.
    final_division
        The last learning rate is ``learning_rate / (25 * final_division)``.
    ema
        Decay per step of an exponential moving average of the weights, which then is what is validated and returned;
        ``None`` keeps no average. Early on the decay is ``(1 + step) / (10 + step)`` where that is smaller, so that
        the initial weights are forgotten.
    precision
        ``"32"``, or ``"16-mixed"`` and ``"bf16-mixed"`` for automatic mixed precision.
    augment
        ``True``: apply the symmetries that the data's problem declares, each to a random half of the samples of each
        batch, to input and output alike. A tuple of names applies those: ``transpose``, ``transpose_xz``,
        ``transpose_yz``, ``flip_x``, ``flip_y``, ``flip_z``; and for vertex grids that begin on the boundary and stop
        one point short of the far one ``half_open_flip_x``, ``half_open_flip_y``, ``half_open_flip_z``, exact up to the
        row of points that is missing.
    noise
        White noise on the inputs of each batch, relative to the root mean square of each sample's channel; of rows of
        trajectories on the state only. 0.001 to 0.1 steadies rollouts (Hao et al., "DPOT", ICML 2024).
    pushforward
        Every ``pushforward``-th batch begins with the network's own prediction from the state before, through which no
        gradient flows, in place of the true state (Brandstetter et al., "Message Passing Neural PDE Solvers", ICLR
        2022, section 3.1; every third in Li et al., "FactFormer", NeurIPS 2023). Needs :meth:`vcycle.Dataset.steps`.
    rollout_steps
        Pairs of a share of the epochs and a number of steps: from that share on the loss is the mean over so many steps
        of the network on its own predictions, gradients through all of them: ``((0, 1), (0.5, 2), (0.8, 4))``. Before
        the first share it is 1. A row with fewer steps to the end of its trajectory begins earlier. Needs
        :meth:`vcycle.Dataset.steps` (Lam et al., "GraphCast", Science 2023).
    sizes
        Points along the grid's first axis of the grids that batches are shown on, one drawn at random for each: means
        over cells, or every n-th vertex; the data's own size counts only if it is one of them. For models with
        ``resolution_free``, and by powers of two for MgNO with ``native_shape`` that of the training grid. A loss that
        is a dataclass with the data's ``grid`` is taken with that of the batch.
    early_stopping
        Stop after this many epochs without a lower validation loss, and return the weights of the lowest. ``None``
        trains all epochs and returns the last weights. Needs validation data.
    input_normaliser, output_normaliser
        Kinds, see :meth:`vcycle.training.Normaliser.of`.
    checkpoint_seconds
        Write a checkpoint at the end of an epoch when the last is this old; 0 writes one each epoch. Only with ``out``.
    logger
        ``"csv"`` and ``"tensorboard"`` write below ``out``; Lightning's own logger objects work too.
    accelerator, devices, num_nodes, strategy
        Lightning's flags of these names. One device by default, as several start this script once more for each:
        ``devices=4, strategy="ddp"``.

    Raises
    ------
    ValueError
        If a number is out of range or a name unknown.
    """

    optimizer: str = "muon"
    weight_decay: float = 1e-4
    gradient_clip: float | None = 1.0
    warmup: float = 0.2
    final_division: float = 1e3
    ema: float | None = None
    precision: str = "32"
    augment: bool | tuple[str, ...] = True
    noise: float | None = None
    pushforward: int | None = None
    rollout_steps: tuple[tuple[float, int], ...] | None = None
    sizes: tuple[int, ...] | None = None
    early_stopping: int | None = None
    input_normaliser: NormaliserKind = "scalar"
    output_normaliser: NormaliserKind = "scalar"
    checkpoint_seconds: float = 10.0
    logger: tuple[Any, ...] = LOGGERS
    accelerator: str = "auto"
    devices: int | str | list[int] | tuple[int, ...] = 1
    num_nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        self._read_words()
        _check.choice("optimizer", self.optimizer, OPTIMIZERS)
        _check.not_negative("weight_decay", self.weight_decay)
        if self.gradient_clip is not None:
            _check.positive("gradient_clip", self.gradient_clip)
        _check.share("warmup", self.warmup)
        _check.positive("final_division", self.final_division)
        if self.ema is not None:
            _check.share("ema", self.ema)
        _check.choice("precision", self.precision, PRECISIONS)
        self._check_strategies()
        if self.early_stopping is not None:
            _check.integer("early_stopping", self.early_stopping, 1)
        _check.choice("input_normaliser", self.input_normaliser, NORMALISERS)
        _check.choice("output_normaliser", self.output_normaliser, NORMALISERS)
        _check.not_negative("checkpoint_seconds", self.checkpoint_seconds)
        for logger in self.logger:
            if not hasattr(logger, "log_metrics"):
                _check.choice("logger", logger, LOGGERS)

    def _check_strategies(self) -> None:
        if self.noise is not None:
            _check.positive("noise", self.noise)
        if self.pushforward is not None:
            _check.integer("pushforward", self.pushforward, 1)
        for size in self.sizes or ():
            _check.integer("sizes", size, 2)
        shares = [_check.not_negative("rollout_steps", share) for share, _ in self.rollout_steps or ()]
        if any(share >= 1 for share in shares) or shares != sorted(set(shares)):
            raise ValueError(f"`rollout_steps` must have shares that increase and are below 1. Got {shares}.")
        for _, steps in self.rollout_steps or ():
            _check.integer("rollout_steps", steps, 1)

    def _read_words(self) -> None:
        """Take what a YAML file or the command line makes of words: 32 is a number there, and one word no list."""
        if self.precision == 32:
            object.__setattr__(self, "precision", "32")
        object.__setattr__(self, "logger", _tuple(self.logger))
        if self.sizes is not None:
            object.__setattr__(self, "sizes", _tuple(self.sizes))
        if self.rollout_steps is not None:
            pairs = tuple(_tuple(pair) for pair in _tuple(self.rollout_steps))
            if any(len(pair) != 2 for pair in pairs):
                raise ValueError(f"`rollout_steps` must be pairs of a share and a number. Got {self.rollout_steps!r}.")
            object.__setattr__(self, "rollout_steps", pairs)
        if not isinstance(self.augment, bool):
            names = _tuple(self.augment)
            if not all(isinstance(name, str) for name in names):
                raise TypeError(f"`augment` must be true, false or names of symmetries. Got {self.augment!r}.")
            object.__setattr__(self, "augment", names)

    @classmethod
    def of(cls, config: "FitConfig | Mapping[str, Any] | None") -> "FitConfig":
        """Read a configuration, its entries by name, or ``None`` for the defaults.

        Raises
        ------
        ValueError
            If an entry is unknown.
        """
        if isinstance(config, FitConfig):
            return config
        entries = dict(config or {})
        for name in entries:
            _check.choice("config", name, [field.name for field in fields(cls)])
        return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; logger objects become the names of their types."""
        entries = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        loggers = [logger if isinstance(logger, str) else type(logger).__name__ for logger in self.logger]
        return entries | {"logger": loggers}


@dataclass(frozen=True)
class Run:
    """The arguments of :func:`vcycle.fit` apart from model, data and folder; its docstring explains them.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    epochs: int
    seed: int
    loss: Any
    batch_size: int
    learning_rate: float
    config: FitConfig

    def __post_init__(self) -> None:
        _check.integer("epochs", self.epochs, 1)
        _check.integer("seed", self.seed, 0)
        _check.integer("batch_size", self.batch_size, 1)
        _check.positive("learning_rate", self.learning_rate)
        if not callable(self.loss):
            _check.choice("loss", self.loss, LOSSES)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        own = {name: plain(getattr(self, name)) for name in ("epochs", "seed", "loss", "batch_size", "learning_rate")}
        return own | self.config.to_dict()


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def decisive(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return those entries of a description that the trained operator depends on."""
    return {name: value for name, value in entries.items() if name not in INCIDENTAL}


def plain(value: Any) -> Any:
    """Return what JSON can hold of an argument, the same in every process."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    # a function's repr holds its address, which no other process shares
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
