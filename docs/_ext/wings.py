"""The wings of jaxmia as a picture and a table, drawn from the data of tests/test_layers.py itself."""

from __future__ import annotations

import html
import pathlib
import sys
from collections.abc import Mapping

from public import modules
from sphinx.application import Sphinx

TESTS = pathlib.Path(__file__).parents[2] / "tests"
WIDTH, ROW, BOX, GAP = 920, 84, 40, 28
HIDDEN = "__main__"  # one line that calls the command line
STYLE = """
text { font: 600 14px system-ui, sans-serif; text-anchor: middle; fill: #1c2733; }
.rank { font: 12px system-ui, sans-serif; fill: #5b6875; text-anchor: start; }
.box { fill: #e7f0fa; stroke: #2f6fb0; }
.small { fill: #f3f4f6; stroke: #8a94a0; }
path { fill: none; stroke: #2f6fb0; stroke-opacity: 0.55; stroke-width: 1.6; }
"""


def wings() -> tuple[dict[str, int], dict[str, set[str]]]:
    """Ranks of the wings, and the wings that each imports; private modules are one wing, "_"."""
    sys.path.append(str(TESTS))
    import test_layers as layers

    def named(module: str) -> str:
        wing = layers.wing(module)
        return "_" if wing.startswith("_") else wing

    imports: dict[str, set[str]] = {}
    for module, others in layers.IMPORTS.items():
        if layers.wing(module) != HIDDEN:
            imports.setdefault(named(module), set()).update(named(other) for other in others)
    ranks = {named(wing): rank for wing, rank in layers.RANKS.items() if wing != HIDDEN}
    return ranks, {wing: imports.get(wing, set()) - {wing} for wing in ranks}


def direct(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports that no other import implies: the transitive reduction, without the private modules."""

    def reached(wing: str) -> set[str]:
        return {far for near in imports[wing] for far in {near, *reached(near)}}

    return {
        wing: {each for each in others if not any(each in reached(other) for other in others)} - {"_"}
        for wing, others in imports.items()
    }


def drawing(ranks: Mapping[str, int], imports: Mapping[str, set[str]]) -> str:
    """An SVG with a row for each rank, the highest on top, and a line for each direct import between wings."""
    rows = sorted(set(ranks.values()), reverse=True)
    place: dict[str, tuple[float, float, float]] = {}  # centre, top, width
    for number, rank in enumerate(rows):
        of_rank = [wing for wing in ranks if ranks[wing] == rank]
        width = 150 if rank else WIDTH - 120
        step = width + GAP * 2
        left = (WIDTH + 60 - step * len(of_rank) + GAP * 2) / 2
        for column, wing in enumerate(of_rank):
            place[wing] = (left + column * step + width / 2, 12 + number * ROW, width)
    lines, boxes = [], []
    for wing, others in direct(imports).items():
        for other in sorted(others):
            (x, y, _), (to_x, to_y, _) = place[wing], place[other]
            start, end = y + BOX, to_y
            bend = (end - start) / 2
            lines.append(
                f'<path d="M{x:g} {start:g} C{x:g} {start + bend:g} {to_x:g} {end - bend:g} {to_x:g} {end:g}"/>'
            )
    for wing, (x, y, width) in place.items():
        name = "validation, archives, atomic files, progress: used everywhere" if wing == "_" else wing
        kind = "small" if wing == "_" else "box"
        boxes.append(
            f'<rect class="{kind}" x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{BOX}" rx="7"/>'
            f'<text x="{x:g}" y="{y + BOX / 2 + 5:g}">{html.escape(name)}</text>'
        )
    labels = [
        f'<text class="rank" x="10" y="{12 + number * ROW + BOX / 2 + 4:g}">rank {rank}</text>'
        for number, rank in enumerate(rows)
    ]
    height = ROW * len(rows) - ROW + BOX + 24
    parts = "\n".join([*lines, *boxes, *labels])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<title>The wings of jaxmia by rank</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{parts}\n</svg>\n'
    )


def table(ranks: Mapping[str, int], imports: Mapping[str, set[str]]) -> str:
    """A Markdown table of the wings: rank, what each says of itself, what it imports."""
    rows = ["| rank | wing | what | imports |", "|---|---|---|---|"]
    for wing in sorted(ranks, key=lambda each: (ranks[each], each)):
        if wing != "_":
            about = modules(wing)[f"jaxmia.{wing}"]
            below = ", ".join(f"`{each}`" for each in sorted(imports[wing] - {"_"}))
            rows.append(f"| {ranks[wing]} | `{wing}` | {about} | {below} |")
    return "\n".join(rows) + "\n"


def draw(app: Sphinx) -> None:
    """Write the picture and the table."""
    folder = pathlib.Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    ranks, imports = wings()
    for name, text in (("wings.svg", drawing(ranks, imports)), ("wings.md", table(ranks, imports))):
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
