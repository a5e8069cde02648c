"""Which samples were seen before: what a training run writes down about its data, to be compared with others."""

from collections.abc import Mapping
from typing import Any

from vcycle.data.dataset import Dataset


def origin(data: Dataset, *seen: Dataset | None) -> dict[str, Any]:
    """Return what a run writes down so that what it has seen can be left out later.

    Parameters
    ----------
    data
        The whole data set.
    seen
        The parts of it that were used; ``None`` is no part.

    Returns
    -------
    dict
        JSON-ready: ``fingerprint``, ``problem`` and ``data_seed`` say where the data come from, ``trained_on`` which
        samples of them were used, by ``sample_id``.
    """
    ids = sorted(int(i) for part in seen if part is not None for i in part.sample_id)
    schema = data.schema.to_dict()
    where = {"fingerprint": data.fingerprint(), "problem": schema["problem"], "data_seed": schema["seed"]}
    return where | {"trained_on": ids}


def seen_of(record: Mapping[str, Any], data: Dataset) -> set[int] | None:
    """Return the ``sample_id`` that a record names, or ``None`` if it is about other data.

    Samples of one problem and seed are the same by their numbers, however many there are and whatever the grid.
    """
    schema = data.schema.to_dict()
    draws = _draws(record.get("problem"), record.get("data_seed"))
    same_draws = draws is not None and draws == _draws(schema["problem"], schema["seed"])
    return set(record["trained_on"]) if same_draws or record["fingerprint"] == data.fingerprint() else None


def _draws(problem: Mapping[str, Any] | None, seed: int | None) -> dict[str, Any] | None:
    """Return what draws depend on: everything but the number of points."""
    if problem is None or seed is None:
        return None
    box = {key: value for key, value in problem["grid"].items() if key != "shape"}
    return {**problem, "grid": box, "seed": seed}
