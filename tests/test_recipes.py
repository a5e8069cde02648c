import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from vcycle import recipes
from vcycle.demo import DARCY, DARCY_FULL, HELMHOLTZ
from vcycle.errors import DataError
from vcycle.models import MODELS

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
    assert recipe.expect["at_most"] > 0


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
        ("fit", [1], "`fit` must be a mapping. Got [1]."),
        ("data.problem.name", "darcey", "`problem` must be one of 'darcy'"),
        ("data.problem.coefficents", "x", "`problem darcy` has no 'coefficents'. Did you mean 'coefficient'?"),
        ("data.generate.num_sample", 3, "`data.generate` has no 'num_sample'. Did you mean 'num_samples'?"),
        ("data.split.tests", 3, "`data.split` has no 'tests'. Did you mean 'test'?"),
        (
            "data",
            {"train": "a.pt", "format": "mat"},
            "`data.format` must be one of 'zarr', 'neuraloperator', 'npz', 'fno', 'the-well', 'pdebench'. Got 'mat'.",
        ),
    ],
)
def test_wrong_recipes_name_the_key(path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipes.parse_recipe(changed(path, value))


def test_files_that_are_no_recipes(tmp_path):
    for text, message in {"a: [": "is not a recipe in YAML", "- 1": "is not a recipe: a recipe is a mapping"}.items():
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            recipes.read_recipe(tmp_path / "r.yaml")


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
    assert recipes._data_folder(recipe) == folder / "theirs"  # named in the error if nothing is found
    for place in ("shared/data/theirs", "a/data/theirs", "a/recipes/theirs"):  # the nearest wins
        (tmp_path / place).mkdir(parents=True)
        assert recipes._data_folder(recipe) == tmp_path / place
