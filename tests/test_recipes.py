import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from vcycle import recipes
from vcycle.data import FORMATS
from vcycle.demo import DARCY, DARCY_FULL, HELMHOLTZ
from vcycle.errors import CheckpointError, DataError
from vcycle.models import MODELS
from vcycle.recipes.building import data_folder

NAMES = ", ".join(repr(name) for name in sorted(MODELS))
FOLDER = Path(__file__).parents[1] / "recipes"

SMALL = {
    "name": "small",
    "about": "A recipe for this test.",
    "data": {
        "problem": {"name": "darcy", "shape": [8, 8]},
        "generate": {"num_samples": 12, "seed": 0},
        "split": {"test": 4, "seed": 0},
    },
    "model": {"name": "mgno", "levels": 2, "width": 4, "depth": 1},
    "fit": {"epochs": 1, "batch_size": 4, "weight_decay": 0.0},
    "seeds": [0, 1],
    "expect": {"set": "test", "metric": "relative_l2", "at_most": 1e-9, "source": "None can."},
}


def changed(path: str, value, base=SMALL):
    """Return a copy with the entry at ``a.b`` set, or removed where the value is ``None``."""
    content = yaml.safe_load(yaml.safe_dump(base))
    *parents, last = path.split(".")
    target = content
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return content


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_recipe_fits_the_signatures(path):
    recipe = recipes.read_recipe(path)
    assert recipe.name == path.stem
    assert all(check["at_most"] > 0 for check in recipe.expect)


def test_demo_settings_fit_the_signatures_and_the_recipe():
    recipe = recipes.read_recipe(FOLDER / "darcy-demo.yaml")
    assert recipe.model == dict(DARCY.model)
    assert recipe.fit == dict(DARCY.fit)
    assert recipe.data["generate"]["num_samples"] == DARCY.num_train + DARCY.num_test
    assert recipe.data["split"]["test"] == DARCY.num_test
    assert recipe.data["problem"] == dict(DARCY.problem) | {"shape": list(DARCY.problem["shape"])}
    for family in (DARCY, DARCY_FULL, HELMHOLTZ):
        recipes.fit_arguments(family.fit)
        arguments = {key: value for key, value in family.problem.items() if key not in ("name", "shape")}
        recipes.build_problem(family.problem["name"], family.problem["shape"], arguments)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modle", {}, "`recipe` has no 'modle'. Did you mean 'model'?"),
        ("expect", None, "`recipe` must have expect."),
        ("expect.at_most", None, "`expect` must have at_most."),
        ("expect.set", "tset", "`expect.set` must be one of 'test'. Got 'tset'. Did you mean 'test'?"),
        ("model.name", "mgn", f"`model.name` must be one of {NAMES}. Got 'mgn'. Did you mean 'mgno'?"),
        ("model.levls", 3, "`model mgno` has no 'levls'. Did you mean 'levels'?"),
        ("fit.epoch", 3, "`fit` has no 'epoch'. Did you mean 'epochs'?"),
        ("fit.seed", 3, "`fit` has no 'seed'."),
        ("fit.epochs", None, "`fit` must have epochs or cpu_seconds."),
        ("fit.cpu_seconds", 3.0, "`fit` must have epochs or cpu_seconds, not both. Got 1 and 3.0."),
        ("fit", {"cpu_seconds": 0}, "`fit.cpu_seconds` must be positive and finite. Got 0."),
        ("data.validation", 0, "`data.validation` must be at least 1. Got 0."),
        ("data.steps", {"strde": 2}, "`data.steps` has no 'strde'. Did you mean 'stride'?"),
        ("data.steps", {"stride": 0}, "`data.steps.stride` must be at least 1. Got 0."),
        ("model.start", "slover", "`model.start` must be one of 'solver'. Got 'slover'. Did you mean 'solver'?"),
        ("model", {"name": "fno", "start": "solver"}, "`model.start` must be left out: only mgno starts as a solver."),
        ("expect", [SMALL["expect"], {"set": "test"}], "`expect` must have metric, at_most, source."),
        ("fit", [1], "`fit` must be a mapping. Got [1]."),
        ("expect.at_most", "1 %", "`expect.at_most` must be a number. Got '1 %'."),
        ("evaluate", "x.npz", "`evaluate` must be a mapping. Got 'x.npz'."),
        ("evaluate", {"rough": 3}, "`evaluate.rough` must be the name of a file. Got int."),
        ("seeds", 3, "`seeds` must be a list of integers, such as [0]. Got 3."),
        ("seeds", [], "`seeds` must be a list of integers, such as [0]. Got []."),
        ("seeds", ["a"], "`seeds` must be an integer. Got 'a'."),
        ("data.problem.shape", 16, "`data.problem.shape` must be a list of points per axis, such as [32, 32]. Got 16."),
        (
            "data.problem.shape",
            "16x16",
            "`data.problem.shape` must be a list of points per axis, such as [32, 32]. Got '16",
        ),
        ("data.generate", {"seed": 0}, "`data.generate` must have num_samples. Got seed."),
        ("data", {"train": 3, "format": "npz"}, "`data.train` must be the name of a file. Got int."),
        ("data", {"train": "a.npz", "format": "npz"}, "`evaluate` must name a test set, such as `test: test.npz`."),
        ("data.problem.name", "darcey", "`problem` must be one of 'darcy'"),
        ("data.problem.coefficents", "x", "`problem darcy` has no 'coefficents'. Did you mean 'coefficient'?"),
        ("data.generate.num_sample", 3, "`data.generate` has no 'num_sample'. Did you mean 'num_samples'?"),
        ("data.split.tests", 3, "`data.split` has no 'tests'. Did you mean 'test'?"),
        (
            "data",
            {"train": "a.pt", "format": "mat"},
            f"`data.format` must be one of {', '.join(map(repr, FORMATS))}. Got 'mat'.",
        ),
    ],
)
def test_wrong_recipes_name_the_key(path, value, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        recipes.parse_recipe(changed(path, value))


@pytest.mark.parametrize("key", ["fit", "evaluate", "data", "model", "seeds"])
def test_keys_without_a_value_are_named(key):
    with pytest.raises(ValueError, match=f"^`{key}` must be a .*. Got None.$"):
        recipes.parse_recipe(SMALL | {key: None})


def test_a_study_without_a_value_for_fit_names_it():
    from vcycle.recipes.study import parse_study

    data = {"name": "a", "data": SMALL["data"]}
    study = {"name": "s", "about": "x", "datasets": [data], "models": [], "budget": {"cpu_seconds": 1}}
    with pytest.raises(ValueError, match=r"^`fit` must be a mapping\. Got None\.$"):
        parse_study(study | {"fit": None})
    with pytest.raises(ValueError, match=r"^`evaluate` must be a mapping\. Got 'x.npz'\.$"):
        parse_study(study | {"datasets": [data | {"evaluate": "x.npz"}]})


def test_files_that_are_no_recipes(tmp_path):
    for text, message in {"a: [": "is not a recipe in YAML", "- 1": "is not a recipe: a recipe is a mapping"}.items():
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            recipes.read_recipe(tmp_path / "r.yaml")
    with pytest.raises(DataError, match=r"is a folder, not a recipe in YAML\. Give the path of such a file\."):
        recipes.read_recipe(tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.yaml does not exist: it must be a recipe in YAML\. Give the path"):
        recipes.read_recipe(tmp_path / "nowhere.yaml")


def test_recipes_read_numbers_as_people_write_them(tmp_path):
    text = yaml.safe_dump(changed("fit.learning_rate", 7.0)).replace("learning_rate: 7.0", "learning_rate: 2e-3")
    (tmp_path / "r.yaml").write_text(text)
    assert recipes.read_recipe(tmp_path / "r.yaml").fit["learning_rate"] == 0.002


def test_missing_data_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv(recipes.DATA_VARIABLE, raising=False)
    recipe = FOLDER / "neuraloperator-darcy-mgno.yaml"
    with pytest.raises(DataError, match=r"darcy_test_16.pt does not exist; .*neuralop/data/datasets/data"):
        recipes.run_recipe(recipe, tmp_path / "out", data_dir=tmp_path)
    monkeypatch.setenv(recipes.DATA_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        recipes.run_recipe(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("a.pt", None, ""),
        ("a.pt", "neuraloperator", "; it is in the repository"),
        ("darcy_test_16.pt", None, "; it is in the repository"),
        ("a.zarr", None, "; make it with `vcycle generate`"),
    ],
)
def test_only_files_of_known_origin_are_said_to_be_there(name, form, said, tmp_path):
    with pytest.raises(DataError, match=rf"{name} does not exist{re.escape(said)}") as caught:
        recipes.read_data(tmp_path / name, form)
    assert said or str(caught.value).endswith("does not exist.")


def test_validation_is_taken_out_of_the_training_part():
    parts = {}
    for number in (None, 3):
        content = changed("data.validation", number) if number else SMALL
        parts[number] = recipes.load_data(recipes.parse_recipe(content), progress=False)
    ids = [set(part.sample_id.tolist()) for part in (parts[3].train, parts[3].validation, parts[3].tests["test"])]
    assert [len(part) for part in ids] == [5, 3, 4]
    assert set.union(*ids) == set(range(12))
    assert ids[2] == set(parts[None].tests["test"].sample_id.tolist())  # the same test set as without
    assert parts[None].validation is None
    with pytest.raises(ValueError, match="`data` must say validation once"):
        recipes.parse_recipe(changed("data.split", {"test": 4, "validation": 2}, changed("data.validation", 3)))


def test_generated_data_are_kept_and_used_again(tmp_path):
    recipe = recipes.parse_recipe(SMALL)
    first = recipes.load_data(recipe, cache=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["small.zarr"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = recipes.load_data(recipe, cache=tmp_path, progress=False)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    memory = recipes.load_data(recipe, progress=False)
    assert torch.equal(memory.tests["test"].outputs, again.tests["test"].outputs)


def test_evolutions_become_steps_after_the_split():
    content = changed("data.problem", {"name": "heat", "shape": [8, 8], "times": [0.1, 0.2, 0.3]})
    content["data"] |= {"validation": 2, "steps": {"stride": 1}}
    content["data"]["generate"]["num_samples"] = 8
    data = recipes.load_data(recipes.parse_recipe(content), progress=False)
    whole = data.trajectories["test"]
    assert len(whole) == 4
    test, truth = data.tests["test"], whole.field("solution")
    pairs = {(a.numpy().tobytes(), b.numpy().tobytes()) for a, b in zip(test.inputs, test.outputs, strict=True)}
    for states in truth:
        for early, late in pairwise(states):
            assert (early.numpy().tobytes(), late.numpy().tobytes()) in pairs
    ids = [set(part.sample_id.tolist()) for part in (data.train, data.validation, test)]
    assert [len(part) for part in ids] == [2, 2, 4]
    assert len(set.union(*ids)) == 8  # no trajectory is in two sets


def test_model_starts_as_the_problems_solver():
    from vcycle.models import solver_start

    data = recipes.load_data(recipes.parse_recipe(SMALL), progress=False).train
    arguments = {"levels": 2, "width": 4, "depth": 1}
    started = recipes.build_model("mgno", data, arguments | {"start": "solver"}, seed=3)
    wanted = solver_start(recipes.build_model("mgno", data, arguments, seed=3), data.problem, seed=3).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in started.state_dict().items())
    drawn = recipes.build_model("mgno", data, arguments, seed=3).state_dict()
    assert not all(torch.equal(tensor, wanted[name]) for name, tensor in drawn.items())
    with pytest.raises(ValueError, match=r"only mgno starts as a solver\. Got FNO"):
        recipes.build_model("fno", data, {"start": "solver", "modes": 2, "width": 4})


def test_models_take_the_datas_scalars():
    from vcycle import Dataset, Grid

    values = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    scalars = {"a": torch.arange(3.0), "b": torch.ones(3)}
    data = Dataset.from_arrays(values, values, grid=Grid((8, 8)), boundary="neumann", parameters=scalars)
    assert recipes.build_model("fno", data, {"modes": 2, "width": 4}).config()["num_parameters"] == 2
    given = {"modes": 2, "width": 4, "num_parameters": 0}
    assert recipes.build_model("fno", data, given).config()["num_parameters"] == 0


def test_several_numbers_must_all_be_reached():
    second = SMALL["expect"] | {"metric": "relative_h1", "at_most": 0.5}
    recipe = recipes.parse_recipe(changed("expect", [SMALL["expect"] | {"at_most": 0.5}, second]))
    good = {"metrics": {"test.relative_l2": 0.4, "test.relative_h1": 0.45}, "cpu_seconds": 1.0}
    bad = {"metrics": {"test.relative_l2": 0.4, "test.relative_h1": 0.65}, "cpu_seconds": 1.0}
    assert recipes.summary(recipe, [good])["reached"] is True
    result = recipes.summary(recipe, [good, bad])
    assert result["reached"] is False
    assert [check["reached"] for check in result["checks"]] == [True, False]
    assert result["checks"][1]["mean"] == pytest.approx(0.55, rel=1e-12)


def test_a_budget_is_chosen_once_per_folder(tmp_path):
    from vcycle.training.budget import BUDGET_FILE, budget_in

    data = recipes.load_data(recipes.parse_recipe(SMALL), progress=False).train
    model = recipes.build_model("mgno", data, {"levels": 2, "width": 4, "depth": 1})
    first = budget_in(tmp_path, model, data, cpu_seconds=1.0, batch_size=4)
    assert first.epochs == max(1, round(1.0 / first.epoch_seconds))
    (tmp_path / BUDGET_FILE).write_text((tmp_path / BUDGET_FILE).read_text().replace(f": {first.epochs},", ": 12345,"))
    assert budget_in(tmp_path, model, data, cpu_seconds=1.0, batch_size=4).epochs == 12345  # read, not measured
    with pytest.raises(ValueError, match=r"`out` holds a run of other arguments: cpu_seconds is 1\.0 there, not 2\.0"):
        budget_in(tmp_path, model, data, cpu_seconds=2.0, batch_size=4)
    (tmp_path / BUDGET_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="corrupt"):
        budget_in(tmp_path, model, data, cpu_seconds=1.0, batch_size=4)


def test_a_budget_counts_what_the_clock_shows(monkeypatch):
    """A clock that only passes through the network move shows exactly how steps and validation are counted."""
    from torch import nn

    from vcycle import Dataset, Grid
    from vcycle.training import budget

    now = [0.0]

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, u):
            now[0] += 3.0 if self.training else 1.0
            return self.layer(u)

    monkeypatch.setattr(budget.time, "process_time", lambda: now[0])
    values = torch.rand(64, 1, 4, 4, dtype=torch.float64)
    data = Dataset.from_arrays(values, values, grid=Grid((4, 4)), boundary="neumann")
    model, train, validation = Slow(), data.subset(range(48)), data.subset(range(48, 64))
    measured = budget.measured_budget(model, train, cpu_seconds=300.0, validation=validation, batch_size=4)
    assert measured.step_seconds == pytest.approx(3.0, rel=1e-12)
    assert measured.epoch_seconds == pytest.approx(12 * 3.0 + 4 * 1.0, rel=1e-12)  # batches of training, of validation
    assert measured.epochs == round(300 / 40)
    assert not measured.over
    short = budget.measured_budget(model, train, cpu_seconds=10.0, validation=validation, batch_size=4)
    assert short.over
    assert short.epochs == 1
    assert budget.epochs_within(model, train, cpu_seconds=72.0, batch_size=4) == 2


def test_importing_lightning_is_no_part_of_a_budgets_first_look(monkeypatch):
    import vcycle.training
    import vcycle.training.engine
    from vcycle.training import budget

    now, looks, engine = [0.0], [], "vcycle.training.engine"

    class Look:
        def __init__(self, *arguments):
            pass

        def __call__(self, steps):
            looks.append(steps)
            now[0] += 0.1 if engine in sys.modules else 3.6
            return 0.01, 0.1

    monkeypatch.setattr(vcycle.training, "engine", vcycle.training.engine)  # put back afterwards
    monkeypatch.delitem(sys.modules, engine)
    monkeypatch.setattr(budget, "_Look", Look)
    monkeypatch.setattr(budget.time, "process_time", lambda: now[0])
    assert budget.measured_budget(None, None, cpu_seconds=100.0).epochs == 1000
    assert looks == [budget.FEW, budget.MANY]


def test_a_budget_is_of_one_equation_and_of_any_logger(tmp_path, monkeypatch):
    from vcycle.objectives import LabelFree
    from vcycle.objectives.residual import ResidualLoss
    from vcycle.training import budget

    data = recipes.load_data(recipes.parse_recipe(SMALL), progress=False).train
    model = recipes.build_model("mgno", data, {"levels": 2, "width": 4, "depth": 1})
    monkeypatch.setattr(budget, "measured_budget", lambda *_, **__: budget.Budget(3, 1.0, 0.3, 0.1))

    def asked(order, seconds):
        loss = LabelFree(ResidualLoss(data.problem, order))
        return budget.budget_in(
            tmp_path, model, data, cpu_seconds=1.0, loss=loss, config={"checkpoint_seconds": seconds}
        )

    assert asked(0, 1) == asked(0, 2)
    with pytest.raises(ValueError, match=r"`out` holds a run of other arguments: arguments\.loss"):
        asked(-1, 1)


def test_channels_are_counted_without_reading_the_data(monkeypatch):
    from vcycle import Dataset, Grid
    from vcycle.recipes.cell import build_outside

    def factory(*, in_channels, out_channels, grid):
        return torch.nn.Conv2d(in_channels, out_channels, 1)

    monkeypatch.setattr(sys.modules[__name__], "factory", factory, raising=False)
    values = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    data = Dataset.from_arrays(values, values[:, :1], grid=Grid((8, 8)), boundary="neumann")
    for model in (
        recipes.build_model("mgno", data, {"levels": 2, "width": 4, "depth": 1}),
        build_outside({"import": f"{__name__}:factory"}, data, seed=0),
    ):
        assert (model.in_channels, model.out_channels) == (2, 1)
    assert not {"inputs", "outputs"} & set(vars(data))


def test_recipe_runs_compares_and_does_not_train_twice(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    said = []
    first = recipes.run_recipe(path, tmp_path / "out", progress=False, say=said.append)
    errors = [run["metrics"]["test.relative_l2"] for run in first["runs"]]
    assert first["mean"] == pytest.approx(sum(errors) / 2, rel=1e-12)
    assert errors[0] != errors[1]
    assert first["reached"] is False
    assert len(said) == 2
    again = recipes.run_recipe(path, tmp_path / "out", progress=False)
    assert again == first  # times too: nothing ran
    path.write_text(yaml.safe_dump(changed("expect.at_most", 10.0)))
    assert recipes.run_recipe(path, tmp_path / "out", progress=False)["reached"] is True
    assert (tmp_path / "out" / "metrics.json").exists()
    assert all(run["cpu_seconds"] > 0 for run in first["runs"])


def test_another_test_set_is_measured_on_anew_without_training(tmp_path, monkeypatch):
    from vcycle.training.module import OperatorModule

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    data = recipes.load_data(recipes.parse_recipe(SMALL), progress=False)
    first = recipes.run_recipe(path, tmp_path / "out", seed=0, progress=False)
    tests = {"test": data.tests["test"].subset([0])}
    monkeypatch.setattr(OperatorModule, "training_step", None)
    monkeypatch.setattr("vcycle.recipes.running.load_data", lambda *_, **__: data._replace(tests=tests))
    second = recipes.run_recipe(path, tmp_path / "out", seed=0, progress=False)
    assert second["mean"] != first["mean"]
    assert second["runs"][0]["cpu_seconds"] == first["runs"][0]["cpu_seconds"]


def test_a_recipes_run_knows_what_it_has_seen(tmp_path):
    from vcycle import generate
    from vcycle.commands.shared import unseen
    from vcycle.grid import Grid
    from vcycle.problems import Darcy

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    recipes.run_recipe(path, tmp_path / "out", seed=0, progress=False)
    whole = generate(Darcy(Grid((8, 8))), num_samples=12, progress=False)
    rest, words = unseen(str(tmp_path / "out" / "seed-0"), whole, "d")
    assert rest.sample_id.tolist() == whole.split(test=4, seed=0)[1].sample_id.tolist()
    assert words.startswith("4 of 12 samples of d")


def test_building_a_model_leaves_the_random_state():
    from vcycle import Dataset, Grid

    values = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    data = Dataset.from_arrays(values, values, grid=Grid((8, 8)), boundary="neumann")
    before = torch.get_rng_state()
    first = recipes.build_model("mgno", data, {"levels": 2, "width": 4}, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    second, third = (recipes.build_model("mgno", data, {"levels": 2, "width": 4}, seed=s) for s in (1, 2))
    weights = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert [list(pair) for pair in first.config()["boundary"]] == [["neumann", "neumann"]] * 2


def test_wrong_models_and_formats():
    with pytest.raises(ValueError, match=f"`model` must be one of {NAMES}"):
        recipes.build_model("vgg", None, {})
    with pytest.raises(ValueError, match="`format` must be one of"):
        recipes.read_data("x", "csv")


def test_data_folder_is_found_above_the_recipe(tmp_path):
    (tmp_path / "a" / "recipes").mkdir(parents=True)
    folder = tmp_path / "a" / "recipes"
    recipe = replace(recipes.read_recipe(FOLDER / "darcy-demo.yaml"), folder=folder, data_dir="theirs")
    assert data_folder(recipe) == folder / "theirs"  # named in the error if nothing is found
    for place in ("shared/data/theirs", "a/data/theirs", "a/recipes/theirs"):  # the nearest wins
        (tmp_path / place).mkdir(parents=True)
        assert data_folder(recipe) == tmp_path / place
