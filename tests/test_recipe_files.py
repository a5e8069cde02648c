"""The recipes and the study that come with the library: read, built, and small samples of each drawn and solved."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vcycle as vc
from vcycle.recipes import build_model, build_problem, read_recipe

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
OLDER = {"darcy-demo", "neuraloperator-darcy-mgno"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in OLDER)
PAPER = sorted(path.stem for path in (FOLDER / "paper").glob("*.yaml"))
FILES = [*(f"{name}.yaml" for name in NAMES), *(f"paper/{name}.yaml" for name in PAPER)]
PROBLEMS = [name for name in FILES if not name.endswith("pipe.yaml")]
METRICS = {"relative_l2", "relative_h1", "truncated_spectral_h1", "rollout_l2_full", "rollout_l2_step"}


def problem_of(recipe, **changed):
    said = {**recipe.data["problem"], **changed}
    return build_problem(said["name"], said["shape"], {k: v for k, v in said.items() if k not in ("name", "shape")})


def model_of(recipe, channels=(1, 1), *, boundary="dirichlet", centring="cell"):
    x, y = (torch.zeros(1, count, 64, 64) for count in channels)
    grid = vc.Grid((64, 64), 1.0, centring, boundary == "periodic")
    data = vc.Dataset.from_arrays(x, y, grid=grid, boundary=boundary)
    arguments = {key: value for key, value in recipe.model.items() if key not in ("name", "start")}
    return build_model(recipe.model["name"], data, arguments)


def size(model):
    return sum(weight.numel() for weight in model.parameters())


def test_every_benchmark_of_the_paper_has_a_cpu_size_and_the_papers():
    wanted = {"darcy-smooth", "darcy-rough", "darcy-multiscale", "navier-stokes", "helmholtz-neumann", "pipe"}
    wanted |= {f"poisson-{kind}" for kind in ("dirichlet", "neumann", "periodic")}
    assert set(NAMES) >= wanted
    assert set(PAPER) >= wanted


@pytest.mark.parametrize("name", FILES)
def test_recipe_is_read_validates_on_its_own_samples_and_says_what_it_must_reach(name):
    recipe = read_recipe(FOLDER / name)
    assert recipe.name == Path(name).stem + ("-paper" if name.startswith("paper/") else "")
    assert recipe.data["validation"] > 0
    assert {check["metric"] for check in recipe.expect} <= METRICS
    assert all(check["source"].endswith(".") for check in recipe.expect)
    if not name.startswith("paper/"):  # 30 CPU-minutes at most, data included
        assert recipe.fit["cpu_seconds"] <= 1200
    if "problem" in recipe.data:
        drawn, split = recipe.data["generate"]["num_samples"], recipe.data["split"]
        assert drawn > recipe.data["validation"] + split["test"]
    model_of(recipe, (2, 1) if name.endswith("pipe.yaml") else (1, 1))


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_builds_and_a_sample_of_it_is_solved(name):
    recipe = read_recipe(FOLDER / name)
    whole = problem_of(recipe)
    assert list(whole.grid.shape) == recipe.data["problem"]["shape"]
    changed = {
        "shape": [40, 40]
    }  # where the ends of the lit strip are faces of cells, and a wave of 50 has five points
    if recipe.data["problem"]["name"] == "navier-stokes":
        changed = {"shape": [16, 16], "refine": 1, "times": [1, 2]}
    elif name.endswith("multiscale.yaml"):
        changed |= {"coefficient": {"name": "trigonometric", "levels": 2}}
    problem = problem_of(recipe, **changed)
    extra = {key: value for key, value in recipe.data["generate"].items() if key not in ("num_samples", "seed")}
    data = vc.generate(problem, num_samples=2, seed=0, chunk_size=1, progress=False, **extra)
    assert torch.isfinite(data.outputs).all()
    assert float((data.outputs[0] - data.outputs[1]).norm() / data.outputs[0].norm()) > 1e-3
    if "residual" in data.solver:
        assert float(data.solver["residual"].max()) <= 1e-8
    assert data.inputs.shape[1] == 1


def test_flow_is_the_published_one():
    problem = problem_of(read_recipe(FOLDER / "navier-stokes.yaml"))
    assert (problem.viscosity, problem.forcing) == (1e-5, 0.1)
    assert problem.times == tuple(float(t) for t in range(1, 11))
    # the published program's initial states: 2 * 7^3 (4 pi^2 |k|^2 + 49)^(-5/2) per mode, summed over the grid's modes
    k = np.fft.fftfreq(64, 1 / 64)
    squares = np.add.outer(k**2, k**2)
    variances = 2 * 7.0**3 * (4 * np.pi**2 * squares + 49.0) ** -2.5
    expected = variances.sum() - variances[0, 0]
    drawn = problem.sample(0, range(64))["initial"]
    assert abs(float(drawn.square().mean()) / expected - 1) < 0.1
    assert float(drawn.mean(dim=(2, 3)).abs().max()) < 1e-12
    for name in ("navier-stokes.yaml", "paper/navier-stokes.yaml"):
        recipe = read_recipe(FOLDER / name)
        assert recipe.model["residual"]
        assert recipe.data["steps"] == {"stride": 1}
        assert recipe.data["problem"]["scale"] == problem.scale


def test_wave_is_the_published_one():
    problem = problem_of(read_recipe(FOLDER / "helmholtz-neumann.yaml"))
    assert problem.wave_number == 1000 / 20
    systems = problem.systems({"wave_speed": torch.ones(1, 1, 80, 80)})
    assert float(systems.rhs.sum()) == pytest.approx(0.3)  # the flux through 0.35 to 0.65
    assert problem.boundary.kinds == (("neumann", "neumann"),) * 2
    speed = problem.sample(0, [0])["wave_speed"]
    assert 0.95 < float(speed.min()) < 1 < float(speed.max()) < 1.05


def test_sizes_at_the_papers_size_are_the_published_ones():
    """572,661 is in table 1 of the MgNO paper as 0.57 million."""
    for name in ("darcy-rough", "darcy-multiscale"):
        assert size(model_of(read_recipe(FOLDER / "paper" / f"{name}.yaml"))) == 572_661
    # 738,573 with transfers four points wide, 678,093 with the reference's three or four; three wide between vertices
    smooth = read_recipe(FOLDER / "paper" / "darcy-smooth.yaml")
    assert size(model_of(smooth, centring="vertex")) == 738_573 - 5 * 5 * (16 - 9) * 24**2


def test_coefficients_are_those_of_the_papers_data():
    rough, smooth = (problem_of(read_recipe(FOLDER / f"darcy-{kind}.yaml")) for kind in ("rough", "smooth"))
    assert torch.equal(rough.sample(0, [0])["coefficient"].unique(), torch.tensor([2.0, 12.0]).double())
    assert torch.equal(smooth.sample(0, [0])["coefficient"].unique(), torch.tensor([3.0, 12.0]).double())
    assert (rough.coefficient.alpha, rough.coefficient.tau) == (2.0, 5.0)
    assert smooth.grid == vc.Grid((61, 61), 1.0, "vertex")


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("centring", ["cell", "vertex"])
def test_poisson_without_boundary_data_is_poisson_with_zeros_on_its_faces(kind, centring):
    grid = vc.Grid((9, 8), (1.0, 0.7), centring, kind == "periodic")
    zero, full = (vc.problems.Poisson(grid, kind, boundary_scale=scale) for scale in (0.0, 1.0))
    fields = zero.sample(1, [0, 1])
    assert list(fields) == ["source"]
    assert zero.zero_on_walls
    padded = {info.name: torch.zeros(2, 1, *info.space_shape(grid)) for info in full.input_fields} | fields
    u, v = zero.produce(fields, rtol=1e-10), full.produce(padded, rtol=1e-10)
    assert not u.failures
    assert torch.equal(u.outputs["solution"], v.outputs["solution"])
    assert vc.problems.from_config(zero.config()).config() == zero.config()
    if kind != "periodic":
        assert len(full.input_fields) == 5
        assert not torch.equal(full.sample(1, [0])["source"], fields["source"][:1]) or kind == "dirichlet"


def test_pipe_reads_what_is_converted_as_the_recipe_says(tmp_path):
    """From Geo-FNO's files through the two conversions to the model's input."""
    from vcycle.cli import main
    from vcycle.recipes import load_data

    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for axis in "XY":
        np.save(tmp_path / "files" / f"Pipe_{axis}.npy", rng.random((1200, 5, 4)))
    np.save(tmp_path / "files" / "Pipe_Q.npy", rng.random((1200, 2, 5, 4)))
    recipe = read_recipe(FOLDER / "pipe.yaml")
    for line in [part for part in recipe.about.split("`") if part.startswith("vcycle convert")]:
        words = line.replace("FOLDER", str(tmp_path / "files")).replace("data/pipe", str(tmp_path)).split()
        assert main(words[1:]) in (0, None)
    data = load_data(recipe, data_dir=tmp_path, progress=False)
    assert (len(data.train), len(data.validation), len(data.tests["test"])) == (900, 100, 200)
    assert data.train.inputs.shape[1:] == (2, 5, 4)
    assert not set(data.train.sample_id.tolist()) & set(data.validation.sample_id.tolist())
    kept = np.load(tmp_path / "files" / "Pipe_Q.npy")[1000:, :1]
    assert torch.equal(data.tests["test"].outputs, torch.from_numpy(kept))


def test_studies_cover_the_recipes():
    from vcycle.recipes.study import read_study

    names = set()
    for file in ("mgno_darcy_rough", "mgno_paper", "mgno_free_mean", "mgno_navier_stokes"):
        study = read_study(ROOT / "benchmarks" / f"{file}.yaml")
        names |= set(study.datasets)
        assert {entry.label for entry in study.models} >= {"MgNO", "FNO", "U-Net"}
    assert names == set(NAMES) - {"pipe"}
