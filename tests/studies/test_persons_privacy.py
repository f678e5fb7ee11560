"""Private runs whose members are persons: noise, ceilings and audits by person, and a person planted to be found."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from test_persons_study import SETTINGS, clinic

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set
from jaxmia.data.membership import MembershipMasks
from jaxmia.privacy.accounting import dp_epsilon
from jaxmia.privacy.guarantee import PrivacySpec
from jaxmia.stats.resolution import clopper_pearson
from jaxmia.studies.cell import Cell, prepare_cell
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

PRIVATE = SETTINGS | {
    "grid": {"shots": [8], "classes": [3]},
    "train": {"steps": 10, "optimizer": "sgd", "learning_rate": 1.0},
    "privacy": {"epsilon": [math.inf, 4.0]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_experiment(PRIVATE, tmp_path_factory.mktemp("private") / "run", features=clinic())


@pytest.mark.thorough
def test_levels_are_of_persons_with_ceilings_and_audits(run):
    rows = run.results
    private = rows[rows["epsilon"] == 4.0]
    expected = PrivacySpec(epsilon=4.0).guarantee(
        sampling_rate=1.0, steps=10, adjacency="add_or_remove_one", unit="person"
    )
    assert (private["privacy_unit"] == "person").all()
    np.testing.assert_allclose(private["person_epsilon"], expected.epsilon)
    np.testing.assert_allclose(private["noise_multiplier"], expected.noise_multiplier)
    for fpr in (0.1, 0.01):
        np.testing.assert_allclose(
            private.loc[private["fpr"] == fpr, "tpr_ceiling"], expected.tpr_ceiling(fpr)
        )
    resolved = private[private["status"] == "ok"]
    assert (resolved["tpr_low"] <= resolved["tpr_ceiling"]).all()
    bounds = private.groupby("unit")["epsilon_lower_bound"].max()
    assert math.isnan(
        bounds["record"]
    )  # records of one person have one coin: no audit of one run holds for them
    assert 0 <= bounds["person"] <= 4
    ordinary = rows[(rows["epsilon"] == math.inf) & (rows["unit"] == "person") & (rows["fpr"] == 0.1)]
    assert ordinary["tpr"].max() > private[private["fpr"] == 0.1]["tpr"].max()


def test_training_by_record_leaves_persons_what_group_privacy_does():
    config = parse_config(PRIVATE | {"privacy": {"epsilon": [4.0], "unit": "record"}})
    data = clinic()
    recipe = prepare_cell(config, data, Cell(3, 8, 0, 4.0)).recipe
    assert recipe.config.privacy_unit == "record"
    assert recipe.guarantee.records_per_person == 4  # of clinic
    one = {"sampling_rate": 1.0, "steps": 10, "delta": 1e-5}
    noise = recipe.guarantee.noise_multiplier
    assert dp_epsilon(noise_multiplier=noise, **one) <= 4.0
    assert recipe.guarantee.epsilon == dp_epsilon(noise_multiplier=noise, **one, records_per_person=4) > 16
    by_person = prepare_cell(parse_config(PRIVATE), data, Cell(3, 8, 0, 4.0)).recipe
    assert by_person.config.privacy_unit == "person"
    assert recipe.tpr_ceiling(np.array([0.01])) > by_person.tpr_ceiling(np.array([0.01]))
    assert parse_config(PRIVATE).training_identity() != config.training_identity()


def test_what_cannot_be_had_is_refused_before_training(tmp_path):
    many = clinic()
    many = dataclasses.replace(many, person=np.where(np.arange(len(many.labels)) < 70, 0, many.person + 1))
    wide = PRIVATE | {"grid": {"shots": [40], "classes": [3]}, "membership": {"unit": "person"}}
    with pytest.raises(
        InputError, match=r"records_per_person=[0-9]+ must be at most 64: leave records of whoever"
    ):
        run_experiment(wide, tmp_path / "many", features=many)
    by_record = {key: value for key, value in PRIVATE.items() if key != "membership"}
    with pytest.raises(InputError, match=r"privacy\.unit='person' needs membership\.unit='person'"):
        parse_config(by_record | {"privacy": {"epsilon": [1.0], "unit": "person"}})
    poisson = {"steps": 5, "optimizer": "sgd", "sampling": "poisson", "batch_size": 8}
    replaced = PRIVATE | {"shadows": {"models": 33, "design": "fixed_size"}, "train": poisson}
    with pytest.raises(InputError, match="for persons whose records are sampled one by one"):
        run_experiment(
            replaced | {"privacy": {"epsilon": [1.0], "unit": "record"}}, tmp_path / "r", features=clinic()
        )


@pytest.mark.parametrize("sampling", ["shared", pytest.param("poisson", marks=pytest.mark.thorough)])
def test_a_planted_person_is_caught_above_the_ceiling_of_persons_only_under_training_by_record(sampling):
    """One of many models' persons has five equal records, far from the others' and in a class they have not.

    Each model's statistic is how far its head moved along that person's features, the best attack on this mechanism.
    """
    models, dim, others, k, steps, rate = 3000, 3, 6, 5, 4, 1.0 if sampling == "shared" else 0.4
    rng = np.random.default_rng(0)
    features = np.concatenate([0.01 * rng.normal(size=(others, dim)), np.tile([0.0, 0.0, 50.0], (k, 1))])
    labels = np.repeat([0, 1], [others, k])
    data = feature_set(features, labels, person=np.repeat(np.arange(others + 1), [1] * others + [k]))
    member = np.concatenate(
        [np.ones((models, others), bool), np.tile(np.arange(models)[:, None] % 2 == 0, (1, k))], 1
    )
    masks = MembershipMasks(
        jax.numpy.asarray(member), jax.numpy.arange(models, dtype=np.int32), "bernoulli", 0.5
    )
    recipe = {"sampling_rate": rate, "steps": steps, "adjacency": "add_or_remove_one"}
    by_record = PrivacySpec(epsilon=1.0).guarantee(**recipe)
    guarantees = {
        "record": by_record.of_persons(k),
        "person": PrivacySpec(epsilon=1.0).guarantee(**recipe, unit="person"),
    }
    fpr = 0.1
    caught = {}
    for unit, guarantee in guarantees.items():
        config = TrainConfig("sgd", steps=steps, sampling=sampling, private=True, privacy_unit=unit)
        # So small a rate that errors stay those of the start: every step clips all of the person's records alike.
        hyper = Hyperparams(
            1e-4, sampling_rate=rate, clipping_norm=1.0, noise_multiplier=guarantee.noise_multiplier
        )
        heads = train_ensemble(jax.random.key(3), data, masks, hyper, config)
        kernel = np.asarray(heads.params["params"]["kernel"])
        moved = kernel[:, 1, 2] - kernel[:, 0, 2]
        inside, outside = moved[::2], moved[1::2]
        found = int(np.sum(inside > np.quantile(outside, 1 - fpr)))
        low, high = clopper_pearson(np.array(found), np.array(len(inside)), confidence=0.999)
        caught[unit] = float(low)
        # The quantile of 1 500 draws stands for an FPR of at most this.
        assert low <= guarantee.tpr_ceiling(fpr + 4 * math.sqrt(fpr * (1 - fpr) / len(outside))), unit
        assert high >= 0.8 * guarantee.tpr_ceiling(fpr), unit  # the attack is near the best
    assert caught["record"] > guarantees["person"].tpr_ceiling(
        fpr + 4 * math.sqrt(fpr * (1 - fpr) / models * 2)
    )
