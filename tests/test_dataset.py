import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vcycle as vc
from helpers import assert_close
from vcycle.boundary import Boundary
from vcycle.data import Dataset, Window, check
from vcycle.data.schema import Schema, channel_names
from vcycle.data.store import Store
from vcycle.problems.problem import FieldInfo


def random_dataset(num=12, *, channels=(2, 1), shape=(4, 6), seed=0, dtype=np.float64, **settings):
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((num, channels[0], *shape)).astype(dtype)
    outputs = generator.standard_normal((num, channels[1], *shape)).astype(dtype)
    return Dataset.from_arrays(inputs, outputs, grid=vc.Grid(shape), **settings)


# --------------------------------------------------------------------------------------------- from arrays, store, load


def test_from_arrays_keeps_every_bit_and_copies():
    x, y = np.random.default_rng(0).standard_normal((2, 5, 3, 8)).astype(np.float32)
    before = x.copy()
    dataset = Dataset.from_arrays(x, torch.from_numpy(y), grid=vc.Grid(8), input_names=["a", "b", "c"])
    x += 1
    assert np.array_equal(dataset.inputs.numpy(), before.astype(np.float64))
    assert dataset.stored("b").dtype == np.float32
    assert np.array_equal(dataset.field("b").numpy(), before[:, 1:2])
    assert dataset.grid == vc.Grid((8,))
    assert len(dataset) == 5
    assert dataset.problem is None
    assert dataset.solver == {}


def test_a_channel_is_added_where_the_grid_says_so():
    grid = vc.Grid((4, 6), centring="vertex", periodic=True)
    x = np.arange(2 * 24.0).reshape(2, 4, 6)
    dataset = Dataset.from_arrays(x, x > 3, grid=grid)
    assert np.array_equal(dataset.inputs.numpy(), x[:, None])
    assert np.array_equal(dataset.outputs.numpy(), (x[:, None] > 3).astype(float))
    assert str(dataset.boundary) == "periodic"


def test_three_axes_can_be_read_in_two_ways():
    x = np.arange(2 * 24.0).reshape(2, 4, 6)
    message = (
        r"`grid` must be given where `inputs` has 3 axes: with vcycle.Grid\(6\) they are \(sample, channel, x\), "
        r"with vcycle.Grid\(\(4, 6\)\) \(sample, x, y\). Got None\."
    )
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays(x, x)
    assert Dataset.from_arrays(x, x, grid=vc.Grid(6)).inputs.shape == (2, 4, 6)
    assert Dataset.from_arrays(x, x, grid=vc.Grid((4, 6))).inputs.shape == (2, 1, 4, 6)


def test_any_layout_of_an_array_gives_the_same_dataset():
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 6)).astype(np.float32)
    expected = Dataset.from_arrays(x, x)
    turned = np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    for layout in (x.astype(">f4"), turned, np.asfortranarray(x)):
        dataset = Dataset.from_arrays(layout, layout)
        assert dataset.stored("input").dtype == np.float32
        assert dataset.fingerprint() == expected.fingerprint()
        assert torch.equal(dataset.inputs, expected.inputs)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num=st.integers(1, 9),
    shape=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    chunk=st.integers(1, 10),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_store_and_load_is_the_identity_bit_for_bit(tmp_path_factory, num, shape, chunk, dtype, seed):
    path = tmp_path_factory.mktemp("store") / "data.zarr"
    dataset = random_dataset(
        num,
        shape=tuple(shape),
        seed=seed,
        dtype=dtype,
        parameters={"viscosity": np.arange(num) / 7},
        boundary="neumann",
    )
    dataset.save(path, chunk_size=chunk)
    loaded = Dataset.open(path)
    for spec in dataset.specs:
        ours, theirs = dataset.array(spec.name), loaded.array(spec.name)
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes()), spec.name
    assert (loaded.grid, loaded.boundary, loaded.specs) == (dataset.grid, dataset.boundary, dataset.specs)
    assert loaded.fingerprint() == dataset.fingerprint()
    assert np.array_equal(loaded.parameters.numpy(), np.arange(num)[:, None] / 7)
    assert check(loaded).ok


def test_nan_and_infinity_survive_the_disk(tmp_path):
    x = np.array([[[np.nan, np.inf, -np.inf, -0.0]]])
    loaded = Dataset.from_arrays(x, x, grid=vc.Grid(4)).save(tmp_path / "d.zarr")
    assert loaded.stored("input").tobytes() == x.tobytes()


def test_subsets_on_disk_read_the_right_rows(tmp_path):
    dataset = random_dataset(11)
    loaded = dataset.save(tmp_path / "d.zarr", chunk_size=4)
    for rows in ([3, 4, 5], [10, 0, 7], [2, 2], [], slice(1, 9, 3), torch.tensor([5])):
        ours, theirs = dataset.subset(rows), loaded.subset(rows)
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.sample_id, theirs.sample_id)
        assert torch.equal(ours.inputs, dataset.inputs[np.arange(11)[rows] if not torch.is_tensor(rows) else rows])
    nested = loaded.subset([8, 6, 4]).subset([2, 0])
    assert nested.sample_id.tolist() == [4, 8]
    assert torch.equal(loaded.read(slice(4, 6))[1], dataset.outputs[4:6])
    again = nested.save(tmp_path / "nested.zarr")
    assert again.sample_id.tolist() == [4, 8]
    assert again.fingerprint() == nested.fingerprint()


def test_xarray_shows_named_dimensions_and_units(tmp_path):
    import xarray

    dataset = random_dataset(5, channels=(2, 1), shape=(4, 6), parameters={"k": np.ones(5)})
    dataset.save(tmp_path / "d.zarr", chunk_size=2)
    with xarray.open_zarr(tmp_path / "d.zarr") as shown:
        assert shown["input_input"].dims == ("sample", "component_2", "x", "y")
        assert shown["output_output"].dims == ("sample", "component", "x", "y")
        assert shown["output_output"].attrs["units"] == "1"
        assert shown["parameter_k"].dims == ("sample",)
        assert np.array_equal(shown["output_output"].to_numpy(), dataset.stored("output"))
        assert_close(shown["y"].to_numpy().copy(), (np.arange(6) + 0.5) / 6)
        assert shown["y"].attrs["units"] == "unit of length"


def test_a_window_chooses_fields():
    dataset = random_dataset(3, channels=(2, 1), input_names=["a", "b"], output_names=["u"])
    inverse = dataset.windowed(Window(inputs=("u",), outputs=("b", "a")))
    assert torch.equal(inverse.inputs, dataset.outputs)
    assert torch.equal(inverse.outputs, dataset.inputs.flip(1))
    assert [info.name for info in inverse.subset([0]).output_fields] == ["b", "a"]
    with pytest.raises(ValueError, match=r"`window` must be one of 'a', 'b', 'u'. Got 'v'"):
        dataset.windowed(Window(inputs=("v",)))


def trajectories(num=5, components=1, times=(0.1, 0.2, 0.4)):
    x = np.random.default_rng(1).standard_normal((num, components, 4, 6))
    y = np.random.default_rng(2).standard_normal((num, len(times), components, 4, 6))
    return Dataset.from_arrays(x, y, grid=vc.Grid((4, 6)), times=times)


@pytest.mark.parametrize("components", [1, 2])
def test_times_become_channels_side_by_side(tmp_path, components):
    import xarray

    dataset = trajectories(components=components).save(tmp_path / "d.zarr", chunk_size=2)
    loaded = Dataset.open(tmp_path / "d.zarr")
    assert loaded.times == (0.1, 0.2, 0.4)
    assert loaded.fingerprint() == dataset.fingerprint() == trajectories(components=components).fingerprint()
    assert loaded.field("output").shape == (5, 3, components, 4, 6)
    assert torch.equal(loaded.outputs, loaded.field("output").reshape(5, 3 * components, 4, 6))
    assert torch.equal(loaded.outputs[:, components], loaded.field("output")[:, 1, 0])
    names = ["output[t=0.1]", "output[t=0.2]", "output[t=0.4]"] if components == 1 else None
    assert channel_names(loaded.output_fields) == (
        names or [f"output[{c}, t={t}]" for t in (0.1, 0.2, 0.4) for c in range(2)]
    )
    assert "at 3 times" in repr(loaded)
    with xarray.open_zarr(tmp_path / "d.zarr") as shown:
        assert shown["output_output"].dims[:2] == ("sample", "time")
        assert shown["time"].to_numpy().tolist() == [0.1, 0.2, 0.4]
        assert shown["time"].attrs["units"] == "unit of time"
    assert check(loaded).ok


def test_a_window_chooses_times():
    dataset = trajectories(components=2)
    y = dataset.field("output")
    last = dataset.windowed(Window(output_times=(0.4,)))
    assert torch.equal(last.outputs, y[:, 2])
    assert last.output_fields[0].times == (0.4,)
    assert torch.equal(last.subset([3]).read()[1], y[3:, 2][:1])
    step = dataset.windowed(Window(("output",), ("output",), input_times=(0.1, 0.2), output_times=(0.2, 0.4)))
    assert torch.equal(step.inputs, y[:, :2].flatten(1, 2))
    assert torch.equal(step.outputs, y[:, 1:].flatten(1, 2))
    assert channel_names(step.input_fields)[1] == "output[1, t=0.1]"
    both = dataset.windowed(Window(("input", "output"), input_times=(0.1,)))
    assert torch.equal(both.inputs, torch.cat([dataset.inputs, y[:, 0]], dim=1))


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (
            Window(output_times=(0.3,)),
            r"`window.output_times` must be times of 'output', .* Got 0.3; the nearest is 0.2",
        ),
        (Window(input_times=(0.1,)), "`window.input_times` must be None where no input has a time axis"),
        (Window(output_times=(0.4, 0.1)), "`times` must increase"),
    ],
)
def test_a_window_refuses_times(window, message):
    with pytest.raises(ValueError, match=message):
        trajectories().windowed(window)


def test_fields_of_one_dataset_have_one_time_axis(tmp_path):
    path = tmp_path / "data.zarr"
    trajectories().save(path)
    with pytest.raises(ValueError, match=r"`times` must be the same for all fields of a dataset\. Got 2"):
        Schema(
            vc.Grid(4),
            Boundary.of("dirichlet", 1),
            (FieldInfo("a", times=(1.0,)),),
            (FieldInfo("b", times=(1.0, 2.0)),),
        )
    describe(path, lambda content: content["attributes"]["outputs"][0].update(times=[0.1, 0.2]))
    with pytest.raises(vc.DataError, match=r"must have shape \(2, 1, 4, 6\) per sample. Got \(3, 1, 4, 6\)"):
        Dataset.open(path)
    (path / "time" / "zarr.json").unlink()
    with pytest.raises(vc.DataError, match="is damaged"):
        Dataset.open(path)


def test_stores_without_a_time_axis_stay_readable_by_older_versions(tmp_path):
    random_dataset(3).save(tmp_path / "d.zarr")
    content = json.loads((tmp_path / "d.zarr" / "zarr.json").read_text())["attributes"]
    assert content["format"] == 1
    assert set(content["outputs"][0]) == {"name", "unit", "components", "face"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": np.ones((2, 1, 4, 4), complex)}, "`inputs` must be real numbers"),
        ({"inputs": np.ones((2, 4))}, r"`inputs` must have shape \(sample, channel, \*space\)"),
        ({"inputs": np.ones((0, 1, 4, 4))}, "none of them empty"),
        ({"outputs": np.ones((3, 1, 4, 4))}, "`outputs` must have shape"),
        ({"outputs": np.ones((2, 1, 4, 5))}, "`outputs` must have shape"),
        ({"grid": vc.Grid((4, 5))}, "`inputs` must have shape"),
        ({"input_names": ["a", "b"]}, "`input_names` must be 1 different names"),
        ({"input_names": ["a/b"]}, "`input_names` must be words"),
        ({"input_names": ["a"], "output_names": ["a"]}, "`output_names` must not repeat"),
        ({"input_names": [3]}, "`input_names` must be words of letters, digits and _. Got 3"),
        ({"input_names": 3}, "`input_names` must be 1 different names, one per channel. Got 3"),
        ({"grid": (4, 4)}, r"`grid` must be a vcycle.Grid, such as vcycle.Grid\(\(64, 64\)\). Got tuple"),
        ({"inputs": {"a": 1}}, "`inputs` must be real numbers: an array or tensor; .* Got dict"),
        ({"parameters": [1]}, "`parameters` must be a mapping from names .* Got list"),
        ({"parameters": {"a b/c": np.ones(2)}}, "`parameters` must be words of letters, digits and _. Got 'a b/c'"),
        ({"parameters": {"k": ["a", "b"]}}, r"`parameters\['k'\]` must be real numbers: one number per sample"),
        ({"parameters": {"k": np.ones(3)}}, r"`parameters\['k'\]` must have shape \(2\)"),
        ({"boundary": "periodic"}, "`grid.periodic` must be True"),
        ({"times": (1.0, 2.0)}, r"`outputs` must have shape \(2, 2, any, 4, 4\), that is .* time, channel"),
        ({"times": (2.0, 1.0), "outputs": np.ones((2, 2, 1, 4, 4))}, "`times` must increase"),
    ],
)
def test_from_arrays_refuses(arguments, message):
    given_arguments = {"inputs": np.ones((2, 1, 4, 4)), "outputs": np.ones((2, 1, 4, 4))} | arguments
    x, y = given_arguments.pop("inputs"), given_arguments.pop("outputs")
    with pytest.raises((ValueError, TypeError), match=message):
        Dataset.from_arrays(x, y, **given_arguments)


# -------------------------------------------------------------------------------------------------------- split, subset


@given(num=st.integers(3, 60), test=st.integers(1, 30), validation=st.integers(0, 30), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_and_deterministic(num, test, validation, seed):
    dataset = Dataset.from_arrays(np.zeros((num, 1, 2)), np.zeros((num, 1, 2)), grid=vc.Grid(2))
    if test + validation >= num:
        with pytest.raises(ValueError, match="must leave samples for training"):
            dataset.split(test, validation=validation, seed=seed)
        return
    parts = dataset.split(test, validation=validation, seed=seed)
    ids = [part.sample_id.tolist() for part in parts]
    assert [len(part) for part in parts] == [num - test - validation, *([validation] if validation else []), test]
    assert sorted(number for part in ids for number in part) == list(range(num))
    assert ids == [part.sample_id.tolist() for part in dataset.split(test, validation=validation, seed=seed)]
    # the rows' order does not matter: the same samples go to the same sides
    turned = dataset.subset(np.arange(num)[::-1].copy()).split(test, validation=validation, seed=seed)
    assert [sorted(part.sample_id.tolist()) for part in turned] == ids


def test_splits_depend_on_the_seed_and_take_fractions():
    dataset = random_dataset(40)
    train, validation, test = dataset.split(0.25, validation=0.1)
    assert (len(train), len(validation), len(test)) == (26, 4, 10)
    assert dataset.split(10, seed=1)[1].sample_id.tolist() != dataset.split(10, seed=2)[1].sample_id.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 0}, "`test` must be at least 1"),
        ({"test": 1.5}, "`test` must be a number of samples or a fraction"),
        ({"test": float("nan")}, "`test` must be a number of samples or a fraction"),
        ({"test": True}, "`test` must be an integer"),
        ({"test": 2, "validation": -1}, "`validation` must be at least 0"),
        ({"test": 12}, "must leave samples for training. Got 12 of 12"),
        ({"test": 2, "seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_split_refuses(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        random_dataset(12).split(**arguments)


def test_subset_refuses():
    with pytest.raises(ValueError, match=r"`indices` must be at least 0 and below 12. Got 12"):
        random_dataset(12).subset([0, 12])
    with pytest.raises(TypeError, match="`indices` must be integers"):
        random_dataset(12).subset([0.5])
    with pytest.raises(ValueError, match="`name` must be one of"):
        random_dataset(12).field("pressure")


def test_the_fingerprint_follows_the_content():
    base = random_dataset(6)
    x, y = base.inputs.numpy().copy(), base.outputs.numpy().copy()
    assert Dataset.from_arrays(x, y).fingerprint() == base.fingerprint()
    y[5, 0, 3, 5] = np.nextafter(y[5, 0, 3, 5], 9)  # one bit
    changed = [
        Dataset.from_arrays(x, y),
        base.subset([1, 0, 2, 3, 4, 5]),
        base.subset([0, 1, 2, 3, 4]),
        Dataset.from_arrays(base.inputs, base.outputs, boundary="neumann"),
        Dataset.from_arrays(base.inputs, base.outputs, grid=vc.Grid((4, 6), 2.0)),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in changed)}) == 6


# ------------------------------------------------------------------------------------------------------- damaged stores


def cut(file, size=-8):
    file.write_bytes(file.read_bytes()[:size])


DAMAGE = {
    "gone": lambda path: path.rename(path.with_name("elsewhere")),
    "no store": lambda path: (path / "zarr.json").unlink(),
    "broken description": lambda path: cut(path / "zarr.json"),
    "half a description": lambda path: (path / "zarr.json").write_text(
        '{"attributes": {"format": 1, "arrays": ["sample_id"]}}'
    ),
    "someone else's": lambda path: (path / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}'),
    "newer": lambda path: (path / "zarr.json").write_text(
        (path / "zarr.json").read_text().replace('"format": 1', '"format": 2')
    ),
    "broken array": lambda path: cut(path / "output_output" / "zarr.json"),
    "altered array": lambda path: (path / "output_output" / "zarr.json").write_text(
        (path / "output_output" / "zarr.json").read_text().replace("float64", "float32")
    ),
    "missing array": lambda path: (path / "output_output" / "zarr.json").unlink(),
    "missing chunk": lambda path: (path / "output_output" / "c.1.0.0.0").unlink(),
    "cut off": lambda path: cut(path / "input_input" / "c.0.0.0.0"),
    "not committed": lambda path: (path / "checksum" / "c.2.0").unlink(),
}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gone", "does not exist. Make it with"),
        ("no store", "is not a dataset: it has no zarr.json"),
        ("broken description", "is damaged: zarr.json cannot be read"),
        ("half a description", "is damaged: zarr.json does not describe a dataset"),
        ("someone else's", "is a Zarr store, but not one of vcycle's"),
        ("newer", "has format 2, not 1"),
        ("broken array", "is damaged: output_output/zarr.json cannot be read"),
        ("altered array", "is damaged: output_output/zarr.json is not the one that zarr.json lists"),
        ("missing array", "the array output_output is missing"),
        ("missing chunk", "chunk 1 of the array output_output is missing or cut off"),
        ("cut off", "chunk 0 of the array input_input is missing or cut off"),
        ("not committed", "is incomplete: 2 of 3 chunks. Give the command"),
    ],
)
def test_unusable_stores_are_named_in_one_line(tmp_path, what, message):
    path = tmp_path / "data.zarr"
    random_dataset(12).save(path, chunk_size=4)
    DAMAGE[what](path)
    with pytest.raises(vc.DataError, match=message) as caught:
        Dataset.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def describe(path, change):
    content = json.loads((path / "zarr.json").read_text())
    change(content)
    (path / "zarr.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"call": "x"}, "`call` must be a mapping or null. Got str"),
        ({"call": {"rtol": "x"}}, "`call.rtol` must be a number. Got 'x'"),
        ({"problem": "darcy"}, "`problem` must be a mapping or null. Got str"),
        ({"problem": {}}, "'name'"),
        ({"versions": []}, "`versions` must be a mapping. Got list"),
        ({"seed": "x"}, "`seed` must be an integer"),
        ({"inputs": []}, "`inputs` must have at least one field"),
        ({"inputs": [{"name": "../a"}]}, "`name` must be words"),
        ({"inputs": [{"name": "input", "components": 0}]}, "`components` must be at least 1"),
        ({"inputs": [{"name": "input", "components": 2, "face": "z_low"}]}, "`inputs.face` must be one of"),
        ({"inputs": [{"name": "output", "components": 2}]}, "`names of fields` must differ"),
        ({"inputs": [{"name": "input", "components": 3}]}, r"`input_input` must have shape \(3, 4, 6\) per sample"),
        ({"parameters": ["k"]}, "'parameter_k'"),
        ({"parameters": [1]}, "`parameters` must be words"),
        ({"arrays": ["input_input", "output_output"]}, "'sample_id'"),
        ({"boundary": 5}, "`boundary` must be"),
        ({"grid": {"shape": [4, 5]}}, r"`input_input` must have shape \(2, 4, 5\) per sample. Got \(2, 4, 6\)"),
        ({"grid": "x"}, "must be a mapping"),
    ],
)
def test_wrong_descriptions_are_found_when_a_store_is_opened(tmp_path, change, message):
    path = tmp_path / "data.zarr"
    random_dataset(12).save(path, chunk_size=4)
    describe(path, lambda content: content["attributes"].update(change))
    with pytest.raises(vc.DataError, match=rf"zarr.json does not describe a dataset \(.*{message}") as caught:
        Dataset.open(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert str(caught.value).endswith("Restore it from a copy, or remove it and make it again.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("sample_id", "shape", []), ("output_output", "data_type", "int8"), ("output_output", "shape", [11, 1, 4, 6])],
)
def test_wrong_descriptions_of_arrays_are_found_when_a_store_is_opened(tmp_path, name, key, value):
    path = tmp_path / "data.zarr"
    random_dataset(12).save(path, chunk_size=4)
    describe(path, lambda content: content["consolidated_metadata"]["metadata"][name].update({key: value}))
    with pytest.raises(vc.DataError, match=r"zarr.json does not describe a dataset"):
        Dataset.open(path)


def test_zarr_may_consolidate_a_store_again(tmp_path):
    import zarr

    dataset = random_dataset(5).save(tmp_path / "d.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that consolidation is no part of the specification yet
        zarr.consolidate_metadata(str(tmp_path / "d.zarr"))
    assert Dataset.open(tmp_path / "d.zarr").fingerprint() == dataset.fingerprint()


def test_a_problem_of_other_fields_is_refused(tmp_path):
    vc.generate(vc.problems.Poisson(vc.Grid((8, 8))), num_samples=2, out=tmp_path / "d.zarr", progress=False)
    describe(tmp_path / "d.zarr", lambda content: content["attributes"]["problem"]["grid"].update(shape=[8, 16]))
    with pytest.raises(vc.DataError, match=r"has a problem whose grid, walls or fields are others"):
        _ = Dataset.open(tmp_path / "d.zarr").problem


def test_save_refuses_to_overwrite_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    dataset = random_dataset(12)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(vc.DataError, match="mine exists and is not empty"):
        dataset.save(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"
    written = []
    monkeypatch.setattr(
        Store, "_write_array", lambda self, spec, chunk, values: written.append(spec) or full_disk(chunk)
    )
    with pytest.raises(vc.DataError, match=r"new.zarr cannot be written: no space left. Free some space"):
        dataset.save(tmp_path / "new.zarr", chunk_size=4)
    assert written
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def full_disk(chunk):
    import errno

    if chunk == 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    return 0


# ---------------------------------------------------------------------------------------------------------------- check


def kinds(report):
    return {(finding.severity, finding.where) for finding in report.findings}


def test_check_finds_what_was_planted(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((2, 40, 2, 8, 8))
    clean = check(Dataset.from_arrays(x, y))
    assert clean.ok
    assert kinds(clean) == {("note", "samples")}

    bad = x.copy()
    bad[7, 1, 2, 3] = np.nan
    report = check(Dataset.from_arrays(bad, y))
    assert not report.ok
    assert "NaN or infinity in 1 sample (sample_id 7)" in str(report)

    constant = x.copy()
    constant[:, 1] = 2.5
    report = check(Dataset.from_arrays(constant, y))
    assert report.ok
    assert "input[1] is 2.5 everywhere" in str(report)
    assert "input[0]" not in str(report)

    twice = x.copy()
    twice[31] = twice[4]
    report = check(Dataset.from_arrays(twice, y))
    assert "1 input repeated among 2 samples (sample_id 4, 31)" in str(report)

    huge = y.copy()
    huge[12] *= 1e6
    report = check(Dataset.from_arrays(x, huge))
    assert ("warning", "output_output") in kinds(report)
    assert "sample_id 12)" in str(report)


def test_check_finds_leaks_between_splits():
    dataset = random_dataset(30)
    train, test = dataset.split(10)
    assert check(train, test).ok
    report = check(train, dataset.subset([int(train.sample_id[0]), int(train.sample_id[3]), int(test.sample_id[0])]))
    assert not report.ok
    assert "2 inputs are also in part 2: a leak" in str(report)
    assert report.to_dict()["ok"] is False


def test_check_finds_flipped_bits(tmp_path):
    dataset = random_dataset(12).save(tmp_path / "d.zarr", chunk_size=4)
    file = tmp_path / "d.zarr" / "output_output" / "c.1.0.0.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    report = check(dataset)
    assert not report.ok
    assert ("error", "output_output") in kinds(report)
    assert "chunk 1" in str(report)


def test_check_recomputes_residuals_through_the_problem(tmp_path):
    problem = vc.problems.Poisson(vc.Grid((8, 8)), (("dirichlet", "neumann"), "dirichlet"))
    dataset = vc.generate(problem, num_samples=6, out=tmp_path / "d.zarr", progress=False)
    assert check(Dataset.open(tmp_path / "d.zarr")).ok
    arrays = {spec.name: dataset.array(spec.name) for spec in dataset.specs}
    arrays["output_solution"][4, 0, 3, 3] *= 1 + 1e-5
    report = check(Dataset(dataset.schema, arrays, specs=dataset.specs))
    assert not report.ok
    assert "above the tolerance 1.0e-08, in 1 sample (sample_id 4)" in str(report)
    arrays["solver_residual"][2] = 1e-3
    report = check(Dataset(dataset.schema, arrays, specs=dataset.specs))
    assert "above the tolerance 1.0e-08 in 1 sample (sample_id 2)" in str(report)


def test_check_names_samples_that_the_problem_refuses():
    dataset = vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=6, progress=False)
    arrays = {spec.name: dataset.array(spec.name).copy() for spec in dataset.specs}
    arrays["input_coefficient"][[1, 4]] *= -1
    report = check(Dataset(dataset.schema, arrays, specs=dataset.specs))
    errors = [finding.message for finding in report.findings if finding.severity == "error"]
    assert len(errors) == 1
    assert errors[0].startswith("the problem refuses 2 samples (sample_id 1, 4): ")
    assert "must be positive" in errors[0]
    with pytest.raises(TypeError, match=r"`dataset` must be a vcycle.Dataset, .* Got ndarray"):
        check(arrays["input_coefficient"])
