"""Persons in feature sets, and pools of whole persons."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmia._validate import InputError
from jaxmia.data.feature_set import feature_set, load_features, save_features
from jaxmia.data.membership import draw_membership
from jaxmia.data.persons import checked_persons, count_persons, main_class, split_persons
from jaxmia.data.pool import candidate_pool, check_candidates

KEY = jax.random.key(0)


def clinic(persons=60, classes=3, seed=0):
    """Persons with 1 to 4 records, most of them of one class."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(persons), rng.integers(1, 5, persons))
    labels = np.where(rng.random(person.size) < 0.8, person % classes, rng.integers(0, classes, person.size))
    order = rng.permutation(person.size)
    names = np.array([f"p{number:03}" for number in range(persons)])[person]
    return feature_set(rng.normal(size=(person.size, 2)), labels[order], person=names[order])


def test_persons_are_kept_in_files_and_count_in_the_hash(tmp_path):
    data = clinic()
    save_features(data, tmp_path / "a.npz")
    read = load_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.person, data.person)
    assert read.content_hash() == data.content_hash()
    without = dataclasses.replace(data, person=None)
    swapped = dataclasses.replace(data, person=data.person[::-1])
    assert len({each.content_hash() for each in (data, without, swapped)}) == 3
    assert "60 persons" in repr(data)
    save_features(without, tmp_path / "b.npz")
    assert load_features(tmp_path / "b.npz").person is None


@pytest.mark.parametrize(
    ("person", "message"),
    [
        (["a", "b"], r"person.shape=\(2,\) must be \(3,\)"),
        ([1.0, np.nan, 2.0], r"person\[1\] is missing, and 0 more"),
        ([1.0, 2.0, 2.0], "person.dtype='float64' must be integers or strings"),
        (["a", "", ""], r"person\[1\] is empty, and 1 more"),
        (["a", "b", "nan"], r"person\[2\]='nan' is what a missing value becomes as text"),
        (np.array(["a", None, "b"], object), r"person\[1\] is missing"),
    ],
)
def test_what_names_nobody_is_refused(person, message):
    with pytest.raises(InputError, match=message):
        feature_set(np.zeros((3, 1)), np.array([0, 1, 1]), person=np.asarray(person))


def test_names_are_read_as_people_have_them():
    np.testing.assert_array_equal(checked_persons(np.array([b"a ", b"a", b"b"]), 3), ["a", "a", "b"])
    np.testing.assert_array_equal(checked_persons(np.array([7, 7, 2], object), 3), [7, 7, 2])
    np.testing.assert_array_equal(checked_persons(np.array(["7", 7, 2], object), 3), ["7", "7", "2"])


def test_persons_are_counted_as_by_hand():
    person, labels = np.array([5, 5, 9, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    assert count_persons(person, labels)[:] == (3, 6, 1, 2, 3)
    np.testing.assert_array_equal(main_class(np.array([1, 1, 2, 0, 0, 0]), labels), [2, 0, 1])
    np.testing.assert_array_equal(split_persons(person, np.array([1, 1, 1, 0, 0, 1], bool)), [2])


@pytest.mark.parametrize("shots_of", ["persons", "records"])
def test_a_pool_holds_whole_persons_by_their_main_class(shots_of):
    data = clinic()
    whose = np.unique(data.person, return_inverse=True)[1]
    main = main_class(whose, data.labels)
    drawn = {"classes": 3, "key": KEY, "unit": "person", "shots_of": shots_of, "test_per_class": 7}
    pools = {shots: candidate_pool(data, shots=shots, **drawn) for shots in (3, 6)}
    for shots, pool in pools.items():
        np.testing.assert_array_equal(pool.data.person, data.person[pool.rows])
        chosen = np.unique(whose[pool.rows])
        assert np.isin(whose, chosen).sum() == len(pool.rows)  # all of their records
        records = np.bincount(whose)
        counted = [
            (records[chosen] if shots_of == "records" else np.ones(chosen.size))[main[chosen] == label].sum()
            for label in range(3)
        ]
        if shots_of == "persons":
            assert counted == [2 * shots] * 3
        else:  # the next person would have been too many
            assert all(2 * shots - 4 < number <= 2 * shots for number in counted)
        assert (np.diff(pool.data.labels) >= 0).all()
        assert not set(pool.data.person) & set(pool.test.person)
        assert max(np.bincount(pool.test.labels)) <= 7
    assert set(pools[3].rows) < set(pools[6].rows)
    records = candidate_pool(data, classes=3, shots=3, key=KEY)  # by record: as ever
    np.testing.assert_array_equal(
        records.rows, candidate_pool(dataclasses.replace(data, person=None), classes=3, shots=3, key=KEY).rows
    )


def test_a_pool_of_persons_says_what_it_lacks():
    data = clinic()
    asked = {"classes": 3, "unit": "person"}
    with pytest.raises(
        InputError, match=r"80 persons are needed for each class, but .* only \d+ persons are of"
    ):
        check_candidates(data, shots=40, shots_of="persons", **asked)
    with pytest.raises(
        InputError, match=r"400 records of persons are needed .* with \d+ records, are of class"
    ):
        check_candidates(data, shots=200, **asked)
    with pytest.raises(InputError, match="must hold any one person, but one has 4"):
        check_candidates(data, shots=1, **asked)
    with pytest.raises(InputError, match="person must be given for membership by person"):
        check_candidates(dataclasses.replace(data, person=None), shots=4, **asked)
    with pytest.raises(InputError, match="shots_of='persons' must be 'records' unless unit='person'"):
        check_candidates(data, classes=3, shots=4, shots_of="persons")


def test_persons_that_a_rate_does_not_divide_are_counted():
    with pytest.raises(InputError, match=r"needs inclusion_rate x persons to be whole, got 0\.5 x 3"):
        draw_membership(
            KEY, np.zeros(6, int), num_models=2, design="fixed_size", person=np.array([1, 1, 2, 3, 3, 3])
        )
