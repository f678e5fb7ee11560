"""Tables of certificates of released heads."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmia.cli.tables.cells import rounded_up
from jaxmia.privacy.certificate import Certificate, Finding
from jaxmia.tables import Table, facts

_HOLDS = {True: "yes", False: "NO", None: "not checked"}


def certificate_table(told: Certificate) -> Table:
    """Return what a certificate says."""
    return facts(
        "Certificate",
        {
            "head": told.head_file,
            "recipe": f"{told.recipe}, {told.steps} steps" if told.steps > 1 else told.recipe,
            "mechanism": told.mechanism,
            "epsilon": rounded_up(told.epsilon),
            "delta": f"{told.delta:g}",
            "adjacency": f"{told.adjacency}, of a {told.unit}",
            "noise multiplier": rounded_up(told.noise_multiplier),
            "clipping norm": f"{told.clipping_norm:.6g}",
            "features": told.normalize
            if told.components is None
            else f"{told.normalize}, {told.components} components",
            "assumed to be public": ", ".join(told.assumed_public),
        },
    )


def findings_table(findings: Iterable[Finding]) -> Table:
    """Return the checks of a certificate."""
    rows = tuple((each.what, each.stated, each.found, _HOLDS[each.holds]) for each in findings)
    return Table("Checks of the certificate", ("", "stated", "found", "holds"), rows)
