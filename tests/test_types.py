"""What type checkers see of the public names: every one has a type, and none is Any."""

import re

import pytest
from mypy import api

import jaxmia


@pytest.mark.thorough  # half a minute without mypy's cache; CI runs it after mypy
def test_no_public_name_is_any(tmp_path):
    file = tmp_path / "names.py"
    lines = ["import jaxmia as jm", *(f"reveal_type(jm.{name})" for name in jaxmia.__all__)]
    file.write_text("\n".join(lines) + "\n")
    printed, errors, _ = api.run([str(file), "--config-file", "pyproject.toml"])
    assert not errors
    revealed = re.findall(r'names\.py:(\d+): note: Revealed type is "(.*)"', printed)
    assert [lines[int(line) - 1][15:-1] for line, _ in revealed] == list(jaxmia.__all__), printed
    assert [lines[int(line) - 1] for line, seen in revealed if re.search(r"(^|-> )Any$", seen)] == []
