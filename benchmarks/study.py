"""Tables and figures of a sweep over data sets: its laws, the published ones, and why they differ.

    jaxmia sweep advantage --out sweeps/advantage
    python benchmarks/study.py sweeps/advantage --figures docs/figures

Reads the sweep's folder and, for the simplified model, the feature sets that are named in its manifest.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pandas as pd
import scipy.stats
from _common import machine
from matplotlib.figure import Figure

from jaxmia.data.feature_set import FeatureSet, load_features
from jaxmia.data.membership import draw_membership
from jaxmia.laws.law import PowerLawFit
from jaxmia.laws.published import published_lines
from jaxmia.laws.required import required_shots
from jaxmia.scores import Scores
from jaxmia.studies.cell import Cell, draw_pool
from jaxmia.studies.folder.tables import load_json, load_results, read_tables
from jaxmia.studies.laws import fit_laws, leave_one_dataset_out, load_quantiles
from jaxmia.studies.settings.data import ShadowSettings
from jaxmia.studies.settings.toml import parse_sweep
from jaxmia.theory import class_mean_heads, pool_moments, threshold_tpr
from jaxmia.vulnerability.curves import per_example_vulnerability

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = "os^Dv"
EPSILONS = (0.25, 0.5, 0.75, 1.0)
UNSATURATED = 0.5  # cells with a lower TPR at FPR 0.1 are far from the ceiling
MOST_SHOTS_OF_SIMULATION = 256
LARGEST_POOL_OF_THEORY = 3000  # largest number of candidates per class, whose Gram matrix is in memory


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument(
        "folders", type=pathlib.Path, nargs="+", help="folders of sweeps; the settings are those of the first"
    )
    options.add_argument("--figures", type=pathlib.Path, required=True, help="folder for figures")
    options.add_argument("--recipe", help="name of the recipe; default: the first")
    arguments = options.parse_args(argv)
    arguments.figures.mkdir(parents=True, exist_ok=True)
    results, quantiles = load_results(arguments.folders), load_quantiles(arguments.folders)
    recipe = arguments.recipe or results["recipe"].iloc[0]
    results, quantiles = (table[table["recipe"] == recipe] for table in (results, quantiles))
    lira = results[(results["attack"] == "lira") & (results["evaluation"] == "pooled")]
    calibrated = results[(results["attack"] == "lira") & (results["evaluation"] == "calibrated")]

    show("Cells", cells_table(lira))
    everything = law_of(lira)
    show("Laws, pooled", slopes_table(lira))
    show("Laws, calibrated", slopes_table(calibrated))
    show("Left out in turn", elsewhere_table(lira))
    show("Required shots, C = 2, average record", required_table(everything, record="average"))
    show(
        "Required shots, C = 2, average, unsaturated cells",
        required_table(law_of(far(lira)), record="average"),
    )
    worst = quantiles[quantiles["evaluation"] == "maximum"]
    show("Required shots, C = 2, worst record of a cell", required_table(law_of(worst), record="worst"))
    show("Quantiles over records, FPR 0.1", quantiles_table(quantiles))
    records = list(records_of(arguments.folders, recipe))
    show("Gradient norm and vulnerability", gradients_table(records))
    show("Classes", classes_table(records))
    theory = theory_rows(arguments.folders[0], calibrated, recipe)
    show("Simplified model", theory_table(theory, calibrated))
    draw_advantage(lira, everything, arguments.figures / "study_advantage.png")
    draw_quantiles(quantiles, arguments.figures / "study_quantiles.png")
    draw_theory(theory, calibrated, arguments.figures / "study_theory.png")
    draw_gradients(records, arguments.figures / "study_gradients.png")
    print(machine())


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n{title}\n")
    if not rows:
        print("(nothing)")
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def law_of(rows: pd.DataFrame) -> PowerLawFit:
    """Return the law fitted to rows of one kind; without lines if there are no rows."""
    return next(iter(fit_laws(rows).values()), PowerLawFit(()))


def shown_classes(rows: pd.DataFrame) -> int:
    """Return the number of classes for figures at one C: ten, or the largest below."""
    return int(max(classes for classes in rows["classes"].unique() if classes <= 10))


def far(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells far from the ceiling of 1, at any FPR."""
    cell = ["dataset", "classes", "shots", "seed"]
    at_a_tenth = rows[rows["fpr"] == 0.1].set_index(cell)["tpr"]
    return rows[rows.set_index(cell).index.map(at_a_tenth).to_numpy() < UNSATURATED]


def cells_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "data set": dataset,
            "C": classes,
            "S": f"{cells['shots'].min()} ... {cells['shots'].max()}",
            "cells": len(cells.drop_duplicates(["shots", "seed"])),
            "seeds": cells["seed"].nunique(),
            "accuracy at smallest, largest S": " ".join(
                f"{cells[cells['shots'] == shots]['accuracy'].median():.3f}"
                for shots in (cells["shots"].min(), cells["shots"].max())
            ),
        }
        for (dataset, classes), cells in rows.groupby(["dataset", "classes"])
    ]


def groups(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield all cells, those far from the ceiling, and those of each data set."""
    yield "all", rows
    yield f"all, TPR at 0.1 < {UNSATURATED:g}", far(rows)
    for dataset, of_set in rows.groupby("dataset"):
        yield str(dataset), of_set
        yield f"{dataset}, TPR at 0.1 < {UNSATURATED:g}", far(of_set)


def slopes_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    table = []
    for name, cells in groups(rows):
        for law in law_of(cells).lines if len(cells) else ():
            table.append(
                {
                    "cells of": name,
                    "FPR": law.fpr,
                    "slope of S": with_error(law.slope_shots, law.slope_shots_stderr),
                    "published": published_slope(law.fpr),
                    "slope of C": with_error(law.slope_classes, law.slope_classes_stderr),
                    "intercept": with_error(law.intercept, law.intercept_stderr),
                    "R²": "-" if law.r_squared is None else f"{law.r_squared:.3f}",
                    "cells": law.num_cells,
                    "left out": (law.num_censored or 0) + (law.num_unresolved or 0),
                }
            )
    return table


def with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ± {error:.3f}"


def published_slope(fpr: float) -> str:
    low, high = published_lines().line("average", fpr).slope_shots_range
    return f"{low:.3f} ... {high:.3f}"


def elsewhere_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    table = []
    for name, cells in (("all", rows), (f"TPR at 0.1 < {UNSATURATED:g}", far(rows))):
        if cells["dataset"].nunique() < 2:
            continue
        for row in leave_one_dataset_out(cells).itertuples():
            numbers = {"R² of fit": row.r_squared, "R² there": row.r_squared_elsewhere, "factor": row.factor}
            table.append(
                {
                    "cells": name,
                    "left out": row.dataset,
                    "FPR": row.fpr,
                    "slope": f"{or_nan(row.slope_shots):.3f}",
                }
                | {key: f"{or_nan(value):.2f}" for key, value in numbers.items()}
            )
    return table


def or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def required_table(fit: PowerLawFit, *, record: str) -> list[dict[str, Any]]:
    lines = {line.law.fpr: line for line in published_lines().lines if line.record == record}
    table = []
    for law in (law for law in fit.lines if law.status == "ok" and law.fpr in lines):
        for epsilon in EPSILONS:
            found = required_shots(PowerLawFit((law,)), epsilon=epsilon, delta=1e-5, fpr=law.fpr, classes=2)
            interval = "-" if found.low is None else f"{found.low:.2g} ... {found.high:.2g}"
            table.append(
                {
                    "FPR": law.fpr,
                    "ε": epsilon,
                    "published": f"{lines[law.fpr].required_shots[epsilon]:.2g}",
                    "this run": "-" if found.shots is None else f"{found.shots:.2g}",
                    "95% interval": interval,
                    "outside the cells": {True: "yes", False: "no", None: "-"}[found.extrapolated],
                    "note": found.reason or "",
                }
            )
    return table


def quantiles_table(quantiles: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the law of each quantile, over cells that are not saturated."""
    published, table = published_lines().quantile_slopes, []
    for law_of_rows, fit in fit_laws(quantiles[quantiles["fpr"] == 0.1]).items():
        word, law = law_of_rows.evaluation.removeprefix("quantile "), fit[0.1]
        slope = published.get("max" if word == "maximum" else word)
        table.append(
            {
                "quantile": word,
                "slope": with_error(law.slope_shots, law.slope_shots_stderr),
                "cells": law.num_cells,
                "saturated": law.num_saturated,
                "unresolved": law.num_unresolved,
                "published": "-" if slope is None else f"{slope:.3f}",
            }
        )
    return table


def records_of(folders: Sequence[pathlib.Path], recipe: str) -> Iterator[pd.DataFrame]:
    """Yield records at FPR 0.1, cell by cell."""
    columns = ["dataset", "recipe", "classes", "shots", "seed", "fpr", "class_name"]
    columns += ["gradient_norm", "separation", "tpr", "status"]
    for table in (table for folder in folders for table in read_tables(folder, "per_example", columns)):
        chosen = (table["fpr"] == 0.1) & (table["recipe"] == recipe) & (table["status"] == "ok")
        if chosen.any():
            yield table[chosen]


def gradients_table(records: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Return rank correlations within cells of at least 100 records."""
    rows = [
        {
            "dataset": cell["dataset"].iloc[0],
            "shots": cell["shots"].iloc[0],
            "rank": scipy.stats.spearmanr(cell["gradient_norm"], cell["separation"]).statistic,
            "share": cell.nlargest(len(cell) // 100, "separation")["gradient_norm"].mean()
            / cell["gradient_norm"].mean(),
        }
        for cell in records
        if len(cell) >= 100
    ]
    table = pd.DataFrame(rows)
    return [
        {
            "data set": dataset,
            "S": f"{low} ... {high}",
            "cells": len(cells),
            "rank correlation with D: median (range)": f"{cells['rank'].median():.2f} ({cells['rank'].min():.2f}"
            f" ... {cells['rank'].max():.2f})",
            "norm of the top 1% by D over the mean": f"{cells['share'].median():.1f}",
        }
        for low, high in ((4, 32), (64, 200), (256, 5000))
        for dataset, cells in table[table["shots"].between(low, high)].groupby("dataset")
    ]


def classes_table(records: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Return how much classes differ, and whether seeds agree on their ranking."""
    means: dict[tuple[Any, ...], list[pd.Series]] = {}
    for cell in records:
        key = tuple(cell[name].iloc[0] for name in ("dataset", "classes", "shots"))
        means.setdefault(key, []).append(cell.groupby("class_name")["tpr"].mean())
    table = []
    for (dataset, classes, shots), of_seeds in sorted(means.items()):
        if classes < 10 or shots not in (16, 64, 256) or len(of_seeds) < 2:
            continue
        together = pd.concat(of_seeds, axis=1)
        ranks = [
            scipy.stats.spearmanr(together.iloc[:, a], together.iloc[:, b]).statistic
            for a, b in itertools.combinations(range(together.shape[1]), 2)
        ]
        mean = together.mean(axis=1).sort_values()
        table.append(
            {
                "data set": dataset,
                "C": classes,
                "S": shots,
                "least vulnerable": f"{mean.index[0]} {mean.iloc[0]:.3f}",
                "most vulnerable": f"{mean.index[-1]} {mean.iloc[-1]:.3f}",
                "rank correlation between seeds": f"{np.mean(ranks):.2f}",
            }
        )
    return table


def theory_rows(folder: pathlib.Path, calibrated: pd.DataFrame, recipe: str) -> pd.DataFrame:
    """Return the exact mean TPR - FPR over records for heads that are class means, on the pools of the cells."""
    config = parse_sweep(load_json(folder, "manifest.json")["settings"])
    classes, rows = shown_classes(calibrated), []
    for dataset in config.datasets:
        of_set = calibrated[(calibrated["dataset"] == dataset.name) & (calibrated["classes"] == classes)]
        if of_set.empty:
            continue
        settings = config.experiment(dataset, next(each for each in config.recipes if each.name == recipe))
        data = load_features(dataset.features)
        for shots in sorted(of_set["shots"].unique()):
            if config.shadows.pool_multiplier * shots > LARGEST_POOL_OF_THEORY:
                continue
            pool = draw_pool(settings, data, Cell(classes, int(shots), 0)).data
            moments = pool_moments(pool.features, pool.labels, shots=int(shots))
            scores = class_mean_scores(pool, settings.shadows) if shots <= MOST_SHOTS_OF_SIMULATION else None
            for fpr in sorted(of_set["fpr"].unique()):
                row = {"dataset": dataset.name, "shots": shots, "fpr": fpr, "simulated": np.nan}
                row["advantage"] = float(np.mean(threshold_tpr(moments, fpr=fpr))) - fpr
                if scores is not None:
                    row["simulated"] = float(_gaussian_tpr(scores, fpr).mean()) - fpr
                rows.append(row)
    return pd.DataFrame(rows)


def _gaussian_tpr(scores: Scores, fpr: float) -> np.ndarray:
    """Return the TPR of the simplified model, where one deviation is exact."""
    return per_example_vulnerability(scores, fpr, method="gaussian").tpr


def class_mean_scores(pool: FeatureSet, shadows: ShadowSettings) -> Scores:
    """Return scores of simulated models: inner products of candidates with the mean of their class's members."""
    rate = 1 / shadows.pool_multiplier
    masks = draw_membership(
        jax.random.key(0), pool.labels, num_models=shadows.models, design="fixed_size", inclusion_rate=rate
    )
    heads = np.asarray(
        class_mean_heads(
            jnp.asarray(pool.features),
            jnp.asarray(pool.labels),
            member=masks.member,
            num_classes=pool.num_classes,
        )
    )
    scores = np.empty(masks.member.shape)
    for label in range(pool.num_classes):
        rows = pool.labels == label
        scores[:, rows] = heads[:, label].astype(np.float64) @ pool.features[rows].T
    return Scores(scores, np.asarray(masks.member))


def theory_table(theory: pd.DataFrame, calibrated: pd.DataFrame) -> list[dict[str, Any]]:
    table = []
    for (dataset, fpr), rows in theory.groupby(["dataset", "fpr"], sort=False):
        at_fpr = calibrated[(calibrated["dataset"] == dataset) & (calibrated["fpr"] == fpr)]
        measured = at_fpr[
            (at_fpr["classes"] == shown_classes(calibrated)) & at_fpr["shots"].isin(rows["shots"])
        ]
        slopes = []
        for cells in (rows, measured):
            large = cells[cells["shots"] >= 32]
            slopes.append(law_of_shots(large))
        ratio = measured.groupby("shots")["advantage"].median() / rows.set_index("shots")["advantage"]
        table.append(
            {
                "data set": dataset,
                "FPR": fpr,
                "slope of the class means, S ≥ 32": f"{slopes[0]:.3f}",
                "slope of the heads, S ≥ 32": f"{slopes[1]:.3f}",
                "simulation differs by at most": f"{(rows['simulated'] - rows['advantage']).abs().max():.3f}",
                "heads / class means": ", ".join(
                    f"{value:.2f} (S {shots})" for shots, value in ratio.items()
                ),
            }
        )
    return table


def law_of_shots(cells: pd.DataFrame) -> float:
    usable = cells[cells["advantage"] > 0]
    if usable["shots"].nunique() < 2:
        return np.nan
    return float(
        np.polyfit(np.log10(usable["shots"].astype(float)), np.log10(usable["advantage"].astype(float)), 1)[0]
    )


def panels(number: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6 * number, 4.2), layout="constrained")
    return figure, figure.subplots(1, number, squeeze=False)[0]


def finish(figure: Figure, panel: Sequence[Any], path: pathlib.Path) -> None:
    for axes in panel:
        axes.grid(alpha=0.25)
    handles, labels = [], []
    for axes in panel:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    print(f"written: {path}")


def draw_advantage(rows: pd.DataFrame, fit: PowerLawFit, path: pathlib.Path) -> None:
    figure, panel = panels(len(fit))
    markers = dict(zip(sorted(rows["classes"].unique()), MARKERS, strict=False))
    for axes, law in zip(panel, fit.lines, strict=True):
        cells = rows[(rows["fpr"] == law.fpr) & (rows["advantage"] > 0)]
        for colour, (dataset, of_set) in zip(COLOURS, cells.groupby("dataset"), strict=False):
            for classes, points in of_set.groupby("classes"):
                label = f"{dataset}, C = {classes}"
                axes.plot(
                    points["shots"], points["advantage"], markers[classes], color=colour, ms=4, label=label
                )
        shots = np.geomspace(cells["shots"].min(), cells["shots"].max(), 50)
        for classes, style in ((2, "-"), (10, "--")):
            line = [law.predict(shots=value, classes=classes).advantage for value in shots]
            axes.plot(shots, line, style, color="black", linewidth=1, label=f"law, C = {classes}")
        published = published_lines().line("average", law.fpr).law
        line = [published.predict(shots=value, classes=2).advantage for value in shots]
        axes.plot(shots, line, ":", color="0.4", label="published, C = 2")
        title = f"FPR {law.fpr:g}: slope {law.slope_shots:.3f} ± {law.slope_shots_stderr:.3f}"
        axes.set(xscale="log", yscale="log", xlabel="examples per class, S", ylabel="TPR − FPR", title=title)
        axes.set_ylim(bottom=cells["advantage"].min() / 2, top=1.3)
    finish(figure, panel, path)


def draw_quantiles(quantiles: pd.DataFrame, path: pathlib.Path) -> None:
    """Plot quantiles of each set, at the C that has the most quantiles below saturation."""
    rows = quantiles[(quantiles["fpr"] == 0.1) & (quantiles["status"] == "ok")]
    sets = sorted(rows["dataset"].unique())
    figure, panel = panels(len(sets))
    for axes, dataset in zip(panel, sets, strict=True):
        of_set = rows[rows["dataset"] == dataset]
        classes = of_set.groupby("classes").size().idxmax()
        of_set = of_set[of_set["classes"] == classes]
        for colour, (name, points) in zip(
            (*COLOURS, "#000000"), of_set.groupby("evaluation", sort=False), strict=False
        ):
            middle = points.groupby("shots")["advantage"].median()
            axes.plot(middle.index, middle, "o-", color=colour, ms=4, label=str(name))
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="examples per class, S",
            title=f"{dataset}, C = {classes}, FPR 0.1",
        )
    panel[0].set_ylabel("TPR − FPR of the record at that rank")
    finish(figure, panel, path)


def draw_theory(theory: pd.DataFrame, calibrated: pd.DataFrame, path: pathlib.Path) -> None:
    sets = sorted(theory["dataset"].unique())
    figure, panel = panels(len(sets))
    for axes, dataset in zip(panel, sets, strict=True):
        for colour, fpr in zip(COLOURS, sorted(theory["fpr"].unique(), reverse=True), strict=False):
            exact = theory[(theory["dataset"] == dataset) & (theory["fpr"] == fpr)]
            cells = calibrated[(calibrated["dataset"] == dataset) & (calibrated["fpr"] == fpr)]
            cells = cells[(cells["classes"] == shown_classes(calibrated)) & (cells["advantage"] > 0)]
            axes.plot(
                exact["shots"],
                exact["simulated"],
                "x",
                color=colour,
                ms=6,
                label=f"class means, simulated, FPR {fpr:g}",
            )
            axes.plot(
                exact["shots"],
                exact["advantage"],
                "-",
                color=colour,
                label=f"class means, exact, FPR {fpr:g}",
            )
            axes.plot(
                cells["shots"],
                cells["advantage"],
                "o",
                color=colour,
                ms=4,
                label=f"trained heads, FPR {fpr:g}",
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="examples per class, S",
            title=f"{dataset}, C = {shown_classes(calibrated)}",
        )
    panel[0].set_ylabel("mean TPR − FPR, every record at its own FPR")
    finish(figure, panel, path)


def draw_gradients(records: Sequence[pd.DataFrame], path: pathlib.Path) -> None:
    chosen = [
        cell
        for cell in records
        if (cell["classes"].iloc[0], cell["shots"].iloc[0], cell["seed"].iloc[0]) == (10, 64, 0)
    ]
    if not chosen:
        print(f"{path} is left out: no cell of C = 10, S = 64, seed 0")
        return
    figure, panel = panels(len(chosen))
    for axes, cell in zip(panel, chosen, strict=True):
        axes.plot(cell["gradient_norm"], cell["separation"], ".", ms=3, color=COLOURS[0])
        rank = scipy.stats.spearmanr(cell["gradient_norm"], cell["separation"]).statistic
        title = f"{cell['dataset'].iloc[0]}, C = 10, S = 64: rank correlation {rank:.2f}"
        axes.set(xscale="log", xlabel="gradient norm at the end, as a member", title=title)
    panel[0].set_ylabel("D of the record")
    finish(figure, panel, path)


if __name__ == "__main__":
    mpl.rc("font", size=9)
    main()
