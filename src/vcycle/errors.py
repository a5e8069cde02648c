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


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is want of memory, which PyTorch says with a ``RuntimeError``."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
