"""The three errors that are not about an argument.

A wrong argument is a ``ValueError`` or a ``TypeError``. These say that something else is unusable: an answer, a file of
data, a saved operator. All of them carry one sentence with the remedy.
"""


class SolveError(RuntimeError):
    """A linear system was not solved to the requested tolerance."""


class DataError(RuntimeError):
    """A dataset is missing, incomplete, corrupt or contains values that cannot be used."""


class CheckpointError(RuntimeError):
    """A saved operator is missing, incomplete, corrupt or belongs to another model."""
