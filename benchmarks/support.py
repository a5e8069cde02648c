"""Which model can do what, tried out at its small configuration: writes ``docs/support.md``.

Run ``python benchmarks/support.py``; with ``--export`` it also records every model as a program and as ONNX, which
takes minutes, else those columns are kept. ``tests/test_support_matrix.py`` fails where the page is out of date.
"""

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vcycle.models import MODELS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "support.md"
SHAPES = {1: (16,), 2: (16, 12), 3: (8, 8, 12)}
YES, NO, UNKNOWN = "yes", "-", "?"
HEADER = """# What each model can do

Tried out, not declared, on small networks: `python benchmarks/support.py --export` wrote this page. The contract that
every model fulfils besides (two resolutions, independent samples, gradients, seeds, files) is `tests/test_contract.py`.

- **1-D, 2-D, 3-D**: maps functions on such grids. **odd**: on odd numbers of points too.
- **parameters**: takes scalars per sample. **double**: float64 agrees with float32. **bf16**: trains under autocast.
- **any batch**: also no sample at all. **refines**: the same weights tend to one map as the grid is refined: declared,
  measured in `tests/test_operator_learning.py`, and in cells of second order (`tests/test_spectral_models.py`). On
  vertices, models that pad walls or have `x` around a ring among their inputs are of first order only: FNO with random
  weights and 4 modes between walls, on 9, 17 and 33 points against 65: 22, 9.3 and 3.1 %. **shifts**: commutes with
  shifts of a periodic grid.
- **export**: `torch.export` for any number of samples. **onnx**: ONNX Runtime computes the same.
- **weights**: their number by default, one function to one, 2-D where that exists.

"""

Build = Callable[..., nn.Module]


def tried(check: Callable[[], bool]) -> str:
    """Return whether a check comes out true; what raises is not supported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return YES if check() else NO
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError):
            return NO


def fields(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random functions, the same at every call."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def near(a: Tensor, b: Tensor, rtol: float) -> bool:
    """Return whether two results agree in the relative 2-norm and do not vanish."""
    return bool((a.double() - b.double()).norm() <= rtol * b.double().norm() and b.norm() > 0)


def cheap(name: str, build: Build) -> dict[str, str]:
    """Try what takes milliseconds.

    Parameters
    ----------
    name
        Key of the model.
    build
        Returns a small network of two functions to three, given ``num_axes`` and more options.
    """
    axes = getattr(MODELS[name], "axes", (1, 2, 3))
    d = 2 if 2 in axes else axes[0]
    shape, u = SHAPES[d], fields(2, 2, *SHAPES[d])
    odd = tuple(n + 1 for n in shape)
    row = {}
    for n in (1, 2, 3):
        row[f"{n}-D"] = tried(lambda n=n: build(n)(fields(1, 2, *SHAPES[n])).shape == (1, 3, *SHAPES[n]))
    row["odd"] = tried(lambda: bool(build(d)(fields(1, 2, *odd)).isfinite().all()))
    row["parameters"] = tried(lambda: build(d, num_parameters=2)(u, torch.ones(2, 2)).shape == (2, 3, *shape))
    row["double"] = tried(lambda: near(build(d)(u), build(d).double()(u.double()), 1e-5))
    row["bf16"] = tried(lambda: _trains_in_half(build(d), u))
    row["any batch"] = tried(lambda: build(d)(u[:0]).shape == (0, 3, *shape))
    row["refines"] = YES if getattr(MODELS[name], "resolution_free", False) else NO
    row["shifts"] = tried(lambda: _commutes_with_shifts(build(d, boundary="periodic", centring="vertex"), u))
    row["weights"] = f"{sum(p.numel() for p in MODELS[name](1, 1, num_axes=d).parameters()):,}"
    return row


def _trains_in_half(model: nn.Module, u: Tensor) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(u).float().square().mean()
    loss.backward()
    return all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def _commutes_with_shifts(model: nn.Module, u: Tensor) -> bool:
    with torch.no_grad():
        return near(model(u.roll(1, 2)), model(u).roll(1, 2), 1e-4)


def costly(name: str, build: Build) -> dict[str, str]:
    """Try what takes seconds: the columns ``export`` and ``onnx``; arguments as for :func:`cheap`."""
    axes = getattr(MODELS[name], "axes", (1, 2, 3))
    d = 2 if 2 in axes else axes[0]
    model, u = build(d).eval(), fields(3, 2, *SHAPES[d])
    return {"export": tried(lambda: _exports(model, u)), "onnx": tried(lambda: _onnx(model, u[:1]))}


def _exports(model: nn.Module, u: Tensor) -> bool:
    samples = torch.export.Dim("samples", min=1)
    program = torch.export.export(copy.deepcopy(model), (u[:2],), dynamic_shapes=({0: samples},))
    return near(program.module()(u), model(u), 1e-5)


def _onnx(model: nn.Module, u: Tensor) -> bool:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (u,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        (output,) = session.run(None, {session.get_inputs()[0].name: u.numpy()})
        return near(torch.from_numpy(output), model(u), 1e-5)


def small(name: str) -> Build:
    """Return what builds the contract's small network of this model."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_contract import build

    return lambda num_axes, **options: build(name, num_axes, **options)


def read() -> dict[str, dict[str, str]]:
    """Return the page's rows by model; none where there is no page."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"] if PAGE.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}


def write(rows: dict[str, dict[str, str]]) -> None:
    """Write the page."""
    columns = [column for column in next(iter(rows.values())) if column != "weights"] + ["weights"]
    table: list[Sequence[str]] = [["model", *columns], ["---"] * (len(columns) + 1)]
    table += [[name, *(rows[name][column] for column in columns)] for name in sorted(rows)]
    lines = ["| " + " | ".join(line) + " |" for line in table]
    PAGE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Try out what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="only these are tried out again")
    parser.add_argument("--export", action="store_true", help="also record programs")
    arguments = parser.parse_args()
    kept = read()
    for name in MODELS:
        known = kept.get(name, {"export": UNKNOWN, "onnx": UNKNOWN})
        if name in kept and arguments.models and name not in arguments.models:
            continue
        slow = costly(name, small(name)) if arguments.export else {key: known[key] for key in ("export", "onnx")}
        kept[name] = cheap(name, small(name)) | slow
        print(name, kept[name], flush=True)
        write({name: row for name, row in kept.items() if name in MODELS})


if __name__ == "__main__":
    main()
