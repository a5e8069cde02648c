"""Recipes and studies: YAML files that say data, models, training and what must come out, and what runs them."""

from vcycle.recipes.building import RecipeData, build_model, build_problem, load_data, read_data, train
from vcycle.recipes.recipe import DATA_VARIABLE, Recipe, fit_arguments, parse_recipe, read_recipe
from vcycle.recipes.running import run_recipe, summary
from vcycle.recipes.study import Study, parse_study, read_study

__all__ = [
    "DATA_VARIABLE",
    "Recipe",
    "RecipeData",
    "Study",
    "build_model",
    "build_problem",
    "fit_arguments",
    "load_data",
    "parse_recipe",
    "parse_study",
    "read_data",
    "read_recipe",
    "read_study",
    "run_recipe",
    "summary",
    "train",
]
