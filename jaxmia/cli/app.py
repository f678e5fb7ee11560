"""The application: its commands, in the order of --help, and its exit codes."""

from __future__ import annotations

import contextvars
import os
import re
import sys

import typer

from jaxmia._text import show_in_any_encoding
from jaxmia._validate import InputError
from jaxmia.cli import (
    advise,
    attack,
    audit,
    compare,
    errors,
    extract,
    laws,
    privacy,
    release,
    report,
    run,
    sweep,
    triage,
    tune,
)

app = typer.Typer(
    name="jaxmia",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Could someone tell from a released model whether a given person was in its training data?

jaxmia trains hundreds of shadow heads over frozen features at once, attacks them, and fits the law between
vulnerability and examples per class.

Start with `jaxmia run configs/demo.toml --out runs/demo` (or `jaxmia run demo --out runs/demo` anywhere).""",
)
for _command, _epilog in (
    (run.run, run.EPILOG),
    (sweep.sweep, sweep.EPILOG),
    (tune.tune, tune.EPILOG),
    (attack.attack, attack.EPILOG),
    (triage.triage, triage.EPILOG),
    (advise.advise, advise.EPILOG),
    (extract.extract, extract.EPILOG),
    (audit.audit, audit.EPILOG),
    (release.release, release.EPILOG),
    (release.verify, release.VERIFY_EPILOG),
    (report.report, report.EPILOG),
    (compare.compare, compare.EPILOG),
    (laws.fit, laws.FIT_EPILOG),
    (laws.predict, laws.PREDICT_EPILOG),
    (privacy.dp, privacy.EPILOG),
):
    app.command(epilog=_epilog)(_command)


def main() -> None:
    """Run the command line; wrong input ends with one line on stderr and exit code 2."""
    show_in_any_encoding()
    sys.argv[1:] = [re.sub(r"^(--[a-z-]+=)?~(?=/|$)", _at_home, word) for word in sys.argv[1:]]
    try:
        contextvars.copy_context().run(app)  # a limit set by an option applies to this command only
    except InputError as error:
        errors.print_error(error)
        sys.exit(2)
    except BrokenPipeError:  # `jaxmia ... | head`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        errors.print_error(errors.of_system(error))
        sys.exit(2)
    except Exception as error:
        line = errors.of_memory(error) or errors.of_device()
        if not line:
            raise
        errors.print_error(line)
        sys.exit(2)


def _at_home(match: re.Match[str]) -> str:
    """Return the home folder for a ~ that the shell did not expand, as in --out=~/mine."""
    return (match[1] or "") + os.path.expanduser("~")
