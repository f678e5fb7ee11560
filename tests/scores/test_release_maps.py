"""Release maps: what an actor sees of probabilities is what a service that prints them would show."""

import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.scores import Scores
from jaxmia.scores.reading import scores_from_arrays
from jaxmia.scores.release import RELEASES, log_odds_of_share, not_to_be_had, parse_release, released
from jaxmia.scores.rounding import Rounding


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return powers / powers.sum(axis=2, keepdims=True)


@pytest.fixture(scope="module", params=[2, 5])
def outputs(request):
    """Logits [models, examples, classes], labels and membership."""
    rng = np.random.default_rng(request.param)
    logits, labels = 3 * rng.normal(size=(6, 40, request.param)), rng.integers(request.param, size=40)
    return logits, labels, rng.random((6, 40)) < 0.5


def read(logits, labels, member, kind="logits"):
    return scores_from_arrays({kind: logits, "labels": labels, "member": member})


def seen(outputs, name):
    return np.asarray(released(read(*outputs), parse_release(name)).log_odds)


def test_decisions_are_those_of_the_largest_output(outputs):
    logits, labels, _ = outputs
    right = logits.argmax(axis=2) == labels
    np.testing.assert_array_equal(seen(outputs, "labels") > 0, right)
    assert len(np.unique(seen(outputs, "labels"))) == 2
    by_probability = read(softmax(logits), *outputs[1:], kind="probabilities")
    np.testing.assert_array_equal(np.asarray(by_probability.margin) > 0, right)


def test_top1_shows_the_decision_and_its_probability_alone(outputs):
    logits, labels, _ = outputs
    p = softmax(logits)
    top, right = p.max(axis=2), p.argmax(axis=2) == labels
    spread = np.where(right, top, (1 - top) / (p.shape[2] - 1))
    np.testing.assert_allclose(seen(outputs, "top1"), np.log(spread / (1 - spread)), rtol=1e-9, atol=1e-9)
    # Nothing but the decision and its probability enters: other values for the other classes change nothing.
    shuffled, rows = np.array(logits), np.arange(40)
    order = np.argsort(logits, axis=2)
    for model in range(6):
        shuffled[model][rows[:, None], order[model, :, :-1]] = logits[model][
            rows[:, None], order[model, :, -2::-1]
        ]
    same_decision = (shuffled.argmax(axis=2) == logits.argmax(axis=2)).all()
    assert same_decision
    np.testing.assert_allclose(seen((shuffled, *outputs[1:]), "top1"), seen(outputs, "top1"), rtol=1e-9)


def test_two_classes_hide_nothing_behind_the_decisions_probability(outputs):
    if outputs[0].shape[2] == 2:
        np.testing.assert_allclose(seen(outputs, "top1"), seen(outputs, "logits"), rtol=1e-6, atol=1e-9)


def test_rounded_probabilities_are_those_that_a_service_prints():
    # Two classes: rounding all probabilities, and reading them again, is the map on the log-odds.
    rng = np.random.default_rng(0)
    logits, labels = 2 * rng.normal(size=(6, 300, 2)), rng.integers(2, size=300)
    member = rng.random((6, 300)) < 0.5
    printed = np.round(softmax(logits), 2)
    again = read(printed, labels, member, kind="probabilities")
    assert again.rounding == Rounding(0.01, decimals=2)
    np.testing.assert_allclose(
        seen((logits, labels, member), "rounded:2"), again.log_odds, rtol=1e-9, atol=1e-9
    )


def test_exact_releases_are_the_scores_themselves(outputs):
    scores = read(*outputs)
    assert released(scores, parse_release("probabilities")).log_odds is scores.log_odds
    assert released(scores, parse_release("logits")).log_odds is scores.log_odds
    far = Scores(np.array([[200.0, -200.0], [1.0, 2.0]]), np.eye(2, dtype=bool))
    np.testing.assert_allclose(
        np.abs(released(far, parse_release("probabilities")).log_odds).max(), 87.3, atol=0.1
    )


def test_what_a_map_does_not_let_through_is_dropped(outputs):
    plain = read(*outputs)
    more = {
        "flipped_log_odds": plain.log_odds,
        "prior_mean": np.ones((2, 40)),
        "white_box": {"mahalanobis": plain.log_odds},
    }
    scores = Scores(plain.log_odds, plain.member, margin=plain.margin, classes=plain.classes, **more)
    assert released(scores, parse_release("weights")) is scores
    logits = released(scores, parse_release("logits"))
    assert logits.white_box is None
    assert logits.flipped_log_odds is scores.flipped_log_odds
    for name in ("rounded:1", "top1", "labels"):
        coarse = released(scores, parse_release(name))
        assert (coarse.white_box, coarse.flipped_log_odds, coarse.prior_mean) == (None, None, None)


def test_a_share_of_right_decisions_is_finite_and_ordered():
    values = log_odds_of_share(np.arange(10), 8)
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, -values[::-1], atol=1e-12)


@pytest.mark.parametrize(
    "name", ["labels", "labels:64", "top1", "rounded:2", "probabilities", "logits", "weights"]
)
def test_names_are_read_and_written_back(name):
    assert str(parse_release(name)) == name
    assert parse_release(name).words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "weights:2",
            "release='weights:2' must be 'weights' without a number; only 'rounded:DECIMALS' rounds",
        ),
        ("rounded", "must be one of " + ", ".join(RELEASES)),
        ("rounded:0", "must be one of"),
        ("rounded:13", "a number of at most 12"),
        ("labels:1000000", "must be one of"),
        ("gradients", "must be one of"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        parse_release(name)


def test_it_says_why_scores_cannot_be_seen_so():
    plain = Scores(np.zeros((3, 2)), np.eye(3, 2, dtype=bool))
    rounding = Rounding(0.01, decimals=2)
    assert "decisions are not known" in not_to_be_had(plain, parse_release("labels"))
    assert "noisy copies" in not_to_be_had(plain, parse_release("labels:8"))
    assert "weights are not known" in not_to_be_had(plain, parse_release("weights"))
    assert not not_to_be_had(plain, parse_release("rounded:2"), rounding)
    assert "rounded to 2 decimals" in not_to_be_had(plain, parse_release("rounded:3"), rounding)
    assert "rounded to 2 decimals" in not_to_be_had(plain, parse_release("logits"), rounding)
    with pytest.raises(InputError, match="release='labels' must be one that these scores have"):
        released(plain, parse_release("labels"))
