"""A folder of `jaxmia attack`, as far as a report needs it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxmia._npz import read_npz
from jaxmia.report.blocks.records import RecordsOf
from jaxmia.stats.result import AttackResult
from jaxmia.stats.roc import Roc, roc
from jaxmia.studies.folder.tables import load_json, load_table, of_unit
from jaxmia.studies.unit_rows import rates_by_fpr


@dataclasses.dataclass(frozen=True)
class AttackFolder:
    """A folder of attacks on anyone's scores.

    Attributes:
        path: the folder.
        manifest: its manifest.json.
        results: rows of the attacks, on all models ("all"), or on the one under audit ("row 4") and the "others".
        controls: the negative controls.
        examples: one row per record and FPR.
        member: bool[models, examples].
        curves: ROC of each attack on the model under audit, or on all models.
    """

    path: pathlib.Path
    manifest: Mapping[str, Any]
    results: pd.DataFrame
    controls: pd.DataFrame
    examples: pd.DataFrame
    member: np.ndarray
    curves: Mapping[str, Roc]

    @property
    def fprs(self) -> list[float]:
        """FPRs, descending."""
        return sorted(self.manifest["fprs"], reverse=True)

    @property
    def targets(self) -> str:
        """Whose rows of results the report is about."""
        return "all" if self.manifest["target"] is None else f"row {self.manifest['target']}"

    @property
    def audited(self) -> pd.DataFrame:
        """Rows of results that the report is about."""
        return self.results[self.results["targets"] == self.targets]

    def members(self) -> RecordsOf:
        """Records over all models: those of the model under audit, or all."""
        first = self.examples[self.examples["fpr"] == self.examples["fpr"].iloc[0]].reset_index(drop=True)
        classes = first["label"].astype(str) if "label" in first else "all"
        table = first[["separation", "separation_error"]].assign(
            id=first["example"].astype(str), class_name=classes
        )
        table = pd.concat([table, rates_by_fpr(self.examples, self.fprs)], axis=1)
        target, num_out = self.manifest["target"], float(first["num_out"].mean())
        if target is None:
            return RecordsOf("all records, over the models", table, self.fprs, num_out)
        mine = table[self.member[target]].reset_index(drop=True)
        return RecordsOf(f"members of model {target}, over the models", mine, self.fprs, num_out)


def load_attack_folder(folder: str | os.PathLike[str]) -> AttackFolder:
    """Read a folder of `jaxmia attack`.

    Raises:
        InputError: if it is none, or cannot be read.
    """
    path = pathlib.Path(folder)
    manifest = load_json(path, "manifest.json")
    results, controls = (of_unit(load_table(path, name), "record") for name in ("results", "controls"))
    examples = load_table(path, "per_example")
    curves, found = attack_curves(path, results["attack"].unique(), manifest["target"])
    return AttackFolder(path, manifest, results, controls, examples, found[0], curves)


def attack_curves(
    folder: pathlib.Path, attacks: Any, target: int | None
) -> tuple[dict[str, Roc], list[np.ndarray]]:
    """Curves of attacks on one model, or pooled over all; and the membership that each was drawn against.

    Args:
        folder: with statistics/ATTACK.npz.
        attacks: their labels.
        target: row of the model; None for all.
    """
    curves, members = {}, []
    for attack in attacks:
        names = ("statistic", "member", "defined")
        arrays = read_npz(folder / "statistics" / f"{attack}.npz", name="statistics", required=names)
        result = AttackResult(arrays["statistic"], arrays["member"], arrays["defined"])
        how = {"evaluation": "pooled"} if target is None else {"evaluation": "per_target"}
        curves[str(attack)] = roc(result, targets=None if target is None else [target], **how)
        members.append(np.asarray(arrays["member"], bool))
    return curves, members
