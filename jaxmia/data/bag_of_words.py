"""Bags of words: texts as token counts, the inputs of networks from scratch."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import unit_norm
from jaxmia.data.pool import CandidatePool

_VOCABULARY_STEP = 512  # pools of other seeds have similar numbers of tokens and so share compiled programs


def bag_of_words(pool: CandidatePool) -> CandidatePool:
    """Replace token ids by the counts of each token in an example, divided by their norm.

    A first layer on them acts as a table of embeddings: every example gets a weighted sum. The vocabulary consists of
    the candidates' tokens, of members and non-members; tokens found in the test split only are dropped. Empty columns
    pad the vocabulary to a multiple of 512.

    Args:
        pool: a pool of token ids.
    """
    vocabulary = np.unique(pool.data.features)
    vocabulary = vocabulary[vocabulary > 0]
    columns = -(-len(vocabulary) // _VOCABULARY_STEP) * _VOCABULARY_STEP

    def counted(data: FeatureSet) -> FeatureSet:
        places = np.minimum(np.searchsorted(vocabulary, data.features), len(vocabulary) - 1)
        examples, slots = np.nonzero(vocabulary[places] == data.features)
        counts = np.zeros((len(data.labels), columns), np.float32)
        np.add.at(counts, (examples, places[examples, slots]), 1)
        return unit_norm(dataclasses.replace(data, features=counts, input_shape=()))

    return CandidatePool(counted(pool.data), counted(pool.test), pool.rows)
