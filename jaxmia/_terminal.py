"""The one place that makes consoles: what users and jaxmia write is shown as it stands, never read as markup."""

from __future__ import annotations

import rich.console


def console(*, stderr: bool = False) -> rich.console.Console:
    """A console on which "[red]" and ":smile:" are these letters, and numbers have no colours."""
    return rich.console.Console(stderr=stderr, markup=False, emoji=False, highlight=False)
