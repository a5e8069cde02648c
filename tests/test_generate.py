import errno
import os
import random
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import vcycle as vc
from helpers import assert_close
from vcycle._files import locked
from vcycle.data import Dataset
from vcycle.data.store import Store


def darcy(size=16, **settings):
    return vc.problems.Darcy(vc.Grid((size, size)), **settings)


def make(problem, out=None, **settings):
    return vc.generate(
        problem, **({"num_samples": 20, "chunk_size": 6, "progress": False, "workers": 1} | settings), out=out
    )


def content(path):
    """Bytes of all files by their place in the store, times left out."""
    files = [file for file in sorted(Path(path).rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in files
        if not (file.parent.name.startswith("timing_") and file.name != "zarr.json")
    }


def assembled_darcy(a, h):
    """-div(a grad u), u = 0 on the sides, entry by entry: an assembly that shares nothing with the library."""
    n, m = a.shape
    A = sp.lil_matrix((n * m, n * m))
    for i in range(n):
        for j in range(m):
            for k, ell in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < n and 0 <= ell < m:
                    t = 2 * a[i, j] * a[k, ell] / (a[i, j] + a[k, ell]) / h**2
                    A[i * m + j, k * m + ell] -= t
                else:
                    t = 2 * a[i, j] / h**2
                A[i * m + j, i * m + j] += t
    return A.tocsr()


def independent_residuals(dataset):
    a, u, size = dataset.field("coefficient").numpy(), dataset.field("solution").numpy(), dataset.grid.shape[0]
    b = np.ones(size * size)
    residuals = [b - assembled_darcy(x[0], 1 / size) @ y[0].ravel() for x, y in zip(a, u, strict=True)]
    return np.linalg.norm(residuals, axis=1) / np.linalg.norm(b)


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("coefficient", ["two-phase", "lognormal"])
@pytest.mark.parametrize("rtol", [1e-8, 1e-5])
def test_every_stored_sample_solves_an_independent_assembly(tmp_path, coefficient, rtol):
    dataset = make(darcy(coefficient=coefficient), tmp_path / "d.zarr", num_samples=10, rtol=rtol, chunk_size=4)
    residuals = independent_residuals(dataset)
    assert residuals.max() <= rtol
    assert_close(dataset.solver["residual"], residuals, rtol=1e-4 if rtol == 1e-5 else 0.05)
    spoiled = dataset.field("solution").numpy() * (1 + 1e-4)
    assert np.abs(spoiled - dataset.field("solution").numpy()).max() > 0  # and the assembly would notice:
    first = assembled_darcy(dataset.field("coefficient").numpy()[0, 0], 1 / 16) @ spoiled[0].ravel()
    assert np.linalg.norm(1 - first) / 16 > rtol


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_mean_removed_from_a_singular_problem_is_stored(tmp_path, dtype):
    grid = vc.Grid((16, 16))
    source = np.sin(2 * np.pi * grid.mesh()[0]) + 0.002
    problem = vc.problems.Darcy(grid, "neumann", source=source)
    make(problem, tmp_path / "d.zarr", num_samples=5, chunk_size=2, output_dtype=dtype)
    reopened = Dataset.open(tmp_path / "d.zarr")
    assert_close(reopened.solver["removed_mean"], torch.full((5,), 0.002, dtype=torch.float64))
    assert ("stored_residual" in reopened.solver) == (dtype == "float32")
    assert "removed_mean" not in make(darcy(), num_samples=2).solver


def test_samples_depend_on_the_problem_the_seed_and_their_number_only():
    dataset = make(darcy(), num_samples=9, chunk_size=4, seed=3)
    assert torch.equal(dataset.inputs, darcy().sample(3, range(9))["coefficient"])
    more = make(darcy(), num_samples=14, chunk_size=14, seed=3)
    assert torch.equal(more.inputs[:9], dataset.inputs)
    assert not torch.equal(make(darcy(), num_samples=9, seed=4).inputs, dataset.inputs)


def test_memory_and_disk_hold_the_same(tmp_path):
    kept, stored = make(darcy()), make(darcy(), tmp_path / "d.zarr")
    for spec in kept.specs:
        if not spec.varies:
            assert kept.array(spec.name).tobytes() == stored.array(spec.name).tobytes(), spec.name
    assert kept.fingerprint() == stored.fingerprint()
    reopened = Dataset.open(tmp_path / "d.zarr")
    assert reopened.problem.config() == darcy().config()
    assert reopened.solver["seconds"].min() > 0
    assert (reopened.solver["iterations"] >= 0).all()


@pytest.mark.parametrize("method", ["auto", "direct", "gcrodr"])
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path, method):
    for workers in (1, 2, 5):
        make(darcy(), tmp_path / f"{workers}.zarr", workers=workers, method=method)
    assert content(tmp_path / "1.zarr") == content(tmp_path / "2.zarr") == content(tmp_path / "5.zarr")


def test_ordering_puts_similar_samples_side_by_side(tmp_path):
    given, ordered = (
        make(darcy(), tmp_path / f"{order}.zarr", num_samples=40, method="gcrodr", order=order)
        for order in ("given", "auto")
    )
    assert given.sample_id.tolist() == list(range(40))
    assert sorted(ordered.sample_id.tolist()) == list(range(40)) != ordered.sample_id.tolist()
    assert torch.equal(ordered.inputs, given.inputs[ordered.sample_id])  # rows carry their own number
    steps = [(d.inputs[1:] - d.inputs[:-1]).flatten(1).norm(dim=1).mean().item() for d in (given, ordered)]
    assert steps[1] < 0.95 * steps[0]
    assert independent_residuals(ordered).max() <= 1e-8
    # a split takes the same samples on either side
    assert sorted(given.split(7)[1].sample_id.tolist()) == sorted(ordered.split(7)[1].sample_id.tolist())


def test_float32_outputs_come_with_the_residual_of_what_is_stored(tmp_path):
    dataset = make(darcy(coefficient="lognormal"), tmp_path / "d.zarr", num_samples=6, output_dtype="float32")
    assert dataset.stored("solution").dtype == dataset.stored("coefficient").dtype == np.float32
    stored = dataset.solver["stored_residual"]
    assert_close(stored, independent_residuals(dataset), rtol=1e-3)
    assert stored.min() > 1e-8
    assert stored.max() < 1e-3
    # the inputs were rounded before the assembly: the float64 solution of the *stored* coefficient is within rounding
    A = assembled_darcy(dataset.field("coefficient").numpy()[0, 0], 1 / 16)
    exact = sp.linalg.spsolve(A.tocsc(), np.ones(256))
    assert_close(dataset.field("solution")[0].flatten(), exact, rtol=1e-7)
    assert dataset.solver["residual"].max() <= 1e-8
    assert vc.data.check(dataset).ok


def test_faces_are_stored_without_their_axis(tmp_path):
    import xarray

    problem = vc.problems.Poisson(vc.Grid((8, 12)), (("dirichlet", "neumann"), "dirichlet"))
    dataset = make(problem, tmp_path / "d.zarr", num_samples=3)
    with xarray.open_zarr(tmp_path / "d.zarr") as shown:
        assert shown["input_value_x_low"].dims == ("sample", "component", "y")
        assert shown["input_flux_x_high"].shape == (3, 1, 12)
        assert shown["input_value_y_low"].dims == ("sample", "component", "x")
        assert shown["timing_solve"].attrs["units"] == "s"
        assert shown.attrs["problem"]["name"] == "poisson"
    assert dataset.inputs.shape == (3, 5, 8, 12)
    assert torch.equal(dataset.inputs[:, 1], dataset.field("value_x_low").expand(3, 8, 12))
    residual = problem.residual(dataset.inputs, dataset.outputs).flatten(1).norm(dim=1)
    assert residual.max() < 1e-8 * problem.systems(dataset.inputs).rhs.flatten(1).norm(dim=1).max()


# --------------------------------------------------------------------------------------------------- resuming, refusing

KILLED = """
    import os, random, signal, sys, time
    import vcycle as vc
    from pathlib import Path
    import vcycle.data, zarr, numba, tqdm

    class Slow(vc.problems.Darcy):  # so that a kill lands inside
        def sample(self, seed, indices):
            time.sleep(0.01)
            return super().sample(seed, indices)

    out, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    for attempt in range(5):
        child = os.fork()
        if child == 0:
            problem = Slow(vc.Grid((32, 32)))
            vc.generate(problem, num_samples=300, out=out, chunk_size=4, workers=2, progress=False)
            os._exit(0)
        before = len(list(out.glob("checksum/c.*.0")))
        while len(list(out.glob("checksum/c.*.0"))) < before + 3 and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(len(list(out.glob("checksum/c.*.0"))), flush=True)
"""


def test_killed_five_times_and_resumed_it_is_byte_for_byte_the_same(tmp_path):
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    problem, settings = darcy(32), {"num_samples": 300, "chunk_size": 4}
    make(problem, whole, **settings)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    chance = str(random.SystemRandom().randrange(10**6))
    run = subprocess.run([sys.executable, script, killed, chance], capture_output=True, text=True, check=False)
    counts = [int(line) for line in run.stdout.split()]
    assert (run.returncode, len(counts)) == (0, 5), run.stderr
    assert all(0 < count < 75 for count in counts), f"the kills came too late or too early: {counts}"
    with pytest.raises(vc.DataError, match=r"is incomplete: .* of 75 chunks"):
        Dataset.open(killed)
    make(problem, killed, **settings)
    assert content(killed) == content(whole)
    assert not list(tmp_path.rglob("*.partial"))


def test_half_written_and_altered_chunks_are_made_again(tmp_path):
    path = tmp_path / "d.zarr"
    make(darcy(), path)
    before = content(path)
    (path / "checksum" / "c.1.0").unlink()  # killed before the commit
    (path / "output_solution" / "c.1.0.0.0").write_bytes(b"half")
    (path / "checksum" / "c.1.0.123.partial").write_bytes(b"")
    (path / "output_solution" / "c.0.0.0.0.123.partial").write_bytes(b"what a killed worker leaves")
    (path / "output_solution" / "0123-abcd.partial").write_bytes(b"what a killed Zarr write leaves")
    altered = path / "input_coefficient" / "c.2.0.0.0"  # what a power cut leaves: committed, but not on the disk
    altered.write_bytes(bytes(altered.stat().st_size))
    make(darcy(), path)
    assert content(path) == before


def test_a_complete_store_is_returned_untouched_and_says_so(tmp_path, capsys, monkeypatch):
    path = tmp_path / "d.zarr"
    first = make(darcy(), path)
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    monkeypatch.setattr(vc.problems.Darcy, "sample", lambda *_: pytest.fail("nothing should be drawn"))
    again = make(darcy(), path, progress=True)
    assert "d.zarr is complete: 20 samples. Nothing to do." in capsys.readouterr().err
    assert again.fingerprint() == first.fingerprint()
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == times


@pytest.mark.parametrize(
    ("problem", "settings", "difference"),
    [
        (darcy(), {"num_samples": 21}, "call.num_samples: 20 there, 21 asked"),
        (darcy(), {"rtol": 1e-6}, "call.rtol: 1e-08 there, 1e-06 asked"),
        (darcy(), {"seed": 1}, "seed: 0 there, 1 asked"),
        (darcy(), {"chunk_size": 5}, "call.chunk_size: 6 there, 5 asked"),
        (darcy(), {"method": "direct"}, "call.method: auto there, direct asked"),
        (darcy(), {"output_dtype": "float32"}, "call.dtype: float64 there, float32 asked"),
        (darcy(values=(10.0, 3.0)), {}, "problem.coefficient.high: 12.0 there, 10.0 asked"),
        (darcy(24), {}, "problem.grid.shape"),
    ],
)
def test_a_store_of_another_call_is_refused_by_the_difference(tmp_path, problem, settings, difference):
    path = tmp_path / "d.zarr"
    make(darcy(), path)
    before = content(path)
    with pytest.raises(vc.DataError, match="was made by another call") as caught:
        make(problem, path, **settings)
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(path) == before


def test_a_call_that_failed_before_its_first_chunk_does_not_stand_in_the_way(tmp_path):
    path = tmp_path / "d.zarr"
    with pytest.raises(vc.SolveError):
        make(darcy(), path, rtol=1e-30)
    assert path.exists()
    make(darcy(), path)
    make(darcy(), tmp_path / "whole.zarr")
    assert content(path) == content(tmp_path / "whole.zarr")


def test_other_versions_may_read_but_not_continue(tmp_path, monkeypatch):
    path = tmp_path / "d.zarr"
    make(darcy(), path)
    monkeypatch.setattr("vcycle.data.schema.versions", lambda: {"vcycle": "9.9"})
    assert len(make(darcy(), path)) == 20
    (path / "checksum" / "c.0.0").unlink()
    with pytest.raises(vc.DataError, match=r"versions.vcycle: 0.* there, 9.9 asked"):
        make(darcy(), path)


class OneBad(vc.problems.Darcy):
    def sample(self, seed, indices):
        fields = super().sample(seed, indices)
        for row, index in enumerate(indices):
            if index == 13:
                fields["coefficient"][row] = torch.inf
        return fields


@pytest.mark.parametrize("workers", [1, 3])
def test_a_sample_that_is_not_solved_is_named_and_never_written(tmp_path, workers):
    path = tmp_path / "d.zarr"
    with pytest.raises(
        vc.SolveError,
        match=r"sample 13 cannot be discretised: `coefficient` must be positive and finite everywhere. Got inf",
    ):
        make(OneBad(vc.Grid((16, 16))), path, workers=workers)
    store = Store.open(path)
    assert store.is_committed(0)
    assert store.is_committed(1)
    assert not store.is_committed(2)
    assert not any(store.file(spec, 2).exists() for spec in store.specs)
    with pytest.raises(vc.DataError, match="is incomplete"):
        Dataset.open(path)
    make(darcy(), path)  # the same call with the trouble gone keeps what there was
    assert independent_residuals(Dataset.open(path)).max() <= 1e-8


@pytest.mark.parametrize("workers", [1, 4])
def test_times_are_cpu_seconds_of_the_thread_that_makes_a_chunk(monkeypatch, workers):
    """Sleep is no CPU time, and threads that wait for each other do not count the wait."""

    class Slow(vc.problems.Darcy):
        def sample(self, seed, indices):
            time.sleep(0.2)
            return super().sample(seed, indices)

        def produce(self, *args, **settings):
            time.sleep(0.2)
            made = super().produce(*args, **settings)
            return replace(made, seconds=made.seconds + 0.1)  # the solver's clock ran on

    settings = {"num_samples": 16, "chunk_size": 2, "workers": workers}
    make(darcy(32), **settings)  # what is compiled and imported once
    began = time.process_time()
    solver = make(Slow(vc.Grid((32, 32))), **settings).solver
    spent = time.process_time() - began
    assert 0.0 < float(solver["seconds"].sum() + solver["sampling_seconds"].sum()) <= spent
    assert float(solver["sampling_seconds"].max()) < 0.05
    assert 0 < float(solver["seconds"].min()) < float(solver["seconds"].max()) < 0.05


def test_a_tolerance_out_of_reach_is_an_error_too():
    with pytest.raises(vc.SolveError, match=r"residual .*e-1[0-9].*Raise `rtol`"):
        make(darcy(), rtol=1e-18)


def test_a_solver_that_praises_itself_is_not_believed(monkeypatch):
    honest = vc.problems.Darcy.produce

    def boasting(self, inputs, **settings):
        made = honest(self, inputs, **settings)
        return replace(made, quality=made.quality | {"residual": made.quality["residual"] + 1e-3})

    monkeypatch.setattr(vc.problems.Darcy, "produce", boasting)
    with pytest.raises(vc.SolveError, match=r"sample 0 has residual 1.0e-03, above `rtol` 1.0e-08. Raise"):
        make(darcy())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left. Free some space and give the same command again"),
        (errno.EDQUOT, "no space left. Free some space and give the same command again"),
        (errno.EACCES, "Permission denied. Give a path in a writable folder"),
        (errno.EROFS, "Read-only file system. Give a path in a writable folder"),
        (errno.EIO, "Input/output error. Give a path in a writable folder"),
    ],
)
def test_what_the_disk_refuses_is_one_clear_line_and_resumes(tmp_path, monkeypatch, workers, number, message):
    path = tmp_path / "d.zarr"
    honest = Path.write_bytes

    def refusing(self, data):
        if self.name.startswith("c.2.") and self.parent.name == "output_solution":
            honest(self, bytes(data)[:100])
            raise OSError(number, os.strerror(number))
        return honest(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refusing)
        with pytest.raises(vc.DataError, match=f"d.zarr cannot be written: {message}") as caught:
            make(darcy(), path, workers=workers)
    assert "\n" not in str(caught.value)
    assert not list(path.glob("*/c.2*")), "half a chunk takes space"
    store = Store.open(path)
    assert store.is_committed(0)
    assert store.is_committed(1)
    make(darcy(), path)
    make(darcy(), tmp_path / "whole.zarr")
    assert content(path) == content(tmp_path / "whole.zarr")


LIMITED = """
    import resource, sys
    import vcycle as vc
    from vcycle.cli import main

    class Filling(vc.problems.Darcy):  # the kernel refuses to let files grow from the third chunk on
        def sample(self, seed, indices, **settings):
            if 12 in indices and len(sys.argv) > 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            return super().sample(seed, indices, **settings)

    vc.problems.PROBLEMS["darcy"] = Filling
    words = ["generate", "darcy", "--out", sys.argv[1], "--shape", "16x16", "--num-samples", "20"]
    sys.exit(main([*words, "--chunk-size", "6", "--workers", "1"]))
"""


def test_the_kernel_refuses_to_write_and_the_same_command_resumes(tmp_path):
    script, path = tmp_path / "script.py", tmp_path / "d.zarr"
    script.write_text(textwrap.dedent(LIMITED))
    command = [sys.executable, script, path]
    full = subprocess.run([*command, "limited"], capture_output=True, text=True, check=False)
    assert full.returncode == 2, full.stderr
    said = full.stderr.splitlines()[-1]  # behind the progress bar
    assert said == f"vcycle generate: {path} cannot be written: File too large. Give a path in a writable folder."
    store = Store.open(path)
    assert [store.is_committed(chunk) for chunk in range(4)] == [True, True, False, False]
    assert not list(path.glob("*/c.2*"))
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 of 4 chunks are there; resuming." in resumed.stderr
    make(darcy(), tmp_path / "whole.zarr")
    assert content(path) == content(tmp_path / "whole.zarr")


def test_paths_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(vc.DataError, match="file exists and is not empty"):
        make(darcy(), tmp_path / "file")
    with pytest.raises(vc.DataError, match="cannot be written: a part of the path is a file"):
        make(darcy(), tmp_path / "file" / "d.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(vc.DataError, match=r"folder exists and is not empty. Give another path"):
        make(darcy(), tmp_path / "folder")
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *_, **__: denied())
        with pytest.raises(
            vc.DataError, match=r"d.zarr cannot be written: Permission denied. Give a path in a writable"
        ):
            make(darcy(), tmp_path / "locked" / "d.zarr")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def denied():
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_two_processes_do_not_write_one_store(tmp_path):
    path = tmp_path / "d.zarr"
    make(darcy(), path)
    store = Store.open(path)
    with locked(store.path):
        assert len(make(darcy(), path)) == 20  # a whole one is only read, by as many as like
    store.discard([0])
    with locked(store.path), pytest.raises(vc.DataError, match="is being written by another process"):
        make(darcy(), path)
    assert len(make(darcy(), path)) == 20  # the lock is gone
    with locked(tmp_path / "new.zarr"):
        with pytest.raises(vc.DataError, match=r"new.zarr is being written by another process\. Wait for it to end\."):
            make(darcy(), tmp_path / "new.zarr")
        with pytest.raises(vc.DataError, match="is being written by another process"):
            make(darcy()).save(tmp_path / "new.zarr")
    assert [file.name for file in tmp_path.iterdir()] == ["d.zarr"]


def test_a_folder_that_is_writable_where_its_parent_is_not_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: denied())
    with locked(tmp_path / "mounted"):
        pass
    monkeypatch.setattr(os, "open", lambda *_: full())
    with pytest.raises(vc.DataError, match="mounted cannot be written: no space left"), locked(tmp_path / "mounted"):
        pass


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


RACING = """
    import sys, time
    import vcycle as vc
    import vcycle.data, zarr, tqdm
    from vcycle.cli import main

    words = ["generate", "darcy", "--shape", "16x16", "--chunk-size", "2", "--workers", "1", "--out", sys.argv[1]]
    print("ready", flush=True)
    sys.stdin.readline()
    sys.exit(main([*words, "--num-samples", "40", "--seed", sys.argv[2]]))
"""


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_processes_that_begin_at_once_leave_one_whole_store(tmp_path, seeds):
    script, path = tmp_path / "script.py", tmp_path / "d.zarr"
    script.write_text(textwrap.dedent(RACING))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, script, path, str(seed)], **pipes) for seed in seeds]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=60)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) in ([0, 2], [0, 0]), said
    for code, words in zip(codes, said, strict=True):
        refused = f"vcycle generate: {path} is being written by another process. Wait for it to end.\n"
        assert code == 0 or words == refused or "was made by another call" in words
    assert len(Dataset.open(path)) == 40
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.zarr", "script.py"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"num_samples": 2.5}, "`num_samples` must be an integer"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"rtol": 0.0}, "`rtol` must be positive"),
        ({"method": "gcrdr"}, "`method` must be one of .*Did you mean 'gcrodr'"),
        ({"order": "random"}, "`order` must be one of 'auto', 'given', 'nearest'"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1"),
        ({"workers": 0}, "`workers` must be at least 1"),
        ({"output_dtype": "float16"}, "`output_dtype` must be one of 'float64', 'float32'"),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(darcy(), tmp_path / "d.zarr", **settings)
    assert not list(tmp_path.iterdir())


def test_the_callers_thread_settings_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(darcy(), num_samples=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 3])
def test_chunks_share_what_sparse_lu_does_once(monkeypatch, workers):
    import scipy.sparse.linalg as sla

    calls, splu = [], sla.splu
    monkeypatch.setattr(sla, "splu", lambda *a, **k: calls.append(k["permc_spec"]) or splu(*a, **k))
    settings = {"num_samples": 512, "chunk_size": 100, "method": "direct", "workers": workers}
    poisson = vc.problems.Poisson(vc.Grid((16, 16)))
    shared = make(poisson, **settings)
    assert calls == ["MMD_AT_PLUS_A", "NATURAL"]  # one matrix
    calls.clear()
    make(darcy(), **(settings | {"num_samples": 40, "chunk_size": 6}))
    assert calls.count("MMD_AT_PLUS_A") == 1
    assert calls.count("NATURAL") == 40
    alone = torch.cat(
        [poisson.solve(shared.inputs[i : i + 100], method="direct").solutions for i in range(0, 512, 100)]
    )
    assert torch.equal(shared.outputs[:, 0], alone)  # to the last bit


# ---------------------------------------------------------------------------------------- time axis, complex, rejection


def heat(size=16, times=(0.01, 0.02, 0.05), **settings):
    from vcycle.problems.heat import Heat

    grid = vc.Grid((size, size), 1.0, "vertex", True)
    return Heat(grid, times=times, **settings)


def test_bytes_do_not_depend_on_workers_where_every_thread_may_use_all_cores(tmp_path):
    code = """
        import sys
        import vcycle as vc

        problem = vc.problems.Heat(vc.Grid((16, 16), 1.0, "vertex", periodic=True), times=(0.01, 0.02))
        for workers in (1, 3):
            out = f"{sys.argv[1]}/{workers}.zarr"
            vc.generate(problem, num_samples=7, chunk_size=3, workers=workers, out=out, progress=False)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert content(tmp_path / "1.zarr") == content(tmp_path / "3.zarr")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_trajectories_are_stored_with_their_times(tmp_path, dtype):
    import xarray

    problem, path = heat(), tmp_path / "d.zarr"
    dataset = make(problem, path, num_samples=7, chunk_size=3, output_dtype=dtype)
    assert dataset.times == (0.01, 0.02, 0.05)
    assert dataset.field("solution").shape == (7, 3, 1, 16, 16)
    assert dataset.outputs.shape == (7, 3, 16, 16)
    # closed form: every Fourier mode decays by itself, with the same rate at all times
    modes = np.fft.fft2(dataset.field("initial").numpy()[:, 0])
    k = 2 * np.pi * np.fft.fftfreq(16, 1 / 16)
    rate = problem.config()["diffusivity"] * (k[:, None] ** 2 + k**2)
    for moment, when in enumerate(dataset.times):
        exact = np.fft.ifft2(modes * np.exp(-rate * when)).real
        assert_close(dataset.field("solution")[:, moment, 0], exact, rtol=1e-6)
    assert dataset.solver["step_error"].max() <= 1e-6  # the family's own tolerance
    assert dataset.schema.call["rtol"] == 1e-6
    with xarray.open_zarr(path) as shown:
        assert shown["output_solution"].dims == ("sample", "time", "component", "x", "y")
        assert shown["time"].to_numpy().tolist() == [0.01, 0.02, 0.05]
        assert shown["time"].attrs["units"] == "unit of time"
        assert shown["x"].attrs["units"] == "unit of length"
        assert shown["solver_step_error"].dims == ("sample",)
        assert "stored_residual" not in shown
        assert shown["output_solution"].sel(time=0.02).shape == (7, 1, 16, 16)
    assert Dataset.open(path).problem.config() == problem.config() if "heat" in vc.problems.PROBLEMS else True
    assert content(path) == content(make(problem, tmp_path / "e.zarr", num_samples=7, chunk_size=3, workers=3,
                                         output_dtype=dtype).path)  # fmt: skip


def test_check_integrates_trajectories_again(tmp_path):
    dataset = make(heat(), num_samples=4)
    assert vc.data.check(dataset).ok
    arrays = {spec.name: dataset.array(spec.name).copy() for spec in dataset.specs}
    arrays["output_solution"][2, 1] *= 1.01
    spoiled = Dataset(dataset.schema, arrays, specs=dataset.specs, problem=dataset.problem)
    report = str(vc.data.check(spoiled))
    assert "a stored state is not what follows from the one before, by up to 1." in report
    assert "in 1 sample (sample_id 2)" in report
    arrays["solver_step_error"][3] = 1.0
    assert "solver_step_error: above the tolerance 1.0e-06 in 1 sample (sample_id 3)" in str(vc.data.check(spoiled))


def test_a_trajectory_that_is_not_solved_is_named(tmp_path):
    class Stuck(type(heat())):
        def produce(self, inputs, **settings):
            made = super().produce(inputs, **settings)
            return replace(made, failures={1: "more than 2 steps are needed. Raise `rtol`."})

    with pytest.raises(vc.SolveError, match=r"sample 1: more than 2 steps are needed. Raise `rtol`."):
        make(Stuck(heat().grid, times=(0.1,)), tmp_path / "d.zarr")


def test_nan_without_a_residual_is_not_written_either():
    class Wrong(type(heat())):
        def produce(self, inputs, **settings):
            made = super().produce(inputs, **settings)
            made.outputs["solution"][2, 0, 0, 3, 3] = torch.nan
            return made

    with pytest.raises(vc.SolveError, match="sample 2 has NaN or infinity in solution"):
        make(Wrong(heat().grid, times=(0.1,)))


class Picky(vc.problems.Darcy):
    """Rejects draws by their mean, as a family does that its grid does not always resolve."""

    can_reject, limit = True, 7.5

    def rejects(self, inputs, outputs):
        assert outputs["solution"].shape == inputs["coefficient"].shape
        return inputs["coefficient"].flatten(1).mean(1) < self.limit


@pytest.mark.parametrize("method", ["auto", "direct", "gcrodr"])
def test_rejected_draws_are_replaced_by_the_next_of_the_same_sample(tmp_path, method):
    problem = Picky(vc.Grid((16, 16)))
    path = tmp_path / "d.zarr"
    dataset = make(problem, path, method=method, order="given")
    rejected = dataset.solver["rejected"]
    assert int(rejected.sum()) > 3
    assert int(rejected.max()) > 1
    assert dataset.inputs.flatten(1).mean(1).min() >= 7.5
    for row, attempt in enumerate(rejected.tolist()):
        draws = [problem.sample(0, [row], attempts=[k])["coefficient"] for k in range(attempt + 1)]
        assert torch.equal(dataset.inputs[row : row + 1], draws[-1])
        assert all(draw.mean() < 7.5 for draw in draws[:-1])
    assert independent_residuals(dataset).max() <= 1e-8
    report = vc.data.check(dataset)
    assert report.ok
    assert f"{int(rejected.sum())} draws were rejected and drawn again" in str(report)
    again = make(problem, tmp_path / "e.zarr", method=method, order="given", workers=3)
    assert content(again.path) == content(path)
    assert "rejected" not in make(darcy(), num_samples=2).solver


def test_a_family_that_rejects_everything_is_an_error(tmp_path):
    class Hopeless(Picky):
        limit = 100.0

    with pytest.raises(vc.SolveError, match=r"sample 0 was rejected 50 times: darcy .* is hardly ever resolved"):
        make(Hopeless(vc.Grid((8, 8))), tmp_path / "d.zarr", num_samples=2)


def test_complex_solutions_are_two_components():
    problem = vc.problems.Helmholtz(vc.Grid((16, 16)), "absorbing", wave_number=8.0, resolution_tolerance=None)
    dataset = make(problem, num_samples=3)
    assert dataset.field("solution").shape == (3, 2, 16, 16)
    assert dataset.field("solution").abs().amax(dim=(0, 2, 3)).min() > 0
    systems = problem.systems(dataset.inputs)
    u = torch.complex(*dataset.field("solution").unbind(1))
    assert systems.relative_residuals(u).max() <= 1e-8
    assert vc.data.check(dataset).ok
    single = make(problem, num_samples=3, output_dtype="float32")
    assert 1e-9 < single.solver["stored_residual"].max() < 1e-3


MEASURED = """
    import resource, sys
    import vcycle as vc

    problem, peaks = vc.problems.Darcy(vc.Grid((16, 16))), []
    for number in (300, 300, 6000):
        out = f"{sys.argv[1]}/{number}-{len(peaks)}.zarr"
        vc.generate(problem, num_samples=number, out=out, chunk_size=20, workers=2, progress=False)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(*peaks)
"""


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    """6000 samples are 24 MiB on disk; benchmarks/scale.py measures a hundred thousand."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(MEASURED))
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    _, few, many = map(float, run.stdout.split())
    assert many - few < 6, f"peak memory grew from {few:.0f} to {many:.0f} MiB"
