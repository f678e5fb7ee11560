"""README is a promise: its library example runs as it stands."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_library_example_runs(capsys):
    example = next(
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
        if "import jaxmia" in block
    )
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "OperatingPoint(evaluation='pooled', fpr=0.01" in printed
    assert "VulnerabilityQuantile(quantile=0.5" in printed
