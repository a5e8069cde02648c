"""Which samples go to training, validation and test: by their numbers, sizes and a seed, and by nothing else."""

import math

import numpy as np

from vcycle import _check


def parts(
    sample_id: np.ndarray, *, test: int | float, validation: int | float = 0, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Return the positions of the samples of each part, training first and a validation of 0 left out.

    Parameters
    ----------
    sample_id
        Numbers of the samples, ``(sample,)``; the order of the rows plays no part.
    test, validation
        Numbers of samples, or fractions between 0 and 1.
    seed
        Of the permutation.

    Raises
    ------
    ValueError
        If a size is not usable, or nothing is left for training.
    """
    total = len(sample_id)
    num_test = _share("test", test, total, minimum=1)
    num_validation = _share("validation", validation, total, minimum=0)
    if num_test + num_validation >= total:
        asked = f"{num_test} + {num_validation}" if num_validation else num_test
        raise ValueError(f"`test` and `validation` must leave samples for training. Got {asked} of {total}.")
    by_number = np.argsort(sample_id, kind="stable")
    shuffled = by_number[np.random.default_rng(_check.integer("seed", seed, 0)).permutation(total)]
    tested, validated, trained = np.split(shuffled, [num_test, num_test + num_validation])
    chosen = [trained, validated, tested] if num_validation else [trained, tested]
    return tuple(np.sort(part) for part in chosen)


def _share(name: str, size: int | float, total: int, *, minimum: int) -> int:
    if isinstance(size, float):
        if not (0 < size < 1 or (size == 0 and minimum == 0)):
            raise ValueError(f"`{name}` must be a number of samples or a fraction between 0 and 1. Got {size}.")
        return max(minimum, math.floor(size * total + 0.5))
    return _check.integer(name, size, minimum)
