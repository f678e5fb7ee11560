"""The data, the model's generalisation, and the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from statsmodels.stats.proportion import confint_proportions_2indep

from jaxmia.report.audit import Audit
from jaxmia.report.blocks.recipes import recipe_blocks, settings_shown
from jaxmia.report.content import Block
from jaxmia.report.sections.part import Part
from jaxmia.report.study import num_parameters
from jaxmia.report.subjects import OfAudit, OfStudy
from jaxmia.stats.resolution import clopper_pearson
from jaxmia.tables import Measured, Table, Value, facts
from jaxmia.tables.rates import over_runs


def _of_audit(about: OfAudit) -> Iterator[Block]:
    audit = about.audit
    content, records = audit.content, audit.content["records"]
    parameters = content["head"]["parameters"]
    ratio: Value = "not known: only outputs are released"
    if parameters:
        ratio = Measured(records["members"] / parameters, form=".3g")
    answers: dict[str, Value] = {
        "training records": records["members"],
        "other records of the same kind": records["others"],
        "classes": records["classes"],
        "dimension of the features": records["dim"],
        "kind of model": "a linear layer on the features given",
        "how the file was read": " ".join(content["head"]["read"]),
        "parameters": parameters or "not known: only outputs are released",
        "training records per parameter": ratio,
        "direct identifiers": about.context.identifiers,
        "contents and format": "features as they were given, by an extractor or as they are: the tool cannot tell, and"
        " saw no raw data",
    }
    yield facts("Data and model", answers, about="How much the model was trained on, and how large it is.")
    yield facts(
        "How well it generalises",
        _accuracies(audit),
        "95% intervals of Clopper and Pearson; of the gap, of Newcombe.",
        about="How often the model is right on its training records and on others: the gap is what it has memorised.",
    )
    shadows = content["shadows"]
    recipe: dict[str, Value] = settings_shown(shadows["recipe"])
    source = "fitted to the model, using the membership under audit" if shadows["fitted"] else "as given"
    if shadows["source"] == "file":
        source = "from the model's own file"
    mismatch = float(shadows["mismatch"])
    note = (
        f"Recipe of the shadows, {source}. Mismatch of their log-odds with the model's: {mismatch:.3f} of its"
        " interquartile range."
    )
    yield facts("Training recipe", recipe, note, about="How the shadows were trained, to be like the model.")
    per_class = content["members_per_class"].items()
    yield Table(
        "Training records of each class",
        ("class", "records"),
        tuple(per_class),
        sortable=True,
        about="Records of small classes are the most exposed.",
    )


def _accuracies(audit: Audit) -> dict[str, Value]:
    answers: dict[str, Value] = {}
    shares, content = [], audit.content
    for side in ("members", "others"):
        correct, number = content["correct"][side], content["records"][side]
        if number == 0:
            answers[f"accuracy on {side}"] = Measured(None, status="unresolved", reason="there are none")
            continue
        low, high = clopper_pearson(correct, number)
        shares.append(correct / number)
        answers[f"accuracy on {side}"] = Measured(shares[-1], float(low), float(high))
    if len(shares) == 2:
        (k, n), (j, m) = (
            (content["correct"][side], content["records"][side]) for side in ("members", "others")
        )
        low, high = confint_proportions_2indep(k, n, j, m, compare="diff", method="newcomb")
        answers["generalisation gap"] = Measured(shares[0] - shares[1], float(low), float(high))
    return answers


def _of_study(about: OfStudy) -> Iterator[Block]:
    study = about.study
    rows: list[tuple[Value, ...]] = []
    for _, cells in study.results.groupby(["dataset", "recipe", "classes", "shots"], sort=False):
        of_level = cells[cells["epsilon"] == cells["epsilon"].max()]
        first, tested = of_level.iloc[0], over_runs(of_level, "accuracy")
        if tested.value is None:
            tested = Measured(None, status="not run", reason="no held-out records")
        losses = (over_runs(of_level, name) for name in ("member_loss", "nonmember_loss"))
        size = int(first["classes"] * first["shots"])
        number = num_parameters(study, first.to_dict())
        ratio: Value = Measured(size / number, form=".3g") if number else "not recorded"
        shape = (int(first["classes"]), int(first["shots"]), size, number or "not recorded", ratio)
        rows.append((f"{first['dataset']}, {first['recipe']}", *shape, tested, *losses))
    yield facts(
        "Records",
        {"direct identifiers": about.context.identifiers},
        about="What the controller stated of them.",
    )
    yield Table(
        "Cells: data and how well heads generalise",
        (
            *("feature set, recipe", "C", "S", "N", "parameters", "N per parameter"),
            *("accuracy on held-out records", "loss on members", "on others"),
        ),
        tuple(rows),
        "Each class has S members on average; the smallest class of a cell has as many as the others. Median"
        " and range over seeds, at the least privacy. Mean cross-entropy of the heads on their members and on"
        " other candidates.",
        sortable=True,
        about="How much models of each size were trained on, and how often they are right on records held out.",
    )
    yield from recipe_blocks(study.manifest["settings"], study.results)


PART = Part("data", "Data and model", _of_audit, _of_study, depth="evidence")
