"""What the families share that evolve in time: an initial state, its trajectory, and how well it was stepped."""

import functools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.errors import SolveError
from vcycle.fields import GaussianField
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo, Fields, Problem, Produced, QualityInfo, sample_generator
from vcycle.solvers.etdrk4 import ETDRK4, StepHalving, Term, read_times
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.fourier import FourierSpace
from vcycle.solvers.systems import LinearSystems

STEP_ERROR = QualityInfo(
    "step_error",
    about="largest relative L2 change, over all stored times, when the time step was halved to what is stored",
)
STEPS = QualityInfo("steps", about="number of time steps of what is stored", dtype="int64")
TAIL = QualityInfo(
    "tail", about="largest share, over all stored times, of the highest third of wave numbers in the L2 norm"
)
MASS_DRIFT = QualityInfo(
    "mass_drift", about="largest change of the mean from the initial mean, over the initial root mean square"
)
ENERGY_DRIFT = QualityInfo(
    "energy_drift", about="largest change of the mean square from the initial mean square, over the latter"
)

DEFAULT_RTOL = 1e-6
MAX_STEPS = 2**20


@dataclass(frozen=True)
class EvolutionResult:
    """Trajectories of some samples.

    Parameters
    ----------
    solutions
        ``(sample, time, component, *space)``, float64.
    quality
        By the names of the problem's :attr:`~Problem.quality`, ``(sample,)`` each.
    seconds
        Wall-clock seconds per sample, ``(sample,)``.
    failures
        What is wrong, by the sample's position, with the remedy.
    """

    solutions: Tensor
    quality: Fields
    seconds: Tensor
    failures: Mapping[int, str]

    @property
    def failed(self) -> list[int]:
        """Positions of the samples that were not solved, in order."""
        return sorted(self.failures)

    def raise_if_failed(self, numbers: Sequence[int] | None = None) -> None:
        """Raise a :class:`~vcycle.errors.SolveError` that names the first failed sample, as ``numbers`` do."""
        if self.failed:
            first = self.failed[0]
            name = first if numbers is None else numbers[first]
            raise SolveError(f"sample {name}: {self.failures[first]}")


class Evolution(Problem):
    """``u_t = L u + N(u)`` on a periodic box, from a random initial state; ``L`` is diagonal in Fourier space.

    Galerkin in space with all modes of the grid but the Nyquist modes, products free of aliasing; ETDRK4 in time, with
    steps halved sample by sample until the solution changes by at most ``rtol`` at all times. The input is ``initial``,
    the output ``solution`` at the given times. A sample's bytes do not depend on the others solved with it.
    """

    usual_grid: ClassVar[Mapping[str, Any]] = {"centring": "vertex", "periodic": True}
    order: ClassVar[int] = 4
    """Order in time; in space the error of smooth solutions falls faster than any power of h."""
    degree: ClassVar[int] = 2
    """Of the polynomial that N is."""
    courant: ClassVar[float] = 1.0
    """First step size to try, times :meth:`rates`; what is too long costs halvings, not accuracy."""
    inputs: ClassVar[tuple[FieldInfo, ...]] = (FieldInfo("initial"),)
    checks: ClassVar[tuple[QualityInfo, ...]] = ()
    """What :attr:`quality` has beyond steps, their error and the spectrum's tail."""

    times: tuple[float, ...]
    scale: float

    def _set_up(
        self,
        grid: Grid,
        times: Sequence[float],
        *,
        field: GaussianField,
        scale: float,
        refine: int,
        components: int = 1,
    ) -> None:
        """Set what all families have; their constructors call it first."""
        self.space = FourierSpace(grid, refine=refine, degree=self.degree)
        self.grid, self.boundary = grid, Boundary.on(grid, "periodic")
        self.times, self.scale = read_times(times), _check.positive("scale", scale)
        self._field = field
        self._inputs = (FieldInfo("initial", components=components),)
        self.outputs = (FieldInfo("solution", components=components, times=self.times),)

    @property
    def input_fields(self) -> tuple[FieldInfo, ...]:
        """The initial state."""
        return self._inputs

    @property
    def components(self) -> int:
        """Number of components of the state."""
        return self._inputs[0].components

    @property
    def singular(self) -> bool:
        """Nothing is subtracted: there is no linear system."""
        return False

    @property
    def quality(self) -> tuple[QualityInfo, ...]:
        """What :meth:`produce` says of every sample."""
        return (STEP_ERROR, STEPS, TAIL, *self.checks)

    # ----------------------------------------------------------------------------------------- what a family is made of

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "times": list(self.times),
            "alpha": self._field.alpha,
            "tau": self._field.tau,
            "scale": self.scale,
            "refine": self.space.refine,
        } | self.equation()

    @abstractmethod
    def equation(self) -> dict[str, Any]:
        """Return the family's own arguments, JSON-ready: the numbers in its equation."""

    @abstractmethod
    def linear(self) -> Tensor:
        """Return the diagonal of L, to broadcast over ``(component, *modes)``, in 1 / time."""

    def nonlinear(self) -> Term | None:
        """Return N as a function of amplitudes ``(sample, component, *modes)``; ``None`` where the family has none."""
        return None

    def rates(self, initial: Tensor) -> Tensor:
        """Return how fast N changes an initial state ``(sample, component, *space)``, ``(sample,)``, in 1 / time."""
        return torch.zeros(len(initial), dtype=torch.float64)

    def measure(self, initial: Tensor, states: Tensor) -> Fields:
        """Return the values of :attr:`checks` from amplitudes at time 0 and ``(sample, time, component, *modes)``."""
        measures = {MASS_DRIFT.name: _mass_drift, ENERGY_DRIFT.name: _energy_drift}
        known = [info.name for info in self.checks if info.name in measures]
        return {name: measures[name](self.space, initial, states) for name in known}

    # ---------------------------------------------------------------------------------------------------------- solving

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the initial state of one sample, ``(component, *space)``, or ``space`` where there is one component."""
        if self.components == 1:
            return {"initial": self.scale * self._field.sample(generator)}
        streams = generator.spawn(self.components)  # each component's coarse draw stays a truncation of its fine one
        return {"initial": self.scale * np.stack([self._field.sample(stream) for stream in streams])}

    def sample(self, seed: int, indices: Sequence[int], *, attempts: Sequence[int] | None = None) -> Fields:
        """Draw the initial states of the samples ``indices``, ``(sample, component, *space)``, float64."""
        tries = [0] * len(indices) if attempts is None else attempts
        draws = [self.draw(sample_generator(seed, i, attempt)) for i, attempt in zip(indices, tries, strict=True)]
        shape = (len(draws), self.components, *self.grid.shape)
        return {"initial": torch.from_numpy(np.stack([draw["initial"] for draw in draws]).reshape(shape))}

    def solve(  # type: ignore[override]  # there is no linear system whose solver could be chosen
        self, inputs: "Fields | Tensor", *, rtol: float = DEFAULT_RTOL, max_steps: int = MAX_STEPS
    ) -> EvolutionResult:
        """Integrate from the initial states to all times.

        Parameters
        ----------
        inputs
            Initial states, named or stacked.
        rtol
            Largest relative L2 change of the solution at any time when steps are halved; what is kept is the finer
            solution, whose error in time is about a fifteenth of that where steps are short enough.
        max_steps
            A sample that would need more steps fails.

        Raises
        ------
        ValueError
            If a number is out of range, or initial states are not finite or not of the grid's shape.
        """
        rtol, max_steps = _check.positive("rtol", rtol), _check.integer("max_steps", max_steps, 2)
        with torch.no_grad():
            values = self._finite(inputs)
            initial = self.space.modes(values)
            search = StepHalving(self.integrator(), self.times, self._norm, rtol, max_steps)
            rates = self.rates(values)
            found = search.run(initial, torch.where(rates > 0, self.courant / rates, max(self.times)))
            quality = {STEP_ERROR.name: found.step_errors, STEPS.name: found.steps}
            quality |= {TAIL.name: _tail(self.space, found.states)} | self.measure(initial, found.states)
            return EvolutionResult(self.space.values(found.states), quality, found.seconds, found.failures)

    def produce(
        self,
        inputs: "Fields | Tensor",
        *,
        rtol: float = DEFAULT_RTOL,
        method: str = "auto",
        factors: DirectFactors | None = None,
    ) -> Produced:
        """Solve for data; ``rtol`` as in :meth:`solve`, and ``method`` can only be ``"auto"`` or ``"etdrk4"``.

        Raises
        ------
        ValueError
            As :meth:`solve`.
        """
        _check.choice("method", method, ("auto", "etdrk4"))
        result = self.solve(inputs, rtol=rtol)
        return Produced({"solution": result.solutions}, result.quality, result.seconds, result.failures)

    def systems(self, inputs: "Fields | Tensor") -> LinearSystems:
        """Raise: an evolution is stepped, it is no linear system.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(f"`problem` {self.name!r} evolves in time; this needs linear systems.")

    def integrator(self) -> ETDRK4:
        """Return the integrator of amplitudes ``(sample, component, *modes)``."""
        return ETDRK4(self.linear(), self.nonlinear())

    def step(self, values: Tensor, dt: float, *, count: int = 1) -> Tensor:
        """Return states ``(sample, component, *space)`` after ``count`` steps of size ``dt``; differentiable."""
        method, modes = self.integrator(), self.space.modes(values)
        for _ in range(count):
            modes = method.step(modes, dt)
        return self.space.values(modes)

    def time_derivative(self, values: Tensor) -> Tensor:
        """Return ``L u + N(u)`` of states ``(sample, component, *space)``, same shape, per time; differentiable."""
        modes, nonlinear = self.space.modes(values), self.nonlinear()
        change = self.linear() * modes
        return self.space.values(change if nonlinear is None else change + nonlinear(modes))

    def residual(self, inputs: "Fields | Tensor", outputs: Tensor) -> Tensor:
        """Return what each stored state misses: the solution from the state before it, minus it.

        Every stored state is the start of an integration to the next stored time, by steps halved until they change the
        result by at most 1e-6 (relative, in L2). With ``refine`` above 1 a stored state lacks the modes that the grid
        does not hold, and the residual shows that too. Differentiable in both arguments.

        Parameters
        ----------
        inputs
            Initial states, named or stacked.
        outputs
            ``(sample, time, component, *space)``, or stacked, ``(sample, time * component, *space)``.

        Returns
        -------
        Tensor
            Of the outputs' shape, in the unit of the solution.

        Raises
        ------
        ValueError
            If a shape does not fit.
        SolveError
            If the steps between two states do not converge.
        """
        initial = self.named(inputs)["initial"]
        outputs = _check.real_tensor("outputs", outputs, "an array or tensor (sample, time, component, *space)")
        stored = self._unstacked_times(outputs.to(torch.float64))
        starts = torch.cat([initial.unsqueeze(1), stored[:, :-1]], dim=1)
        misses, before = [], 0.0
        for moment, after in enumerate(self.times):
            reached = self._reached(starts[:, moment], after - before)
            misses.append(reached - stored[:, moment])
            before = after
        return torch.stack(misses, dim=1).reshape(outputs.shape)

    def _reached(self, values: Tensor, duration: float) -> Tensor:
        method, rows = self.integrator(), []
        search = StepHalving(method, (duration,), self._norm, DEFAULT_RTOL, MAX_STEPS)
        with torch.no_grad():
            rates = self.rates(values)
            found = search.run(self.space.modes(values), torch.where(rates > 0, self.courant / rates, duration))
        EvolutionResult(values, {}, found.seconds, found.failures).raise_if_failed()
        for row, count in zip(values, found.steps.tolist(), strict=True):
            state = method.integrate(self.space.modes(row.unsqueeze(0)), (duration,), (count,))
            rows.append(self.space.values(state[:, 0]))
        return torch.cat(rows)

    def _unstacked_times(self, outputs: Tensor) -> Tensor:
        full = (len(self.times), self.components, *self.grid.shape)
        if outputs.shape[1:] in (full, (full[0] * full[1], *full[2:])):
            return outputs.reshape(-1, *full)
        wanted = ", ".join(map(str, full))
        raise ValueError(f"`outputs` must have shape (sample, {wanted}). Got {tuple(outputs.shape)}.")

    def _finite(self, inputs: "Fields | Tensor") -> Tensor:
        values = self.named(inputs)["initial"]
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"`initial` must be finite everywhere. Got {float(values[~torch.isfinite(values)][0])}.")
        return values

    def _norm(self, modes: Tensor) -> Tensor:
        return self.space.mean_square(modes).sqrt()


def initial_field(grid: Grid, *, alpha: float, tau: float) -> GaussianField:
    """Return the periodic Gaussian field of zero mean that initial states are drawn from."""
    return GaussianField(grid, alpha=alpha, tau=tau, basis="periodic")


def require_axes(grid: Grid, num: int) -> None:
    """Raise a ValueError unless the grid has ``num`` axes."""
    if grid.num_axes != num:
        raise ValueError(f"`grid` must have {num} {'axis' if num == 1 else 'axes'}. Got {grid.num_axes}.")


def steepening_term(space: FourierSpace, factor: float = 1.0) -> Term:
    """Return ``-factor (u^2 / 2)_x`` on one axis."""
    flux = -0.5 * factor * space.derivatives[0]
    return lambda modes: flux * space.product_modes(space.product_values(modes) ** 2)


def crossing_rates(space: FourierSpace, speeds: Tensor) -> Tensor:
    """Return the largest speed over the shortest wave length, times 2 pi: ``(sample, axis)`` to ``(sample,)``."""
    fastest = torch.stack([k.abs().max() for k in space.wave_numbers])
    return (speeds * fastest).amax(1)


def _tail(space: FourierSpace, states: Tensor) -> Tensor:
    shares = [
        space.mean_square(state * space.highest_third) / space.mean_square(state).clamp_min(math.ulp(0.0))
        for state in states.unbind(1)
    ]
    return functools.reduce(torch.maximum, shares).sqrt()


def _mass_drift(space: FourierSpace, initial: Tensor, states: Tensor) -> Tensor:
    means, before = (modes.real.flatten(-space.grid.num_axes)[..., 0] for modes in (states, initial))
    change = (means - before.unsqueeze(1)).abs().flatten(1).amax(1)
    return change / space.mean_square(initial).sqrt().clamp_min(math.ulp(0.0))


def _energy_drift(space: FourierSpace, initial: Tensor, states: Tensor) -> Tensor:
    before = space.mean_square(initial)
    changes = [(space.mean_square(state) - before).abs() for state in states.unbind(1)]
    return functools.reduce(torch.maximum, changes) / before.clamp_min(math.ulp(0.0))
