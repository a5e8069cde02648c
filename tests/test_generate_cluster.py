"""Generation on a real Dask cluster: a scheduler and workers of their own processes, on the loopback device."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import vcycle as vc
from test_generate import content, darcy, make
from vcycle.data import Dataset, chunks, cluster
from vcycle.data.store import Store

pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of the engine's own loop


class OneBad(vc.problems.Darcy):
    def sample(self, seed, indices):
        fields = super().sample(seed, indices)
        for row, index in enumerate(indices):
            if index == 13:
                fields["coefficient"][row] = np.inf
        return fields


class Slow(vc.problems.Darcy):  # so that a kill lands inside
    def sample(self, seed, indices):
        time.sleep(0.05)
        return super().sample(seed, indices)


class Deadly(vc.problems.Darcy):
    def produce(self, inputs, **settings):
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def running(folder, num_workers, **settings):
    """Give the address and the workers' processes."""
    file = folder / "scheduler.json"
    environment = (
        os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"} | settings
    )
    common = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": (folder / "log").open("ab"), "cwd": folder}
    loopback = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    with contextlib.ExitStack() as stack:

        def start(module, *arguments):
            command = [sys.executable, "-m", f"distributed.cli.{module}", *loopback, *arguments]
            process = stack.enter_context(subprocess.Popen(command, **common))
            stack.callback(process.kill)
            return process

        start("dask_scheduler", "--port", "0")
        until(file.is_file, "the scheduler did not start", folder)
        time.sleep(0.1)  # the file is written in one go, but not atomically
        workers = [start("dask_worker", "--nthreads", "1", "--no-nanny") for _ in range(num_workers)]
        yield json.loads(file.read_text())["address"], workers


def until(condition, message, folder, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{message}: {(folder / 'log').read_text()}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cluster"), 2) as (address, _):
        yield address


@pytest.mark.parametrize("method", ["auto", "direct", "gcrodr"])
def test_bytes_are_those_of_threads(tmp_path, address, method):
    make(darcy(), tmp_path / "cluster.zarr", workers=None, scheduler=address, method=method)
    make(darcy(), tmp_path / "threads.zarr", workers=2, method=method)
    assert content(tmp_path / "cluster.zarr") == content(tmp_path / "threads.zarr")
    assert not list(tmp_path.rglob("*.partial"))


def test_without_a_store_the_arrays_come_back(address):
    mine, theirs = make(darcy()), make(darcy(), workers=None, scheduler=address)
    assert theirs.fingerprint() == mine.fingerprint()
    assert (theirs.solver["seconds"] > 0).all()


def test_a_bad_sample_is_named_and_the_rest_is_kept_and_resumed_elsewhere(tmp_path, address):
    path = tmp_path / "d.zarr"
    with pytest.raises(vc.SolveError, match=r"^sample 13 cannot be discretised: `coefficient` must be positive"):
        make(OneBad(vc.Grid((16, 16))), path, workers=None, scheduler=address)
    store = Store.open(path)
    assert [store.is_committed(chunk) for chunk in (0, 1, 2)] == [True, True, False]
    make(darcy(), path)  # on threads, with the trouble gone
    make(darcy(), tmp_path / "whole.zarr")
    assert content(path) == content(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_replaced_by_the_other(tmp_path):
    path, settings = tmp_path / "d.zarr", {"num_samples": 120, "chunk_size": 4}
    with running(tmp_path, 2) as (address, workers):
        killed_at = []

        def kill():
            until(lambda: len(list(path.glob("checksum/c.*.0"))) >= 3, "no chunk was made", tmp_path)
            workers[0].send_signal(signal.SIGKILL)
            workers[0].wait()
            killed_at.append(len(list(path.glob("checksum/c.*.0"))))

        killer = threading.Thread(target=kill)
        killer.start()
        made = make(Slow(vc.Grid((16, 16))), path, workers=None, scheduler=address, **settings)
        killer.join()
    assert killed_at[0] < 30, "the kill came too late"
    assert len(made) == 120
    make(darcy(), tmp_path / "threads.zarr", **settings)
    assert content(path) == content(tmp_path / "threads.zarr")
    assert vc.data.check(Dataset.open(path)).ok


@pytest.mark.slow
def test_a_chunk_that_ends_its_workers_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    with running(tmp_path, 1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as (address, _):
        with pytest.raises(vc.SolveError, match=r"one chunk has ended 1 workers .* choose a smaller `chunk_size`"):
            make(Deadly(vc.Grid((8, 8))), workers=None, scheduler=address)
        monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.2)
        with pytest.raises(vc.DataError, match=r"has had no worker for 0 s. Start one"):
            make(darcy(8), workers=None, scheduler=address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://127.0.0.1:1", "Connection refused"), ("garbage", "missing port"), ("/nowhere/s.json", "No such file")],
)
def test_an_address_where_nobody_answers_is_one_line(tmp_path, address, reason):
    with pytest.raises(ValueError, match="`scheduler` must be the address of a running Dask scheduler") as caught:
        make(darcy(), tmp_path / "d.zarr", workers=None, scheduler=address)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_dask_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed.comm.addressing", None)
    with pytest.raises(ImportError, match=r'pip install "vcycle\[cluster\]"'):
        make(darcy(), workers=None, scheduler="tcp://127.0.0.1:1")


def test_workers_of_other_versions_are_refused(tmp_path, address, monkeypatch):
    ours = cluster._our_versions()
    monkeypatch.setattr(cluster, "_our_versions", lambda: tuple((dict(ours) | {"numpy": "1.0"}).items()))
    with pytest.raises(ValueError, match=r"other versions \(numpy: .* there, 1.0 asked\). Install the same there"):
        make(darcy(), tmp_path / "d.zarr", workers=None, scheduler=address)


def test_a_store_that_workers_do_not_see_is_refused(tmp_path, address):
    plan = chunks.Plan(darcy(), 4, 0, 1e-8, "auto", "given", 2, "float64")
    with pytest.raises(vc.DataError, match=r"d.zarr is not visible to the workers on .* all share"):
        cluster.on_cluster(plan, np.arange(4), [0, 1], print, address=address, path=tmp_path / "d.zarr")


def test_workers_and_a_scheduler_exclude_each_other():
    with pytest.raises(ValueError, match="`workers` must be None with a `scheduler`"):
        make(darcy(), workers=2, scheduler="tcp://127.0.0.1:1")
