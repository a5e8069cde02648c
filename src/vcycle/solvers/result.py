"""What a solver says about a sequence of systems: solutions, true residuals, and a status for each."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vcycle.errors import SolveError
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.recycle import RecycleSpace


class Status(enum.Enum):
    """How one solve ended; the values are the sentences shown to the user."""

    SOLVED = "solved to the tolerance"
    MAX_STEPS = "the largest number of steps was reached above the tolerance"
    STAGNATED = "the residual stopped falling above the tolerance"
    BREAKDOWN = "the solver broke down and left no finite solution"
    NOT_FINITE = "the system contains NaN or infinity"


_REMEDIES = {
    Status.MAX_STEPS: "Raise `max_steps`, or use method='direct'.",
    Status.STAGNATED: "Raise `rtol`; where the method was iterative, method='direct' may do better.",
    Status.BREAKDOWN: "Use method='direct', and check that the matrix is regular.",
    Status.NOT_FINITE: "Check the inputs of these samples.",
}


@dataclass(frozen=True)
class Solves:
    """What a method returns: ``(num, *space)`` solutions, steps and seconds per system; not yet checked."""

    solutions: Tensor
    iterations: Tensor
    seconds: Tensor
    recycle: RecycleSpace | None = None
    factors: DirectFactors | None = None

    @classmethod
    def blank(cls, like: Tensor) -> "Solves":
        """Return solutions of NaN after no steps, for right-hand sides ``(num, *space)``."""
        num = like.shape[0]
        zeros = torch.zeros(num, dtype=torch.float64)
        return cls(torch.full_like(like, torch.nan), zeros.to(torch.int64), zeros)

    def store(self, where: Tensor, solves: "Solves") -> None:
        """Put solutions to the places ``where``; steps and seconds add to what was spent there before."""
        self.solutions[where] = solves.solutions
        self.iterations[where] += solves.iterations
        self.seconds[where] += solves.seconds


@dataclass(frozen=True)
class SequenceResult:
    """Solutions of a sequence of linear systems, in the caller's order.

    Parameters
    ----------
    solutions
        ``u``, shape ``(num, *space)``, float64; NaN where a system was not finite.
    relative_residuals
        True ``|b - A u| / |b|``, recomputed in float64 from the system, shape ``(num,)``, dimensionless.
    iterations
        Steps per system, shape ``(num,)``, int64: V-cycles, or products with ``A`` in the Krylov space; 0 for direct.
    seconds
        Wall-clock seconds per system, shape ``(num,)``; work shared by several systems is divided evenly.
    statuses
        One :class:`Status` per system.
    order
        The order of solution: entry ``j`` is the index of the ``j``-th system solved, shape ``(num,)``, int64.
    recycle
        The space to hand to the next sequence, from ``gcrodr`` only.
    factors
        The order and, where systems share their matrix, the factor to hand to the next sequence, from sparse LU only.
    """

    solutions: Tensor
    relative_residuals: Tensor
    iterations: Tensor
    seconds: Tensor
    statuses: tuple[Status, ...]
    order: Tensor
    recycle: RecycleSpace | None = field(default=None, repr=False)
    factors: DirectFactors | None = field(default=None, repr=False)

    @property
    def failed(self) -> list[int]:
        """Indices of the systems that were not solved."""
        return [index for index, status in enumerate(self.statuses) if status is not Status.SOLVED]

    def reasons(self) -> list[str]:
        """Return, for each of :attr:`failed`, how it ended and the remedy."""
        statuses = [self.statuses[index] for index in self.failed]
        residuals = self.relative_residuals[self.failed].tolist()
        pairs = zip(statuses, residuals, strict=True)
        return [f"(residual {residual:.1e}): {status.value}. {_REMEDIES[status]}" for status, residual in pairs]

    def raise_if_failed(self, sample_ids: Sequence[int] | None = None) -> "SequenceResult":
        """Return the result itself if every system was solved.

        Parameters
        ----------
        sample_ids
            Names of the systems in the message; default their positions.

        Raises
        ------
        SolveError
            Naming the first samples that failed, their residual and the remedy.
        """
        failed = self.failed
        if not failed:
            return self
        ids = range(len(self.statuses)) if sample_ids is None else sample_ids
        named = ", ".join(f"{ids[i]} (residual {self.relative_residuals[i]:.1e})" for i in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        status = self.statuses[failed[0]]
        count = f"{len(failed)} of {len(self.statuses)} samples not solved"
        raise SolveError(f"{count}: {named}{more}: {status.value}. {_REMEDIES[status]}")
