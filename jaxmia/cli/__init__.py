"""The command line."""

from jaxmia.cli.commands import main

__all__ = ["main"]
