"""What a release refuses, before any training, because nothing is proved of it."""

from __future__ import annotations

import pathlib

from jaxmia._validate import InputError, check
from jaxmia.data.feature_set import FeatureSet
from jaxmia.studies.cell import Cell
from jaxmia.studies.settings.experiment import ExperimentConfig


def check_release(config: ExperimentConfig, out: pathlib.Path) -> None:
    """Refuse recipes without a proof, and a file that exists.

    Raises:
        InputError: that names the setting and the reason.
    """
    train = config.train
    check(out.suffix == ".safetensors", "out", str(out), "end in .safetensors")
    rule = (
        "be a new file: each release spends epsilon again. Remove the earlier head only if nobody has seen it"
    )
    check(not out.exists(), "out", str(out), rule)
    if config.tuning is not None:
        raise InputError(
            "[tuning] must be left out for a release: recipes tuned on members are covered by no guarantee;"
            " privacy.recipe = 'auto' chooses one from public features."
        )
    if train.normalize == "standardize" and train.statistics == "pool":
        raise InputError(
            "train.statistics='pool' must name a file for a release, or normalize be 'unit' or 'public': statistics of"
            " the members are covered by no guarantee."
        )
    rule = "be 'full' for a release: batches in a shared order have no proof, and a Poisson sample must stay secret"
    check(train.batch_size == "full", "train.batch_size", train.batch_size, rule)
    rule = "be 'sgd' or 'adam' for a release, of stated steps: a minimum has no proof at finite precision"
    check(train.optimizer != "newton", "train.optimizer", train.optimizer, rule)
    rule = "be 'linear' and 'features' for a release"
    check((train.network, train.inputs) == ("linear", "features"), "train.network", train.network, rule)
    rule = "be 'none' for a release: weights of the members' counts have no proof"
    check(train.class_weight == "none", "train.class_weight", train.class_weight, rule)
    for name in ("classes", "shots"):
        values = getattr(config.grid, name)
        rule = "be one number for a release: what you declare of its members"
        check(len(values) == 1, f"grid.{name}", list(values), rule)


def declared_cell(config: ExperimentConfig, data: FeatureSet, epsilon: float) -> Cell:
    """Return the declared numbers of classes and shots, with the target epsilon.

    Raises:
        InputError: if the features have other classes: which are the largest depends on the members; or no persons,
            where the unit is the person.
    """
    (classes,), (shots,) = config.grid.classes, config.grid.shots
    rule = f"be {data.num_classes}, the classes of the features: none may be chosen by its number of members"
    check(classes == data.num_classes, "grid.classes", classes, rule)
    if config.privacy_unit == "person" and data.person is None:
        raise InputError(
            f"membership.unit='person' needs to know whose each record is: {config.data.features} must hold the key"
            " 'person'."
        )
    return Cell(classes, shots, 0, epsilon)
