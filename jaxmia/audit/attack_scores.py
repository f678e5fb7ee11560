"""Attacks on one file of scores from end to end: tables, statistics and ROC curves, for scores of any framework."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxmia import attacks
from jaxmia._atomic import new_folder, write_json, write_parquet
from jaxmia._hashes import file_hash
from jaxmia._shown import Shown, figure
from jaxmia._validate import check, check_choice, check_different, check_fpr
from jaxmia.audit.persons import PersonsRead, persons_read
from jaxmia.data.person_table import persons_of
from jaxmia.data.persons import UNITS
from jaxmia.plots import plot_rocs, thinned
from jaxmia.scores import Scores
from jaxmia.scores.external import ExternalScores
from jaxmia.scores.reading import check_target, load_scores, scores_from_arrays
from jaxmia.stats.p_values import CALIBRATED
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import Roc, roc
from jaxmia.studies.actors import NOBODY, Asked, Setting, actor_rows
from jaxmia.studies.assess import (
    check_resolvable,
    control_rows,
    evaluated_by_person,
    evaluated_results,
    needs_scores_alone,
    result_rows,
    rocs,
)
from jaxmia.studies.folder.manifest import versions
from jaxmia.studies.folder.tables import of_unit
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.unit_rows import per_example_rows, per_person_rows
from jaxmia.tables.rates import best_at_the_lowest, brief_results, on_persons

FPRS = (0.1, 0.01, 0.001)
CONTROL_SEED = 0  # recorded in controls.parquet
EVALUATIONS = ("pooled", "per_target", "calibrated")
STATISTICS, STATISTICS_OF_PERSONS = "statistics", "statistics-persons"  # folders of arrays of AttackResults


@dataclasses.dataclass(frozen=True, repr=False)
class AttackRun(Shown):
    """The result of attacks on a file of scores.

    Attributes:
        path: the folder.
        read: the scores, and notes on reading them.
        results: one row per group of targets, attack, evaluation and FPR.
        controls: negative controls, one row per attack.
        actors: one row per actor, attack, group of targets and FPR; empty unless a release or knowledge was named.
    """

    path: pathlib.Path
    read: ExternalScores
    results: pd.DataFrame
    controls: pd.DataFrame
    actors: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)

    def headline(self) -> str:
        """Return one line with sizes and the attack with the largest TPR at the lowest resolved FPR."""
        return f"{self.read.headline()}; {found_most(self.results)}"

    def to_frame(self) -> pd.DataFrame:
        """Return the results."""
        return self.results

    def brief_frame(self) -> pd.DataFrame:
        """Return the rates, with the identifying columns that differ between rows."""
        return brief_results(self.results)

    @property
    def records(self) -> pd.DataFrame:
        """Return one row per example and FPR, with the example's vulnerability over the models."""
        return pd.read_parquet(self.path / "per_example.parquet")

    def plot(self, *, evaluation: str | None = None, targets: str | None = None, unit: str = "record") -> Any:
        """Return a figure of the attacks' ROC curves, with the intervals of the results.

        Args:
            evaluation: "pooled", the default where several models are targets, or "per_target". Calibrated curves are
                files in the folder's plots.
            targets: "all"; with a model under audit "others" (the default), or "row N" for that model only.
            unit: "record" or "person", the unit whose membership is attacked.

        Raises:
            InputError: if the results do not have these targets, this unit or this evaluation.
        """
        groups = {group.name: group for group in _target_groups(self.read)}
        targets = list(groups)[-1] if targets is None else targets
        check_choice("targets", targets, groups)
        check_choice("unit", unit, UNITS)
        rows = of_unit(self.results[self.results["targets"] == targets], unit)
        check(len(rows) > 0, "unit", unit, "be 'record': these attacks are on records alone")
        statistics = self.path / (STATISTICS if unit == "record" else STATISTICS_OF_PERSONS)
        evaluations = [name for name in rows["evaluation"].unique() if name not in CALIBRATED]
        evaluation = evaluations[0] if evaluation is None else evaluation
        check_choice("evaluation", evaluation, evaluations)
        curves = {
            attack: roc(
                _statistics(statistics / f"{attack}.npz"), evaluation=evaluation, targets=groups[targets].rows
            )
            for attack in rows["attack"].unique()
        }
        rows = rows[rows["evaluation"] == evaluation]
        return figure("rocs_figure", curves, title=f"{evaluation}, targets: {targets}", results=rows)


@dataclasses.dataclass(frozen=True)
class _Targets:
    """Models whose pairs are counted together: their rows (None for all), and the evaluations that are left out."""

    name: str
    rows: tuple[int, ...] | None
    left_out: tuple[str, ...] = ()


def found_most(results: pd.DataFrame) -> str:
    """Return the largest TPR at the lowest resolved FPR over all rows of a results table, in words."""
    best = best_at_the_lowest(results)
    if best is None:
        return "no FPR is resolved"
    return (
        f"{best['attack']}{on_persons(best)} ({best['evaluation']}): TPR {best['tpr']:.3g}"
        f" ({best['tpr_low']:.3g} to {best['tpr_high']:.3g}) at FPR {best['fpr']:g}"
    )


def attack_scores(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray] | Scores,
    out: str | os.PathLike[str],
    *,
    attack: Sequence[str] = (),
    fpr: Sequence[float] = FPRS,
    target: int | None = None,
    release: Sequence[str] = (),
    knowledge: Sequence[str] = (),
) -> AttackRun:
    """Run attacks on scores from any framework and write the results into a new folder.

    Each model is the target once, with the others as its shadows. If one model is under audit, its results are separate
    from those of the other models, which show what to expect of models with the same training.

    The folder gets manifest.json, results.parquet, controls.parquet, per_example.parquet, statistics/ATTACK.npz
    (the arrays of an AttackResult) and plots/. If the scores have persons, results and controls have rows for records
    and for persons (the column unit), and the folder also gets per_person.parquet and statistics-persons/ATTACK.npz.

    Args:
        source: an .npz file for load_scores, the arrays of scores_from_arrays, or Scores.
        out: a new or empty folder.
        attack: names of attacks; by default all that need only scores.
        fpr: FPRs, as fractions.
        target: row of the model under audit; by default the file's target, if it has one.
        release: what actors see, such as "labels" or "rounded:2", for a table of actors (jaxmia.scores.release).
        knowledge: what they know, such as "full" or "population, shadows:64" (jaxmia.studies.settings.actors). If
            release or knowledge is given, the folder gets actors.parquet too.

    Raises:
        InputError: for bad scores, names, FPRs or folder; nothing is then left in the folder.
    """
    for name in attack:
        check_choice("attack", name, attacks.REGISTRY)
    names = attack or [name for name in attacks.REGISTRY if needs_scores_alone(name)]
    settings = [AttackSettings(name=name) for name in names]
    check_different("attack", attack)
    check_different("fpr", fpr)
    check(len(fpr) > 0, "fpr", list(fpr), "hold at least one FPR")
    for value in fpr:
        check_fpr("fpr", value)
    actors = Asked(tuple(release), tuple(knowledge))
    actors.check()
    with new_folder(out) as folder:
        file = None if isinstance(source, (Mapping, Scores)) else source
        read = _read(source)
        if target is not None:
            read = dataclasses.replace(read, target=check_target(target, len(read.member)))
        persons = persons_read(read)
        if persons is not None and persons.note:
            read = dataclasses.replace(read, notes=(*read.notes, persons.note))
        audited = slice(None) if read.target is None else read.target
        num_nonmembers = int(np.count_nonzero(~np.asarray(read.member)[audited]))
        check_resolvable(fpr, num_nonmembers, "the audit" if read.target is None else f"row {read.target}")
        tables = write_attacks(folder, file, read, settings, fpr, actors)
    return AttackRun(pathlib.Path(out), read, *tables)


def _read(source: str | os.PathLike[str] | Mapping[str, np.ndarray] | Scores) -> ExternalScores:
    if isinstance(source, ExternalScores):
        return source
    if isinstance(source, Scores):  # whose fields nobody has checked
        names = ("log_odds", "member", "population_log_odds")
        held = {name: getattr(source, name) for name in names}
        read = scores_from_arrays(
            {name: np.asarray(values) for name, values in held.items() if values is not None}
        )
        return dataclasses.replace(read, margin=source.margin, classes=source.classes, queried=source.queried)
    return scores_from_arrays(source) if isinstance(source, Mapping) else load_scores(source)


def write_attacks(
    folder: pathlib.Path,
    source: str | os.PathLike[str] | None,
    read: ExternalScores,
    settings: Sequence[AttackSettings],
    fpr: Sequence[float],
    actors: Asked = NOBODY,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Run attacks on scores that were read, and write the files of attack_scores into a folder.

    Args:
        folder: an empty folder.
        source: the file that the scores were read from, for the record; None if they were in memory.
        read: the scores.
        settings: attacks that need only scores.
        fpr: FPRs, as fractions.
        actors: for the table of actors.

    Returns:
        Results, controls and the rows of actors. Rows of unresolved FPRs are marked.
    """
    persons = persons_read(read)
    results = _run(settings, read, persons, list(fpr), folder)
    write_parquet(folder / "results.parquet", results)
    of: dict[str, Any] = {} if persons is None else {"person": persons.person, "of_persons": persons.scores}
    controls = control_rows(settings, read, fprs=fpr, seed=CONTROL_SEED, **of)
    write_parquet(folder / "controls.parquet", controls)
    of_records = _per_example(read, fpr)
    write_parquet(folder / "per_example.parquet", of_records)
    if persons is not None:
        write_parquet(folder / "per_person.parquet", _per_person(persons, read, of_records, fpr))
    of_actors = pd.DataFrame()
    if actors.any:
        whole = persons is not None and persons.kept.all()
        setting = Setting(
            read,
            settings,
            fpr,
            person=read.person if whole else None,
            target=read.target,
            rounding=read.rounding,
        )
        of_actors = actor_rows(setting, release=actors.release, knowledge=actors.knowledge)
        write_parquet(folder / "actors.parquet", of_actors)
    manifest = _manifest(source, settings, read, fpr)
    if actors.any:
        manifest |= {"release": list(actors.release), "knowledge": list(actors.knowledge)}
    write_json(folder / "manifest.json", manifest)
    return results, controls, of_actors


def _target_groups(read: ExternalScores) -> list[_Targets]:
    """Return all models as one group of targets, or the model under audit and the others as two."""
    if read.target is None:
        return [_Targets("all", None)]
    others = tuple(row for row in range(len(read.member)) if row != read.target)
    # For a single target, pooled and per_target are the same.
    return [
        _Targets(f"row {read.target}", (read.target,), left_out=("pooled",)),
        _Targets("others", others),
    ]


def _run(
    settings: Sequence[AttackSettings],
    read: ExternalScores,
    persons: PersonsRead | None,
    fprs: list[float],
    folder: pathlib.Path,
) -> pd.DataFrame:
    """Run the attacks, write statistics and plots, and return the rows of results."""
    for name in (STATISTICS, "plots", *([STATISTICS_OF_PERSONS] if persons else [])):
        (folder / name).mkdir()
    groups, tables = _target_groups(read), []
    curves: dict[tuple[str, str, str], dict[str, Roc]] = {}
    for attack in settings:
        of_units = [evaluated_results(attack, read, EVALUATIONS)]
        if persons is not None:
            kept = {name: persons.of_records(result) for name, result in of_units[0].items()}
            of_units.append(evaluated_by_person(attack, persons.scores, persons.person, EVALUATIONS, kept))
        for unit, results in zip(UNITS, of_units, strict=False):
            place = STATISTICS if unit == "record" else STATISTICS_OF_PERSONS
            _save_statistics(folder / place / f"{attack.label}.npz", results["pooled"])
            for group in groups:
                of_group = {name: result for name, result in results.items() if name not in group.left_out}
                curves_of_group = rocs(of_group, targets=group.rows)
                rows = result_rows(attack.label, of_group, curves_of_group, fprs=fprs, targets=group.rows)
                rows = rows if persons is None else rows.assign(unit=unit)
                tables.append(rows.assign(targets=group.name))
                for name, curve in curves_of_group.items():
                    curves.setdefault((group.name, name, unit), {})[attack.label] = thinned(curve)
    rows = pd.concat(tables, ignore_index=True)
    rows.insert(0, "targets", rows.pop("targets"))
    for (targets, evaluation, unit), of_attacks in curves.items():
        of_plot = of_unit(rows, unit)
        of_plot = of_plot[(of_plot["targets"] == targets) & (of_plot["evaluation"] == evaluation)]
        of = "" if unit == "record" else "-persons"
        title = f"{evaluation}, targets: {targets}{of and ', persons'}"
        stem = folder / "plots" / f"roc-{targets}-{evaluation}{of}"
        plot_rocs(of_attacks, stem, title=title, results=of_plot)
    return rows


def _save_statistics(path: pathlib.Path, result: AttackResult) -> None:
    arrays: dict[str, Any] = {name: getattr(result, name) for name in ("statistic", "member", "defined")}
    if result.population is not None:
        arrays["population"] = result.population
    np.savez(path, **arrays)


def _statistics(path: pathlib.Path) -> AttackResult:
    """Return the result that _save_statistics wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return AttackResult(**arrays)


def _per_example(read: ExternalScores, fprs: Sequence[float]) -> pd.DataFrame:
    member = np.asarray(read.member)
    examples = pd.DataFrame({"example": np.arange(member.shape[1])})
    if read.labels is not None:
        examples["label"] = read.labels
    return per_example_rows(read, fprs, examples, inclusion_rate=float(member.mean()))


def _per_person(
    persons: PersonsRead, read: ExternalScores, of_records: pd.DataFrame, fprs: Sequence[float]
) -> pd.DataFrame:
    """Return a row per person and FPR; without labels the class of everybody is empty."""
    labels = np.zeros(len(persons.person), np.int64) if read.labels is None else read.labels[persons.kept]
    names = [""] if read.labels is None else [str(label) for label in range(int(labels.max()) + 1)]
    table = persons_of(persons.person, labels, names)
    kept = of_records[np.tile(persons.kept, len(fprs))]
    rate = float(np.asarray(persons.scores.member).mean())
    return per_person_rows(persons.scores, persons.person, fprs, table, of_records=kept, inclusion_rate=rate)


def _manifest(
    source: str | os.PathLike[str] | None,
    settings: Sequence[AttackSettings],
    read: ExternalScores,
    fprs: Sequence[float],
) -> dict[str, object]:
    num_models, num_examples = np.asarray(read.member).shape
    return {
        "source": "in memory" if source is None else str(source),
        "sha256": None if source is None else file_hash(source),
        "models": num_models,
        "examples": num_examples,
        **({} if read.person is None else {"persons": len(np.unique(read.person))}),
        "target": read.target,
        "attacks": [attack.label for attack in settings],
        "fprs": list(fprs),
        "notes": list(read.notes),
        "versions": versions(),
    }
