"""Small pools and ridge heads of them."""

import jax
import numpy as np

from jaxmia.data.feature_set import feature_set
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.settings import Hyperparams, TrainConfig

NEWTON = TrainConfig("newton")


def small_pool(*, examples=60, classes=3, dim=5, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    features = scale * (rng.normal(size=(examples, dim)) + 2 * np.eye(classes, dim)[labels])
    return feature_set(features.astype(np.float32), labels.astype(np.int32))


def trained(pool, masks, ridge, config=NEWTON, **options):
    hyper = Hyperparams(0.1, weight_decay=None, ridge=ridge)
    return train_ensemble(jax.random.key(0), pool, masks, hyper, config, **options)
