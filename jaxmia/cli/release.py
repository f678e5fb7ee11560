"""`jaxmia release` and `jaxmia verify`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxmia import _terminal as terminal
from jaxmia._validate import InputError
from jaxmia.cli import output
from jaxmia.cli.options import Override, ReadLimit

EPILOG = """Example: `jaxmia release private.toml --epsilon 1 --out head.safetensors`

Members are the records of data.features that its key `member` marks, or all of them. grid.classes and grid.shots
declare their number. The noise is OpenDP's, from the operating system's random number generator; neither noise nor seed
is kept. Publish the certificate with the head: `jaxmia verify` checks it, and an audit file names it. Each run spends
epsilon again. Needs `pip install 'jaxmia[release]'`."""

VERIFY_EPILOG = """Example: `jaxmia verify head.certificate.json --public public.npz`

Exit code 2 if a check fails. The checks compute the guarantee again from the stated mechanism, and compare the head's
file with the certified one. No check of a head can prove how it was trained."""


def release(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A TOML file of an experiment, or a built-in one.")
    ],
    epsilon: Annotated[float, typer.Option(help="Epsilon of the guarantee.")],
    out: Annotated[pathlib.Path, typer.Option(metavar="FILE", help="A new .safetensors file.")],
    override: Override = None,
    read_limit: ReadLimit = None,
) -> None:
    """Train one head on all members with cryptographic noise, for release, and write its certificate."""
    from jaxmia.cli.tables import certificate_table
    from jaxmia.release.run import release_head
    from jaxmia.studies.settings.toml import load_config

    found = release_head(
        load_config(config, override or ()), out, epsilon=epsilon, console=terminal.console(stderr=True)
    )
    output.show(certificate_table(found.certificate))
    output.warn(found.notes)
    output.show(f"Written: {found.head} and {found.path}. Check it with: jaxmia verify {found.path}")


def verify(
    certificate: Annotated[
        pathlib.Path, typer.Argument(metavar="CERTIFICATE", help="The certificate beside the head.")
    ],
    public: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="NPZ", help="The public features, to compare with those of the certificate."),
    ] = None,
) -> None:
    """Check the certificate of a released private head, and compute its guarantee again."""
    from jaxmia.cli.tables import findings_table
    from jaxmia.privacy.certificate import load_certificate, verify_certificate

    findings = verify_certificate(certificate, public=public)
    output.show(findings_table(findings))
    failed = [finding.what for finding in findings if finding.holds is False]
    if failed:
        raise InputError(f"certificate={str(certificate)!r} does not hold: {', '.join(failed)}.")
    output.show(f"It holds: {load_certificate(certificate).guarantee}.")
