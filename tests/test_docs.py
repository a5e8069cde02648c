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


def test_every_model_is_shown_right():
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert not [name for name in MODELS if f"`{name}`" not in text]
