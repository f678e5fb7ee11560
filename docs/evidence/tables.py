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

import pandas as pd

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
MARK = re.compile(r"(<!-- evidence: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote, by the path of its file below this folder."""
    return json.loads((HERE / name).read_text())


def results(name: str) -> pd.DataFrame:
    """The rows of a run."""
    held = load(name)
    rows = pd.DataFrame(held["rows"], columns=held["columns"])
    return rows.astype(
        {"epsilon": float, "tpr": float, "tpr_low": float, "tpr_high": float, "advantage": float}
    )


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A table, and an empty line on either side."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"


def origin(*names: str) -> str:
    """Where figures come from, in lines that fit: files, command, commit, machine."""
    held = [load(name) for name in names]
    commits = ", ".join(
        dict.fromkeys(each["commit"][:12] + "+" * each["commit"].endswith("+") for each in held)
    )
    machines = "; ".join(dict.fromkeys(each["machine"] for each in held))
    seconds = sum(each["seconds"] for each in held)
    of_files = f"`docs/evidence/{names[0]}`" if len(names) == 1 else f"{len(names)} files of `docs/evidence`"
    words = f"Rendered from {of_files}: commit {commits}; {machines}; {took(seconds)}."
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) > 118:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines) + "\n"


def took(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def demo_cells(attack: str = "lira") -> Iterator[tuple[int, float, pd.DataFrame, pd.DataFrame]]:
    """S, FPR, and the rows of three seeds by the two evaluations."""
    rows = results("demo.json")
    rows = rows[rows["attack"] == attack]
    for (shots, fpr), cell in sorted(
        rows.groupby(["shots", "fpr"]), key=lambda each: (each[0][0], -each[0][1])
    ):
        pooled, calibrated = (cell[cell["evaluation"] == name] for name in ("pooled", "calibrated"))
        yield shots, fpr, pooled, calibrated


def demo_short() -> str:
    """LiRA's median TPR by S: pooled and calibrated at three FPRs."""
    by_shots: dict[int, list[tuple[str, str]]] = {}
    fprs: dict[float, None] = {}
    for shots, fpr, pooled, calibrated in demo_cells():
        by_shots.setdefault(shots, []).append(
            (f"{pooled.tpr.median():.3f}", f"{calibrated.tpr.median():.3f}")
        )
        fprs[fpr] = None
    headings = ["S", *(f"{name} at FPR {fpr:g}" for name in ("pooled", "calibrated") for fpr in fprs)]
    rows = [
        [f"{shots}", *(cell[side] for side in (0, 1) for cell in cells)] for shots, cells in by_shots.items()
    ]
    return markdown(headings, rows)


def demo_full() -> str:
    """LiRA's median TPR with the outermost ends of the seeds' intervals, and the FPR realised."""
    from jaxmia.tables.rates import over_seeds, realised

    rows = []
    for shots, fpr, *sides in demo_cells():
        cells = [f"{shots}", f"{fpr:g}"]
        for side in sides:
            found = over_seeds(side)
            cells += [
                f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})",
                f"{realised(side).value:.2g}",
            ]
        rows.append(cells)
    return markdown(["S", "FPR", "pooled", "realised", "calibrated", "realised"], rows) + origin("demo.json")


def demo_laws() -> str:
    """The fitted laws of LiRA, pooled, beside the published slopes."""
    from jaxmia import published_lines

    slopes = {
        line.law.fpr: line.slope_shots_range for line in published_lines().lines if line.record == "average"
    }
    rows = []
    for law in demo_fit().lines:
        left_out = sum(number or 0 for number in (law.num_censored, law.num_unresolved, law.num_saturated))
        low, high = slopes[law.fpr]
        rows.append(
            [
                f"{law.fpr:g}",
                f"{law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}",
                f"{law.intercept:.3f} ± {law.intercept_stderr:.3f}",
                f"{law.r_squared:.3f}",
                f"{law.num_cells}",
                f"{left_out}",
                f"{low:.3f} to {high:.3f}",
            ]
        )
    return markdown(["FPR", "slope", "intercept", "R²", "cells", "left out", "published slope"], rows)


def demo_fit() -> Any:
    """The law of LiRA, pooled, fitted to the rows that are kept."""
    from jaxmia import fit_laws

    rows = results("demo.json")
    rows = rows[(rows["attack"] == "lira") & (rows["evaluation"] == "pooled")]
    (fit,) = fit_laws(rows).values()
    return fit


def demo_figure() -> None:
    """docs/demo.png: advantage against S with the fitted and the published laws."""
    import matplotlib as mpl

    from jaxmia.plots import power_law_figure
    from jaxmia.plots.style import STYLE

    rows = results("demo.json")
    rows = rows[(rows["attack"] == "lira") & (rows["evaluation"] == "pooled")]
    with mpl.rc_context(STYLE):
        figure = power_law_figure(
            rows, demo_fit(), title="LiRA, pooled: advantage against examples per class"
        )
        figure.savefig(HERE.parent / "demo.png", dpi=150)


def per_record() -> str:
    """Cells of per-record rates whose JSON is kept: estimates over the truth of thousands of heads.

    A half of the truth's heads resolves an FPR if at least one of its non-members is expected above the threshold.
    """
    names = sorted(f"per_record/{path.name}" for path in (HERE / "per_record").glob("*.json"))
    rows = []
    for name in names:
        held = load(name)
        features, shots, recipe = name.removeprefix("per_record/").removesuffix(".json").split("_")
        table = pd.DataFrame(held["rows"])
        resolved = table["FPR"] * int(held["arguments"]["truth"]) / 4 >= 1
        of_truth = ["true", "one deviation", "residuals", "TPR of thresholds"]
        table[of_truth] = table[of_truth].where(resolved)
        for shadows, cell in table.groupby("K", sort=False):
            at_hundredth = cell[cell["FPR"] == 0.01].iloc[0]
            first = [features, recipe, shots, f"{shadows}", at_each(cell["true"], ".3f")]
            ratios = [at_each(cell[name], ".2f") for name in ("one deviation", "residuals", "realised FPR")]
            error = f"{at_hundredth['error']:.3f} ({at_hundredth['error, one deviation']:.3f})"
            rows.append([*first, *ratios, error, at_each(cell["TPR of thresholds"], ".2f")])
    headings = ["features", "recipe", "S", "K", "true mean TPR", "one deviation", "residuals", "realised FPR"]
    headings += ["error at 0.01 (one deviation)", "attained over true"]
    return markdown(headings, rows) + origin(*names)


def persons() -> str:
    """TPR of records and of persons with several records, pooled and calibrated."""
    names = sorted(f"persons/{path.name}" for path in (HERE / "persons").glob("*.json"))
    rows = []
    for name in names:
        features, records = name.removeprefix("persons/").removesuffix(".json").split("_")
        for row in load(name)["rows"]:
            sides = (
                [row[f"{side} {fpr:g}"] for fpr in (0.1, 0.01, 0.001)] for side in ("pooled", "calibrated")
            )
            cells = [" / ".join("-" if value is None else f"{value:.3f}" for value in side) for side in sides]
            rows.append([features, records, f"{row['K']}", row["attack"], *cells])
    return markdown(["features", "records", "K", "attack", "pooled", "calibrated"], rows) + origin(*names)


def finite_pool() -> str:
    """TPR of the same targets in pools and under fresh draws: estimated, calibrated and pooled."""
    kinds = [f"{kind} {fpr}" for fpr in ("0.1", "0.01") for kind in ("estimated", "calibrated", "pooled")]
    rows = [
        [row["setting"], row["r"], row["correction"], *(with_error(row[kind]) for kind in kinds)]
        for row in load("finite_pool.json")["rows"]
        if row["r"] != "fresh, exact"
    ]
    return markdown(["setting", "r", "correction", *kinds], rows) + origin("finite_pool.json")


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


def with_error(figure: list[float] | None) -> str:
    """Mean and standard error over replicates."""
    return "-" if figure is None else f"{figure[0]:.3f} ± {figure[1]:.3f}"


def at_each(values: pd.Series, form: str) -> str:
    """Figures at the three FPRs; "-" for those that are not resolved."""
    return " / ".join("-" if math.isnan(value) else f"{value:{form}}" for value in values)


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
        finite_pool,
        persons,
        advice,
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
