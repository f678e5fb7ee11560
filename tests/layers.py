"""The import graph of jaxmia: `python tests/layers.py [FOLDER]` prints wings, arrows, longest paths, largest files.

FOLDER is that of the package, by default the one beside this file. It is parsed, not imported, so any version works.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
import sys
from collections.abc import Iterator, Mapping

Graph = Mapping[str, set[str]]

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxmia"


def modules_of(package: pathlib.Path) -> dict[str, pathlib.Path]:
    """Files of all modules by their names within the package, without the package's own __init__."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
        if path != package / "__init__.py"
    }


def imports_of(modules: Mapping[str, pathlib.Path]) -> dict[str, set[str]]:
    """Modules that each module imports, at any depth of nesting, lazily or not."""
    return {name: _imported(path, modules) for name, path in modules.items()}


def wing(module: str) -> str:
    """The top-level module or package: attacks for attacks.lira."""
    return module.partition(".")[0]


def wings_of(imports: Graph) -> dict[str, set[str]]:
    """Wings that each wing imports, without itself."""
    wings: dict[str, set[str]] = {wing(module): set() for module in imports}
    for module, others in imports.items():
        wings[wing(module)] |= {wing(other) for other in others} - {wing(module)}
    return wings


def longest_path(graph: Graph) -> list[str]:
    """The longest chain of imports, from the importer down.

    Raises:
        graphlib.CycleError: if there is a circle.
    """
    best: dict[str, list[str]] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        below = max((best[other] for other in sorted(graph.get(name, ()))), key=len, default=[])
        best[name] = [name, *below]
    return max((best[name] for name in sorted(best)), key=len)


def functions_of(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Lines and name of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.end_lineno - node.lineno + 1, node.name


def _imported(path: pathlib.Path, modules: Mapping[str, pathlib.Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in members if name.removeprefix("jaxmia.") in modules}
            found |= inside or {node.module}
    return {name.removeprefix("jaxmia.") for name in found if name.startswith("jaxmia.")}


def _path_of(graph: Graph) -> str:
    try:
        path = longest_path(graph)
    except graphlib.CycleError as error:
        return f"none, there is a circle: {' → '.join(error.args[1])}"
    return f"{len(path) - 1}: {' → '.join(path)}"


def main(package: pathlib.Path) -> None:
    """Print the graph of a package."""
    modules = modules_of(package)
    imports = imports_of(modules)
    wings = wings_of(imports)
    lines = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    functions = sorted(
        (
            (size, f"{name}.{function}")
            for name, path in modules.items()
            for size, function in functions_of(path)
        ),
        reverse=True,
    )
    print(f"{len(modules)} modules, {sum(lines.values())} lines, {len(wings)} wings")
    print(
        f"arrows between modules: {sum(map(len, imports.values()))}, between wings: {sum(map(len, wings.values()))}"
    )
    print(f"longest path of modules: {_path_of(imports)}")
    print(f"longest path of wings: {_path_of(wings)}\n")
    for name in sorted(wings):
        print(f"{name} → {', '.join(sorted(wings[name])) or 'nothing'}")
    print("\nlargest modules")
    for name in sorted(lines, key=lines.__getitem__, reverse=True)[:10]:
        print(f"{lines[name]:5} {name}")
    print("\nlargest functions")
    for size, name in functions[:10]:
        print(f"{size:5} {name}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else PACKAGE)
