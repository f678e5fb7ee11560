import jax
import numpy as np
import pytest
import scipy.stats

from jaxmia._validate import InputError
from jaxmia.data.membership import draw_membership

KEY = jax.random.key(3)
LABELS = np.repeat(np.arange(4), 30)


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_bernoulli_counts_follow_the_binomial(rate):
    member = np.asarray(draw_membership(KEY, LABELS, num_models=400, inclusion_rate=rate).member)
    total = member.size
    low, high = scipy.stats.binom.ppf([5e-5, 1 - 5e-5], total, rate)
    assert low <= member.sum() <= high
    # Independent rows and columns: the counts per model have the binomial variance (chi-square of 399 degrees).
    variance = member.sum(axis=1).var(ddof=1) / (LABELS.size * rate * (1 - rate))
    assert scipy.stats.chi2.ppf(5e-5, 399) / 399 < variance < scipy.stats.chi2.isf(5e-5, 399) / 399


@pytest.mark.parametrize(("rate", "each"), [(0.5, 15), (1 / 3, 10)])
def test_fixed_size_takes_exactly_its_share_of_each_class(rate, each):
    shuffled = np.random.default_rng(0).permutation(LABELS)
    member = np.asarray(
        draw_membership(KEY, shuffled, num_models=200, design="fixed_size", inclusion_rate=rate).member
    )
    for label in range(4):
        np.testing.assert_array_equal(member[:, shuffled == label].sum(axis=1), each)
    # Every candidate is as likely as any other: binomial counts over models.
    low, high = scipy.stats.binom.ppf([1e-6, 1 - 1e-6], 200, rate)
    assert np.all((low <= member.sum(axis=0)) & (member.sum(axis=0) <= high))


@pytest.mark.parametrize("design", ["bernoulli", "fixed_size"])
def test_a_row_depends_on_its_model_id_alone(design):
    whole = draw_membership(KEY, LABELS, num_models=9, design=design)
    part = draw_membership(KEY, LABELS, num_models=4, design=design, first_model=5)
    np.testing.assert_array_equal(whole.member[5:], part.member)
    np.testing.assert_array_equal(whole.model_ids[5:], part.model_ids)
    assert len(np.unique(np.asarray(whole.member), axis=0)) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_models": 0}, "num_models=0"),
        ({"design": "poisson"}, "design='poisson' must be one of"),
        ({"inclusion_rate": 1.0}, "inclusion_rate=1.0"),
        ({"design": "fixed_size", "inclusion_rate": 0.49}, "0.49 x 30"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        draw_membership(KEY, LABELS, **({"num_models": 3} | options))


@pytest.mark.parametrize("design", ["bernoulli", "fixed_size"])
def test_persons_are_in_with_all_of_their_records_or_none(design):
    person = np.array(["a", "b", "a", "c", "d", "d", "d", "b"])
    labels = np.arange(8) % 2
    masks = draw_membership(KEY, labels, num_models=400, design=design, person=person)
    member = np.asarray(masks.member)
    for name in "abcd":
        own = member[:, person == name]
        assert (own == own[:, :1]).all()
        # 400 draws at 1/2: five standard deviations are 50.
        assert abs(own[:, 0].sum() - 200) < 50
    persons = np.stack([member[:, person == name][:, 0] for name in "abcd"], axis=1)
    if design == "fixed_size":
        assert (persons.sum(axis=1) == 2).all()
    again = draw_membership(KEY, labels, num_models=3, design=design, person=person, first_model=7)
    np.testing.assert_array_equal(again.member, member[7:10])
    with pytest.raises(InputError, match=r"person\[0\] is empty"):
        draw_membership(KEY, labels, num_models=1, person=np.array(["", *"bacdddb"]))
