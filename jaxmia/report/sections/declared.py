"""The choices made before training, and the limits of resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxmia.report.blocks.wording import INTERVALS
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.subjects import OfAttack, OfAudit, OfStudy
from jaxmia.tables import Table, facts
from jaxmia.tables.reasons import grouped


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit = about.audit
    settings, shadows = audit.content["settings"], audit.content["shadows"]
    reasons = audit.of("row 0", "per_target")["reason"]
    yield _table(
        fprs=audit.fprs,
        shadows=(
            f"{settings['shadows']['models']} shadows, each on a share of {shadows['inclusion_rate']:.3g} of the"
            " records"
        ),
        attacks=about.attacks,
        nonmembers=f"{audit.content['records']['others']:,} of the released model",
        unresolved=grouped(reason for reason in reasons if reason),
        priors=about.context.priors,
        seeds=str(settings["seed"]),
        correction="none: shadows train on other parts of the same records, which makes records look more"
        f" vulnerable than with fresh draws: D up to {shadows['overstated']:.2g} times",
    )


def _of_study(about: OfStudy) -> Iterator[Block]:
    study, results = about.study, about.study.results
    missing = results[results["status"] == "unresolved"]
    counts = [
        f"FPR {fpr:g} in {len(rows)} of {int((results['fpr'] == fpr).sum())} rows."
        for fpr, rows in missing.groupby("fpr", sort=False)
    ]
    lines = [*counts, *grouped(missing["reason"])]
    models = sorted(results["num_models"].unique())
    yield _table(
        fprs=study.fprs,
        shadows=" ... ".join(str(number) for number in dict.fromkeys((models[0], models[-1]))),
        attacks=about.attacks,
        nonmembers=f"{results['num_nonmembers'].min():,} ... {results['num_nonmembers'].max():,}",
        unresolved=lines,
        priors=about.context.priors,
        seeds=", ".join(map(str, sorted(results["seed"].unique()))),
        correction=", ".join(sorted(set(results["correction"]))),
    )


def _table(
    *,
    fprs: Sequence[float],
    shadows: str,
    attacks: Sequence[str],
    nonmembers: str,
    unresolved: Sequence[str],
    priors: Sequence[float],
    seeds: str,
    correction: str,
) -> Table:
    """Return the choices made before training, and the limits of resolution."""
    return facts(
        "Fixed before training",
        {
            "false positive rates": ", ".join(f"{fpr:g}" for fpr in fprs),
            "models trained": shadows,
            "attacks": ", ".join(attacks),
            "non-member scores": nonmembers,
            "rule of resolution": "an FPR f needs 10/f scores of non-members; with fewer, no number is given",
            "not resolved": " ".join(unresolved) or "none",
            "intervals": f"95%. Counted rates: {INTERVALS}. The estimate of one record: from"
            " the moments and residuals of its shadows; of the largest: corrected for their number (Bonferroni)",
            "priors": ", ".join(f"{prior:g}" for prior in priors),
            "seeds": seeds,
            "finite-pool correction": correction,
        },
        about="The rules of the tests, which were set before there were results.",
    )


def _of_attack(about: OfAttack) -> Iterator[Block]:
    folder = about.attack
    rows, examples = folder.audited, folder.examples
    yield _table(
        fprs=folder.fprs,
        shadows=f"{folder.manifest['models']}, each the target once and the others its shadows",
        attacks=about.attacks,
        nonmembers=f"{rows['num_nonmembers'].min():,} ... {rows['num_nonmembers'].max():,}",
        unresolved=grouped(rows["reason"][rows["status"] != "ok"]),
        priors=about.context.priors,
        seeds="none: nothing was trained here",
        correction=", ".join(sorted(set(examples["correction"]))),
    )


PART = Part("declared", "Declared in advance", _of_audit, _of_study, _of_attack, depth="evidence")
