"""The order of imports is part of the design: a wing imports only wings of a lower rank, and no module in a circle."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import jaxmia

RANKS = {
    "_validate": 0,  # private modules, used everywhere; among themselves in the order of their imports
    "_text": 0,
    "_hashes": 0,
    "_terminal": 0,
    "_atomic": 0,
    "_npz": 0,
    "_buckets": 0,
    "_progress": 0,
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
    "studies": 6,
    "audit": 7,
    "report": 8,
    "cli": 9,
    "__main__": 10,
}
PACKAGE = pathlib.Path(jaxmia.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
LIGHT = ("attacks", "stats.operating_points", "stats.roc", "laws.fit", "laws.required", "privacy.tradeoff")
LIGHT += ("privacy.accounting", "scores.reading", "vulnerability.curves")


def imported(path: pathlib.Path) -> set[str]:
    """Modules of jaxmia that a file imports, at any depth of nesting, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in members if name.removeprefix("jaxmia.") in MODULES}
            found |= inside or {node.module}
    return {name.removeprefix("jaxmia.") for name in found if name.startswith("jaxmia.")}


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def wing(module: str) -> str:
    """The top-level module or package: attacks for attacks.lira."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_wings_import_wings_of_a_lower_rank(module):
    own = wing(module)
    assert own in RANKS, f"{own} has no rank: give it one here"
    for other in sorted({wing(name) for name in IMPORTS[module]} - {own}):
        lower = RANKS[other] < RANKS[own] or RANKS[other] == 0
        assert lower, f"{own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})"


def test_no_module_imports_itself_in_a_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()


def test_the_test_sees_imports():
    assert "_validate" in IMPORTS["data.feature_set"]
    assert "scores" in IMPORTS["attacks.lira"]
    assert IMPORTS["cli.run"] >= {"studies.run", "studies.settings.toml"}  # lazy ones


@pytest.mark.parametrize("module", LIGHT)
def test_statistics_and_attacks_load_no_jax(module):
    code = f"import sys, jaxmia.{module}; sys.exit(len({{'jax', 'flax', 'optax'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
