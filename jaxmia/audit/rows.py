"""The rows of an audit: each record with its score under the head, and its vulnerability over re-trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxmia.audit.records import AuditRecords
from jaxmia.audit.settings import AuditConfig
from jaxmia.privacy.accounting import ADD_OR_REMOVE_ONE
from jaxmia.privacy.guarantee import PrivacyGuarantee
from jaxmia.privacy.tradeoff import kairouz_ceiling
from jaxmia.scores import Scores
from jaxmia.stats.calls import call_members, conformal_p_values
from jaxmia.stats.p_values import calibrated_p_values
from jaxmia.studies.assess import run_attack
from jaxmia.studies.settings.attacks import AttackSettings
from jaxmia.studies.unit_rows import per_example_rows, rates_by_fpr

FDR = 0.1  # false discovery rate of calls


def lira_ratio(stacked: Scores) -> Float[np.ndarray, "records"]:
    """Return LiRA's statistic of the head, row 0."""
    return np.asarray(run_attack(AttackSettings(name="lira"), stacked).statistic[0])


def record_rows(
    config: AuditConfig,
    records: AuditRecords,
    own: Float[np.ndarray, "records"],
    stacked: Scores,
    ceilings: Mapping[float, float],
) -> pd.DataFrame:
    """One row per record, in the order of the records.

    z and p_value compare the head's score with the record's scores as a non-member. `called` marks records, members and
    others, that are called members at a false discovery rate of FDR, by ranks among the known non-members.

    These non-members are candidates too. Let R records be called, of which V are non-members. The lowest of these has V
    non-members at or above it, itself included, so its p-value is at least (1 + V) / (1 + n) for n non-members. It was
    called, so its p-value is at most FDR R / m for m candidates. Hence V / R < FDR (1 + n) / m <= FDR for m > n. This
    holds for the calls at hand, not only on average, and for any distribution of scores.

    Args:
        config: settings of the audit.
        records: records of the audit.
        own: log-odds of the head.
        stacked: scores of the head (row 0) and its shadows.
        ceilings: ceiling of the guarantee at each FPR; above_guarantee marks records with a higher TPR. Empty without a
            guarantee.
    """
    names = np.array(records.data.class_names)
    z_form = run_attack(AttackSettings.model_validate({"name": "lira", "calibrated": True}), stacked)
    ratio = lira_ratio(stacked)
    table = pd.DataFrame(
        {
            "id": records.ids,
            "class_name": names[records.data.labels],
            "member": records.member,
            **({"person": records.data.person.astype(str)} if records.data.person is not None else {}),
            "log_odds": own,
            "z": z_form.statistic[0],
            "p_value": calibrated_p_values(z_form)[0],
        }
    )
    if not records.member.all():
        table["called"] = call_members(conformal_p_values(ratio, ratio[~records.member]), FDR)
    shadows = Scores(np.asarray(stacked.log_odds)[1:], np.asarray(stacked.member)[1:])
    over = per_example_rows(shadows, config.fpr, table, inclusion_rate=records.inclusion_rate)
    first = over[over["fpr"] == config.fpr[0]].reset_index(drop=True)
    table = pd.concat([table, rates_by_fpr(over, config.fpr)], axis=1)
    table["separation"], table["separation_error"] = first["separation"], first["separation_error"]
    if ceilings:
        above = [table[f"tpr_{fpr:g}"] > ceiling for fpr, ceiling in ceilings.items()]
        table["above_guarantee"] = np.any(above, axis=0)
    return table


def by_vulnerability(table: pd.DataFrame, fprs: Sequence[float]) -> pd.DataFrame:
    """The rows of records, or of persons, the most vulnerable over re-trainings first."""
    by = [f"tpr_{max(fprs):g}", "separation"]  # separation ranks records with a TPR of 1
    return table.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def ceilings_of(config: AuditConfig, guarantee: PrivacyGuarantee | None) -> dict[float, float]:
    """Return the largest TPR on one record at each FPR that the head's privacy allows; empty without a guarantee.

    It is the smaller of the ceiling of the stated (epsilon, delta) and the ceiling of the recipe's trade-off curve.
    Shadows differ by adding or removing a record, so the recipe's adjacency is "add_or_remove_one". Where membership is
    by person, it is the ceiling of the recipe for persons, which holds for each of their records too. The stated
    guarantee then gives none: it is for one record, and bounds neither persons nor records that come with others.

    Args:
        config: settings of the audit.
        guarantee: guarantee of the recipe, or None.
    """
    found: dict[float, float] = {}
    for fpr in config.fpr:
        limits = []
        if config.context.epsilon and not config.by_person:
            stated = {"epsilon": config.context.epsilon, "delta": config.context.delta}
            limits.append(float(np.min(kairouz_ceiling(fpr, **stated))))
        if guarantee is not None:
            of_shadows = dataclasses.replace(guarantee, adjacency=ADD_OR_REMOVE_ONE)
            limits.append(float(of_shadows.tpr_ceiling(fpr)))
        if limits:
            found[fpr] = min(limits)
    return found


def warnings_of_rows(
    table: pd.DataFrame, ceilings: Mapping[float, float], *, private_shadows: bool
) -> Iterator[str]:
    """Yield a warning at each FPR where TPRs of records over re-trainings exceed the guarantee's ceiling.

    Args:
        table: the rows.
        ceilings: result of ceilings_of.
        private_shadows: whether the shadows were trained privately.
    """
    why = "the shadows are not trained privately, as the head is stated to be"
    if private_shadows:
        why = "because of estimation error with few shadows, or because the recipe does not have the stated guarantee"
    for fpr, ceiling in ceilings.items():
        tpr, error = table[f"tpr_{fpr:g}"].to_numpy(), table[f"tpr_{fpr:g}_error"].to_numpy()
        above = tpr > ceiling
        if above.any():
            worst = int(np.nanargmax(tpr))
            yield (
                f"{int(above.sum())} of {len(table)} records have a TPR over re-trainings at FPR {fpr:g} above the"
                f" {ceiling:.3g} that the head's guarantee allows any attack, up to {tpr[worst]:.3g} ±"
                f" {error[worst]:.2g}: {why} (column above_guarantee)."
            )
