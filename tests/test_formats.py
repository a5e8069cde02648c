"""Each layout against its specification and a reader that shares nothing with ours; round trips to the last bit."""

import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
import scipy.io
import torch

import vcycle as vc
from vcycle.data import FORMATS, Dataset, check, detect_format, read_file

SPACES = {"1d": (8,), "2d": (6, 4), "3d": (4, 2, 6)}


def steady(space=(6, 4), *, dtype="float32", num=3, centring="cell", boundary="neumann", **settings):
    rng = np.random.default_rng(0)
    periodic = boundary == "periodic"
    grid = vc.Grid(space, tuple(0.3 + axis for axis in range(len(space))), centring, periodic)
    x, y = rng.standard_normal((2, num, 1, *space)).astype(dtype)
    return Dataset.from_arrays(x, y, grid=grid, boundary=boundary, **settings)


def evolving(space=(6, 4), *, dtype="float64", components=1, num=3, times=(0.1, 0.25, 0.7), boundary="periodic"):
    rng = np.random.default_rng(1)
    grid = vc.Grid(space, 2 * np.pi, "vertex", boundary == "periodic")
    x = rng.standard_normal((num, components, *space)).astype(dtype)
    y = rng.standard_normal((num, len(times), components, *space)).astype(dtype)
    return Dataset.from_arrays(x, y, grid=grid, boundary=boundary, times=times)


def bent(space=(9, 7), *, num=3, dtype="float32"):
    """A body-fitted grid, its coordinates as inputs."""
    values = np.random.default_rng(2).standard_normal((3, num, *space)).astype(dtype)
    return Dataset.from_arrays(
        np.stack([values[0], values[1]], 1), values[2][:, np.newaxis], grid=vc.Grid(space, 1.0, "vertex"),
        boundary=("neumann", "dirichlet"), input_names=["x", "y"], output_names=["velocity"],
    )  # fmt: skip


def bits(dataset):
    fields = (*dataset.input_fields, *dataset.output_fields)
    return [(str(v.dtype), v.shape, v.tobytes()) for v in (dataset.stored(info.name) for info in fields)]


def there_and_back(dataset, path, **options):
    FORMATS[detect_format(path) if path.suffix not in (".h5", ".hdf5") else options.pop("form")].write(dataset, path)
    return read_file(path, **options)


# ------------------------------------------------------------------------------------------------------------------ npz


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_npz_holds_everything(tmp_path, space, dtype):
    dataset = steady(space, dtype=dtype, parameters={"k": np.arange(3) / 7})
    back = there_and_back(dataset, tmp_path / "d.npz")
    assert back.fingerprint() == dataset.fingerprint()
    assert back.specs == dataset.specs
    with np.load(tmp_path / "d.npz", allow_pickle=False) as plain:
        assert np.array_equal(plain["output_output"], dataset.stored("output"))
        assert np.array_equal(plain["x"], dataset.grid.coordinates()[0])


def test_npz_keeps_problem_residuals_and_times(tmp_path):
    made = vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=4, progress=False)
    back = there_and_back(made, tmp_path / "d.npz")
    assert back.problem.config() == made.problem.config()
    assert torch.equal(back.solver["residual"], made.solver["residual"])
    assert check(back).ok
    moving = evolving()
    assert there_and_back(moving, tmp_path / "e.npz").fingerprint() == moving.fingerprint()
    stored = read_file(tmp_path / "e.npz").save(tmp_path / "e.zarr")
    assert stored.fingerprint() == moving.fingerprint()


def test_other_peoples_npz(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((2, 5, 8))
    np.savez(tmp_path / "d.npz", x=x, y=y)
    dataset = read_file(tmp_path / "d.npz", extent=[2.0], boundary="periodic", centring="vertex")
    assert dataset.grid == vc.Grid(8, 2.0, "vertex", True)
    assert np.array_equal(dataset.stored("output")[:, 0], y)
    named = read_file(tmp_path / "d.npz", inputs="y", outputs="x", extent=[2.0])
    assert np.array_equal(named.stored("input")[:, 0], y)
    np.savez(tmp_path / "e.npz", p=x)
    with pytest.raises(vc.DataError, match=r"has no array 'inputs'. It holds p. Say which"):
        read_file(tmp_path / "e.npz")


# ------------------------------------------------------------------------------------------------------------------ mat


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mat_darcy(tmp_path, dtype):
    dataset = steady((5, 5), dtype=dtype, centring="vertex", boundary="dirichlet")
    back = there_and_back(dataset, tmp_path / "d.mat", extent=[0.3, 1.3])
    assert bits(back) == bits(dataset)
    assert (back.grid, back.boundary) == (dataset.grid, dataset.boundary)
    plain = scipy.io.loadmat(tmp_path / "d.mat")
    assert plain["coeff"].dtype == dtype
    assert np.array_equal(plain["coeff"], dataset.stored("input")[:, 0])
    assert np.array_equal(plain["sol"], dataset.stored("output")[:, 0])


def test_mat_burgers(tmp_path):
    dataset = steady((8,), boundary="periodic", centring="vertex")
    back = there_and_back(dataset, tmp_path / "d.mat", extent=0.3)
    assert bits(back) == bits(dataset)
    assert back.grid == dataset.grid
    assert set(scipy.io.loadmat(tmp_path / "d.mat")) >= {"a", "u"}


@pytest.mark.parametrize("times", [(0.1, 0.25, 0.7), (2.0,)])
def test_mat_navier_stokes(tmp_path, times):
    dataset = evolving(times=times, dtype="float32")
    back = there_and_back(dataset, tmp_path / "d.mat", extent=2 * np.pi)
    assert bits(back) == bits(dataset)
    assert back.times == times
    assert back.grid == dataset.grid
    plain = scipy.io.loadmat(tmp_path / "d.mat")
    assert plain["t"].shape == (1, len(times))
    u = plain["u"].reshape(3, 6, 4, len(times))
    assert np.array_equal(u[..., -1], dataset.stored("output")[:, -1, 0])


def test_mat_of_version_7_3_has_its_axes_in_reverse(tmp_path):
    rng = np.random.default_rng(2)
    a, u = rng.standard_normal((4, 6, 5)).astype(np.float32), rng.standard_normal((4, 6, 5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "d.mat", "w", userblock_size=512) as file:
        for name, values in {"a": a, "u": u, "t": np.array([[1.0, 2.0, 3.0]])}.items():
            file[name] = values.transpose()
            file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with (tmp_path / "d.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Nov 21 2026 HDF5 schema 1.00 .")
    dataset = read_file(tmp_path / "d.mat")
    assert np.array_equal(dataset.stored("initial")[:, 0], a)
    assert np.array_equal(dataset.stored("solution")[:, :, 0], np.moveaxis(u, -1, 1))
    assert dataset.times == (1.0, 2.0, 3.0)
    assert str(dataset.boundary) == "periodic"
    (tmp_path / "e.mat").write_bytes((tmp_path / "d.mat").read_bytes()[512:])  # without MATLAB's own header
    assert read_file(tmp_path / "e.mat").fingerprint() == dataset.fingerprint()


# ------------------------------------------------------------------------------------------------------------- PDEBench


def test_pdebench_darcy(tmp_path):
    dataset = steady((6, 6), boundary="dirichlet", parameters={"beta": np.full(3, 0.1)})
    back = there_and_back(dataset, tmp_path / "d.hdf5", form="pdebench")
    assert bits(back) == bits(dataset)
    assert (back.grid, back.boundary) == (dataset.grid, dataset.boundary)
    assert back.parameters.unique().tolist() == [0.1]
    with h5py.File(tmp_path / "d.hdf5") as file:
        assert set(file) == {"nu", "tensor", "x-coordinate", "y-coordinate"}
        assert file["nu"].shape == (3, 6, 6)
        assert file["tensor"].shape == (3, 1, 6, 6)
        assert file.attrs["beta"] == 0.1
        assert np.array_equal(file["tensor"][:, 0], dataset.stored("output")[:, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pdebench_scalar_on_one_axis(tmp_path, dtype):
    dataset = evolving((8,), dtype=dtype)
    back = there_and_back(dataset, tmp_path / "d.hdf5", form="pdebench")
    assert bits(back) == bits(dataset)
    assert (back.grid, back.times) == (dataset.grid, dataset.times)
    with h5py.File(tmp_path / "d.hdf5") as file:
        assert file["tensor"].shape == (3, 4, 8)
        assert file["t-coordinate"][:].tolist() == [0.0, 0.1, 0.25, 0.7]
        assert np.array_equal(file["tensor"][:, 0], dataset.stored("input")[:, 0])


@pytest.mark.parametrize(("space", "components"), [((8,), 2), ((6, 4), 1), ((6, 4), 2), ((4, 2, 6), 1)])
def test_pdebench_groups_of_samples(tmp_path, space, components):
    dataset = evolving(space, components=components)
    back = there_and_back(dataset, tmp_path / "d.h5", form="pdebench")
    assert bits(back) == bits(dataset)
    assert (back.grid, back.times) == (dataset.grid, dataset.times)
    with h5py.File(tmp_path / "d.h5") as file:
        assert list(file) == ["0000", "0001", "0002"]
        assert file["0001/data"].shape == (4, *space, components)
        assert np.array_equal(file["0001/data"][2, ..., 0], dataset.stored("output")[1, 1, 0])
        assert file["0001/grid/t"][0] == 0.0


def test_pdebench_flow_as_it_is_published(tmp_path):
    rng = np.random.default_rng(3)
    values = {name: rng.random((2, 3, 4, 4)).astype(np.float32) for name in ("density", "pressure", "Vx", "Vy")}
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file.update(values)
        for axis in "xy":
            file[f"{axis}-coordinate"] = (np.arange(4, dtype=np.float32) + 0.5) / 4
        file["t-coordinate"] = np.arange(4, dtype=np.float32) * np.float32(0.05)  # one more than snapshots
        file.attrs["eta"], file.attrs["M"] = 1e-8, 0.1
    dataset = read_file(tmp_path / "d.hdf5")
    assert [info.name for info in dataset.output_fields] == list(values)
    assert np.array_equal(dataset.stored("Vx_initial")[:, 0], values["Vx"][:, 0])
    assert np.array_equal(dataset.stored("pressure")[:, :, 0], values["pressure"][:, 1:])
    assert dataset.grid == vc.Grid((4, 4), 1.0, "cell", True)
    assert dataset.times == tuple(map(float, np.arange(4, dtype=np.float32)[1:3] * np.float32(0.05)))
    assert dict(zip(dataset.parameter_names, dataset.parameters[0].tolist(), strict=True)) == {"eta": 1e-8, "M": 0.1}


# ------------------------------------------------------------------------------------------------------------- The Well


def require_the_wells_layout(path, dataset):
    """Check a file item by item against the published specification, docs/data_format.md of the_well 1.2."""
    with h5py.File(path) as file:
        assert set(file) == {
            "dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields",
        }  # fmt: skip
        assert {"simulation_parameters", "dataset_name", "grid_type", "n_spatial_dims", "n_trajectories"} <= set(
            file.attrs
        )
        dims = file["dimensions"].attrs["spatial_dims"].tolist()
        assert dims == list(dataset.grid.axis_names)
        assert file.attrs["n_spatial_dims"] == len(dims)
        assert file.attrs["n_trajectories"] == len(dataset)
        sizes = {name: file["dimensions"][name].shape[-1] for name in ("time", *dims)}
        for name in ("time", *dims):
            assert file["dimensions"][name].dtype == np.float32
            assert not file["dimensions"][name].attrs["sample_varying"]
            assert file["dimensions"][name].attrs["time_varying"] == (name == "time")
        for order in range(3):
            group = file[f"t{order}_fields"]
            assert sorted(group) == sorted(group.attrs["field_names"].tolist())
            for field in group.values():
                attributes = field.attrs
                assert all(isinstance(attributes[key], (bool, np.bool_)) for key in ("sample_varying", "time_varying"))
                along = [sizes[d] for d, varies in zip(dims, attributes["dim_varying"], strict=True) if varies]
                time = [sizes["time"]] if attributes["time_varying"] else []
                assert field.shape == (len(dataset), *time, *along, *(len(dims),) * order)
        for name in file["scalars"].attrs["field_names"].tolist():
            assert file["scalars"][name].shape == (len(dataset),)
        for condition in file["boundary_conditions"].values():
            assert condition.attrs["bc_type"] in ("PERIODIC", "WALL", "OPEN")
            (dim,) = condition.attrs["associated_dims"].tolist()
            assert condition["mask"].shape == (sizes[dim],)
            assert condition["mask"].dtype == bool
            words = {"PERIODIC": ("periodic",), "WALL": ("dirichlet", "neumann", "robin"), "OPEN": ("absorbing",)}
            pair = dataset.boundary.kinds[dims.index(dim)]
            inside = [False] * (sizes[dim] - 2)
            low, high = (kind in words[condition.attrs["bc_type"]] for kind in pair)
            assert low or high
            assert condition["mask"][:].tolist() == [low, *inside, high]


@pytest.mark.parametrize(
    "dataset",
    [
        steady(parameters={"k": np.arange(3) / 7}),
        steady((8,), dtype="float64", boundary="dirichlet"),
        steady((4, 2, 6), boundary=(("dirichlet", "neumann"), ("absorbing", "neumann"), "dirichlet")),
        evolving(),
        evolving((8,), times=(1.5,), dtype="float32"),
        evolving((6, 4), components=2),
        evolving((4, 2, 6), components=9, num=2, times=(1.0, 2.0)),
    ],
    ids=["steady", "1d", "mixed walls", "evolving", "one time", "vector", "tensor"],
)
def test_the_well_there_and_back(tmp_path, dataset):
    back = there_and_back(dataset, tmp_path / "d.hdf5", form="the-well")
    require_the_wells_layout(tmp_path / "d.hdf5", dataset)
    assert bits(back) == bits(dataset)
    assert (back.boundary, back.grid.shape, back.grid.centring) == (
        dataset.boundary,
        dataset.grid.shape,
        dataset.grid.centring,
    )
    assert np.allclose(back.grid.extent, dataset.grid.extent, rtol=1e-6, atol=0)
    assert np.allclose(back.times or (), dataset.times or (), rtol=1e-6, atol=0)
    assert back.parameter_names == dataset.parameter_names
    if dataset.parameters is not None:
        assert torch.equal(back.parameters, dataset.parameters)
    again = there_and_back(back, tmp_path / "e.hdf5", form="the-well")
    assert again.fingerprint() == back.fingerprint()


def test_the_well_without_our_kinds_is_read_by_its_own_words(tmp_path):
    dataset = steady((4, 6), boundary=(("neumann", "absorbing"), "dirichlet"))
    FORMATS["the-well"].write(dataset, tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "r+") as file:
        del file["boundary_conditions"].attrs["kinds"]
    back = read_file(tmp_path / "d.h5")
    assert back.boundary.to_list() == [["dirichlet", "absorbing"], ["dirichlet", "dirichlet"]]
    assert read_file(tmp_path / "d.h5", boundary="neumann").boundary.to_list() == [["neumann", "neumann"]] * 2


def test_the_well_holds_faces_and_units(tmp_path):
    problem = vc.problems.Poisson(vc.Grid((8, 12)), (("dirichlet", "neumann"), "dirichlet"))
    dataset = vc.generate(problem, num_samples=3, progress=False)
    back = there_and_back(dataset, tmp_path / "d.hdf5", form="the-well")
    require_the_wells_layout(tmp_path / "d.hdf5", dataset)
    assert bits(back) == bits(dataset)
    assert back.input_fields == dataset.input_fields
    assert (back.grid, back.boundary) == (dataset.grid, dataset.boundary)
    assert torch.equal(back.inputs, dataset.inputs)


def test_the_well_as_it_is_published(tmp_path):
    """Fields constant in time, in a sample or along an axis; vectors; walls on one side; conditions in lower case."""
    rng = np.random.default_rng(4)
    speed, flow = rng.random((5,)).astype(np.float32), rng.random((2, 3, 4, 5, 2)).astype(np.float32)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name, value in {"dataset_name": "x", "grid_type": "cartesian", "n_spatial_dims": 2, "n_trajectories": 2,
                            "simulation_parameters": ["c"], "c": 0.25}.items():  # fmt: skip
            file.attrs[name] = value
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, values in {"time": [0.0, 0.5, 1.0], "x": np.arange(4) * 0.5, "y": np.arange(5) * 0.25}.items():
            dimensions[name] = np.asarray(values, np.float32)
            dimensions[name].attrs["sample_varying"] = False
        wall = file.create_group("boundary_conditions/x_wall")
        wall.attrs["associated_dims"], wall.attrs["bc_type"] = ["x"], "wall"
        wall["mask"] = np.array([True, False, False, False])
        around = file.create_group("boundary_conditions/y_periodic")
        around.attrs["associated_dims"], around.attrs["bc_type"] = "y", "PERIODIC"
        around["mask"] = np.array([True, False, False, False, True])
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["c", "power"]
        scalars["c"], scalars["power"] = 0.25, np.arange(3.0)
        scalars["c"].attrs["time_varying"], scalars["power"].attrs["time_varying"] = False, True
        scalars["c"].attrs["sample_varying"] = scalars["power"].attrs["sample_varying"] = False
        for order, fields in enumerate(({"speed": speed}, {"flow": flow}, {})):
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = list(fields)
            group.update(fields)
        file["t0_fields/speed"].attrs.update(dim_varying=[False, True], sample_varying=False, time_varying=False)
        file["t1_fields/flow"].attrs.update(dim_varying=[True, True], sample_varying=True, time_varying=True)
    dataset = read_file(tmp_path / "d.h5")
    assert dataset.grid == vc.Grid((4, 5), (1.5, 1.25), "vertex", (False, True))
    assert dataset.boundary.to_list() == [["dirichlet", "absorbing"], ["periodic", "periodic"]]
    assert np.array_equal(dataset.stored("speed"), np.broadcast_to(speed, (2, 1, 4, 5)))
    assert np.array_equal(dataset.stored("flow"), np.moveaxis(flow, -1, 2))
    assert dataset.times == (0.0, 0.5, 1.0)
    assert dataset.parameter_names == ("c",)
    assert dataset.parameters.tolist() == [[0.25], [0.25]]


# ----------------------------------------------------------------------------------------------------------------- pipe


def test_pipe_files_are_coordinates_in_and_velocity_out(tmp_path):
    """Files as Geo-FNO's are: Q has components, and the first of them is learned."""
    rng = np.random.default_rng(3)
    x, y, q = rng.standard_normal((5, 9, 7)), rng.standard_normal((5, 9, 7)), rng.standard_normal((5, 3, 9, 7))
    for name, values in {"X": x, "Y": y, "Q": q}.items():
        np.save(tmp_path / f"Pipe_{name}.npy", values)
    dataset = read_file(tmp_path)
    assert detect_format(tmp_path) == "pipe"
    assert torch.equal(dataset.inputs, torch.from_numpy(np.stack([x, y], 1)))
    assert torch.equal(dataset.outputs, torch.from_numpy(q[:, :1]))
    assert dataset.grid == vc.Grid((9, 7), 1.0, "vertex")
    assert dataset.boundary.kinds == (("neumann", "neumann"), ("dirichlet", "dirichlet"))
    part = read_file(tmp_path, "pipe", first=3, last=5, component=2, boundary="dirichlet")
    assert torch.equal(part.outputs, torch.from_numpy(q[3:, 2:]))
    assert torch.equal(part.inputs, dataset.inputs[3:])
    for wrong, message in {"component": "below 3", "first": "up to 5 samples", "last": "up to 5 samples"}.items():
        with pytest.raises(ValueError, match=message):
            read_file(tmp_path, "pipe", **{wrong: 7})


def test_pipe_there_and_back_and_what_is_refused(tmp_path):
    dataset = bent()
    FORMATS["pipe"].write(dataset, tmp_path / "pipe")
    back = read_file(tmp_path / "pipe")
    assert bits(back) == bits(dataset)
    with pytest.raises(vc.DataError, match="exists"):
        FORMATS["pipe"].write(dataset, tmp_path / "pipe")
    with pytest.raises(ValueError, match="two input channels"):
        FORMATS["pipe"].write(steady(), tmp_path / "other")
    np.save(tmp_path / "pipe" / "Pipe_Y.npy", np.zeros((3, 9, 6)))
    with pytest.raises(vc.DataError, match="must hold X and Y"):
        read_file(tmp_path / "pipe")
    (tmp_path / "pipe" / "Pipe_Y.npy").write_bytes(b"nothing")
    with pytest.raises(vc.DataError, match="cannot be read as a NumPy array"):
        read_file(tmp_path / "pipe")
    (tmp_path / "pipe" / "Pipe_Y.npy").unlink()
    with pytest.raises(vc.DataError, match=r"Pipe_Y\.npy does not exist"):
        FORMATS["pipe"].read(tmp_path / "pipe")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", ["d.h5", "d.hdf5", "d.mat", "d.npz"])
def test_missing_and_damaged_files_are_one_line(tmp_path, name):
    form = {"d.h5": "the-well", "d.hdf5": "pdebench", "d.mat": "fno", "d.npz": "npz"}[name]
    with pytest.raises(vc.DataError, match="does not exist"):
        FORMATS[form].read(tmp_path / name)
    FORMATS[form].write(evolving((8,)), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nothing of the kind\n" * 40):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(vc.DataError, match=name) as caught:
            FORMATS[form].read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_other_contents_are_refused(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["something"] = np.zeros(3)
    with pytest.raises(ValueError, match="`path` may be one of the-well, pdebench by its suffix: say which"):
        read_file(tmp_path / "d.h5")
    with pytest.raises(vc.DataError, match="is no PDEBench file: it holds something"):
        read_file(tmp_path / "d.h5", "pdebench")
    with pytest.raises(vc.DataError, match="is none of The Well's files: it has no t0_fields"):
        read_file(tmp_path / "d.h5", "the-well")
    scipy.io.savemat(tmp_path / "d.mat", {"q": np.zeros((3, 4))})
    with pytest.raises(vc.DataError, match=r"must hold coeff and sol, or a and u\. It holds q"):
        read_file(tmp_path / "d.mat")
    scipy.io.savemat(tmp_path / "e.mat", {"a": np.zeros((3, 4)), "u": np.zeros((3, 5))})
    with pytest.raises(vc.DataError, match="cannot be read as MATLAB data of the FNO papers"):
        read_file(tmp_path / "e.mat")
    with pytest.raises(ValueError, match="has no 'bounds'"):
        read_file(tmp_path / "e.mat", bounds="periodic")


def test_uneven_grids_are_refused(tmp_path):
    FORMATS["pdebench"].write(steady((6, 6), boundary="dirichlet"), tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "r+") as file:
        file["x-coordinate"][0] = -1.0
    with pytest.raises(vc.DataError, match="axis 0 of the grid is not evenly spaced"):
        read_file(tmp_path / "d.h5")


@pytest.mark.parametrize("form", ["fno", "pdebench", "neuraloperator"])
def test_what_a_layout_cannot_hold_is_refused_and_nothing_is_left(tmp_path, form):
    x = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match="`dataset` must have one input and one output"):
        FORMATS[form].write(Dataset.from_arrays(x, x), tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_h5py_that_is_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "vcycle\[formats\]"'):
        FORMATS["the-well"].read(tmp_path / "d.h5")


LIMITED = """
    import resource, sys
    from pathlib import Path
    import h5py, scipy.io
    from test_formats import bent, evolving, steady
    from vcycle import DataError
    from vcycle.data import FORMATS

    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    for name, form in FORMATS.items():
        special = {"neuraloperator": steady((64, 64), boundary="dirichlet"), "pipe": bent((64, 64))}
        dataset = special.get(name) or evolving((64, 64))
        try:
            form.write(dataset, Path(sys.argv[1]) / name)
        except DataError as error:
            print(name, str(error).partition("cannot be written: ")[2], sep=": ")
"""


def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "out"
    script.write_text(textwrap.dedent(LIMITED))
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False, env=environment)
    said = "File too large. Give a path in a writable folder."
    assert run.stdout.splitlines() == [f"{name}: {said}" for name in FORMATS], run.stderr
    assert not list(folder.iterdir())


def test_a_window_is_written_as_it_is_shown(tmp_path):
    dataset = evolving((8,)).windowed(vc.data.Window(output_times=(0.25, 0.7)))
    FORMATS["pdebench"].write(dataset, tmp_path / "d.h5")
    back = read_file(tmp_path / "d.h5")
    assert back.times == (0.25, 0.7)
    assert np.array_equal(back.stored("tensor"), dataset.stored("output")[:, 1:])
