"""The sections of a report on a run or a sweep: what heads trained by these recipes on these data give away."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._validate import InputError
from jaxmia.audit.settings import ContextSettings
from jaxmia.laws.fit import LawOf, PowerLawFit
from jaxmia.report.content import Block, Picture, Section
from jaxmia.report.drawing import accuracy_figure, average_roc_figure, drawn_for_pages, to_svg
from jaxmia.report.laws import law_blocks
from jaxmia.report.privacy import bounds_table, is_private, privacy_blocks
from jaxmia.report.recipes import recipe_blocks, recipe_summary
from jaxmia.report.records import EXTRAPOLATED, RecordsOf, blocks_of_records
from jaxmia.report.shared import (
    chance_table,
    context_blocks,
    declared_rows,
    not_covered,
    ppv_table,
    reproduction_table,
    white_box_of,
)
from jaxmia.report.stability import seeds_table
from jaxmia.studies.assess import RATES, rates_by_fpr
from jaxmia.studies.folder.cell import Cell
from jaxmia.studies.folder.tables import load_json, load_table, read_tables
from jaxmia.studies.laws import load_laws
from jaxmia.tables import Measured, Table, Value, facts
from jaxmia.tables.rates import best_of, over_runs, over_seeds, rates, rates_headings, realised

_CELL = ["dataset", "recipe", "classes", "shots", "epsilon"]


@dataclasses.dataclass(frozen=True)
class Study:
    """A folder of a run or a sweep, as far as a report needs it.

    Attributes:
        path: the folder.
        manifest: its manifest.json.
        results: its rows.
        controls: its negative controls.
        laws: fitted to its cells, averages and quantiles.
    """

    path: pathlib.Path
    manifest: Mapping[str, Any]
    results: pd.DataFrame
    controls: pd.DataFrame
    laws: Mapping[LawOf, PowerLawFit]

    @property
    def fprs(self) -> list[float]:
        """Declared FPRs, descending."""
        return sorted((float(fpr) for fpr in self.results["fpr"].unique()), reverse=True)

    @property
    def headline(self) -> pd.DataFrame:
        """Of each feature set and recipe, the rows of the least private cells with most classes and most shots."""
        rows = self.results
        for column in ("epsilon", "classes", "shots"):
            best = rows.groupby(["dataset", "recipe"])[column].transform("max")
            rows = rows[rows[column] == best]
        return rows


def load_study(folder: str | os.PathLike[str]) -> Study:
    """Read a folder of a run or a sweep.

    Raises:
        InputError: if it is none, or cannot be read.
    """
    manifest = load_json(folder, "manifest.json")
    if "settings" not in manifest:
        raise InputError(f"folder={str(folder)!r} must be that of a run, a sweep or an audit of a head.")
    results, controls = (load_table(folder, name) for name in ("results", "controls"))
    return Study(pathlib.Path(folder), manifest, results, controls, load_laws(folder))


def _num_parameters(study: Study, cell: Mapping[Any, Any]) -> int | None:
    """Of one model of a cell; None in folders that do not say."""
    parts = study.manifest.get("studies", {})
    cells = parts.get(f"{cell['dataset']}/{cell['recipe']}", study.manifest).get("cells", {})
    name = str(Cell(cell["classes"], cell["shots"], cell["seed"], cell["epsilon"]))
    parameters: int | None = cells.get(name, {}).get("parameters")
    return parameters


def study_sections(study: Study, context: ContextSettings) -> list[Section]:
    """All sections but the annex."""
    records, attacks = list(_records(study)), list(study.results["attack"].unique())
    return [
        Section("summary", "Summary", tuple(_summary(study, context, records))),
        Section(
            "context", "Release context and adversary knowledge", tuple(context_blocks(context, attacks))
        ),
        Section("data", "Data and model", tuple(_data(study, context))),
        Section("declared", "Declared in advance", (_declared(study, context),)),
        Section("results", "Results", tuple(_results(study, context, records))),
        Section("records", "Most vulnerable records", tuple(_of_records(records))),
        Section("law", "How much data would be enough", tuple(study_law_blocks(study))),
        Section("privacy", "Differential privacy", tuple(study_privacy_blocks(study))),
        Section("controls", "Controls", tuple(_controls(study, records))),
        Section("not-covered", "Not covered", tuple(not_covered(attacks, context))),
        Section("reproduction", "Reproduction", (_reproduction(study),)),
    ]


def study_law_blocks(study: Study, *, shots: float | None = None, classes: int | None = None) -> list[Block]:
    """The laws of a study, at the size of one model or of the study's largest cell."""
    largest = study.headline.iloc[0]
    shots = float(largest["shots"]) if shots is None else shots
    classes = int(largest["classes"]) if classes is None else classes
    return law_blocks(study.laws, study.results, shots=shots, classes=classes)


def study_privacy_blocks(study: Study) -> list[Block]:
    """What privacy costs, if the study measured it."""
    delta = float(study.results["delta"].iloc[0])
    if is_private(study.results):
        return [*privacy_blocks(study.results), bounds_table(study.fprs, delta)]
    how = (
        "The heads were trained without differential privacy, and what it would cost was not measured: a run"
        " with privacy.epsilon = [inf, 8, 4, 1] measures it."
    )
    return [how, bounds_table(study.fprs, delta)]


def _named(row: Mapping[Any, Any]) -> str:
    private = "" if row["epsilon"] == float("inf") else f", ε = {row['epsilon']:g}"
    return f"{row['dataset']}, {row['recipe']}, C = {row['classes']}, S = {row['shots']}{private}"


def _names(rows: pd.DataFrame) -> np.ndarray:
    """The cell and seed of each row, as RecordsOf are named."""
    return np.array([f"{_named(row)}, seed {row['seed']}" for row in rows.to_dict("records")])


def _records(study: Study) -> Iterator[RecordsOf]:
    """Records of the headline cells, of their first seed and then of the others."""
    cells = study.headline.drop_duplicates([*_CELL, "seed"])
    columns = [
        *_CELL,
        "seed",
        "record",
        "class_name",
        "fpr",
        *RATES,
        "separation",
        "separation_error",
        "num_out",
    ]
    tables = [
        table.merge(cells[[*_CELL, "seed"]]) for table in read_tables(study.path, "per_example", columns)
    ]
    known = pd.concat(tables, ignore_index=True)
    for key, rows in known.groupby([*_CELL, "seed"], sort=False):
        first = rows[rows["fpr"] == rows["fpr"].iloc[0]].reset_index(drop=True)
        table = first[["record", "class_name", "separation", "separation_error"]].rename(
            columns={"record": "id"}
        )
        table = pd.concat([table, rates_by_fpr(rows, study.fprs)], axis=1)
        name = f"{_named(dict(zip(_CELL, key, strict=False)))}, seed {key[-1]}"
        yield RecordsOf(name, table, study.fprs, float(first["num_out"].mean()))


def _white_box(study: Study) -> Value:
    tested = white_box_of(study.results["attack"].unique())
    return f"run: {', '.join(tested)}; under “Results”" if tested else Measured(None, status="not run")


def _summary(study: Study, context: ContextSettings, records: list[RecordsOf]) -> Iterator[Block]:
    yield (
        "This report says what was tested on models of this kind, what the tests could have seen, and what they"
        " saw. It is evidence, not a verdict. The models are heads trained for the study, not one released"
        " model: “jaxmia audit” tests that one."
    )
    first = study.headline.iloc[0]
    total = int(first["classes"]) * int(first["shots"])
    answers: dict[str, Value] = {
        "what would be released": context.release,
        "study": study.manifest["settings"]["name"],
        "largest cell": _named(first.to_dict()),
        "training records N of a model": total,
        "individuals": context.individuals or "not stated",
        "examples per class, S": int(first["shots"]),
        **recipe_summary(study.results),
        "white-box attacks on the weights": _white_box(study),
        "differential privacy": "measured at several levels" if is_private(study.results) else "none",
    }
    yield facts("The study", answers)
    rows: list[tuple[Value, ...]] = []
    for of_cell in _first_seeds(records):
        for fpr in study.fprs:
            average = _best(study, of_cell, fpr)
            rows.append((of_cell.name, f"{fpr:g}", of_cell.worst(fpr), average, of_cell.average(fpr)))
    yield Table(
        "The most vulnerable record, and the average",
        (
            "largest cells",
            "FPR",
            "TPR on the worst record",
            "TPR of the best attack",
            "TPR on the average record",
        ),
        tuple(rows),
        "Worst record: largest of all, with a 95% interval that holds for all records at once. Best attack: the"
        " largest TPR of all attacks, one threshold for all records; choosing it favours the attacker."
        f" {EXTRAPOLATED}",
    )
    yield (
        "Not covered: attacks that are not listed under “Results”; the results are evidence of resistance to"
        " the tested attacks only."
    )


def _best(study: Study, records: RecordsOf, fpr: float) -> Measured:
    rows = study.headline
    named = _names(rows) == records.name
    mine = rows[named & (rows["fpr"] == fpr) & (rows["evaluation"] == rows["evaluation"].iloc[0])]
    return best_of(mine)


def _data(study: Study, context: ContextSettings) -> Iterator[Block]:
    rows: list[tuple[Value, ...]] = []
    for _, cells in study.results.groupby(["dataset", "recipe", "classes", "shots"], sort=False):
        of_level = cells[cells["epsilon"] == cells["epsilon"].max()]
        first, tested = of_level.iloc[0], over_runs(of_level["accuracy"])
        if tested.value is None:
            tested = Measured(None, status="not run", reason="no held-out records")
        losses = (over_runs(of_level[name]) for name in ("member_loss", "nonmember_loss"))
        size = int(first["classes"] * first["shots"])
        number = _num_parameters(study, first.to_dict())
        ratio: Value = Measured(size / number, form=".3g") if number else "not recorded"
        shape = (int(first["classes"]), int(first["shots"]), size, number or "not recorded", ratio)
        rows.append((f"{first['dataset']}, {first['recipe']}", *shape, tested, *losses))
    yield facts("Records", {"direct identifiers": context.identifiers})
    yield Table(
        "Cells: data and how well heads generalise",
        (
            *("feature set, recipe", "C", "S", "N", "parameters", "N per parameter"),
            *("accuracy on held-out records", "loss on members", "on others"),
        ),
        tuple(rows),
        "Each class has S members on average; the smallest class of a cell has as many as the others. Median"
        " and range over seeds, at the least privacy. Mean cross-entropy of the heads on their members and on"
        " other candidates.",
        sortable=True,
    )
    yield from recipe_blocks(study.manifest["settings"], study.results)


def _declared(study: Study, context: ContextSettings) -> Table:
    results = study.results
    missing = results[results["status"] == "unresolved"]
    lines = [
        f"FPR {fpr:g} in {len(rows)} of {int((results['fpr'] == fpr).sum())} rows: {rows['reason'].iloc[0]}"
        for fpr, rows in missing.groupby("fpr", sort=False)
    ]
    models = sorted(results["num_models"].unique())
    return declared_rows(
        fprs=study.fprs,
        shadows=" ... ".join(str(number) for number in dict.fromkeys((models[0], models[-1]))),
        attacks=list(results["attack"].unique()),
        nonmembers=f"{results['num_nonmembers'].min():,} ... {results['num_nonmembers'].max():,}",
        unresolved=lines,
        priors=context.priors,
        seeds=", ".join(map(str, sorted(results["seed"].unique()))),
        correction=", ".join(sorted(set(results["correction"]))),
    )


def _results(study: Study, context: ContextSettings, records: list[RecordsOf]) -> Iterator[Block]:
    yield _roc(study, records)
    attack, evaluation = study.results[["attack", "evaluation"]].iloc[0]
    headline = study.headline
    rows: list[tuple[Value, ...]] = []
    for (dataset, recipe, label, how), cells in headline.groupby(
        ["dataset", "recipe", "attack", "evaluation"], sort=False
    ):
        where = cells.iloc[0]
        name = f"{dataset}, {recipe}, C = {where['classes']}, S = {where['shots']}"
        rows.append((name, str(label), str(how), over_runs(cells["auc"]), *rates(cells, study.fprs)))
    yield Table(
        "Every attack on the largest cells",
        ("cell", "attack", "evaluation", "AUC", *rates_headings(study.fprs)),
        tuple(rows),
        "pooled: one threshold for all records. calibrated: every record at the FPR itself. Medians over seeds"
        " with the outermost ends of their 95% intervals. Members are parts of one pool,"
        " which inflates what attacks reach against fresh draws; the correction applied is named under"
        " “Declared in advance”.",
        sortable=True,
    )
    best = headline[(headline["attack"] == attack) & (headline["evaluation"] == evaluation)]
    yield ppv_table(best.drop_duplicates("fpr"), context.priors, f"{attack}, {evaluation}")
    grid = study.results[(study.results["attack"] == attack) & (study.results["evaluation"] == evaluation)]
    rows = []
    for key, cells in grid.groupby(_CELL, sort=False):
        rows.append((_named(dict(zip(_CELL, key, strict=True))), *rates(cells, study.fprs)))
    yield Table(
        f"All cells: {attack}, {evaluation}",
        ("cell", *rates_headings(study.fprs)),
        tuple(rows),
        sortable=True,
    )
    if grid["accuracy"].notna().any():
        yield _accuracy(study, grid)


def _roc(study: Study, records: list[RecordsOf]) -> Picture:
    headline = study.headline
    attack = headline["attack"].iloc[0]
    calibrated = headline[headline["attack"] == attack]
    how = [name for name in calibrated["evaluation"].unique() if name.startswith("calibrated")]
    calibrated = calibrated[calibrated["evaluation"] == (how or list(calibrated["evaluation"].unique()))[0]]
    named = _names(calibrated)
    points = calibrated.assign(label=named)
    rows = []
    for _, row in points.iterrows():
        one = row.to_frame().T
        rows.append((row["label"], f"{row['fpr']:g}", over_seeds(one), realised(one)))
    title = "ROC on log axes: the average record"
    alternative = (
        "True positive rate against false positive rate on log axes, averaged over records, above the diagonal"
        " of chance where attacks find members."
    )
    table = Table(
        f"Points: {attack}, {calibrated['evaluation'].iloc[0]}",
        ("cell", "FPR", "TPR", "FPR realised"),
        tuple(rows),
        "Points: attained with these shadows. Lines: what unlimited shadows are estimated to reach, the mean over"
        " records of each one's own TPR, every record at the FPR.",
    )
    curves = {
        of_cell.name: {fpr: float(of_cell.table[f"tpr_{fpr:g}"].mean()) for fpr in of_cell.fprs}
        for of_cell in records
    }
    with drawn_for_pages():
        figure = average_roc_figure(curves, points, title)
    return Picture(title, alternative, to_svg(figure, "roc", alternative), table)


def _accuracy(study: Study, grid: pd.DataFrame) -> Picture:
    fpr = study.fprs[0]
    rows = grid[(grid["fpr"] == fpr) & (grid["status"] == "ok")]
    points, table_rows = [], []
    for key, cells in rows.groupby(_CELL, sort=False):
        where: dict[str, Any] = dict(zip(_CELL, key, strict=True))
        label = _named(where).replace(f", S = {where['shots']}", "")
        accuracy, tpr = over_runs(cells["accuracy"]), over_seeds(cells)
        points.append({"label": label, "shots": where["shots"], "accuracy": accuracy.value, "tpr": tpr.value})
        table_rows.append((label, int(where["shots"]), accuracy, tpr))
    table = Table(
        "Accuracy and vulnerability",
        ("cell", "S", "accuracy", f"TPR at FPR {fpr:g}"),
        tuple(table_rows),
        "Medians over seeds; of accuracy the range over seeds.",
        sortable=True,
    )
    title = "Accuracy against vulnerability"
    alternative = f"TPR at FPR {fpr:g} against accuracy, a line over S for each feature set and recipe."
    with drawn_for_pages():
        figure = accuracy_figure(pd.DataFrame(points), fpr, title)
    return Picture(title, alternative, to_svg(figure, "accuracy", alternative), table)


def _of_records(records: list[RecordsOf]) -> Iterator[Block]:
    yield "Records are named by their row in the feature set; their contents are not in this report."
    for number, of_cell in enumerate(_first_seeds(records)):
        yield from blocks_of_records(of_cell, f"records-{number}")


def _first_seeds(records: list[RecordsOf]) -> list[RecordsOf]:
    """One of each cell; further seeds stand under “Controls”."""
    return list({each.name.rpartition(", seed ")[0]: each for each in reversed(records)}.values())[::-1]


def _controls(study: Study, records: list[RecordsOf]) -> Iterator[Block]:
    yield chance_table(study.controls)
    rows: list[tuple[Value, ...]] = []
    for of_cell in records:
        pairs = ((of_cell.average(fpr), of_cell.worst(fpr)) for fpr in study.fprs)
        rows.append((of_cell.name, *itertools.chain.from_iterable(pairs)))
    headings = [f"{word} TPR at FPR {fpr:g}" for fpr in study.fprs for word in ("mean", "largest")]
    yield Table("Repeated seeds: other pools and other members", ("cell and seed", *headings), tuple(rows))
    stability = seeds_table(records)
    if stability is not None:
        yield stability
    if not is_private(study.results):
        yield "A head of known privacy under its ceiling: not run (the study has no private level)."


def _reproduction(study: Study) -> Table:
    manifest = study.manifest
    identities = (
        [manifest["identity"]]
        if "identity" in manifest
        else [part["identity"] for part in manifest["studies"].values()]
    )
    hashes = {identity["features"]["sha256"] for identity in identities}
    finished = [
        cell["finished"]
        for part in ([manifest] if "cells" in manifest else manifest["studies"].values())
        for cell in part["cells"].values()
        if "finished" in cell
    ]
    command = "sweep" if "studies" in manifest else "run"
    answers: dict[str, Value] = {
        "command": f"jaxmia {command} SETTINGS.toml --out {study.path.name} (settings: manifest.json)",
        "finished": max(finished, default="not stated"),
        "device": manifest["device"],
        "platform": manifest["platform"],
        "sha256 of features": "; ".join(sorted(hashes)),
        "seeds": ", ".join(map(str, sorted(study.results["seed"].unique()))),
    }
    return reproduction_table(answers, identities[0]["versions"], manifest["settings"])
