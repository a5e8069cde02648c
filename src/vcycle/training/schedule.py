"""The one-cycle learning rate: up like a cosine, then down to almost nothing."""

import math

START_DIVISION = 25.0
"""The first learning rate is the highest divided by this."""


def one_cycle(step: int, *, num_steps: int, warmup: float, final_division: float) -> float:
    """Return the learning rate of a step over the highest (dimensionless).

    Parameters
    ----------
    step
        Counted from 0.
    num_steps
        Number of steps in the run; later ones keep the last rate.
    warmup
        Share of the steps before the highest rate.
    final_division
        The last rate is ``1 / (25 * final_division)``.

    Notes
    -----
    Differs from ``torch.optim.lr_scheduler.OneCycleLR`` in: runs of few steps work (they begin at the top where the
    warm-up is less than two steps; PyTorch divides by zero).

    References
    ----------
    Smith, Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.
    arXiv:1708.07120.
    """
    start, end = 1.0 / START_DIVISION, 1.0 / (START_DIVISION * final_division)
    turn, last = max(warmup * num_steps - 1.0, 0.0), num_steps - 1.0
    if step < turn:
        return _cosine(start, 1.0, step / turn)
    return _cosine(1.0, end, min(1.0, (step - turn) / (last - turn)) if last > turn else 0.0)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1.0 + math.cos(math.pi * share)) / 2.0
