"""The order of imports is part of the design: a module imports only modules of a lower rank."""

import ast
import pathlib

import pytest

import jaxmia

RANKS = {
    "_validate": -1,
    "calibration": 0,
    "_text": 1,
    "_files": 1,
    "labels": 2,
    "_npz": 2,
    "terminal": 1,
    "features": 3,
    "membership": 1,
    "compilation": 0,
    "memory": 1,
    "processes": 1,
    "evaluation": 1,
    "tradeoff": 1,
    "accounting": 2,
    "power_law": 2,
    "realised": 2,
    "stability": 3,
    "verdicts": 3,
    "published": 3,
    "required": 4,
    "heads": 1,
    "contrasts": 2,
    "theory": 2,
    "networks": 3,
    "bootstrap": 2,
    "decisions": 2,
    "converged": 3,
    "influence": 3,
    "dpsgd": 3,
    "training": 4,
    "formulation": 5,
    "scratch": 5,
    "ensemble": 6,
    "rounding": 1,
    "scores": 7,
    "counterfactual": 8,
    "analytic": 8,
    "whitebox": 7,
    "attacks": 8,
    "external": 8,
    "released": 9,
    "audit_config": 10,
    "controls": 8,
    "residuals": 9,
    "separation": 9.1,
    "record_rates": 9.2,
    "vulnerability": 9.3,
    "auditing": 9,
    "config": 9,
    "assess": 10,
    "recipe": 10,
    "plots": 10,
    "progress": 10,
    "store": 10,
    "executors": 10,
    "extract": 11,
    "laws": 11,
    "attack_run": 11,
    "tuning": 11,
    "triage": 11,
    "experiment": 12,
    "audit_records": 11,
    "audit_checks": 12,
    "audit_rows": 12,
    "audit_shadows": 12,
    "audit_match": 13,
    "audit": 14,
    "head_recipe": 11,
    "sweep": 13,
    "report": 14,
    "tables": 14,
    "cli": 15,
    "__main__": 16,
}
PACKAGE = pathlib.Path(jaxmia.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: pathlib.Path) -> str:
    """The top-level module or package of a file: attacks for jaxmia/attacks/lira.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: pathlib.Path) -> set[str]:
    """Rooms of jaxmia that a file imports, at any depth of nesting, lazily or not."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "jaxmia"
                else [node.module]
            )
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("jaxmia.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = room(path)
    assert own in RANKS, f"{own} has no rank: give it one here"
    for other in imported_rooms(path) - {own}:
        assert RANKS[other] < RANKS[own], f"{own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})"


def test_the_test_sees_imports():
    found = {room(path): imported_rooms(path) for path in MODULES}
    assert "_validate" in found["features"]
    assert "scores" in set().union(*found.values())


@pytest.mark.parametrize(
    "name",
    [
        *("evaluation", "calibration", "bootstrap", "decisions", "tradeoff", "power_law", "published"),
        *("required", "accounting"),
    ],
)
def test_statistics_need_no_jax(name):
    path = PACKAGE / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{name} is not built yet")
    tops = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert not tops & {"jax", "flax", "optax"}
