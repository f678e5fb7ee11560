"""README is one page, and its Python runs as printed."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_library_example_runs(capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(examples) >= 1
    for example in examples:
        assert "import jaxmia" in example
        exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "OperatingPoint(evaluation='pooled', fpr=0.01" in printed
    assert "VulnerabilityQuantile(quantile=0.5" in printed


def test_it_is_one_page_of_lines_that_fit():
    lines = README.read_text().split("\n")
    assert len(lines) <= 150
    prose = [line for line in lines if not re.match(r"\||!\[", line)]
    assert [line for line in prose if len(line) > 120] == []


def test_the_python_has_ten_lines():
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len([line for line in example.split("\n") if line]) <= 10
