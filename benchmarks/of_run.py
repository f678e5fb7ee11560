"""Write the results of a run, row by row, as the JSON from which pages are rendered.

    jaxmia run demo --out runs/demo
    python benchmarks/of_run.py runs/demo docs/evidence/demo.json

docs/evidence/tables.py makes pages from it: medians over seeds, laws fitted to these rows, and figures.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

import _common
import numpy as np
import pandas as pd

from jaxmia._hashes import json_number
from jaxmia.studies.folder.tables import load_json, load_results

COLUMNS = [
    "dataset",
    "recipe",
    "attack",
    "evaluation",
    "classes",
    "shots",
    "seed",
    "epsilon",
    "delta",
    "adjacency",
    "fpr",
    "fpr_realised",
    "tpr",
    "tpr_low",
    "tpr_high",
    "advantage",
    "true_positives",
    "false_positives",
    "num_members",
    "num_nonmembers",
    "accuracy",
    "tpr_ceiling",
    "epsilon_lower_bound",
    "status",
    "reason",
]
SECONDS = ("seconds_preparing", "seconds_tuning", "seconds_training", "seconds_attacking")


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("folder", type=pathlib.Path, help="folder of a finished run or sweep")
    options.add_argument("file", type=pathlib.Path, help="the JSON to write")
    options.add_argument("--commit", help="commit of the code that made the run, if not this one")
    arguments = options.parse_args(argv)
    manifest = load_json(arguments.folder, "manifest.json")
    if manifest["status"] != "finished":
        sys.exit(f"{arguments.folder} is not finished: start it again with --resume")
    name, kind = manifest["settings"]["name"], "sweep" if "studies" in manifest else "run"
    held = cells_of(manifest)
    heads = sum(cell["heads_trained"] for cell in held)
    content = {
        "title": f"{name}: {len(held)} cells, {heads} heads",
        **_common.origin(),
        "command": f"jaxmia {kind} {name} --out {kind}s/{name}",
        "commit": arguments.commit or _common.commit(),
        "seconds": seconds_of(held),
        "columns": COLUMNS,
        "rows": rows_of(load_results(arguments.folder)),
    }
    arguments.file.write_text(json.dumps(content).replace("], [", "],\n  [") + "\n")


def cells_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of all cells of a run or a sweep."""
    studies = manifest["studies"].values() if "studies" in manifest else [manifest]
    return [cell for study in studies for cell in study["cells"].values()]


def seconds_of(cells: list[dict[str, Any]]) -> float:
    """Return the seconds that cells took, from their preparation to their attacks."""
    return round(sum(cell[part] for cell in cells for part in SECONDS), 1)


def rows_of(results: pd.DataFrame) -> list[list[object]]:
    """Return rows with the columns that pages need, with numbers as in JSON."""
    return [
        [json_number(value) if isinstance(value, float) else value for value in row]
        for row in results[COLUMNS].astype(object).replace({np.nan: None}).itertuples(index=False)
    ]


if __name__ == "__main__":
    main()
