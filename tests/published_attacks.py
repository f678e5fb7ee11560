"""Outputs of published attack implementations, and the shadows that they select."""

import pathlib

import numpy as np

from jaxmia.scores import Scores

PUBLISHED = np.load(pathlib.Path(__file__).parent / "data" / "attacks_published.npz", allow_pickle=False)
TARGETS = slice(0, 4)  # outputs are of these targets, inputs of all 32 models


def published_scores(design) -> Scores:
    return Scores(PUBLISHED[f"{design}/stat"], PUBLISHED[f"{design}/keep"])


def cut_to(scores, target, num_in, num_out) -> Scores:
    """A target (model 0) with the first num_in IN and num_out OUT shadows of each example."""
    others = np.arange(len(scores.member)) != target
    member, log_odds = scores.member[others], scores.log_odds[others]
    rows = [
        np.take_along_axis(log_odds, np.argsort(~on_side, axis=0, kind="stable"), axis=0)[:number]
        for on_side, number in ((member, num_in), (~member, num_out))
    ]
    sides = np.repeat([True, False], [num_in, num_out])[:, None] & np.ones(member.shape[1], bool)
    return Scores(
        np.concatenate([scores.log_odds[target][None], *rows]),
        np.concatenate([scores.member[target][None], sides]),
    )


def models_without_pair(scores, target) -> list[int]:
    """The target first, then its shadows, without its complement in a paired design (2i and 2i + 1)."""
    pair = target ^ 1 if (scores.member[target] ^ scores.member[target ^ 1]).all() else target
    return [target, *(model for model in range(len(scores.member)) if model not in (target, pair))]


def without_pair(scores, target) -> Scores:
    """The scores of models_without_pair."""
    models = models_without_pair(scores, target)
    return Scores(scores.log_odds[models], scores.member[models])
