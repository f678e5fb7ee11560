"""The command line in this process."""

import sys

import pytest

from jaxmia.cli import main


def jaxmia(capsys, *words, columns=100):
    """Run the command line in this process; return (exit code, stdout, stderr)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxmia", *map(str, words)])
        patch.setenv("COLUMNS", str(columns))
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
