"""The tables and figures of measurements on the pages, rendered from the JSON that their benchmarks wrote.

    python docs/evidence/tables.py            # render: write tables into the pages, between their marks
    python docs/evidence/tables.py --check    # fail where a page differs from what its JSON gives
    python docs/evidence/tables.py --list     # what would be measured again, and how long that takes

A page marks the place of a table by <!-- evidence: NAME --> and <!-- end -->, NAME one of TABLES. evidence.toml lists
every measurement: those with files are rendered, those without are typed, from before there were any.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from of_benchmarks import (
    accelerators,
    actors,
    adapters_speed,
    adapters_study,
    audit_agreement,
    audit_agreement_files,
    classes_slopes,
    classes_steps,
    finite_pool,
    per_record,
    per_record_bounds,
    per_record_noise,
    per_record_quantiles,
    recipes,
    shadow_budget_letters10,
    shadow_budget_text10,
    shadow_budget_text24,
    whitebox,
)
from of_demo import demo_figure, demo_full, demo_laws, demo_short
from rendering import HERE, load, markdown, origin, took

ROOT = HERE.parents[1]
MARK = re.compile(r"(<!-- evidence: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def persons() -> str:
    """TPR of records and of persons with several records, pooled and calibrated: the mean of the seeds."""
    names = sorted(f"persons/{path.name}" for path in (HERE / "persons").glob("*.json"))
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for name in names:
        features, records, _ = name.removeprefix("persons/").removesuffix(".json").split("_")
        for row in load(name)["rows"]:
            groups.setdefault((features, records, f"{row['K']}", row["attack"]), []).append(row)
    rows = []
    for group, of_seeds in groups.items():
        cells = []
        for side in ("pooled", "calibrated"):
            known = [[row[f"{side} {fpr:g}"] for row in of_seeds] for fpr in (0.1, 0.01, 0.001)]
            means = ["-" if None in values else f"{sum(values) / len(values):.3f}" for values in known]
            cells.append(" / ".join(means))
        rows.append([*group, *cells])
    return markdown(["features", "records", "K", "attack", "pooled", "calibrated"], rows) + origin(*names)


def persons_analytic() -> str:
    """D and TPR of persons of ridge heads, computed without shadows and measured with them."""
    names = sorted(f"persons_analytic/{path.name}" for path in (HERE / "persons_analytic").glob("*.json"))
    rows = []
    for name in names:
        features = name.removeprefix("persons_analytic/").partition("_")[0]
        for row in load(name)["rows"]:
            pairs = [
                f"{row[f'{what}, computed']:{form}} / {row[f'{what}, measured']:{form}}"
                for what, form in (
                    ("D", ".2f"),
                    ("TPR 0.1", ".3f"),
                    ("TPR 0.01", ".3f"),
                    ("TPR 0.001", ".3f"),
                )
            ]
            rows.append([features, row["of"], pairs[0], f"{row['correlation']:.3f}", *pairs[1:]])
    headings = ["features", "of", "D", "correlation of D", "TPR at 0.1", "at 0.01", "at 0.001"]
    return markdown(headings, rows) + origin(*names)


def advice() -> str:
    """The advisor's estimates beside what shadow heads measure, option by option."""
    names = sorted(f"advise/{path.name}" for path in (HERE / "advise").glob("*.json"))
    rows = []
    for name in names:
        features, shots = name.removeprefix("advise/").removesuffix(".json").split("_")
        for row in load(name)["rows"]:
            before = row["worst of those left, before"]
            rows.append(
                [
                    f"{features}, S = {shots}",
                    row["option"],
                    f"{row['accuracy, estimated']:.3f} / {row['accuracy, measured']:.3f}",
                    f"{row['mean TPR, estimated']:.3f} / {row['mean TPR, measured']:.3f}",
                    f"{row['worst TPR, estimated']:.3f} ({row['worst low']:.3f} to {row['worst high']:.3f})",
                    f"{row['worst TPR, measured']:.3f} ({row['measured low']:.3f} to {row['measured high']:.3f})",
                    "-" if before is None or math.isnan(before) else f"{before:.3f}",
                ]
            )
    headings = ["records", "option", "accuracy, estimated / measured", "mean TPR", "worst record, estimated"]
    return markdown([*headings, "measured", "before"], rows) + origin(*names)


def public_features() -> str:
    """Accuracy of private heads against epsilon, by the features that they train on."""
    parts = []
    for path in sorted((HERE / "public").glob("*.json")):
        held = load(f"public/{path.name}")
        headings = list(held["rows"][0])
        rows = [
            [f"{row[name]:g}" if name in ("S", "epsilon") else f"{row[name]:.3f}" for name in headings]
            for row in held["rows"]
        ]
        parts.append(markdown(headings, rows) + origin(f"public/{path.name}"))
    return "".join(parts)


def private_recipes() -> str:
    """Accuracy of private heads against epsilon, by recipe."""
    parts, names = [], {"as before": "30 steps, as before", "as before, 32 public": "the same, 32 public"}
    for path in sorted((HERE / "private").glob("recipes_*.json")):
        held = load(f"private/{path.name}")
        headings = [name for name in held["rows"][0] if name not in ("S", "epsilon", "auto's choice")]
        rows = [
            [
                f"{row['S']}",
                f"{row['epsilon']:g}",
                *(_three(row[name]) for name in headings),
                row["auto's choice"],
            ]
            for row in held["rows"]
        ]
        shown = ["S", "epsilon", *(names.get(name, name) for name in headings), "auto's choice"]
        features = path.stem.split("_")[1]
        parts.append(f"{features.capitalize()}:\n{markdown(shown, rows)}{origin(f'private/{path.name}')}\n")
    return "".join(parts)


def private_peers() -> str:
    """Accuracy and seconds of private heads by jaxmia and other libraries."""
    held = load("private/peers_nouns.json")
    headings = list(held["rows"][0])
    rows = [
        [
            f"{row['S']}",
            f"{row['epsilon']:g}",
            row["head"],
            *(_three(row[name]) for name in headings[3:]),
        ]
        for row in held["rows"]
    ]
    return markdown(headings, rows) + origin("private/peers_nouns.json")


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def measurements() -> str:
    """All measurements of the pages as a list: state, time, commands."""
    parts = []
    for entry in entries():
        state, time = state_of(entry)
        page = f"`{entry['page']}`"
        if entry["page"].startswith("docs"):
            page = f"[{pathlib.Path(entry['page']).stem}]({os.path.relpath(ROOT / entry['page'], HERE)})"
        about = f"- {page}: {entry['what']}. *{state[0].upper()}{state[1:]}*; on two cores: {time}"
        commands = [line for command in entry["commands"] for line in wrapped(command, " \\", "  ", "      ")]
        parts.append("\n".join([*wrapped(about, "", "", "  "), "", "  ```", *commands, "  ```", ""]))
    return "\n" + "\n".join(parts) + "\n"


def wrapped(text: str, end: str, first: str, others: str) -> list[str]:
    """Lines that fit, all but the last with an end."""
    lines = textwrap.wrap(
        text,
        116,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line + end for line in lines[:-1]] + lines[-1:]


TABLES: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        demo_short,
        demo_full,
        demo_laws,
        per_record,
        per_record_bounds,
        per_record_quantiles,
        per_record_noise,
        actors,
        audit_agreement,
        audit_agreement_files,
        shadow_budget_text10,
        shadow_budget_text24,
        shadow_budget_letters10,
        whitebox,
        classes_slopes,
        classes_steps,
        recipes,
        finite_pool,
        accelerators,
        adapters_speed,
        adapters_study,
        persons,
        persons_analytic,
        advice,
        private_peers,
        private_recipes,
        public_features,
        measurements,
    )
}
FIGURES = (demo_figure,)


def rendered(text: str) -> str:
    """The text of a page with its tables as their JSON gives them."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def pages() -> Iterator[pathlib.Path]:
    """The Markdown files that have marks."""
    for page in [ROOT / "README.md", *sorted(HERE.parent.rglob("*.md"))]:
        if page.is_relative_to(HERE.parent / "_build"):  # copies in the built site
            continue
        if MARK.search(page.read_text()):
            yield page


def entries() -> list[dict[str, Any]]:
    """All measurements that pages show, from evidence.toml."""
    return tomllib.loads((HERE / "evidence.toml").read_text())["evidence"]


def state_of(entry: dict[str, Any]) -> tuple[str, str]:
    """Whether a measurement is rendered or typed, and how long it took."""
    files = [file for pattern in entry.get("files", []) for file in sorted(HERE.glob(pattern))]
    if files:
        seconds = sum(json.loads(file.read_text())["seconds"] for file in files)
        return f"rendered from {len(files)} JSON", took(seconds)
    if "files" in entry:
        return "not measured yet", "not known"
    return "typed, from before", f"{entry['minutes']} min" if "minutes" in entry else "not kept"


def listing() -> Iterator[str]:
    """A paragraph for each measurement: page, state, time, commands."""
    for entry in entries():
        state, time = state_of(entry)
        yield f"{entry['page']}: {entry['what']}\n  {state}; on two cores: {time}"
        yield from (f"    {command}" for command in entry["commands"])
        yield ""


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--check", action="store_true", help="write nothing; fail where a page would change")
    options.add_argument("--list", action="store_true", help="list all measurements instead")
    arguments = options.parse_args()
    if arguments.list:
        print("\n".join(listing()))
        return
    changed = [page for page in pages() if rendered(page.read_text()) != page.read_text()]
    if arguments.check:
        if changed:
            sys.exit(
                f"not what their JSON gives: {', '.join(str(page.relative_to(ROOT)) for page in changed)}"
            )
        return
    for page in changed:
        page.write_text(rendered(page.read_text()))
    for figure in FIGURES:
        figure()


if __name__ == "__main__":
    main()
