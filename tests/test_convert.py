import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import vcycle as vc
from helpers import assert_close
from vcycle.data import FORMATS, Dataset, detect_format, read_neuraloperator, write_neuraloperator

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = Path(os.environ.get("VCYCLE_TEST_DATA", BESIDE)) / "neuraloperator-darcy"


def small_file(path, num=3, size=6):
    generator = torch.Generator().manual_seed(0)
    content = {
        "x": torch.rand(num, size, size, generator=generator) > 0.5,
        "y": torch.rand(num, size, size, generator=generator),
    }
    torch.save(content, path)
    return content


def test_values_arrive_unchanged_on_the_right_points(tmp_path):
    content = small_file(tmp_path / "d.pt")
    dataset = read_neuraloperator(tmp_path / "d.pt")
    assert torch.equal(dataset.inputs[:, 0], content["x"].double())
    assert torch.equal(dataset.outputs[:, 0], content["y"].double())
    assert dataset.stored("solution").dtype == np.float32
    assert dataset.problem is None
    assert [info.name for info in (*dataset.input_fields, *dataset.output_fields)] == ["coefficient", "solution"]
    assert_close(dataset.grid.coordinates()[0], np.arange(6) / 6)  # starts on the boundary, stops one spacing short
    assert str(dataset.boundary) == "dirichlet"


def test_there_and_back_is_the_same_file(tmp_path):
    content = small_file(tmp_path / "d.pt")
    write_neuraloperator(read_neuraloperator(tmp_path / "d.pt"), tmp_path / "e.pt")
    again = torch.load(tmp_path / "e.pt", weights_only=True)
    assert list(again) == ["x", "y"]
    for key, values in content.items():
        assert again[key].dtype == values.dtype
        assert torch.equal(again[key], values)
    stored = read_neuraloperator(tmp_path / "e.pt").save(tmp_path / "e.zarr")
    assert stored.fingerprint() == read_neuraloperator(tmp_path / "d.pt").fingerprint()


def test_our_own_data_keep_their_values(tmp_path):
    dataset = vc.generate(vc.problems.Darcy(vc.Grid((8, 8))), num_samples=4, progress=False)
    FORMATS["neuraloperator"].write(dataset, tmp_path / "d.pt")
    again = FORMATS[detect_format(tmp_path / "d.pt")].read(tmp_path / "d.pt")
    assert torch.equal(again.inputs, dataset.inputs)
    assert torch.equal(again.outputs, dataset.outputs)


@pytest.mark.skipif(not REAL.is_dir(), reason="neuraloperator's files are not here: set VCYCLE_TEST_DATA")
def test_the_real_files():
    train, coarse, fine = (
        read_neuraloperator(REAL / f"darcy_{name}.pt") for name in ("train_16", "test_16", "test_32")
    )
    assert (len(train), len(coarse), len(fine)) == (1000, 50, 50)
    assert set(train.inputs.unique().tolist()) == {0.0, 1.0}
    # every second point of the fine grid is the coarse grid, in place and in value
    assert_close(fine.grid.coordinates()[0][::2], coarse.grid.coordinates()[0])
    assert torch.equal(fine.outputs[..., ::2, ::2], coarse.outputs)
    low, high = train.outputs[:, 0, 0].abs().mean(), train.outputs[:, 0, -1].abs().mean()
    assert 20 * low < high  # the first row lies on the boundary, the last does not
    report = vc.data.check(train)
    assert report.ok
    assert "the problem is not known" in str(report)
    assert vc.data.check(train, coarse).ok


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_pickled_objects_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Malice(), "y": torch.zeros(2, 4, 4)}, "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"x": Malice()}, protocol=2))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(
            vc.DataError, match=f"{name} is not a file of tensors: .*pickled objects, which are never run"
        ):
            read_neuraloperator(name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2, 4, 4)], "must hold a dictionary with x and y. Got list"),
        ({"x": torch.zeros(2, 4, 4)}, "must hold a real tensor 'y'. It holds x"),
        ({"x": torch.zeros(2, 4, 4), "y": torch.zeros(2, 4, 4, dtype=torch.complex64)}, "must hold a real tensor 'y'"),
        ({"x": torch.zeros(2, 4, 4), "y": torch.zeros(2, 4, 5)}, "must hold x and y of the same shape"),
        ({"x": torch.zeros(4), "y": torch.zeros(4)}, "must hold x and y of the same shape"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "d.pt")
    with pytest.raises(vc.DataError, match=message) as caught:
        read_neuraloperator(tmp_path / "d.pt")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(vc.DataError, match=r"nowhere.pt does not exist"):
        read_neuraloperator(tmp_path / "nowhere.pt")
    small_file(tmp_path / "d.pt")
    whole = (tmp_path / "d.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a torch file\n"):
        (tmp_path / "d.pt").write_bytes(damaged)
        with pytest.raises(vc.DataError, match=r"d\.pt (cannot be read|is not a file of tensors)") as caught:
            read_neuraloperator(tmp_path / "d.pt")
        assert "\n" not in str(caught.value)


def test_export_refuses_what_the_layout_cannot_hold(tmp_path):
    x = np.zeros((2, 2, 4, 4))
    with pytest.raises(ValueError, match="`dataset` must have one input and one output channel"):
        write_neuraloperator(Dataset.from_arrays(x, x), tmp_path / "d.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(vc.DataError, match="cannot be written: a part of the path is a file"):
        write_neuraloperator(Dataset.from_arrays(x[:, :1], x[:, :1]), tmp_path / "file" / "d.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_formats_are_told_by_their_suffix(tmp_path):
    assert detect_format("a/b.pt") == "neuraloperator"
    assert detect_format("a/b.zarr") == "zarr"
    x = np.zeros((2, 1, 4, 4))
    FORMATS["zarr"].write(Dataset.from_arrays(x, x), tmp_path / "no suffix")
    assert detect_format(tmp_path / "no suffix") == "zarr"
    assert detect_format("a/b.mat") == "fno"
    with pytest.raises(
        ValueError, match=r"`path` must end in one of .zarr, .pt, .npz, .mat, .h5, .hdf5. Got 'a/b.csv'"
    ):
        detect_format("a/b.csv")
    with pytest.raises(ValueError, match="`path` may be one of the-well, pdebench by its suffix: say which"):
        detect_format("a/b.h5")
