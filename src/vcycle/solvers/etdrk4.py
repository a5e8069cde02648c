"""Exponential time differencing of fourth order, with steps halved until the solution stops moving."""

import cmath
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vcycle import _check

CONTOUR_POINTS = 64
"""On the circle around each value; where L is real, one half of the circle mirrors the other."""
BATCH_BYTES = 2**17
"""Amplitudes of so many samples are stepped together: enough to hide the cost of a call, few enough for the cache."""
STALLED_BELOW = 1e-4
"""Two halvings running that do not halve a change below this have met rounding: steps are not what is wrong."""

Term = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Coefficients:
    """What one step of one size multiplies amplitudes with, each of the modes' shape, real or complex.

    With z = L dt: ``whole = exp(z)``, ``half = exp(z / 2)``, ``stage = dt / 2 phi_1(z / 2)``, and the weights of the
    four stages ``first = dt (phi_1 - 3 phi_2 + 4 phi_3)``, ``middle = dt (2 phi_2 - 4 phi_3)`` of the two in the
    middle, ``last = dt (4 phi_3 - phi_2)``.
    """

    whole: Tensor
    half: Tensor
    stage: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


def coefficients(linear: Tensor, dt: float, *, contour_points: int = CONTOUR_POINTS) -> Coefficients:
    """Return the coefficients of ETDRK4.

    The phi functions lose all digits to cancellation where z is small. They are entire, so each is the mean of its
    values on a circle of radius 1 around z, where nothing cancels; the mean over equidistant points converges faster
    than any power.

    Parameters
    ----------
    linear
        The diagonal of L, real or complex, in 1 / time.
    dt
        Step size, in the unit of time.
    contour_points
        Points on the circle.

    References
    ----------
    Kassam, Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214, equation (2.5) and section 3; Cox, Matthews, J. Comput.
    Phys. 176 (2002) 430, equations (26) to (29).
    """
    z = linear.to(torch.complex128) * dt
    sums = [torch.zeros_like(z) for _ in range(4)]
    used = contour_points if linear.is_complex() else contour_points // 2
    for point in range(used):
        r = z + cmath.exp(2j * math.pi * (point + 0.5) / contour_points)
        grown = torch.exp(r)
        sums[0] += (torch.exp(r / 2) - 1) / r
        sums[1] += (-4 - r + grown * (4 - 3 * r + r**2)) / r**3
        sums[2] += 2 * (2 + r + grown * (r - 2)) / r**3
        sums[3] += (-4 - 3 * r - r**2 + grown * (4 - r)) / r**3
    means = [torch.exp(z), torch.exp(z / 2), *(total * (dt / used) for total in sums)]
    return Coefficients(*(mean if linear.is_complex() else mean.real.contiguous() for mean in means))


class ETDRK4:
    """Steps of ``u_t = L u + N(u)`` with a diagonal L, exact for L alone and of order 4 in time.

    Amplitudes are complex, ``(sample, component, *modes)``. All arithmetic is done per real number, without fused
    multiply-adds, so that one sample's bytes do not depend on its place in a batch.

    Parameters
    ----------
    linear
        The diagonal of L, real or complex, in 1 / time, to broadcast over ``(component, *modes)``.
    nonlinear
        N; ``None`` stands for 0, and then one step is exact however long.
    """

    def __init__(self, linear: Tensor, nonlinear: Term | None = None) -> None:
        self.linear, self.nonlinear = linear, nonlinear
        self._factors: dict[str, dict[str, Tensor | tuple[Tensor, Tensor]]] = {}

    def step(self, state: Tensor, dt: float) -> Tensor:
        """Return the amplitudes one step of size ``dt`` later."""
        c = self._factors_of(dt)
        if self.nonlinear is None:
            return _times(c["whole"], state)
        now = self.nonlinear(state)
        coasted = _times(c["half"], state)
        a = coasted + _times(c["stage"], now)
        at_a = self.nonlinear(a)
        b = coasted + _times(c["stage"], at_a)
        at_b = self.nonlinear(b)
        end = _times(c["half"], a) + _times(c["stage"], at_b + at_b - now)
        at_end = self.nonlinear(end)
        middle = _times(c["middle"], at_a + at_b)
        return _times(c["whole"], state) + _times(c["first"], now) + middle + _times(c["last"], at_end)

    def integrate(self, state: Tensor, times: Sequence[float], counts: Sequence[int], *, start: float = 0.0) -> Tensor:
        """Return the amplitudes at all ``times``, ``(sample, time, component, *modes)``.

        Parameters
        ----------
        state
            Amplitudes at ``start``.
        times
            Increasing, all after ``start``.
        counts
            Number of steps to each time from the one before.
        start
            In the unit of time.
        """
        states: list[Tensor] = []
        for (before, after), count in zip(pairwise((start, *times)), counts, strict=True):
            if not states or _any_is_finite(state):  # otherwise there is nothing left to step
                for _ in range(count):
                    state = self.step(state, (after - before) / count)
            states.append(state)
        return torch.stack(states, dim=1)

    def _factors_of(self, dt: float) -> "dict[str, Tensor | tuple[Tensor, Tensor]]":
        key = f"{dt:.14g}"  # intervals between times differ in their last digit
        if key not in self._factors:
            alone = {"whole": torch.exp(self.linear * dt)}
            made = alone if self.nonlinear is None else vars(coefficients(self.linear, dt))
            self._factors[key] = {name: _factor(values) for name, values in made.items()}
        return self._factors[key]


def _any_is_finite(state: Tensor) -> bool:
    return bool(torch.isfinite(torch.view_as_real(state)).flatten(1).all(1).any())


def _factor(values: Tensor) -> "Tensor | tuple[Tensor, Tensor]":
    """Return what :func:`_times` needs: real numbers once for the real and once for the imaginary part."""
    if not values.is_complex():
        return torch.stack([values, values], -1)
    return torch.stack([values.real, values.real], -1), torch.stack([-values.imag, values.imag], -1)


def _times(factor: "Tensor | tuple[Tensor, Tensor]", state: Tensor) -> Tensor:
    parts = torch.view_as_real(state)
    if isinstance(factor, Tensor):
        return torch.view_as_complex(parts * factor)
    return torch.view_as_complex(parts * factor[0] + parts.flip(-1) * factor[1])


@dataclass(frozen=True)
class Trajectories:
    """Solutions at all times, and how well they were stepped.

    Parameters
    ----------
    states
        Amplitudes ``(sample, time, component, *modes)``, from the smaller of the two last step sizes.
    step_errors
        ``(sample,)``: the largest difference, over all times and relative in L2, from the solution with steps twice as
        long; ``inf`` where there is none.
    steps
        ``(sample,)``: number of steps of the solution.
    seconds
        ``(sample,)``: wall-clock seconds; those of a batch are divided evenly.
    failures
        What is wrong with samples, by their position.
    """

    states: Tensor
    step_errors: Tensor
    steps: Tensor
    seconds: Tensor
    failures: dict[int, str]


@dataclass(frozen=True)
class StepHalving:
    """Integrate with steps halved, sample by sample, until the solution at all times changes by at most ``rtol``.

    Every sample has its own step size, found from that sample alone: what becomes of it does not depend on the others.

    Parameters
    ----------
    method
        The integrator.
    times
        Increasing, after 0.
    norm
        L2 norm of amplitudes ``(sample, component, *modes)``, ``(sample,)``.
    rtol
        Largest relative L2 change at any time, dimensionless.
    max_steps
        No solution takes more steps.
    """

    method: ETDRK4
    times: tuple[float, ...]
    norm: Term
    rtol: float
    max_steps: int

    def counts(self, halvings: int) -> tuple[int, ...]:
        """Return the number of steps to each time: the shortest way between times has ``2^halvings``."""
        lengths = [after - before for before, after in pairwise((0.0, *self.times))]
        return tuple(2**halvings * math.ceil(length / min(lengths) - 1e-9) for length in lengths)

    def first_halvings(self, step: float) -> int:
        """Return how often the first steps must be halved to be no longer than ``step``."""
        shortest = min(after - before for before, after in pairwise((0.0, *self.times)))
        most = math.floor(math.log2(max(1, self.max_steps / sum(self.counts(0)))))
        if step >= shortest:
            return 0
        wanted = math.ceil(math.log2(shortest / step) - 1e-9) if step > 0 else most
        return min(wanted, max(0, most - 1))

    def run(self, initial: Tensor, first_steps: Tensor) -> Trajectories:
        """Return the solutions from ``initial``, starting the search with step sizes ``first_steps``, ``(sample,)``."""
        num = len(initial)
        halvings = [self.first_halvings(float(step)) for step in first_steps]
        kept = initial.new_zeros((num, len(self.times), *initial.shape[1:]))
        errors = torch.full((num,), math.inf, dtype=torch.float64)
        steps = torch.zeros(num, dtype=torch.int64)
        seconds = torch.zeros(num, dtype=torch.float64)
        stalls, failures = [0] * num, dict[int, str]()
        active = list(range(num))
        for rows in self._batches(active, halvings, initial):
            self._advance(initial, rows, halvings[rows[0]], kept, seconds)
        while active:
            for row in active:
                halvings[row] += 1
            for rows in self._batches(active, halvings, initial):
                coarse = kept[rows]
                self._advance(initial, rows, halvings[rows[0]], kept, seconds)
                steps[rows] = sum(self.counts(halvings[rows[0]]))
                changes = self._changes(kept[rows], coarse)
                for row, change in zip(rows, changes.tolist(), strict=True):
                    stalled = float(errors[row]) / 2 < change < STALLED_BELOW
                    stalls[row] = stalls[row] + 1 if stalled else 0
                    errors[row] = change
                    if (why := self._stuck(change, stalls[row], int(steps[row]))) is not None:
                        failures[row] = why
            active = [row for row in active if not float(errors[row]) <= self.rtol and row not in failures]
        return Trajectories(kept, errors, steps, seconds, failures)

    def _batches(self, rows: list[int], halvings: list[int], initial: Tensor) -> list[list[int]]:
        size = max(1, BATCH_BYTES // (initial[0].numel() * initial.element_size())) if len(initial) else 1
        found = []
        for count in sorted({halvings[row] for row in rows}):
            alike = [row for row in rows if halvings[row] == count]
            found += [alike[first : first + size] for first in range(0, len(alike), size)]
        return found

    def _advance(self, initial: Tensor, rows: list[int], halvings: int, kept: Tensor, seconds: Tensor) -> None:
        began = time.perf_counter()
        kept[rows] = self.method.integrate(initial[rows], self.times, self.counts(halvings))
        seconds[rows] += (time.perf_counter() - began) / len(rows)

    def _changes(self, fine: Tensor, coarse: Tensor) -> Tensor:
        largest = torch.zeros(len(fine), dtype=torch.float64)
        for moment in range(fine.shape[1]):
            size, difference = self.norm(fine[:, moment]), self.norm(fine[:, moment] - coarse[:, moment])
            change = torch.where(difference == 0, 0.0, difference / size)
            largest = torch.maximum(largest, torch.where(torch.isfinite(change), change, math.inf))
        return largest

    def _stuck(self, change: float, stalls: int, steps: int) -> str | None:
        """Say why halving again would be in vain; ``None`` where it would not, or need not be."""
        if change <= self.rtol:
            return None
        if stalls == 2:
            return f"halving time steps no longer helps at a relative change of {change:.1e}; raise `rtol`."
        if 2 * steps > self.max_steps:
            return f"{steps} time steps leave a relative change of {change:.1e}; raise `max_steps` or `rtol`."
        return None


def read_times(times: float | Sequence[float]) -> tuple[float, ...]:
    """Return increasing positive times, or one, as a tuple.

    Raises
    ------
    ValueError
        If there are none, one is not positive and finite, or they do not increase.
    """
    given = times if isinstance(times, Iterable) and not isinstance(times, str) else (times,)
    read = tuple(_check.positive("times", t) for t in given)
    if not read or any(late <= early for early, late in pairwise(read)):
        raise ValueError(f"`times` must be positive and increase, and be at least one. Got {read}.")
    return read
