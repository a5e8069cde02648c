"""The only comparators that the tests use; both have tests of their own that wrong inputs fail."""

from collections.abc import Sequence

import numpy as np
import torch

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def assert_close(actual, expected, rtol: float | None = None) -> None:
    """Compare in the relative 2-norm over all values, two-sided; the tolerance follows the lower precision."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape, f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}"
    if rtol is None:
        rtol = max(TOLERANCE[t.dtype] for t in (actual, expected))
    double = torch.complex128 if actual.is_complex() or expected.is_complex() else torch.float64
    actual, expected = actual.to(double), expected.to(double)
    scale = expected.norm() if expected.norm() > 0 else torch.tensor(1.0)
    error = ((actual - expected).norm() / scale).item()
    assert error <= rtol, f"relative difference {error:.3e} exceeds {rtol:.1e}"  # NaN fails too


def assert_order(errors: Sequence[float], sizes: Sequence[float], expected: float, tolerance: float = 0.2) -> None:
    """Check that errors fall like ``size ** -expected``, by least squares over all sizes and between the last two."""
    log_sizes, log_errors = np.log(np.asarray(sizes, float)), np.log(np.asarray(errors, float))
    fitted = -np.polyfit(log_sizes, log_errors, 1)[0]
    last = -(log_errors[-1] - log_errors[-2]) / (log_sizes[-1] - log_sizes[-2])
    message = f"order {fitted:.3f} (last pair {last:.3f}) is not {expected} +- {tolerance}; errors {list(errors)}"
    assert abs(fitted - expected) <= tolerance, message
    assert abs(last - expected) <= tolerance, message
