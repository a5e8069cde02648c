"""The state that Krylov recycling carries from one linear system to the next."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RecycleSpace:
    """Approximate harmonic Ritz vectors of the last system; nothing else survives between solves.

    Parameters
    ----------
    vectors
        ``U``, shape ``(n, k)``, in the coordinates of the right-preconditioned system.
    """

    vectors: np.ndarray

    @property
    def size(self) -> int:
        """Number ``k`` of recycled vectors."""
        return self.vectors.shape[1]
