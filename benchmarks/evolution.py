"""What the evolution families promise, measured: writes ``benchmarks/evolution.md``.

Run ``python benchmarks/evolution.py``, or some of it: ``python benchmarks/evolution.py order speed``. Parts that were
not run again are kept. Times are CPU seconds of one thread.
"""

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp

import vcycle as vc
from vcycle.problems.advection import Advection
from vcycle.problems.allen_cahn import AllenCahn
from vcycle.problems.burgers import Burgers
from vcycle.problems.evolution import Evolution
from vcycle.problems.heat import Heat
from vcycle.problems.korteweg_de_vries import KortewegDeVries
from vcycle.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from vcycle.problems.navier_stokes import NavierStokes

TABLE = Path(__file__).with_suffix(".md")
TAU = 2 * math.pi


def periodic(*shape: int, extent: float = 1.0) -> vc.Grid:
    return vc.Grid(shape, extent, "vertex", periodic=True)


def wave(problem: Evolution) -> torch.Tensor:
    """Return analytic initial data, two waves."""
    x = torch.from_numpy(problem.grid.coordinates()[0]) * (TAU / problem.grid.extent[0])
    return (torch.sin(x) + 0.5 * torch.cos(2 * x)).reshape(1, 1, -1)


def drawn(problem: Evolution, num: int = 1) -> torch.Tensor:
    """Return random initial data without Nyquist modes, which no state has."""
    values = problem.sample(0, list(range(num)))["initial"]
    return problem.space.values(problem.space.modes(values))


def distance(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values - exact).norm() / exact.norm())


# -------------------------------------------------------------------------------------------------------------- parts


def order() -> list[str]:
    """Measure the order in time between five step sizes, against a quarter of the smallest."""
    families = {
        "burgers, viscosity 0.01, T = 1": (Burgers(periodic(128), viscosity=0.01), 1.0, 100),
        "allen-cahn, width 0.03, T = 2": (AllenCahn(periodic(128)), 2.0, 20),
        "korteweg-de-vries, extent 32, T = 1": (KortewegDeVries(periodic(64, extent=32.0)), 1.0, 100),
        "kuramoto-sivashinsky, extent 22, T = 20": (KuramotoSivashinsky(periodic(64, extent=22.0)), 20.0, 80),
    }
    rows = [
        "| family | data | error at five step sizes, each half the one before | orders between them |",
        "|---|---|---|---|",
    ]
    for name, (problem, end, coarsest) in families.items():
        for data, initial in (("analytic", wave(problem)), ("random", drawn(problem))):
            counts = [coarsest * 2**halving for halving in range(5)]
            states = [problem.step(initial, end / count, count=count) for count in (*counts, 4 * counts[-1])]
            errors = [distance(state, states[-1]) for state in states[:-1]]
            orders = [math.log2(before / after) for before, after in pairwise(errors)]
            cells = (name, data, ", ".join(f"{e:.1e}" for e in errors), ", ".join(f"{o:.2f}" for o in orders))
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def agreement() -> list[str]:
    """Compare with SciPy's integrators, rtol 1e-10 and atol 1e-12, on the same right-hand side."""
    families = {
        "burgers, viscosity 0.01, T = 2": (Burgers(periodic(128), times=(1.0, 2.0), viscosity=0.01), ["Radau"]),
        "allen-cahn, T = 2": (AllenCahn(periodic(128), times=(1.0, 2.0)), ["Radau"]),
        "korteweg-de-vries, extent 32, T = 2": (
            KortewegDeVries(periodic(64, extent=32.0), times=(1.0, 2.0)),
            ["Radau", "DOP853"],
        ),
        "kuramoto-sivashinsky, extent 22, T = 20": (
            KuramotoSivashinsky(periodic(64, extent=22.0), times=(10.0, 20.0)),
            ["Radau"],
        ),
        "navier-stokes 32 x 32, viscosity 1e-3, T = 2": (
            NavierStokes(periodic(32, 32), times=(1.0, 2.0), scale=3.0),
            ["DOP853"],
        ),
    }
    rows = [
        "| family | data | against | relative L2 difference, worst time | step_error | steps |",
        "|---|---|---|---|---|---|",
    ]
    for name, (problem, methods) in families.items():
        starts = {"random": drawn(problem)}
        if problem.grid.num_axes == 1:
            starts["analytic"] = wave(problem)
        for data, initial in starts.items():
            found = problem.solve({"initial": initial})
            for method in methods:
                exact = by_scipy(problem, initial, method)
                worst = max(distance(a, b) for a, b in zip(found.solutions[0], exact, strict=True))
                error, steps = float(found.quality["step_error"]), int(found.quality["steps"])
                rows.append(f"| {name} | {data} | {method} | {worst:.1e} | {error:.1e} | {steps} |")
    return rows


def by_scipy(problem: Evolution, initial: torch.Tensor, method: str) -> torch.Tensor:
    """Integrate a family's own right-hand side with SciPy; the states are columns."""

    def rate(_: float, columns: np.ndarray) -> np.ndarray:
        states = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(columns.T))).reshape(-1, *initial.shape[1:])
        return problem.time_derivative(states).reshape(len(states), -1).numpy().T.reshape(columns.shape)

    found = solve_ivp(
        rate,
        (0.0, problem.times[-1]),
        initial.numpy().ravel(),
        method=method,
        t_eval=problem.times,
        rtol=1e-10,
        atol=1e-12,
        vectorized=True,
    )
    return torch.from_numpy(found.y.T).reshape(-1, *initial.shape[1:])


def exactness() -> list[str]:
    """Compare heat and advection with their closed forms at T = 1, 2-D."""
    rows = ["| family | relative L2 error of a wave | of a random state |", "|---|---|---|"]
    heat, advection = Heat(periodic(64, 64), times=(1.0,)), Advection(periodic(64, 64), times=(1.0,), velocity=0.5)
    x, y = (torch.from_numpy(c) for c in heat.grid.mesh())
    initial = torch.sin(TAU * (2 * x - y))
    decay = math.exp(-heat.diffusivity * 5 * TAU**2)
    waves = [
        distance(p.solve({"initial": initial[None, None]}).solutions[0, 0, 0], e)
        for p, e in (
            (heat, initial * decay),
            (advection, torch.sin(TAU * (2 * x - y - 0.5))),
        )
    ]
    k = np.fft.fftfreq(64, 1 / 64) * TAU
    start = drawn(heat)
    modes = np.fft.fft2(start.numpy()) * np.exp(-heat.diffusivity * (k[:, None] ** 2 + k**2))
    spread = distance(heat.solve({"initial": start}).solutions[:, 0], torch.from_numpy(np.fft.ifft2(modes).real))
    moved = distance(advection.solve({"initial": start}).solutions[:, 0], start.roll((32, 32), (-2, -1)))
    rows += [f"| heat | {waves[0]:.1e} | {spread:.1e} |", f"| advection | {waves[1]:.1e} | {moved:.1e} |"]
    return rows


def crank_nicolson(problem: NavierStokes, modes: torch.Tensor, dt: float, count: int, *, heun: bool) -> torch.Tensor:
    """Step as the FNO papers' generator does: diffusion by Crank-Nicolson, the rest by Euler (or Heun)."""
    term, half = problem.nonlinear(), 0.5 * dt * problem.linear()
    for _ in range(count):
        now = term(modes)
        after = ((1 + half) * modes + dt * now) / (1 - half)
        if heun:
            after = ((1 + half) * modes + 0.5 * dt * (now + term(after))) / (1 - half)
        modes = after
    return modes


def speed() -> list[str]:
    """Time Navier-Stokes at 64 x 64: whole trajectories, and a unit of time against Crank-Nicolson at equal error."""
    rows = [
        "| viscosity, T | CPU ms per sample to step error 1e-6 | steps | tail | scheme | dt | error after 1 | CPU ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    num = 4
    for viscosity, end in ((1e-3, 50), (1e-4, 30), (1e-5, 20)):
        times = tuple(float(t) for t in range(1, end + 1))
        problem = NavierStokes(periodic(64, 64), viscosity=viscosity, times=times)
        began = time.process_time()
        found = problem.solve(problem.sample(0, list(range(num))))
        whole = (time.process_time() - began) / num * 1e3
        steps, tail = found.quality["steps"].tolist(), float(found.quality["tail"].max())
        space, method = problem.space, problem.integrator()
        state = space.modes(found.solutions[:, end // 2])  # a stirred state
        exact = space.values(method.integrate(state, (1.0,), (4096,))[:, 0])
        cells = [f"{viscosity:g}, {end}", f"{whole:.0f}", "/".join(map(str, steps)), f"{tail:.0e}"]
        runs: list[tuple[str, float, Callable[[int], torch.Tensor]]] = [
            ("Crank-Nicolson, Euler", 1e-4, lambda n, p=problem, s=state: crank_nicolson(p, s, 1 / n, n, heun=False)),
            ("Crank-Nicolson, Euler", 1e-3, lambda n, p=problem, s=state: crank_nicolson(p, s, 1 / n, n, heun=False)),
            ("Crank-Nicolson, Heun", 1e-3, lambda n, p=problem, s=state: crank_nicolson(p, s, 1 / n, n, heun=True)),
        ]
        runs += [
            ("ETDRK4", 1 / n, lambda n, p=problem, s=state: p.integrator().integrate(s, (1.0,), (n,))[:, 0])
            for n in (8, 16, 32, 64, 128, 256)
        ]
        for name, dt, run in runs:
            began = time.process_time()
            reached = run(round(1 / dt))
            spent = (time.process_time() - began) / num * 1e3
            error = distance(space.values(reached), exact)
            rows.append(f"| {' | '.join([*cells, name, f'{dt:.4g}', f'{error:.1e}', f'{spent:.1f}'])} |")
            cells = [""] * 4
    return rows


def cost() -> list[str]:
    """Time the other families with their defaults, 64 samples to a step error of 1e-6."""
    problems = (
        Burgers(periodic(256)),
        Burgers(periodic(1024), viscosity=0.01),
        Burgers(periodic(64, 64), viscosity=0.02),
        KortewegDeVries(periodic(128, extent=32.0)),
        KuramotoSivashinsky(periodic(64, extent=22.0)),
        AllenCahn(periodic(256)),
        AllenCahn(periodic(64, 64)),
    )
    rows = ["| family | grid | CPU ms per sample | most steps | largest tail | failures |", "|---|---|---|---|---|---|"]
    for problem in problems:
        num = 64 if problem.grid.num_axes == 1 else 4
        inputs = problem.sample(0, list(range(num)))
        began = time.process_time()
        found = problem.solve(inputs)
        spent = (time.process_time() - began) / num * 1e3
        steps, tail = int(found.quality["steps"].max()), float(found.quality["tail"].max())
        shape = " x ".join(map(str, problem.grid.shape))
        rows.append(f"| {problem.name} | {shape} | {spent:.1f} | {steps} | {tail:.0e} | {len(found.failures)} |")
    return rows


PARTS = {"order": order, "agreement": agreement, "exactness": exactness, "speed": speed, "cost": cost}


def _written() -> dict[str, str]:
    """Return the parts of the table as they are on disk."""
    if not TABLE.exists():
        return {}
    sections = [section.partition("\n") for section in TABLE.read_text(encoding="utf-8").split("\n## ")[1:]]
    return {name: body.strip() for name, _, body in sections}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    chosen = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    for name in chosen:
        with torch.no_grad():
            rows = "\n".join(PARTS[name]())
        done = _written()
        done[name] = f"{PARTS[name].__doc__}\n\n{rows}"
        print(f"{name}\n{rows}\n", flush=True)
        sections = [f"## {part}\n\n{done[part]}\n" for part in PARTS if part in done]
        TABLE.write_text("\n".join(["# Evolution families, measured\n", *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
