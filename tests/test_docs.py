"""What the documents name is there."""

import re
from pathlib import Path

from vcycle.models import MODELS

ROOT = Path(__file__).parents[1]


def test_tests_named_in_the_documents_exist():
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    files = set(re.findall(r"\btest_\w+\.py", text))
    assert len(files) > 10
    for name in files:
        content = (ROOT / "tests" / name).read_text(encoding="utf-8")
        for test in re.findall(rf"{re.escape(name)}((?:(?:, )?::\w+)+)", text):
            for function in re.findall(r"::(\w+)", test):
                assert f"def {function}(" in content, f"{name}::{function}"


def test_models_compared_with_public_code_are_counted():
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    rows = text.partition("## Against public code")[2].partition("\n## ")[0].splitlines()
    first = "".join(row.split("|")[1] for row in rows if row.startswith("| `"))
    counted = {name for name in re.findall(r"`(\w+)`", first) if name in MODELS}
    assert len(counted) == 13, sorted(counted)
    assert f"Thirteen of the {len(MODELS)} models are compared." in text
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(MODELS)} in all, thirteen of them checked against their authors' code" in readme


def test_every_model_is_shown_right():
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert not [name for name in MODELS if f"`{name}`" not in text]
