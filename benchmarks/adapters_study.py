"""Are heads more vulnerable than adapters and last blocks, at equal shots?

Reads folders of `jaxmia run`, each of one recipe on the same candidates, membership masks and seeds (docs/adapters.md
has the settings). Columns: held-out accuracy; mean loss of members and of non-members, which show how closely members
are fitted; TPR of LiRA, pooled and calibrated, with 95% intervals; and "x head", the advantage TPR - FPR over that of
the row "linear" of the same shots whose members' loss is lowest. Over seeds, TPRs are medians with the outermost ends
of their intervals, other columns means.
"""

from __future__ import annotations

import pathlib
from typing import Any

import _common
from from_scratch import interval

from jaxmia.studies.folder.tables import load_json, load_results

SHOWN = (("pooled", 0.1), ("pooled", 0.01), ("calibrated", 0.1), ("calibrated", 0.01))
OF_HEAD = "linear"


def main(argv: list[str] | None = None) -> None:
    options = _common.parser(__doc__)
    options.add_argument("runs", type=pathlib.Path, nargs="+", help="folders of runs")
    arguments = options.parse_args(argv)
    rows = [row for run in arguments.runs for row in of_run(run)]
    _common.report(
        "LiRA on heads, adapters and last blocks",
        with_ratios(sorted(rows, key=lambda row: row["S"])),
        dtype="float32 training and scores, float64 statistics",
        facts={},
        arguments=arguments,
    )


def of_run(run: pathlib.Path) -> list[dict[str, Any]]:
    """One row for each number of shots."""
    train = load_json(run, "manifest.json")["settings"]["train"]
    results = load_results(run)
    results = results[results["attack"] == "lira"]
    rows = []
    for shots, some in results.groupby("shots"):
        cells = some.drop_duplicates("seed")
        row: dict[str, Any] = {"S": int(shots), "trained": train["network"], "rate": train["learning_rate"]}
        row |= {"models": int(cells["num_models"].iloc[0]), "seeds": len(cells)}
        row |= {name: float(cells[name].mean()) for name in ("accuracy", "member_loss", "nonmember_loss")}
        for evaluation, fpr in SHOWN:
            rates = some[(some["evaluation"] == evaluation) & (some["fpr"] == fpr)]
            resolved = rates[rates["status"] == "ok"]
            shown = len(resolved) == len(rates) > 0
            row[f"{evaluation} {fpr:g}"] = interval(resolved) if shown else "unresolved"
            row[f"x head, {evaluation} {fpr:g}"] = float(resolved["tpr"].median()) - fpr if shown else None
        rows.append(row)
    return rows


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with advantages over those of the head of the same shots whose member loss is lowest."""
    for shots in {row["S"] for row in rows}:
        same = [row for row in rows if row["S"] == shots]
        heads = [dict(row) for row in same if row["trained"] == OF_HEAD]
        head = min(heads, key=lambda row: row["member_loss"], default=None)
        for row in same:
            for name in [name for name in row if name.startswith("x head")]:
                known = head is not None and row[name] is not None and bool(head[name])
                row[name] = round(row[name] / head[name], 3) if head is not None and known else None
    return rows


if __name__ == "__main__":
    main()
