"""Tables of what benchmarks measured against a truth of their own: rates of records, agreement, budgets, weights."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from rendering import HERE, at_each, load, markdown, origin, results, with_error

FPRS = (0.1, 0.01, 0.001)
RESOLVED_IN_HALVES = 4  # a half of the truth's heads has a quarter of them as non-members of a record


def of_cells() -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Features, recipe, S and the rows of every cell of per-record rates, by set, S and recipe.

    What rests on the truth is missing where no non-member of its halves is expected above the threshold.
    """
    sets, recipes = ("text", "letters", "digits"), ("adam", "sgd", "ridge")
    names = [path.stem.split("_") for path in (HERE / "per_record").glob("*.json")]
    for features, shots, recipe in sorted(
        names, key=lambda name: (sets.index(name[0]), int(name[1]), recipes.index(name[2]))
    ):
        held = load(f"per_record/{features}_{shots}_{recipe}.json")
        table = pd.DataFrame(held["rows"])
        resolved = table["FPR"] * int(held["arguments"]["truth"]) / RESOLVED_IN_HALVES >= 1
        of_truth = ["true", "one deviation", "residuals", "TPR of thresholds", "q0.5", "q0.9", "q0.99"]
        table[of_truth] = table[of_truth].astype(float).where(resolved)
        yield [features, recipe, shots], table


def names_of(folder: str) -> list[str]:
    """The files of a folder of evidence."""
    return sorted(f"{folder}/{path.name}" for path in (HERE / folder).glob("*.json"))


def per_record() -> str:
    """Rates of records: estimates over the truth of thousands of heads."""
    rows = []
    for first, table in of_cells():
        for shadows, cell in table.groupby("K", sort=False):
            at_hundredth = cell[cell["FPR"] == 0.01].iloc[0]
            ratios = [at_each(cell[name], ".2f") for name in ("one deviation", "residuals", "realised FPR")]
            error = f"{at_hundredth['error']:.3f} ({at_hundredth['error, one deviation']:.3f})"
            true = at_each(cell["true"], ".3f")
            rows.append(
                [*first, f"{shadows}", true, *ratios, error, at_each(cell["TPR of thresholds"], ".2f")]
            )
    headings = ["features", "recipe", "S", "K", "true mean TPR", "one deviation", "residuals", "realised FPR"]
    headings += ["error at 0.01 (one deviation)", "attained over true"]
    return markdown(headings, rows) + origin(*names_of("per_record"))


def per_record_bounds() -> str:
    """Bounds that were set before measuring, and in how many cells they are met."""
    cells = pd.concat([table.assign(cell=" ".join(first)) for first, table in of_cells()], ignore_index=True)
    bounds = [  # K, what, column, allowed deviation from 1 at each FPR
        (256, "mean TPR over true", "residuals", (0.05, 0.05, 0.1)),
        (256, "realised FPR over nominal", "realised FPR", (0.05, 0.05, 0.1)),
        (64, "mean TPR over true", "residuals", (0.05, 0.05, 0.1)),
        (64, "realised FPR over nominal", "realised FPR", (0.1, 0.1, 0.1)),
        (32, "mean TPR over true", "residuals", (0.05, 0.1, 0.15)),
        (32, "realised FPR over nominal", "realised FPR", (0.1, 0.1, 0.1)),
        (256, "quantile 0.5 over records", "q0.5", (0.05, 0.05, 0.05)),
        (256, "quantile 0.9 over records", "q0.9", (0.05, 0.05, 0.05)),
        (256, "quantile 0.99 over records", "q0.99", (0.05, 0.05, 0.05)),
    ]
    rows = []
    for shadows, what, column, allowed in bounds:
        of_fprs = [
            cells.loc[(cells["K"] == shadows) & (cells["FPR"] == fpr), column].dropna() for fpr in FPRS
        ]
        within = [
            f"{int((np.abs(values - 1) <= room).sum())} of {len(values)}"
            for values, room in zip(of_fprs, allowed, strict=True)
        ]
        ranges = [f"{values.min():.2f} ... {values.max():.2f}" for values in of_fprs]
        bound = " / ".join(f"{room:.0%}" for room in allowed)
        rows.append([f"{shadows}", what, bound, " / ".join(within), " / ".join(ranges)])
    for shadows, bound in ((256, 0.1), (64, 0.14)):
        errors = cells.loc[(cells["K"] == shadows) & (cells["FPR"] == 0.01), "error"]
        met = f"{int((errors <= bound).sum())} of {len(errors)}"
        span = f"{errors.min():.3f} ... {errors.max():.3f}"
        rows.append([f"{shadows}", "error per record at 0.01", f"{bound:.2f}", met, span])
    return markdown(["K", "what", "bound", "cells that meet it", "all cells"], rows)


def per_record_quantiles() -> str:
    """Quantiles over records by 256 shadows, over the truth's."""
    rows = []
    for first, table in of_cells():
        cell = table[table["K"] == 256].set_index("FPR")
        at_fprs = [
            "-"
            if cell.loc[fpr, "q0.9":"q0.99"].isna().all()
            else at_each(cell.loc[fpr, ["q0.5", "q0.9", "q0.99"]], ".2f")
            for fpr in FPRS
        ]
        rows.append([*first, *at_fprs])
    return markdown(["features", "recipe", "S", "0.1: q0.5 / q0.9 / q0.99", "0.01", "0.001"], rows)


def per_record_noise() -> str:
    """What thresholds by M models of pure noise realise on fresh ones."""
    rows = []
    for models in (32, 64, 256):
        cell = pd.DataFrame(load(f"per_record_noise/{models}.json")["rows"])
        rows.append([f"{models}", at_each(cell["realised FPR"], ".3f")])
    headings = ["M", "realised FPR over nominal, thresholds on 4 096 fresh models"]
    return markdown(headings, rows) + origin(*names_of("per_record_noise"))


def finite_pool() -> str:
    """TPR of the same targets in pools and under fresh draws: estimated, calibrated and pooled."""
    kinds = [f"{kind} {fpr}" for fpr in ("0.1", "0.01") for kind in ("estimated", "calibrated", "pooled")]
    rows = [
        [row["setting"], row["r"], row["correction"], *(with_error(row[kind]) for kind in kinds)]
        for row in load("finite_pool.json")["rows"]
        if row["r"] != "fresh, exact"
    ]
    return markdown(["setting", "r", "correction", *kinds], rows) + origin("finite_pool.json")


def audit_agreement() -> str:
    """Audits of a head's outputs, and a study, against scikit-learn's re-trainings; what calls come to."""
    held = load("audit_agreement/outputs.json")
    names = [
        "rank correlation",
        "of what it could be",
        "slope",
        "mean TPR at 0.1 / truth",
        "mean TPR at 0.01 / truth",
    ]
    rows = [[row["against the truth"], *(f"{row[name]:.3f}" for name in names)] for row in held["rows"]]
    headings = [
        "against the truth",
        "rank correlation of D",
        "of what the truth allows",
        "slope of the truth's D",
    ]
    headings += ["mean TPR at FPR 0.1 over the truth's", "at 0.01"]
    calls = []
    for fpr in (0.1, 0.01):
        shares = [called_at(held, fpr, kind) for kind in ("non-members", "members")]
        expected = held[f"mean TPR of these members by the audit, FPR {fpr:g}"]
        calls.append([f"FPR {fpr:g}", *(f"{value:.4f}" for value in (*shares, expected))])
    called = ["called at", "of the non-members", "of the members", "mean TPR of these members by the audit"]
    return (
        markdown(headings, rows)
        + "Calls of the other heads:\n"
        + markdown(called, calls)
        + origin("audit_agreement/outputs.json")
    )


def called_at(held: dict[str, Any], fpr: float, kind: str) -> float:
    """The share of the other heads' members or non-members that are called."""
    (share,) = (
        value
        for name, value in held.items()
        if name.startswith(f"called at FPR {fpr:g}, of ") and name.endswith(f" {kind}")
    )
    return float(share)


AUDITED_FILES = {
    "logistic": "two classes",
    "balanced": 'four classes, two of them a quarter as large, `class_weight = "balanced"`',
    "no_intercept": "four classes, `fit_intercept = False`",
    "pipeline": "four classes, Pipeline with StandardScaler, ridge 10",
    "one_vs_rest": "four classes, one against the rest",
}


def audit_agreement_files() -> str:
    """Audits of .skops files by the files' own recipe against scikit-learn's re-trainings."""
    rows = []
    for name, words in AUDITED_FILES.items():
        held = load(f"audit_agreement/{name}.json")
        (row,) = held["rows"]
        called = called_at(held, 0.1, "non-members")
        figures = ["rank correlation", "slope", "mean TPR at 0.1 / truth", "mean TPR at 0.01 / truth"]
        rows.append([words, *(f"{row[figure]:.3f}" for figure in figures), f"{called:.3f}"])
    headings = ["head (nouns, S = 64)", "rank correlation of D", "slope of the truth's D"]
    headings += [
        "mean TPR at FPR 0.1 over the truth's",
        "at 0.01",
        "other heads' non-members called at FPR 0.1",
    ]
    return markdown(headings, rows) + origin(*(f"audit_agreement/{name}.json" for name in AUDITED_FILES))


def shadow_budget(name: str) -> str:
    """TPR of every attack against the number of shadows; bold: within a standard error of the best."""
    file = f"shadow_budget/{name}.json"
    table = pd.DataFrame(load(file)["rows"])
    parts = []
    for fpr in FPRS:
        rows = table[(table["FPR"] == fpr) & (table["attack"] != "best")]
        budgets = [heading for heading in table.columns if heading.startswith("K = ")]
        best = {k: max((cell for cell in rows[k] if isinstance(cell, list)), default=None) for k in budgets}
        lines = [
            [row["attack"], *(with_bold(row[k], best[k]) for k in budgets)] for _, row in rows.iterrows()
        ]
        errors = [cell[1] for k in budgets for cell in rows[k] if isinstance(cell, list)]
        parts.append(f"\nFPR {fpr:g}\n" + markdown(["attack", *budgets], lines))
        parts.append(
            f"Standard errors over seeds: median {np.median(errors):.3f}, largest {max(errors):.3f}.\n"
        )
    return "".join(parts) + "\n" + origin(file)


def with_bold(cell: list[float] | None, best: list[float] | None) -> str:
    """A mean, bold if it is within one standard error of the best."""
    if not isinstance(cell, list) or best is None:
        return "-"
    text = f"{cell[0]:.3f}".removeprefix("0")
    return f"**{text}**" if cell[0] >= best[0] - best[1] else text


def shadow_budget_text10() -> str:
    """Nouns, ten classes."""
    return shadow_budget("text10")


def shadow_budget_text24() -> str:
    """Nouns, 24 classes."""
    return shadow_budget("text24")


def shadow_budget_letters10() -> str:
    """Letters, ten classes."""
    return shadow_budget("letters10")


def whitebox() -> str:
    """Attacks on weights beside LiRA, by recipe, dimensions and candidates: TPR at FPR 0.01 and 0.001."""
    methods = ("lira", "mahalanobis", "stationarity", "inverse_hessian")
    rows = []
    for row in load("whitebox.json")["rows"]:
        pairs = (tuple(row[f"{method} {fpr:g}"] for fpr in (0.01, 0.001)) for method in methods)
        rates = [" / ".join("-" if rate is None else f"{rate:.3f}" for rate in pair) for pair in pairs]
        setting = [row["recipe"], f"{row['d']}", f"{row['n']:,}", f"{row['n / (d C)']:.2g}"]
        rows.append([*setting, *rates, f"{row['ceiling']:.3f}"])
    headings = ["recipe", "d", "n", "n / (d C)", *(f"`{method}`" for method in methods), "ceiling"]
    return markdown(headings, rows) + origin("whitebox.json")


def accelerators() -> str:
    """Parity and speed on every card that was measured, or that none was."""
    parts = []
    for name in names_of("accelerator"):
        held = load(name)
        headings = list(held["rows"][0])
        rows = [[shown(row[heading]) for heading in headings] for row in held["rows"]]
        parts.append(f"\n{held['title']}\n" + markdown(headings, rows) + origin(name))
    return "".join(parts) or "\nNot measured yet: no machine with an accelerator was at hand.\n\n"


def adapters_speed() -> str:
    """Operations, time and memory of adapters side by side."""
    if not names_of("adapters"):
        return "\nNot measured yet.\n\n"
    held = load("adapters/speed.json")
    headings = list(held["rows"][0])
    rows = [[shown(row[heading]) for heading in headings] for row in held["rows"]]
    known = ("title", "command", "commit", "machine", "seconds", "dtype", "arguments", "rows")
    facts = [
        textwrap.fill(f"- {name}: {shown(value)}", 118, subsequent_indent="  ") + "\n"
        for name, value in held.items()
        if name not in known
    ]
    return markdown(headings, rows) + "".join(facts) + "\n" + origin("adapters/speed.json")


def adapters_study() -> str:
    """LiRA on heads, adapters and last blocks."""
    if not names_of("adapters"):
        return "\nNot measured yet.\n\n"
    held = load("adapters/study.json")
    headings = ["S", "trained", "rate", "accuracy", "loss in / out", "pooled 0.1", "pooled 0.01", "x head"]
    headings += ["calibrated 0.1", "calibrated 0.01", "x head"]
    rows = []
    for row in held["rows"]:
        ratios = [
            " / ".join(shown(row[f"x head, {kind} {fpr}"]) for fpr in ("0.1", "0.01"))
            for kind in ("pooled", "calibrated")
        ]
        losses = f"{row['member_loss']:.2f} / {row['nonmember_loss']:.2f}"
        cells = [str(row["S"]), row["trained"], shown(row["rate"]), f"{row['accuracy']:.3f}", losses]
        cells += [row["pooled 0.1"], row["pooled 0.01"], ratios[0]]
        rows.append([*cells, row["calibrated 0.1"], row["calibrated 0.01"], ratios[1]])
    return markdown(headings, rows) + origin("adapters/study.json")


def shown(value: float | str | None) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}"


def classes_slopes() -> str:
    """The slope of C by set, recipe, evaluation and cells."""
    rows = load("classes.json")["rows"]
    headings = [name for name in rows[0] if name != "errors over"]
    return markdown(headings, [[str(row[name]) for name in headings] for row in rows]) + origin(
        "classes.json"
    )


def classes_steps() -> str:
    """The slope between neighbouring numbers of classes at each S, at three FPRs."""
    steps = pd.DataFrame(load("classes.json")["steps"])
    between = [name for name in steps.columns if " to " in name]
    rows = [
        [*(f"{value}" for value in cell), *(" / ".join(some[name]) for name in between)]
        for cell, some in steps.groupby(["data set", "recipe", "S"], sort=False)
    ]
    return markdown(["set", "recipe", "S", *between], rows)


def recipes() -> str:
    """Laws over S of 64 and more, accuracy and TPR, by recipe: medians over seeds."""
    from jaxmia import fit_laws

    rows = results("recipes.json")
    rows = rows[(rows["attack"] == "lira") & (rows["evaluation"] == "pooled")]
    lines = []
    for recipe, some in rows.groupby("recipe", sort=False):
        (fit,) = fit_laws(some[some["shots"] >= 64]).values()
        slopes = [f"{law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}" for law in fit.lines]
        at_hundredth = some[some["fpr"] == 0.01].groupby("shots").median(numeric_only=True)
        shown_at = at_hundredth.loc[[16, 64, 256]]
        lines.append(
            [recipe, *slopes, *(" / ".join(f"{v:.3f}" for v in shown_at[c]) for c in ("accuracy", "tpr"))]
        )
    headings = [
        "recipe",
        "slope, FPR 0.1",
        "0.01",
        "0.001",
        "accuracy at S = 16 / 64 / 256",
        "TPR at FPR 0.01",
    ]
    return markdown(headings, lines) + origin("recipes.json")


def actors() -> str:
    """What each actor finds, by release and knowledge: the best attack's TPR, and the worst record's."""
    names = names_of("actors")
    rows = []
    for name in names:
        features, classes, shots = name.removeprefix("actors/").removesuffix(".json").split("_")
        for row in load(name)["rows"]:
            found = [[row[f"{fpr:g}{end}"] for end in ("", " low", " high", " worst")] for fpr in FPRS]
            cells = [
                "-"
                if tpr is None
                else f"{tpr:.3f} ({low:.3f} to {high:.3f}); {worst:.2f}"
                if worst is not None
                else f"{tpr:.3f} ({low:.3f} to {high:.3f})"
                for tpr, low, high, worst in found
            ]
            best = row["attack 0.01"] or "-"
            rows.append([f"{features}, {classes}, {shots}", row["knowledge"], row["release"], best, *cells])
    headings = ["features, C, S", "knowledge", "release", "best at .01", *(f"FPR {fpr:g}" for fpr in FPRS)]
    return markdown(headings, rows) + origin(*names)
