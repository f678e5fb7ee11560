"""The public names of jaxmia by wing, read from `jaxmia/__init__.pyi`, as pages of the API reference.

The pages are written to docs/api at every build, so that they follow the code: no list of names is kept here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Iterator

import pydantic
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import jaxmia

PACKAGE = pathlib.Path(jaxmia.__file__).parent
WORDS = {
    "_npz": "data",
    "_validate": "data",
}  # private modules with public names: the wing whose page has them
COLON = "\N{RATIO}"  # stands for a colon while sections are read


def public_names() -> dict[str, list[str]]:
    """Public names by wing, in the order of the stub."""
    wings: dict[str, list[str]] = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                wing = (node.module or alias.name).partition(".")[0]
                wings.setdefault(WORDS.get(wing, wing), []).append(alias.asname or alias.name)
    return dict(sorted(wings.items()))


def modules(wing: str) -> dict[str, str]:
    """Modules of a wing, and the first sentence of what they say of themselves."""
    place = PACKAGE / wing
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    found = {}
    for path in paths:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = summary(ast.get_docstring(ast.parse(path.read_text())) or "")
    return found


def summary(docstring: str) -> str:
    """The first sentence, or the first paragraph without one."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph)[0]


def mentioned(value: object) -> Iterator[type]:
    """Classes of jaxmia that a public function or class takes, returns, holds or raises."""
    names = re.findall(r"^ +(\w+Error):", inspect.getdoc(value) or "", re.M)
    found = [error for error in errors() if error.__name__ in names]
    members = [value]
    if isinstance(value, type):
        members += [each for each in vars(value).values() if isinstance(each, types.FunctionType)]
    for member in members:
        try:
            hints = typing.get_type_hints(member)
        except NameError:  # axes of jaxtyping in a named tuple
            continue
        for hint in hints.values():
            found += inside(hint)
    yield from (each for each in found if each.__module__.startswith("jaxmia."))


def inside(hint: object) -> Iterator[type]:
    """Classes in an annotation, at any depth."""
    if isinstance(hint, type):
        yield hint
    parts = hint if isinstance(hint, (list, tuple)) else typing.get_args(hint)
    for part in parts:
        yield from inside(part)


def errors(parent: type = Exception) -> list[type]:
    """Exceptions of jaxmia that are defined by now."""
    below = [error for each in parent.__subclasses__() for error in [each, *errors(each)]]
    return [error for error in below if error.__module__.startswith("jaxmia.")]


def further_types(wings: dict[str, list[str]]) -> dict[str, list[type]]:
    """Classes by wing that have no public name, yet are met where one is used."""
    public = [value for names in wings.values() for name in names if (value := getattr(jaxmia, name))]
    public += list(jaxmia.attacks.REGISTRY.values())
    known, found = set(public), list(public)
    for value in found:  # grows
        found += [each for each in dict.fromkeys(mentioned(value)) if each not in found]
    classes = [each for each in found if each not in known]
    order = sorted(set(classes), key=lambda each: (each.__module__, each.__qualname__))
    return {
        wing: [each for each in order if wing_of(each) == wing] for wing in {wing_of(each) for each in order}
    }


def wing_of(value: type) -> str:
    """The wing whose page has a class."""
    wing = value.__module__.split(".")[1]
    return WORDS.get(wing, wing)


def page(wing: str, names: list[str], further: list[type]) -> str:
    """The reStructuredText of one wing."""
    title = f"jaxmia.{wing}"
    about = escaped(importlib.import_module(title).__doc__ or "")
    parts = [f"{title}\n{'=' * len(title)}", about.strip()]
    for name in names:
        value = getattr(jaxmia, name)
        if isinstance(value, type(ast)):  # a module whose functions are public: jm.attacks
            parts += [directive(f"jaxmia.{name}.{each}", getattr(value, each)) for each in value.REGISTRY]
        else:
            parts.append(directive(f"jaxmia.{name}", value))
    if further:
        parts.append("Types met on the way\n--------------------")
        parts += [directive(f"{each.__module__}.{each.__qualname__}", each) for each in further]
    rows = "\n".join(f"   * - ``{name}``\n     - {escaped(about)}" for name, about in modules(wing).items())
    parts.append(f"Modules\n-------\n\n.. list-table::\n   :widths: 35 65\n\n{rows}")
    return "\n\n".join(parts) + "\n"


def directive(name: str, value: object) -> str:
    """What makes autodoc describe a function, a class or an exception."""
    kind, options = "function", ""
    if isinstance(value, type):
        kind = "exception" if issubclass(value, BaseException) else "class"
        options = "\n   :members:"
        if issubclass(value, pydantic.BaseModel):
            options += "\n   :undoc-members:\n   :exclude-members: model_config"
    return f".. auto{kind}:: {name}{options}"


def escaped(text: str) -> str:
    """Docstrings are plain English with `code`: what reStructuredText would take for markup is no markup."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def write_pages(app: Sphinx) -> None:
    """Write one page a wing and their index."""
    place = pathlib.Path(app.srcdir) / "api"
    place.mkdir(exist_ok=True)
    wings = public_names()
    further = further_types(wings)
    pages = {
        f"{wing}.rst": page(wing, wings.get(wing, []), further.get(wing, []))
        for wing in sorted(wings.keys() | further.keys())
    }
    entries = "\n".join(f"   {name.removesuffix('.rst')}" for name in pages)
    pages["index.rst"] = f"""API reference
=============

``import jaxmia as jm``: every name below is ``jm.NAME``, whichever wing it lives in, and loads when first used.

.. toctree::
   :maxdepth: 2

{entries}
"""
    for old in place.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        file = place / name
        if not file.is_file() or file.read_text() != text:  # an unchanged page is not built again
            file.write_text(text)


def escape_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Escape the lines of a docstring before its sections are read.

    Words before a colon would be taken for a type, of attributes and of what is returned.
    """
    lines[:] = escaped("\n".join(lines)).split("\n")
    if what in ("attribute", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]
    within = False
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            within = line in ("Returns:", "Yields:")
        elif within:
            lines[number] = line.replace(":", COLON)


def restore_colons(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Undo what escape_docstring did to colons."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def hide_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, returns: str
) -> tuple[str, None] | None:
    """Settings are described field by field, not by what their constructor takes."""
    return ("", None) if isinstance(value, type) and issubclass(value, pydantic.BaseModel) else None


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Link a name without its module, as docstrings have it, where only one object here is called so."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or "." in target:
        return None
    found = {
        (entry.docname, entry.node_id)
        for name, entry in env.domains.python_domain.objects.items()
        if name.rpartition(".")[2] == target and not entry.aliased
    }
    if len(found) != 1:
        return None
    ((document, place),) = found
    return make_refnode(app.builder, node["refdoc"], document, place, text)


def skip_inherited(
    app: Sphinx, what: str, name: str, value: object, skip: bool, options: object
) -> bool | None:
    """Leave out fields of named tuples, which the class describes, and what decorators of others add."""
    is_field = (getattr(value, "__doc__", None) or "").startswith("Alias for field number")
    is_others = isinstance(value, types.FunctionType) and not value.__module__.startswith("jaxmia")
    return True if is_field or is_others else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # as docstrings call them
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-skip-member", skip_inherited)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
