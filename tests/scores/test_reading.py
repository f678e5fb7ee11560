"""Scores of other code: every layout gives the same Scores, and unreadable input is refused with its reason."""

import numpy as np
import pytest
import references_external as references

from jaxmia import attacks
from jaxmia._validate import InputError
from jaxmia.scores import Scores
from jaxmia.scores.reading import load_scores, scores_from_arrays
from jaxmia.stats.operating_points import operating_points
from jaxmia.vulnerability.controls import permuted_control
from jaxmia.vulnerability.curves import per_example_vulnerability

MODELS, EXAMPLES, CLASSES = 6, 10, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(MODELS, EXAMPLES, CLASSES))
LABELS = RNG.integers(CLASSES, size=EXAMPLES)
MEMBER = RNG.random((MODELS, EXAMPLES)) < 0.5
LOG_ODDS = references.log_odds_of_logits(LOGITS, LABELS)
TRUE = 1 / (1 + np.exp(-LOG_ODDS))


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def padded_indices(member):
    """Indices of each model's examples, -1 where it has fewer than the largest."""
    width = member.sum(axis=1).max()
    rows = [np.flatnonzero(row) for row in member]
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows])


def change(**arrays):
    """Log-odds and mask with some arrays replaced; None takes one away."""
    merged = {"log_odds": LOG_ODDS, "member": MEMBER} | arrays
    return {key: np.asarray(value) for key, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("arrays", "rtol"),
    [
        ({"log_odds": LOG_ODDS}, 0),
        ({"logits": LOGITS, "labels": LABELS}, 1e-12),
        ({"probabilities": softmax(LOGITS), "labels": LABELS}, 1e-12),
        ({"probabilities": TRUE}, 1e-9),
        ({"probabilities": TRUE, "labels": LABELS}, 1e-9),
        ({"logits": LOGITS.astype(np.float32), "labels": LABELS}, 1e-5),
        # Three roundings of relative size 2^-24, on log-odds that are above 0.01 in size.
        ({"probabilities": softmax(LOGITS).astype(np.float32), "labels": LABELS}, 3 * 2**-24 / 0.01),
    ],
)
def test_every_kind_gives_the_same_log_odds(arrays, rtol):
    assert np.abs(LOG_ODDS).min() > 0.01
    read = scores_from_arrays({"member": MEMBER, **arrays})
    np.testing.assert_allclose(read.scores.log_odds, LOG_ODDS, rtol=rtol)
    np.testing.assert_array_equal(read.scores.member, MEMBER)
    assert read.notes == ()
    assert read.target is None


@pytest.mark.parametrize(
    "member",
    [
        MEMBER,
        MEMBER.astype(np.uint8),
        MEMBER.astype(np.int64),
        MEMBER.astype(np.float64),
        padded_indices(MEMBER),
        padded_indices(MEMBER)[:, ::-1],
    ],
    ids=["bool", "uint8", "int64", "float64", "indices", "padding first"],
)
def test_every_form_of_membership_gives_the_same_mask(member):
    read = scores_from_arrays(change(member=member))
    assert read.scores.member.dtype == bool
    np.testing.assert_array_equal(read.scores.member, MEMBER)
    if member.dtype != bool and member.min() < 0:
        np.testing.assert_array_equal(references.mask_of_indices(member, EXAMPLES), MEMBER)


def test_a_file_is_read_like_its_arrays_and_attacks_run_on_it(tmp_path):
    population = RNG.normal(size=(MODELS, 7)).astype(np.float16)
    arrays = change(labels=LABELS, target=2, population_log_odds=population, remark=np.array("ignored"))
    np.savez_compressed(tmp_path / "scores.npz", **arrays)
    read = load_scores(tmp_path / "scores.npz")
    assert read.target == 2
    np.testing.assert_array_equal(read.labels, LABELS)
    np.testing.assert_array_equal(read.scores.population_log_odds, population)
    assert read.scores.population_log_odds.dtype == np.float32
    assert attacks.rmia(read.scores).statistic.shape == (MODELS, EXAMPLES)


def test_float16_logits_do_not_overflow():
    logits = np.array([[[60000, -60000, 0], [-60000, 60000, 60000]]] * 3, np.float16)
    read = scores_from_arrays(
        {"logits": logits, "labels": np.array([0, 0]), "member": np.eye(3, 2, dtype=bool)}
    )
    # exp(60000) is beyond every float: the first is 60000 to double precision, the second -120000 - log 2.
    expected = [[60000.0, 2 * -60000 - np.log(2)]] * 3
    np.testing.assert_allclose(read.scores.log_odds, expected, rtol=2**-23)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_of_zero_and_one_are_cut_off_beyond_all_others_and_counted(dtype):
    """Half of the smallest positive one stands in for 0, half of the format's resolution below 1 for 1."""
    largest, small = np.nextafter(dtype(1), dtype(0)), dtype(2**-14.0)
    p = np.array([[0, 1, 0.3], [small, largest, 0.5], [0, 0.7, 0.9]], dtype)
    read = scores_from_arrays({"probabilities": p, "member": np.eye(3, dtype=bool)})
    expected = [[references.log_odds_of_probability(value) for value in row] for row in p[1:2]]
    np.testing.assert_allclose(read.scores.log_odds[1:2], expected, rtol=1e-6, atol=1e-12)
    grain = float(np.finfo(dtype).epsneg)
    zero = 2.0**-24 if dtype == np.float16 else min(2.0**-14, grain)
    np.testing.assert_allclose(read.scores.log_odds[0, 1], np.log(2 / grain), rtol=1e-6)
    np.testing.assert_allclose(read.scores.log_odds[0, 0], np.log(zero / 2), rtol=1e-3)
    assert "3 of 9 pairs" in read.notes[0]
    assert np.abs(read.scores.log_odds).max() < 40  # never 744


def test_classwise_probabilities_keep_what_one_minus_p_rounds_away():
    p = np.array([[[1, 1e-20], [0, 1]]] * 3, np.float32)
    read = scores_from_arrays(
        {"probabilities": p, "labels": np.array([0, 0]), "member": np.eye(3, 2, dtype=bool)}
    )
    np.testing.assert_allclose(read.scores.log_odds[:, 0], 20 * np.log(10), rtol=1e-6)
    np.testing.assert_allclose(read.scores.log_odds[:, 1], np.log(0.5e-20), rtol=1e-6)  # half of the smallest
    assert read.notes[0].startswith("3 of 6 pairs")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 1000])
def test_a_softmax_in_any_dtype_sums_to_one_closely_enough(dtype, classes):
    logits = np.random.default_rng(1).normal(scale=2, size=(3, 50, classes)).astype(dtype)
    labels = np.zeros(50, int)
    member = np.random.default_rng(2).random((3, 50)) < 0.5
    scores_from_arrays({"probabilities": softmax(logits), "labels": labels, "member": member})
    as_double = softmax(logits.astype(np.float32)).astype(np.float64)
    scores_from_arrays({"probabilities": as_double, "labels": labels, "member": member})


@pytest.mark.parametrize(
    ("arrays", "notes"),
    [
        ({"log_odds": LOG_ODDS.T, "labels": LABELS}, ["log_odds of shape (10, 6)"]),
        (
            {"log_odds": LOG_ODDS.T, "member": MEMBER.T, "labels": LABELS},
            ["log_odds", "member of shape (10, 6)"],
        ),
        ({"member": MEMBER.T, "labels": LABELS}, ["member of shape"]),
        ({"log_odds": LOG_ODDS.T, "member": padded_indices(MEMBER)}, ["log_odds of shape"]),
        (
            {"log_odds": None, "logits": LOGITS.swapaxes(0, 1), "labels": LABELS},
            ["logits of shape (10, 6, 4)"],
        ),
    ],
)
def test_transposed_arrays_are_read_where_the_shapes_tell(arrays, notes):
    read = scores_from_arrays(change(**arrays))
    np.testing.assert_allclose(read.scores.log_odds, LOG_ODDS, rtol=1e-12)
    np.testing.assert_array_equal(read.scores.member, MEMBER)
    assert len(read.notes) == len(notes)
    for note, words in zip(read.notes, notes, strict=True):
        assert note.startswith(words)


def test_more_models_than_examples_is_remarked_on_since_both_arrays_may_be_transposed():
    read = scores_from_arrays(change(log_odds=LOG_ODDS.T, member=MEMBER.T))
    assert read.scores.log_odds.shape == (EXAMPLES, MODELS)
    assert "10 models and only 6 examples" in read.notes[0]


NAN = LOG_ODDS.copy()
NAN[3, 2], NAN[4, 1] = np.nan, np.inf
UNNORMALISED = softmax(LOGITS)
UNNORMALISED[1, 4] *= 1.01


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"log_odds": None},
            r"scores=\[\] must be given under one of the keys log_odds, .* np.exp\(-losses\)",
        ),
        ({"probabilities": TRUE}, r"scores=\['log_odds', 'probabilities'\]"),
        ({"log_odds": NAN}, r"log_odds must be finite, got 2 NaN or infinite values \(first: at \(3, 2\)\)"),
        ({"log_odds": LOG_ODDS.round().astype(int)}, "log_odds.dtype='int64' must be float16"),
        ({"log_odds": LOGITS}, r"log_odds.shape=\(6, 10, 4\) must be \[models, examples\]"),
        ({"log_odds": LOG_ODDS[:0], "member": MEMBER[:0]}, "not empty"),
        ({"log_odds": None, "logits": LOGITS}, r"labels=None must be given with logits"),
        ({"log_odds": None, "logits": LOG_ODDS}, r"must be \[models, examples, classes\]"),
        ({"log_odds": None, "logits": LOGITS * 1e300, "labels": LABELS}, "be at most 1e"),
        ({"log_odds": None, "logits": LOGITS[..., :1], "labels": LABELS * 0}, "at least 2 classes"),
        (
            {"log_odds": None, "logits": LOGITS, "labels": LABELS // 3 * 9},
            r"0\.\.3, or have 4 values.* got \d+ outside \(first: example",
        ),
        ({"log_odds": None, "logits": LOGITS, "labels": LABELS[1:]}, r"labels.shape=\(9,\)"),
        (
            {"log_odds": None, "logits": LOGITS, "labels": LABELS / 2},
            "labels must be whole numbers or strings",
        ),
        ({"log_odds": None, "probabilities": TRUE * 100}, r"must lie in \[0, 1\], got \d+ outside \(first:"),
        (
            {"log_odds": None, "probabilities": UNNORMALISED, "labels": LABELS},
            r"got 1 pairs .* 1.01 at \(1, 4\)",
        ),
        ({"log_odds": None, "probabilities": softmax(LOGITS)}, "labels=None"),
        ({"member": MEMBER.T}, r"one of them is transposed, and the shapes do not show which"),
        ({"member": MEMBER[:, 1:]}, r"member.shape=\(6, 9\) must equal the \(6, 10\)"),
        ({"member": MEMBER[:, 1:].astype(int)}, r"member.shape=\(6, 9\) must equal the \(6, 10\)"),
        ({"member": MEMBER / 2}, "member.dtype='float64' must be bool, or integers"),
        ({"member": MEMBER[0]}, r"member.shape=\(10,\)"),
        ({"member": padded_indices(MEMBER)[:4]}, r"have 6 rows, one for each model"),
        (
            {"member": np.full((MODELS, 3), EXAMPLES)},
            r"0\.\.9, or -1 for none; got 18 others \(first: 10 at \(0, 0\)",
        ),
        ({"member": np.full((MODELS, 3), -2)}, r"got 18 others"),
        ({"member": np.full((MODELS, 3), 7)}, "model 0 names example 7 twice"),
        ({"population_log_odds": np.ones((5, 3))}, r"population_log_odds.shape=\(5, 3\) must have 6 rows"),
        ({"population_log_odds": np.full((6, 3), np.nan)}, "population_log_odds must be finite, got 18"),
        ({"target": 6}, r"target=6 must be the row of a model, 0\.\.5"),
        ({"target": -1}, r"target=-1"),
        ({"target": [0, 1]}, r"target=\[0, 1\] must be one integer"),
        ({"target": 1.0}, "target=1.0"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        scores_from_arrays(change(**arrays))
    np.savez(tmp_path / "bad.npz", **change(**arrays))
    with pytest.raises(InputError, match=rf"bad\.npz: .*{message}"):
        load_scores(tmp_path / "bad.npz")


def test_arrays_without_membership_are_refused():
    with pytest.raises(InputError, match="member=None must be given"):
        scores_from_arrays(change(member=None))


def test_pickles_and_damaged_files_are_refused(tmp_path):
    np.savez(tmp_path / "pickle.npz", **change(log_odds=LOG_ODDS.astype(object)))
    with pytest.raises(InputError, match="pickled objects, which are never loaded"):
        load_scores(tmp_path / "pickle.npz")
    with pytest.raises(InputError, match=r"none.npz' must be an existing .npz file"):
        load_scores(tmp_path / "none.npz")
    np.savez_compressed(tmp_path / "whole.npz", **change())
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[200:240] = bytes(40)
    (tmp_path / "damaged.npz").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_scores(tmp_path / "damaged.npz")


@pytest.mark.parametrize(
    "values", [[0, 1, 2], [1, 2, 3], [5.0, 7.0, 900.0], ["ant", "bee", "cat"], [-1, 0, 1]]
)
def test_labels_of_scores_are_columns_or_values_in_the_order_of_the_columns(values):
    logits = np.random.default_rng(0).normal(size=(4, 6, 3))
    places = np.array([0, 1, 2, 2, 0, 1])
    member = np.eye(4, 6, dtype=bool)
    wanted = scores_from_arrays({"logits": logits, "labels": places, "member": member})
    given = scores_from_arrays({"logits": logits, "labels": np.array(values)[places], "member": member})
    np.testing.assert_array_equal(given.scores.log_odds, wanted.scores.log_odds)
    np.testing.assert_array_equal(given.labels, places)
    more = np.array([*values[:2], "x"] if isinstance(values[0], str) else [*values[:2], 1000])[places]
    with pytest.raises(InputError, match=r"labels must lie in 0..3, or have 4 values"):
        scores_from_arrays({"logits": np.zeros((4, 6, 4)), "labels": more, "member": member})


def test_every_attack_takes_what_was_read():
    rng = np.random.default_rng(3)
    member = rng.random((12, 40)) < 0.5
    arrays = {"log_odds": rng.normal(size=member.shape) + member, "member": member}
    arrays["population_log_odds"] = rng.normal(size=(12, 30))
    read, plain = scores_from_arrays(arrays | {"target": np.array(2)}), Scores(**arrays)
    for name in set(attacks.REGISTRY) - attacks.READS_WEIGHTS - attacks.READS_PRIOR:
        options = {"features": rng.normal(size=(40, 3))} if name == "quantile" else {}
        found, wanted = (attacks.REGISTRY[name](scores, **options) for scores in (read, plain))
        np.testing.assert_array_equal(found.statistic, wanted.statistic, err_msg=name)
        points = operating_points(found, 0.1)
        assert points == operating_points(wanted, [0.1])
    for name in attacks.READS_WEIGHTS | attacks.READS_PRIOR:  # which scores from elsewhere have not
        with pytest.raises(InputError, match=r"white_box|prior"):
            attacks.REGISTRY[name](read)
    curve = per_example_vulnerability(read, 0.1)
    np.testing.assert_array_equal(curve.tpr, per_example_vulnerability(plain, 0.1).tpr)
    assert permuted_control(attacks.lira, read, 0.1, seed=0) == permuted_control(
        attacks.lira, plain, 0.1, seed=0
    )
    assert read.scores is read
    assert repr(read) == (
        "ExternalScores: 12 models x 40 examples, "
        f"{member.mean():.0%} members, with population_log_odds; row 2 under audit"
    )
