"""Everything that is too slow for CI, in one run: writes ``benchmarks/full.md``, one row per check.

Run ``python benchmarks/full.py``, or some of it: ``python benchmarks/full.py contraction demo``. It takes half
an hour on two cores. Rows that were not run again are kept.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import vcycle as vc
from vcycle.models import MODELS
from vcycle.multigrid.classical import hierarchy, v_cycle
from vcycle.multigrid.fluxes import laplacian

HERE = Path(__file__).parent
TABLE = HERE / "full.md"
RECIPE = HERE.parent / "recipes" / "neuraloperator-darcy-mgno.yaml"
MIXED = (("dirichlet", "neumann"), ("neumann", "dirichlet"))


def contraction() -> str:
    """Measure the energy-norm contraction of the V(1,1)-cycle on Poisson: the largest rate and the spread per kind."""
    parts = []
    for kinds in ("dirichlet", "neumann", "periodic", MIXED):
        rates = [_rate(kinds, size) for size in (64, 128, 256, 512)]
        name = kinds if isinstance(kinds, str) else "mixed"
        parts.append(f"{name} {max(rates):.4f} (spread {max(rates) - min(rates):.4f})")
    return "64 to 512 cells: " + ", ".join(parts)


def _rate(kinds: str | tuple, size: int) -> float:
    grid = vc.Grid((size, size), periodic=kinds == "periodic")
    operator = laplacian(grid, vc.Boundary.on(grid, kinds))
    levels, rate = hierarchy(operator), 0.0
    error = torch.randn(1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        error = error if operator.boundary.fixes_constant else error - error.mean()
        error = error / operator.energy(error).sqrt()
        error = error - v_cycle(levels, operator.apply(error))
        rate = operator.energy(error).sqrt().item()
    return rate


def bound() -> str:
    """Check the certificate on network predictions and on the errors that it sees least of, at 64 x 64."""
    return "; ".join(_run([sys.executable, str(HERE / "bound.py")]).splitlines())


def solvers() -> str:
    """Time the solvers on two-phase Darcy to 1e-8, sorted: median CPU ms per system of three interleaved runs."""
    parts = []
    for size, methods in ((64, ("multigrid", "direct", "cg", "gmres", "gcrodr")), (256, ("multigrid", "direct", "cg"))):
        problem = vc.problems.Darcy(vc.Grid((size, size)))
        systems = problem.systems(problem.sample(0, range(12)))
        times: dict[str, list[float]] = {method: [] for method in methods}
        vc.solvers.solve_sequence(systems.select(slice(0, 1)), method="multigrid")  # loads the kernels
        for _ in range(3):
            for method in methods:
                started = time.process_time()
                vc.solvers.solve_sequence(systems, rtol=1e-8, method=method, order="nearest").raise_if_failed()
                times[method].append(1000 * (time.process_time() - started) / len(systems))
        figures = ", ".join(f"{method} {statistics.median(values):.2f}" for method, values in times.items())
        parts.append(f"{size} x {size}: {figures}")
    return "; ".join(parts)


def inductor() -> str:
    """Compare ``torch.compile`` with its default backend with the plain forward: relative difference."""
    parts = []
    for name, model_class in MODELS.items():
        torch.manual_seed(0)
        torch.compiler.reset()  # after a few models under one roof it would no longer compile
        model, u = model_class(1, 1).eval(), torch.randn(4, 1, 32, 32)
        with torch.no_grad():
            started = time.perf_counter()
            compiled = torch.compile(model)(u)
            parts.append(f"{name} {_difference(compiled, model(u)):.1e} ({time.perf_counter() - started:.0f} s)")
    return ", ".join(parts)


def onnx() -> str:
    """Compare the ONNX export in onnxruntime with the plain forward; needs ``onnx onnxscript onnxruntime``."""
    import onnxruntime

    parts = []
    for name, model_class in MODELS.items():
        torch.manual_seed(0)
        model, u = model_class(1, 1).eval(), torch.randn(1, 1, 32, 32)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = str(Path(folder) / "model.onnx")
            try:
                torch.onnx.export(model, (u,), path, dynamo=True, verbose=False)
            except torch.onnx.errors.OnnxExporterError:
                parts.append(f"{name}: the exporter refuses")
                continue
            session = onnxruntime.InferenceSession(path)
            output = session.run(None, {session.get_inputs()[0].name: u.numpy()})[0]
            parts.append(f"{name} {_difference(torch.from_numpy(output), model(u)):.1e}")
    return ", ".join(parts)


def recipe() -> str:
    """Run the neuraloperator recipe: five seeds on one thread."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["train", "--config", str(RECIPE), "--out", out, "--json"]
        result = json.loads(_vcycle(arguments, threads=1))
    errors = [run["metrics"][result["metric"]] for run in result["runs"]]
    seconds = max(run["cpu_seconds"] for run in result["runs"])
    return f"mean {result['mean']:.4f} of {', '.join(f'{e:.4f}' for e in errors)}; at most {seconds:.0f} CPU s a seed"


def demo() -> str:
    """Run ``vcycle demo`` with a cold Numba cache."""
    return _demo([])


def demo_full() -> str:
    """Run ``vcycle demo --full``."""
    return _demo(["--full"])


def _demo(options: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        _vcycle(["demo", "--out", f"{folder}/demo", *options], threads=2, NUMBA_CACHE_DIR=f"{folder}/cache")
        seconds = time.perf_counter() - started
        families = json.loads((Path(folder) / "demo" / "metrics.json").read_text())["families"]
    parts = [f"{seconds:.0f} s wall"]
    for name, numbers in families.items():
        spent = sum(numbers["seconds"].values())
        verdict = numbers["benchmark"]["verdict"]
        parts.append(f"{name} {numbers['size']}: {numbers['relative_l2']:.2%} in {spent:.0f} s. {verdict}")
    return "; ".join(parts)


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def _vcycle(arguments: list[str], *, threads: int, **environment: str) -> str:
    return _run([sys.executable, "-m", "vcycle", *arguments], OMP_NUM_THREADS=str(threads), **environment)


def _run(command: list[str], **environment: str) -> str:
    return subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True).stdout


CHECKS: dict[str, Callable[[], str]] = {
    "contraction": contraction,
    "bound": bound,
    "solvers": solvers,
    "inductor": inductor,
    "onnx": onnx,
    "recipe": recipe,
    "demo": demo,
    "demo_full": demo_full,
}


def main() -> None:
    """Run the named checks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", help=f"some of: {', '.join(CHECKS)}; default all")
    chosen = parser.parse_args().checks or list(CHECKS)
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    kept = TABLE.read_text().splitlines() if TABLE.exists() else []
    rows = {line.split("|")[1].strip(): line for line in kept if line.startswith("| ")}
    for name in chosen:
        load = os.getloadavg()[0]
        figure = CHECKS[name]()
        about = (CHECKS[name].__doc__ or "").split("\n")[0]
        machine = f"{os.cpu_count()} cores {platform.machine()}, load {load:.1f} before, torch {torch.__version__}"
        rows[name] = f"| {name} | {about} | {figure} | {time.strftime('%Y-%m-%d')}, {machine} |"
        print(rows[name], flush=True)
        head = ["# Results of `make full`", "", "| check | what | figure | run on |", "|---|---|---|---|"]
        TABLE.write_text("\n".join([*head, *(rows[key] for key in CHECKS if key in rows)]) + "\n")


if __name__ == "__main__":
    main()
