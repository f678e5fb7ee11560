"""Progress is shown on terminals and in notebooks, and never in logs."""

import io
import os
import pty
import subprocess
import sys
import types

import pytest
import rich.console

from jaxmia._progress import grid_progress, item_progress, sweep_progress
from jaxmia._terminal import progress_console


@pytest.fixture
def drawn(monkeypatch):
    """What a notebook cell displayed, in order, recorded by a stand-in for IPython."""
    pictures = []
    place = types.SimpleNamespace(update=pictures.append)
    display = types.ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda shown, display_id: place
    package = types.ModuleType("IPython")
    package.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("jaxmia._progress._REDRAW", 0.0)
    return pictures


def notebook():
    return rich.console.Console(force_jupyter=True)


def test_a_bar_in_a_notebook_is_drawn_and_then_gone(drawn):
    with grid_progress(notebook(), 100.0) as bar:
        bar.cell("classes10_shots8")
        bar.heads(64, 40.0)
        assert "classes10_shots8" in drawn[-1]
        assert "40%" in drawn[-1]
        assert "heads/s" in drawn[-1]
        assert drawn[-1].startswith("<pre")
    assert drawn[-1] == ""
    with item_progress(notebook(), "reading", 10) as advance:
        advance(3)
        assert "3/10" in drawn[-1].replace(" ", "")


def test_a_sweep_in_a_notebook_is_a_table(drawn):
    with sweep_progress(notebook(), {"nouns/adam": (0, 2)}, 2.0) as progress:
        assert "0 of 2" in drawn[-1]
        progress.cell("nouns/adam", "classes2_shots4", "0.10 s", failed=False, heads=9, work=1.0)
        assert "1 of 2" in drawn[-1]
        assert "classes2_shots4: 0.10 s" in drawn[-1]
    assert drawn[-1] == ""


def test_a_notebook_is_drawn_a_few_times_a_second(drawn, monkeypatch):
    monkeypatch.setattr("jaxmia._progress._REDRAW", 3600.0)
    with grid_progress(notebook(), 1e6) as bar:
        for _ in range(1000):
            bar.heads(1, 1.0)
    assert len(drawn) == 2  # the first, and the last that clears it


def test_progress_shows_itself_on_terminals_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    given = rich.console.Console(file=io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")  # a CI log that accepts colours is not a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_console(None, True) is None
    assert progress_console(given, True) is given
    assert progress_console(given, False) is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress_console(None, True).stderr
    assert progress_console(None, False) is None
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert progress_console(None, True) is None


RUN = """
import sys
import jaxmia as jm
settings = {"grid": {"classes": [2], "shots": [4]}, "shadows": {"models": 17}, "train": {"steps": 5}, "fpr": [0.1]}
jm.run_experiment(settings, sys.argv[1], progress=sys.argv[2] == "yes")
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("to", "progress"), [("terminal", "yes"), ("terminal", "no"), ("pipe", "yes")])
def test_a_run_from_python_shows_its_progress(tmp_path, to, progress):
    ends = pty.openpty() if to == "terminal" else os.pipe()
    words = [sys.executable, "-c", RUN, str(tmp_path / "run"), progress]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=ends[1], env=os.environ | {"TERM": "xterm"})
    os.write(ends[1], b"end")
    said = os.read(ends[0], 1 << 16)
    assert done.returncode == 0, said
    assert done.stdout == b""
    assert (b"heads/s" in said) == (to == "terminal" and progress == "yes")
    if to == "pipe":
        assert said == b"end"
    for end in ends:
        os.close(end)
