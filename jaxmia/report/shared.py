"""What reports on audits and on studies say in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from jaxmia._hashes import content_key
from jaxmia.attacks import READS_WEIGHTS
from jaxmia.audit.settings import ContextSettings
from jaxmia.report.content import Block
from jaxmia.stats.calls import positive_predictive_value
from jaxmia.tables import Measured, Table, Value, facts

_OTHER_ATTACKS = (
    "attribute inference",
    "reconstruction and model inversion",
    "regurgitation and exfiltration of training data",
    "attacks on the extractor's own training data",
)


INTERVALS = (
    "the wider of Clopper and Pearson's, which takes scores as independent, and a bootstrap of whole models"
)
WHITE_BOX_ASSUMES = (
    "White-box attacks assume an adversary who has the weights, knows the candidates (records among which all training"
    " records are) with their features and labels, and the recipe with its λ."
)


def white_box_of(attacks: Iterable[str]) -> list[str]:
    """The attacks that read weights."""
    return [attack for attack in attacks if attack.partition("(")[0] in READS_WEIGHTS]


def context_blocks(context: ContextSettings, attacks: Iterable[str]) -> Iterator[Block]:
    """What the controller stated, and what was assumed of the adversary for these attacks."""
    yield facts(
        "Stated by the controller",
        {
            "controller": context.controller,
            "what is released": context.release,
            "to whom": context.recipients,
            "individuals whom the records are of": context.individuals or "not stated",
            "direct identifiers in the training data": context.identifiers,
            "what an adversary is reasonably likely to know": context.knowledge,
        },
        "These are the controller's words; no test here checks them.",
    )
    white_box = white_box_of(attacks)
    yield facts(
        "Granted to the adversary by the tests",
        {
            "question": "was this record in the training data?",
            "the record": "its features and its label, exactly",
            "the model": "its outputs (logits or probabilities) on that record, unlimited and without noise"
            + ("; for white-box attacks its weights" if white_box else ""),
            "other data": "records of the same kind, to train models like it",
            "the training recipe": "known",
        },
        "More than most adversaries have: what they find is an upper end for score-based attacks of these kinds."
        + (f" {WHITE_BOX_ASSUMES}" if white_box else ""),
    )


def declared_rows(
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
    """What was fixed before anything was trained, and what the tests cannot resolve."""
    return facts(
        "Fixed before training",
        {
            "false positive rates": ", ".join(f"{fpr:g}" for fpr in fprs),
            "models trained": shadows,
            "attacks": ", ".join(attacks),
            "non-member scores": nonmembers,
            "rule of resolution": "an FPR f needs 10/f non-member scores; below, no number is given",
            "not resolved": " ".join(unresolved) or "none",
            "intervals": f"95%: {INTERVALS} for counted rates; of a record's"
            " estimate, by its shadows' moments and residuals; Bonferroni over records for the largest",
            "priors": ", ".join(f"{prior:g}" for prior in priors),
            "seeds": seeds,
            "finite-pool correction": correction,
        },
    )


def ppv_table(rows: pd.DataFrame, priors: Sequence[float], name: str) -> Table:
    """How far a call is to be believed at each prior.

    Args:
        rows: of results, one for each FPR.
        priors: shares of members among those the adversary asks about.
        name: of attack and evaluation.
    """
    table: list[tuple[Value, ...]] = []
    for row in rows.to_dict("records"):
        cells: list[Value] = []
        for prior in priors:
            if row["status"] != "ok":
                cells.append(Measured(None, status=row["status"], reason=row["reason"]))
                continue
            rates = [row["tpr"], row["tpr_low"], row["tpr_high"]]
            believed = [float(positive_predictive_value(rate, row["fpr"], prior=prior)) for rate in rates]
            cells.append(Measured(believed[0], believed[1], believed[2]))
        table.append((f"FPR {row['fpr']:g}", *cells))
    return Table(
        f"Of those called members, how many are: {name}",
        ("", *(f"prior {prior:g}" for prior in priors)),
        tuple(table),
        "Positive predictive value. Prior: the share of members among those that the adversary asks about.",
    )


def chance_table(controls: pd.DataFrame) -> Table:
    """The negative controls: attacks on permuted labels."""
    rows: list[tuple[Value, ...]] = []
    for attack, mine in controls.groupby("attack", sort=False):
        resolved = mine[mine["status"] != "unresolved"]
        if resolved.empty:
            rows.append((str(attack), 0, 0, Measured(None, status="unresolved", reason="too few scores")))
            continue
        share = (resolved["advantage"].abs() / resolved["limit"]).max()
        failed = int((resolved["status"] == "failed").sum())
        rows.append((str(attack), len(resolved), failed, Measured(float(share))))
    return Table(
        "Negative control: membership permuted, where an attack must be at chance",
        ("attack", "controls", "failed", "largest |TPR − FPR| over its limit"),
        tuple(rows),
        "A failed control means that the attack's results are not to be trusted. Limit: four standard errors.",
    )


def settings_shown(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Settings of a recipe, for a table."""
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()
    }
    return {name: value for name, value in shown.items() if name != "name"}


def not_covered(attacks: Iterable[str], context: ContextSettings) -> Iterator[Block]:
    """What was not tested, and what was assumed."""
    yield "The results are evidence of resistance to the tested attacks only."
    rows: list[tuple[Value, ...]] = [(name, "not run") for name in _OTHER_ATTACKS]
    tested = list(attacks)
    white_box = "not run; whoever has the weights may find more than attacks on outputs do"
    if context.release in ("probabilities", "labels"):
        white_box = f"not run; stated to be released: {context.release}"
    if white_box_of(tested):
        rows.insert(0, ("white-box attacks on the weights by other methods", "not run"))
    else:
        rows.insert(0, ("white-box attacks on the weights", white_box))
    rows += [
        ("attackers with fewer or other data", "assumed weaker than the tests: not run"),
        ("several releases of models of the same records", "not run: risks add up"),
        ("several records of one individual", "not run: each record is tested by itself"),
        ("labels that are themselves personal data", "not run: only membership is tested"),
    ]
    yield Table(
        f"Not tested (tested: membership inference by {', '.join(tested)})", ("what", "status"), tuple(rows)
    )


def reproduction_table(
    answers: Mapping[str, Value], versions: Mapping[str, str], settings: Mapping[str, Any]
) -> Table:
    """What an engineer needs to get the same numbers."""
    more: dict[str, Value] = {"sha256 of settings": content_key(dict(settings))}
    more |= {f"version of {name}": version for name, version in versions.items()}
    return facts("To reproduce", dict(answers) | more)
