"""What is too slow for CI: compiled and exported models, and the certificate at its full count. `make full` runs it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from helpers import assert_close
from vcycle.models import MODELS

pytestmark = pytest.mark.full
BOUND = Path(__file__).parents[1] / "benchmarks" / "bound.py"


def model_and_input(name, batch):
    torch.manual_seed(0)
    return MODELS[name](1, 1).eval(), torch.randn(batch, 1, 32, 32)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize("name", MODELS)
def test_inductor_computes_what_the_plain_model_does(name):
    model, u = model_and_input(name, 4)
    with torch.no_grad():
        assert_close(torch.compile(model)(u), model(u), rtol=1e-5)


def test_onnx_computes_what_mgno_does(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    model, u = model_and_input("mgno", 1)
    with torch.no_grad():
        torch.onnx.export(model, (u,), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
        (output,) = session.run(None, {session.get_inputs()[0].name: u.numpy()})
        assert_close(torch.from_numpy(output), model(u), rtol=1e-5)


@pytest.mark.parametrize(("contrast", "steps"), [(10, 0), (100, 2)])
def test_certificate_of_a_trained_network(contrast, steps):
    """All of 200 predictions, sharply, and of 50 lowest eigenvectors of ``B A``, where Lanczos bounds fail."""
    spec = importlib.util.spec_from_file_location("bound", BOUND)
    bound = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bound)
    row = bound.check(contrast, steps, size=64, epochs=2)
    counts = re.findall(r"(\w+) (\d+) of (\d+) inside, upper/lower at most ([\d.]+)", row)
    assert [(name, int(inside), int(of)) for name, inside, of, _ in counts] == [("net", 200, 200), ("eig", 50, 50)]
    assert float(counts[0][3]) <= 1.05, row
