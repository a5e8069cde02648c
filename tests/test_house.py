"""Rules of the house that no linter checks."""

import inspect
from pathlib import Path
from types import ModuleType

import pytest

import vcycle

SOURCE = Path(vcycle.__file__).parent
ROOT = SOURCE.parents[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_is_one_idea(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 400, f"{path.name} has {len(lines)} non-blank lines"


@pytest.mark.parametrize("name", vcycle.__all__)
def test_public_name_resolves_and_is_documented(name):
    value = getattr(vcycle, name)
    assert inspect.getdoc(value), f"vcycle.{name} has no docstring"
    if isinstance(value, ModuleType):
        assert value.__name__ == f"vcycle.{name}"
    else:
        assert value.__name__ == name


def test_public_names_are_listed_once_and_have_a_home():
    assert sorted(set(vcycle.__all__)) == vcycle.__all__
    assert set(vcycle._HOME) == set(vcycle.__all__)


def test_versions_agree():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == vcycle.__version__
    assert f"version: {vcycle.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_readme_is_short_and_its_links_lead_somewhere():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
