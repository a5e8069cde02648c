"""A person's own arrays as fields with names, checked."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.data.schema import SAMPLE_ID, STORED_DTYPES, ArraySpec, Schema, versions
from vcycle.grid import Grid
from vcycle.problems.problem import FieldInfo

Values = np.ndarray | Tensor


def own_arrays(
    inputs: Values,
    outputs: Values,
    *,
    grid: Grid | None,
    boundary: "Boundary | str | Sequence[object]",
    names: Mapping[str, Sequence[str] | None],
    parameters: Mapping[str, Values],
    times: Sequence[float] | None = None,
) -> tuple[Schema, dict[str, np.ndarray], tuple[ArraySpec, ...]]:
    """Return schema, arrays and their description; see :meth:`vcycle.data.Dataset.from_arrays`.

    Raises
    ------
    ValueError
        If shapes, sizes or names do not fit, or the grid is needed to tell channels from an axis.
    TypeError
        If the values are not real numbers, or an argument is of another kind.
    """
    if grid is not None:
        _check.instance("grid", grid, Grid, "a vcycle.Grid, such as vcycle.Grid((64, 64))")
    _check.instance("parameters", parameters, Mapping, "a mapping from names to one number per sample")
    times = None if times is None else tuple(float(time) for time in times)
    x = _own_array("inputs", inputs, grid)
    found = Grid(x.shape[2:]) if grid is None else grid
    y = _own_array("outputs", outputs, grid if times is None else found, times)
    grid = found
    _check.shape("inputs", x.shape, (None, None, *grid.shape), "sample, channel and the grid's axes")
    lead, meaning = ((), "") if times is None else ((len(times),), "time, ")
    expected = (len(x), *lead, None, *grid.shape)
    _check.shape("outputs", y.shape, expected, f"the samples of `inputs`, {meaning}channel and the grid's axes")
    in_fields, in_arrays = _named_fields("input", names["input"], x)
    out_fields, out_arrays = _named_fields("output", names["output"], y, times)
    for info in out_fields:
        if info in in_fields:
            raise ValueError(f"`output_names` must not repeat a name of the inputs. Got {info.name!r}.")
    scalars = {
        f"parameter_{_check.word('parameters', name)}": _scalars(name, values, len(x))
        for name, values in parameters.items()
    }
    arrays = {**in_arrays, **out_arrays, **scalars}
    schema = Schema(
        grid,
        Boundary.on(grid, boundary),
        in_fields,
        out_fields,
        tuple(parameters),
        call={"function": "from_arrays"},
        versions=versions(),
    )
    specs = schema.field_specs(dtypes={name: str(values.dtype) for name, values in arrays.items()})
    return schema, {**arrays, SAMPLE_ID.name: np.arange(len(x))}, (*specs, SAMPLE_ID)


def _own_array(
    name: str, values: "np.ndarray | Tensor", grid: Grid | None, times: tuple[float, ...] | None = None
) -> np.ndarray:
    """Return a copy as float32 or float64 with a channel axis, behind the time axis where there is one."""
    meaning = "an array or tensor; a complex field is two channels"
    array = _check.real_tensor(name, values, meaning).detach().cpu().numpy()
    array = array.astype(array.dtype if str(array.dtype) in STORED_DTYPES else np.float64)  # a copy
    lead = 0 if times is None else 1
    if grid is None and array.ndim == 3:
        raise ValueError(
            f"`grid` must be given where `{name}` has 3 axes: with vcycle.Grid({array.shape[2]}) they are "
            f"(sample, channel, x), with vcycle.Grid({array.shape[1:]}) (sample, x, y). Got None."
        )
    if grid is not None and array.ndim == grid.num_axes + 1 + lead:
        array = np.expand_dims(array, 1 + lead)
    if not 3 <= array.ndim - lead <= 5 or 0 in array.shape:
        axes = "(sample, time, channel, *space)" if lead else "(sample, channel, *space)"
        raise ValueError(
            f"`{name}` must have shape {axes}, 1 to 3 axes of space, none of them empty. Got {array.shape}."
        )
    return array


def _named_fields(
    role: str, names: Sequence[str] | None, array: np.ndarray, times: tuple[float, ...] | None = None
) -> tuple[tuple[FieldInfo, ...], dict[str, np.ndarray]]:
    axis = 1 if times is None else 2
    num = array.shape[axis]
    if names is None:
        return (FieldInfo(role, components=num, times=times),), {f"{role}_{role}": array}
    one_each = isinstance(names, Sequence) and not isinstance(names, str) and len(names) == num
    if not one_each or len({_check.word(f"{role}_names", name) for name in names}) != num:
        raise ValueError(f"`{role}_names` must be {num} different names, one per channel. Got {names!r}.")
    parts = {f"{role}_{name}": np.ascontiguousarray(array.take([k], axis)) for k, name in enumerate(names)}
    return tuple(FieldInfo(name, times=times) for name in names), parts


def _scalars(name: str, values: "np.ndarray | Tensor", num: int) -> np.ndarray:
    full_name, meaning = f"parameters[{name!r}]", "one number per sample"
    array = _check.real_tensor(full_name, values, meaning).detach().cpu().numpy().astype(np.float64)  # a copy
    _check.shape(full_name, array.shape, (num,), meaning)
    return array
