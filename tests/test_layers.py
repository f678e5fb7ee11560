"""The order of imports is part of the design: a wing imports only wings of lower rank, and no imports form a cycle."""

import ast
import subprocess
import sys

import pytest
from layers import PACKAGE, imports_of, longest_path, main, modules_of, wing, wings_of

RANKS = {
    "_validate": 0,  # private modules, used everywhere; among themselves in the order of their imports
    "_text": 0,
    "_hashes": 0,
    "_shown": 0,
    "_terminal": 0,
    "_atomic": 0,
    "_npz": 0,
    "_buckets": 0,
    "_progress": 0,
    "_deprecated": 0,
    "_resumable": 0,
    "data": 1,
    "stats": 1,
    "scores": 2,
    "privacy": 2,
    "laws": 3,
    "attacks": 3,
    "training": 3,
    "tables": 4,
    "vulnerability": 4,
    "theory": 4,
    "plots": 4,
    "ridge": 5,
    "extract": 5,
    "private": 5,
    "studies": 6,
    "advice": 6,
    "audit": 7,
    "release": 7,
    "features": 8,  # two old import paths, until version 0.2
    "released": 8,
    "report": 8,
    "cli": 9,
    "__main__": 10,
}
MODULES = modules_of(PACKAGE)
IMPORTS = imports_of(MODULES)
LIGHT = ("attacks", "stats.operating_points", "stats.roc", "laws.fit", "laws.required", "privacy.tradeoff")
LIGHT += (
    "privacy.accounting",
    "scores.reading",
    "vulnerability.curves",
    "tables.laws",
    "tables.rates",
    "cli.app",
)


@pytest.mark.parametrize("module", MODULES)
def test_wings_import_wings_of_a_lower_rank(module):
    own = wing(module)
    assert own in RANKS, f"{own} has no rank: give it one here"
    for other in sorted({wing(name) for name in IMPORTS[module]} - {own}):
        lower = RANKS[other] < RANKS[own] or RANKS[other] == 0
        assert lower, f"{own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})"


def test_no_module_and_no_wing_imports_itself_in_a_circle():
    assert RANKS[longest_path(IMPORTS)[-1]] == 0  # the chain ends in a private module of rank 0
    assert longest_path(wings_of(IMPORTS))[0] == "__main__"


def test_modules_and_functions_are_short():
    """At most 450 lines for a module, and 80 for a function, docstring included."""
    for module, path in MODULES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 450, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 80, f"{module}.{node.name}: {lines} lines"


def test_the_test_sees_imports():
    assert "_validate" in IMPORTS["data.feature_set"]
    assert "scores" in IMPORTS["attacks.lira"]
    assert IMPORTS["cli.run"] >= {"studies.run", "studies.settings.toml"}  # lazy ones


def test_statistics_and_attacks_load_no_jax():
    code = f"""
import importlib, sys
for module in {LIGHT}:
    importlib.import_module(f"jaxmia.{{module}}")
    loaded = {{"jax", "flax", "optax"}} & set(sys.modules)
    assert not loaded, (module, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_graph_is_drawn(tmp_path, capsys):
    """Three wings, one with two modules; the longest chain has three imports."""
    files = {
        "low.py": "",
        "middle/__init__.py": "from jaxmia.middle import part",
        "middle/part.py": "import jaxmia.low",
        "high.py": "def one():\n    from jaxmia import middle\n    return middle",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    main(tmp_path)
    drawn = capsys.readouterr().out
    assert "4 modules, 5 lines, 3 wings\narrows between modules: 3, between wings: 2\n" in drawn
    assert "longest path of modules: 3: high → middle → middle.part → low\n" in drawn
    assert "longest path of wings: 2: high → middle → low\n" in drawn
    assert "low → nothing" in drawn
    assert "    3 high.one" in drawn
