"""The command line: one module for each command or group of commands, which loads the rest of jaxmia when it runs."""

from jaxmia.cli.app import main

__all__ = ["main"]
