"""The README's Python block runs as it stands, only with fewer samples and epochs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def block() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def replaced(code: str, old: str, new: str) -> str:
    assert old in code, f"the README no longer says {old}"
    return code.replace(old, new)


@pytest.mark.slow
def test_python_block_runs(capsys):
    code = replaced(block(), "num_samples=400", "num_samples=40")
    code = replaced(code, "test=100", "test=8")
    code = replaced(code, "epochs=5", "epochs=1")
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)  # noqa: S102 (the README is ours)
    printed = capsys.readouterr().out
    assert "relative" in printed.lower()
    prediction, test = names["prediction"], names["test"]
    assert prediction.shape == test.outputs.shape == (8, 1, 32, 32)
    error = ((prediction - test.outputs).norm() / test.outputs.norm()).item()
    assert error < 1, f"the prediction is no better than zero: {error}"


def test_commands_of_the_readme_exist():
    from vcycle.commands import COMMANDS

    used = set(re.findall(r"(?m)^(?:.*&& )?(?:\.venv/bin/)?vcycle (\w+)", README.read_text(encoding="utf-8")))
    assert "demo" in used
    assert used <= set(COMMANDS)


def test_ci_runs_the_test_command_of_the_readme():
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if " -m pytest " in line]
    assert len(lines) == 1, "`.ci/run` takes the one line with pytest"
    assert lines[0].startswith(".venv/bin/pip install -e ")
    assert '-m "not full"' in lines[0]
    script = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -F ' -m pytest ' README.md" in script
    assert 'pip" install ".[test,lint]"' in script  # as the README installs: not editable
