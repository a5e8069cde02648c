"""A job in a process of its own: a module of ours that reads JSON from standard input, and how it ends.

What ends a job is the last line of what it says. A job that ran out of memory or disk, or that somebody killed, is no
failure of what it did: it may be tried again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vcycle._files import write_json
from vcycle.errors import lacks_memory

JOB, LOG = "job.json", "stderr.txt"
TRY_AGAIN = 75
"""Exit status for what may pass, as in ``sysexits.h``."""
FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
"""Signals that are not the process's own doing, as a segmentation fault is."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
CUT_OFF = ("PytorchStreamWriter", "unexpected pos")
"""What PyTorch says of a full disk."""


class Process:
    """A module of :mod:`vcycle.recipes` at work on one job, on one thread.

    Parameters
    ----------
    module
        Its name; it calls :func:`work_on`.
    job
        What it is told.
    folder
        Where the job and what the process says are written.
    imports
        Folder that modules may be imported from besides our own.
    """

    def __init__(self, module: str, job: Mapping[str, Any], folder: Path, *, imports: Path) -> None:
        environment = os.environ | dict.fromkeys(THREADS, "1")
        environment["PYTHONPATH"] = os.pathsep.join([str(imports.resolve()), *filter(None, sys.path)])
        write_json(folder / JOB, job)
        self.log = folder / LOG
        with (folder / JOB).open(encoding="utf-8") as told, self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"vcycle.recipes.{module}", str(os.getpid())],
                stdin=told,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
            )

    @property
    def ended(self) -> bool:
        """Whether it is no longer at work."""
        return self.process.poll() is not None

    @property
    def status(self) -> int:
        """Exit status, negative for the signal that ended it; waits for the end."""
        return self.process.wait()

    @property
    def may_pass(self) -> bool:
        """Whether the same job may do better another time: it was ended from outside, or says so."""
        return self.status == TRY_AGAIN or -self.status in FROM_OUTSIDE

    @property
    def reason(self) -> str:
        """Why it ended, in one line."""
        if self.status < 0:
            perhaps = ", perhaps for want of memory" if -self.status == signal.SIGKILL else ""
            return f"ended by signal {-self.status}{perhaps}"
        said = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit status {self.status}"
        return re.sub(r"^(\w+\.)+(?=\w+Error)", "", last)

    def stop(self) -> None:
        """End it now."""
        self.process.terminate()
        self.process.wait()


def work_on(work: Callable[[Any], object]) -> None:
    """Do the job that standard input describes, on one thread, and end when the process that began it does.

    Parameters
    ----------
    work
        Takes what the JSON says.
    """
    import torch

    parent = int(sys.argv[1]) if sys.argv[1:] else os.getppid()  # it may have been killed while we imported things
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        work(json.loads(sys.stdin.read()))
    except Exception as error:  # noqa: BLE001  # whatever it is becomes the last line
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.exit(TRY_AGAIN if _may_pass(error) else 1)


def _may_pass(error: BaseException) -> bool:
    """Whether memory, disk or file system are to blame."""
    refused = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
    return refused or lacks_memory(error) or any(words in str(error) for words in CUT_OFF)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # otherwise a second process could begin the same job while this one goes on
