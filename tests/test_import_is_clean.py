"""Importing vcycle costs little and changes nothing."""

import json
import subprocess
import sys

import pytest

HEAVY = ("numba", "zarr", "xarray", "lightning", "matplotlib", "scipy.sparse.linalg", "jsonargparse")

STATE = """
import json, random, sys, warnings
import numpy, torch
def state():
    generators = [random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist()]
    precision = [torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_num_threads()]
    return repr([warnings.filters, generators, precision, sys.argv])
sys.argv = ["program", "--flag"]
before = state()
MODULES
print(json.dumps(before == state()))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_changes_no_global_state():
    assert json.loads(run(STATE.replace("MODULES", "import vcycle, vcycle.models, vcycle.recipes, vcycle.cli"))) is True


def test_parts_change_no_more_than_scipy_does_by_itself():
    code = STATE.replace("import numpy, torch", "import numpy, torch, scipy.fft, scipy.sparse.linalg, scipy.special")
    parts = "vcycle.problems, vcycle.solvers, vcycle.data, vcycle.training, vcycle.evaluation, vcycle.demo"
    assert json.loads(run(code.replace("MODULES", f"import {parts}"))) is True


def test_state_check_notices_a_change():
    assert json.loads(run(STATE.replace("MODULES", "warnings.simplefilter('ignore')"))) is False


def test_import_loads_no_engine():
    loaded = json.loads(run("import json, sys, vcycle; print(json.dumps(sorted(sys.modules)))"))
    assert "vcycle" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_does_not_load_torch():
    code = "import sys, vcycle.cli; vcycle.cli.main(['generate', '--help']); print('torch' in sys.modules)"
    assert run(code).splitlines()[-1] == "False"


def test_import_costs_at_most_as_much_again_as_torch():
    clock = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
    torch_seconds = min(float(run(clock.format("torch"))) for _ in range(3))
    both = min(float(run(clock.format("torch, vcycle, vcycle.grid, vcycle.models, vcycle.problems"))) for _ in range(3))
    assert both <= 2 * torch_seconds + 0.2, f"torch {torch_seconds:.2f} s, with vcycle {both:.2f} s of CPU time"


def test_unknown_name_is_an_attribute_error():
    import vcycle

    with pytest.raises(AttributeError, match="module 'vcycle' has no attribute 'solv'"):
        _ = vcycle.solv
