"""Scores: the log-odds of the true class of every candidate under every model, and the membership.

Attacks take nothing else. Scores are NumPy arrays, from jaxmia's own models or from any other framework.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from jaxmia._shown import Shown

if TYPE_CHECKING:
    AnyArray = np.ndarray
else:  # JAX arrays too: the attacks convert what they are given to NumPy
    AnyArray = Any
_NOT_SAID = ("log_odds", "member", "margin", "classes", "queried")
WeightsUnder = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores(Shown):
    """The input of every attack, from jaxmia's ensembles or from arrays of any framework.

    Attributes:
        log_odds: float[models, examples], z_y - logsumexp_{j != y} z_j = log p_y / (1 - p_y) of the true class.
        member: bool[models, examples], True where the example was in the model's training set.
        population_log_odds: float[models, population], the same of examples that no model trained on, or None.
        flipped_log_odds: float[models, examples], the log-odds under a model that differs only in this example's
            membership (jaxmia.ridge.paired), or None.
        prior_mean: float[2, examples], analytic means of the log-odds over models with (first row) and without the
            example, known without shadow models (jaxmia.ridge.expected), or None.
        prior_variance: float[2, examples], the analytic variances, or None.
        prior_weight: float[examples], weights of the log-odds of a person's records, at which their sum has analytic
            variance 1 over models without the person, or None.
        white_box: the statistic float[models, examples] of each method of jaxmia.attacks.weights, by name, or None.
        margin: float[models, examples], z_y - max_{j != y} z_j: positive where the decision is right; or None.
        classes: the number of classes, or None if it is not known.
        queried: by the number of noisy copies of each record, float[models, examples], the log-odds of the share of
            right decisions on the record and its copies (jaxmia.training.decisions); or None.
        weights_under: function from another membership [models, examples] to white_box under that membership, for the
            negative control, or None.

    Arrays of other frameworks may be wrong. The attacks check them and raise an InputError that names the fault, so the
    fields carry no jaxtyping shapes.
    """

    log_odds: AnyArray
    member: AnyArray
    population_log_odds: AnyArray | None = None
    flipped_log_odds: AnyArray | None = None
    prior_mean: AnyArray | None = None
    prior_variance: AnyArray | None = None
    prior_weight: AnyArray | None = None
    white_box: Mapping[str, AnyArray] | None = None
    weights_under: WeightsUnder | None = None
    margin: AnyArray | None = None
    classes: int | None = None
    queried: Mapping[int, AnyArray] | None = None

    __repr__ = Shown.__repr__

    def headline(self) -> str:
        """Return one line: sizes, share of members, and the fields that are present besides the log-odds."""
        models, examples = np.shape(self.log_odds)
        names = [field.name for field in dataclasses.fields(Scores) if field.name not in _NOT_SAID]
        more = [name for name in names if getattr(self, name) is not None]
        beside = f", with {', '.join(more)}" if more else ""
        return f"{models} models x {examples} examples, {np.mean(self.member):.0%} members{beside}"


def split_diverged(scores: Scores) -> tuple[Scores, Int[np.ndarray, "diverged"]]:
    """Return the scores of the models whose scores are all finite, and the rows of the models that diverged."""
    finite = np.isfinite(np.asarray(scores.log_odds)).all(axis=1)

    def rows(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.asarray(values)[finite]

    white_box, queried = scores.white_box, scores.queried
    kept = dataclasses.replace(
        scores,
        log_odds=np.asarray(scores.log_odds)[finite],
        member=np.asarray(scores.member)[finite],
        population_log_odds=rows(scores.population_log_odds),
        flipped_log_odds=rows(scores.flipped_log_odds),
        white_box=white_box and {name: np.asarray(values)[finite] for name, values in white_box.items()},
        margin=rows(scores.margin),
        queried=queried and {number: np.asarray(values)[finite] for number, values in queried.items()},
    )
    under = scores.weights_under
    if under is not None and not finite.all():

        def of_finite(member: np.ndarray) -> dict[str, np.ndarray]:
            everyone = np.array(scores.member)
            everyone[finite] = member
            return {name: values[finite] for name, values in under(everyone).items()}

        kept = dataclasses.replace(kept, weights_under=of_finite)
    return kept, np.flatnonzero(~finite)
