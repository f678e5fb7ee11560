"""What an earlier audit left in a folder that this one continues in."""

from __future__ import annotations

import pathlib

from jaxmia.studies.folder.tables import load_json

CONTENT = "audit.json"
_REPORTS = ("report.html", "report.json", "report.csv", "report.pdf")  # where `jaxmia report` puts them


def forget_earlier(path: pathlib.Path, of_head: str) -> tuple[str, ...]:
    """Remove results of another audit from the folder, before this one writes anything, and return a note on it.

    audit.json is removed first and written last. A folder without it is no audit, so a kill in between never mixes the
    facts of one head with the results of another. A report is renamed, not deleted.
    """
    if not (path / CONTENT).is_file():
        return ()
    same = load_json(path, CONTENT).get("of_head") == of_head
    (path / CONTENT).unlink()
    aside = []
    for name in _REPORTS if not same else ():
        if (path / name).is_file():
            aside.append(f"{pathlib.Path(name).stem}.earlier{pathlib.Path(name).suffix}")
            (path / name).replace(path / aside[-1])
    return (
        (f"A report on an earlier audit was renamed to {' and '.join(aside)}: write it again.",)
        if aside
        else ()
    )
