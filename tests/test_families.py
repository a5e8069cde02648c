"""Every family makes data that are read again, whatever its grid, its outputs and what it records."""

import pytest
import torch
import xarray

import vcycle as vc
from vcycle.problems import PROBLEMS
from vcycle.recipes import build_problem

SHAPES = {"thermal": (20, 32), "convection-diffusion": (24, 24), "helmholtz": (64,), "navier-stokes": (16, 16)}
ARGUMENTS = {
    "navier-stokes": {"times": [0.5, 1.0], "viscosity": 1e-2},
    "kuramoto-sivashinsky": {"times": [0.5, 1.0]},
    "korteweg-de-vries": {"times": [0.1, 0.2]},
    "burgers": {"times": [0.1, 0.5], "viscosity": 0.1},
    "allen-cahn": {"times": [0.1, 0.5]},
}
ONE_AXIS = ("burgers", "korteweg-de-vries", "kuramoto-sivashinsky", "allen-cahn", "advection")


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "shallow-water"])
def test_family_from_its_name_to_disk_and_back(name, tmp_path):
    shape = SHAPES.get(name, (32,) if name in ONE_AXIS else (16, 16))
    problem = build_problem(name, shape, ARGUMENTS.get(name, {}))
    made = vc.generate(problem, num_samples=3, seed=1, out=tmp_path / "data.zarr", progress=False)
    opened = vc.Dataset.open(tmp_path / "data.zarr")
    assert opened.problem.config() == problem.config()
    assert torch.equal(opened.inputs, made.inputs)
    assert torch.equal(opened.outputs, made.outputs)
    assert opened.outputs.isfinite().all()
    assert vc.data.check(opened).ok
    shown = xarray.open_zarr(tmp_path / "data.zarr", consolidated=False)
    for info in (*problem.input_fields, *problem.outputs):
        role = "output" if info in problem.outputs else "input"
        array = shown[f"{role}_{info.name}"]
        assert array.dims[0] == "sample"
        assert ("time" in array.dims) == (info.times is not None)
        assert array.attrs["units"] == info.unit
    for info in problem.quality:
        assert shown[f"solver_{info.name}"].shape == (3,)
    # what is stored satisfies the discrete equation, by another route than the solver's own
    fields = {info.name: opened.field(info.name) for info in problem.input_fields}
    outputs = torch.cat([opened.field(info.name) for info in problem.outputs], dim=1)
    missed, of_nothing = (problem.residual(fields, u).norm() for u in (outputs, torch.zeros_like(outputs)))
    assert missed <= 1e-5 * of_nothing


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "message"),
    [
        ("darcy", (8, 8), {"source": "abc"}, r"`source` must be a number, or an array of .* Got 'abc'"),
        ("darcy", (8, 8), {"boundary_values": {"x_low": "a"}}, r"`boundary_values\['x_low'\]` must be a number"),
        (
            "darcy",
            (8, 8),
            {"coefficient": {"name": "inclusions", "radius": 3}},
            r"`radius` must be the smallest .* Got 3",
        ),
        ("darcy", (8, 8), {"periodic": "maybe"}, r"`periodic` must be True or False"),
        ("heat", (8,), {"times": "abc"}, r"`times` must be a number. Got 'abc'"),
        ("thermal", (20, 32), {"slot": "foo"}, r"`slot` must be empty or 2 pairs .* Got 'foo'"),
        ("thermal", (20,), {}, r"`shape` must have 2 axes for thermal"),
    ],
)
def test_wrong_arguments_are_named(name, shape, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build_problem(name, shape, arguments)


def test_one_time_may_stand_alone():
    assert build_problem("heat", (8,), {"times": 1}).times == (1.0,)


def test_check_warns_of_trajectories_that_the_grid_does_not_resolve():
    problem = build_problem("burgers", (32,), {"viscosity": 1e-4, "times": [1.0]})
    report = vc.data.check(vc.generate(problem, num_samples=2, progress=False))
    assert any(finding.where == "solver_tail" and finding.severity == "warning" for finding in report.findings)
