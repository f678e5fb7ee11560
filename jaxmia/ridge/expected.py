"""Vulnerability without shadows: each record's separation over re-trainings of a ridge head, from the pool alone.

Means and covariances of scores with and without a record or a person follow from the cavity method
(jaxmia.ridge.cavity). A person's score is the sum of its records' log-odds weighed by Fisher's discriminant, as in
jaxmia.attacks.persons.weighed_person_scores, here of the analytic moments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from jaxmia._buckets import in_float32
from jaxmia._validate import check, check_fpr
from jaxmia.attacks.persons import discriminant, person_scores
from jaxmia.data.feature_set import FeatureSet
from jaxmia.data.normalization import in_span
from jaxmia.data.persons import grouped
from jaxmia.ridge import cavity
from jaxmia.ridge.influence import check_size
from jaxmia.ridge.units import Layout, by_record, by_unit, group_shapes, groups_of, layouts
from jaxmia.scores import Scores
from jaxmia.training.contrasts import with_bias
from jaxmia.training.newton import ABSENT

_ITERATIONS = 30
# Tolerance: error of the blocks relative to the largest, and of the head relative to its norm.
_ENOUGH = 3e-3
_COMPARED = 0.9  # largest fluctuation at which results were compared with shadows: docs/frontier.md


class ByRecord(NamedTuple):
    """The moments of single records' scores where persons are members.

    Attributes:
        person: [examples], the person of each record.
        mean: float64[2, examples], mean log-odds over heads with and without the record's person, in nats.
        variance: float64[2, examples].
        weight: float64[examples], of the record in its person's sum; |weight| of a person's records adds up to 1.
    """

    person: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class AnalyticVulnerability:
    """The moments of shadow scores, for every record or person, without shadows.

    Units are records, or persons, ascending by name. The score of a person is the weighted sum of their records'
    log-odds.

    Attributes:
        ridge: lambda.
        inclusion_rate: r.
        mean_in: float64[units], mean log-odds over heads trained with the unit, in nats.
        mean_out: float64[units], the same over heads trained without it.
        std_in: float64[units], standard deviation over heads trained with the unit, in nats.
        std_out: float64[units], the same over heads trained without it.
        separation: float64[units], D = (mean_in - mean_out) / s, where s² is the mean of both variances;
            per_example_vulnerability estimates it from shadows.
        leverage: float64[units], trace of B_i Gamma_i, the generalised leverage: the effect of a unit on its own
            logits, for any label. It needs only the blocks, and ranks records less well than D.
        fluctuation: root mean square standard deviation of the candidates' logits over heads without them.
        warnings: reasons why the results may be inaccurate; empty inside the tested range.
        by_record: the moments of persons' single records; None if units are records.
    """

    ridge: float
    inclusion_rate: float
    mean_in: np.ndarray
    mean_out: np.ndarray
    std_in: np.ndarray
    std_out: np.ndarray
    separation: np.ndarray
    leverage: np.ndarray
    fluctuation: float
    warnings: tuple[str, ...]
    by_record: ByRecord | None = None

    def prior(self) -> dict[str, np.ndarray]:
        """Return the fields prior_mean and prior_variance of Scores, for records; by person also prior_weight."""
        found = self.by_record
        if found is None:
            return {
                "prior_mean": np.stack([self.mean_in, self.mean_out]),
                "prior_variance": np.stack([self.std_in**2, self.std_out**2]),
            }
        scale = self.std_out[grouped(found.person)[1]]
        return {
            "prior_mean": found.mean,
            "prior_variance": found.variance,
            "prior_weight": found.weight / scale,
        }

    def records(self) -> AnalyticVulnerability:
        """Return the moments of single records, each attacked by itself; by person, persons are drawn as members."""
        found = self.by_record
        if found is None:
            return self
        (mean_in, mean_out), (std_in, std_out) = found.mean, np.sqrt(found.variance)
        return dataclasses.replace(
            self,
            mean_in=mean_in,
            mean_out=mean_out,
            std_in=std_in,
            std_out=std_out,
            separation=(mean_in - mean_out) / np.sqrt(found.variance.mean(axis=0)),
            leverage=np.full(mean_in.shape, np.nan),
            by_record=None,
        )

    def of_units(self, scores: Scores) -> Scores:
        """Return the scores of units from those of records: by person, the weighted sums."""
        if self.by_record is None:
            return scores
        weighed = dataclasses.replace(scores, log_odds=np.asarray(scores.log_odds) * self.by_record.weight)
        return person_scores(weighed, self.by_record.person).scores

    def tpr(
        self, fpr: float, tails: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Float[np.ndarray, "units"]:
        """Return each unit's TPR at one FPR per unit.

        The upper tails of ridge heads' log-odds are lighter than Gaussian, by an amount that means and deviations do
        not determine. With tails from a few heads (jaxmia.ridge.triage.ridge_tails) both sides keep their own
        deviation: 1 - F_in((mean_out + F_out^-1(1 - fpr) std_out - mean_in) / std_in). Without tails, the TPR is
        Phi(Phi^-1(fpr) + D).

        Args:
            fpr: FPR of every unit.
            tails: standardised residuals of members and non-members, ascending.

        Raises:
            InputError: if fpr is outside (0, 1).
        """
        check_fpr("fpr", fpr)
        if tails is None:
            return norm.cdf(norm.ppf(fpr) + self.separation)
        inside, outside = tails
        threshold = self.mean_out + np.quantile(outside, 1 - fpr) * self.std_out
        t = (threshold - self.mean_in) / self.std_in
        return 1 - np.searchsorted(inside, t, side="left") / inside.size

    def ranking(self) -> np.ndarray:
        """Return the indices int64[units] of the units, the most vulnerable first."""
        return np.argsort(-self.separation, kind="stable")


@in_float32
def analytic_vulnerability(
    pool: FeatureSet,
    *,
    ridge: float,
    inclusion_rate: float = 0.5,
    memory: int | None = None,
    person: np.ndarray | None = None,
) -> AnalyticVulnerability:
    """Return every record's separation over re-trainings on random subsets of the pool, without training.

    The heads are those of optimizer="newton" with this ridge (scikit-learn's LogisticRegression with C = 1 / ridge),
    each trained on every candidate independently with probability r, or with person on all records of every person.
    docs/frontier.md and docs/persons.md compare the results with shadows.

    Args:
        pool: the candidates.
        ridge: lambda, above 0: scikit-learn's 1 / C.
        inclusion_rate: r.
        memory: largest number of bytes for the Hessian, its factor and inverse, and arrays over records; 8 GiB by
            default.
        person: [examples], integers or strings, the person of each candidate: results are then by person.

    Raises:
        InputError: for a ridge that is not positive, r outside (0, 1), a class without records, missing persons, or a
            Hessian that does not fit into memory or that float32 cannot factorise.
    """
    check(0 < ridge < np.inf, "ridge", ridge, "be a finite number above 0")
    check(0 < inclusion_rate < 1, "inclusion_rate", inclusion_rate, "lie strictly between 0 and 1")
    counts = np.bincount(pool.labels, minlength=pool.num_classes)
    check(int(counts.min()) > 0, "records of the smallest class", int(counts.min()), "be at least 1")
    placed = layouts(len(pool.labels), person)
    features = pool.features if len(pool.labels) >= pool.features.shape[1] else in_span(pool.features)[0]
    check_size(pool.num_classes, features.shape[1] + 1, group_shapes(len(pool.labels), person), memory)
    labels, inputs = jnp.asarray(pool.labels), with_bias(jnp.asarray(features))
    groups = groups_of(placed, inputs, labels, pool.num_classes)
    average = cavity.start(jnp.asarray(features), labels, groups, ridge, inclusion_rate)
    before = 0.0
    for step in range(_ITERATIONS):
        point = cavity.iterated(average, groups, ridge, inclusion_rate)
        change = float(point.change)
        if step == 0 and not np.isfinite(change):  # one curvature for all is too far off at small ridges
            average = cavity.without_blocks(average)
            continue
        check(np.isfinite(change), "ridge", ridge, "be larger: float32 cannot factorise the Hessian")
        average = point.average
        # Steps converge linearly: those to come would add up to a geometric series.
        left = min(change, change * change / (before - change)) if change < before else change
        if left < _ENOUGH or step == _ITERATIONS - 1:
            break
        before = change
        del point  # frees its inverse before the next step allocates one
    moments, fluctuation = cavity.moments(point, groups, inclusion_rate)
    if person is not None:
        counts = _persons_of_classes(person, pool.labels, pool.num_classes)
    warnings = _warnings(left, float(fluctuation), float(np.sum((1 - inclusion_rate) ** counts)))
    found: dict[str, Any] = {"leverage": by_unit(placed, [group[2] for group in moments]).astype(np.float64)}
    found |= {"ridge": ridge, "inclusion_rate": inclusion_rate, "warnings": tuple(warnings)}
    return _collected(placed, moments, person, found | {"fluctuation": float(fluctuation)})


def _persons_of_classes(person: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    pairs = np.unique(np.stack([grouped(np.asarray(person))[1], labels]), axis=1)
    return np.bincount(pairs[1], minlength=num_classes)


def _collected(
    placed: Sequence[Layout],
    moments: Sequence[tuple[Any, ...]],
    person: np.ndarray | None,
    found: dict[str, Any],
) -> AnalyticVulnerability:
    """Return the result from jaxmia.ridge.cavity.moments of every group, and its other fields."""
    sides, of_records, weights = [], [], []
    for group in moments:
        means, covariances = np.asarray(group[0], np.float64), np.asarray(group[1], np.float64)
        variances = np.diagonal(covariances, axis1=2, axis2=3)
        weight = np.ones_like(means[:, 0])
        if person is not None:
            weight = discriminant(covariances.mean(axis=1), means[:, 0] - means[:, 1])
        summed = (means * weight[:, None]).sum(axis=2)
        spread = np.einsum("uk,uskl,ul->us", weight, covariances, weight)
        sides.append(np.stack([summed, spread], axis=1))
        of_records.append(np.stack([means, variances], axis=1))
        weights.append(weight)
    (mean_in, mean_out), (variance_in, variance_out) = by_unit(placed, sides).transpose(1, 2, 0)
    by_person = None
    if person is not None:
        mean, variance = (
            np.stack([by_record(placed, [group[:, kind, side] for group in of_records]) for side in range(2)])
            for kind in range(2)
        )
        by_person = ByRecord(np.asarray(person), mean, variance, by_record(placed, weights))
    return AnalyticVulnerability(
        mean_in=mean_in,
        mean_out=mean_out,
        std_in=np.sqrt(variance_in),
        std_out=np.sqrt(variance_out),
        separation=(mean_in - mean_out) / np.sqrt((variance_in + variance_out) / 2),
        by_record=by_person,
        **found,
    )


def _warnings(change: float, fluctuation: float, absent: float) -> Sequence[str]:
    warnings = []
    if absent > ABSENT:
        warnings.append(
            f"A share of {absent:.2g} of all heads has no member of some class, and unbounded log-odds"
            " of its records. The estimates leave such heads out."
        )
    if change >= _ENOUGH:
        warnings.append(
            f"The average head did not converge: after {_ITERATIONS} steps it changes by {change:.2g}."
        )
    if fluctuation > _COMPARED:
        warnings.append(
            f"Logits vary by {fluctuation:.2g} between heads (ridge too small for so many records): estimates were"
            f" compared with shadows up to {_COMPARED} only."
        )
    return warnings
