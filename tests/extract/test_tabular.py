"""Tables without a network: features by a second derivation, and what cannot be features."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import jaxmia

from jaxmia import load_features
from jaxmia._validate import InputError
from jaxmia.extract import Columns, TabularOptions, extract_features

pytest.importorskip("skops")
ROWS = 40


@pytest.fixture
def people():
    """40 rows: two numbers (one with gaps), words, codes whose digits are names, a key."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "key": [f"p{row:02}" for row in range(ROWS)],
            "age": rng.integers(20, 80, ROWS).astype(float),
            "weight": rng.normal(70, 9, ROWS).round(1),
            "region": rng.choice(["north", "south", "007"], ROWS),
            "plan": rng.integers(1, 4, ROWS),
            "outcome": rng.choice(["well", "ill"], ROWS),
            "was_in": np.arange(ROWS) % 2,
        }
    )
    frame.loc[[3, 8], "age"] = np.nan
    frame.loc[5, "region"] = None
    return frame


def extracted(frame, folder, *, backbone="tabular", out="out.npz", suffix=".csv", **options):
    path = folder / f"people{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    columns = Columns(label="outcome", id="key", member="was_in")
    table = TabularOptions(**options)
    done = extract_features(path, backbone, folder / out, columns=columns, table=table)
    return done, load_features(folder / out).features


def by_hand(frame):
    """Standardised numbers with medians where they are missing, indicators of that, one-hot categories."""
    age = frame["age"].fillna(frame["age"].median())
    numbers = np.column_stack([age, frame["weight"], frame["age"].isna()]).astype(float)
    numbers = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    region = frame["region"].fillna("none given").to_numpy(str)
    plan = frame["plan"].to_numpy()
    one_hot = [region == name for name in ("007", "north", "south", "none given")]
    return np.column_stack([numbers, *one_hot, *(plan == value for value in (1, 2, 3))])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_features_are_standardised_numbers_and_one_hot_categories(people, tmp_path, suffix):
    done, features = extracted(people, tmp_path, suffix=suffix, fourier=0, categories=("plan",))
    np.testing.assert_allclose(features, by_hand(people), atol=2e-6)
    said = " ".join(done.provenance["notes"])
    assert "2 columns of numbers (age, weight) and 2 columns of categories (region, plan)" in said
    assert "Missing values: age 2, region 1" in said
    assert "Estimated from all 40 rows, members or not, without their classes" in said
    assert (done.dim, done.class_names, done.skipped) == (10, ("ill", "well"), 0)


def test_fourier_features_approximate_the_gaussian_kernel(people, tmp_path):
    width = 4096
    done, features = extracted(people, tmp_path, fourier=width, seed=5, categories=("plan",))
    plain = by_hand(people)
    gamma = 1 / (plain.shape[1] * plain.var())
    squares = np.sum((plain[:, None] - plain[None]) ** 2, axis=2)
    # Each product is a mean of 4 096 of 2 cos cos, of variance at most 1 + 1/2 (Rahimi and Recht, claim 1).
    np.testing.assert_allclose(features @ features.T, np.exp(-gamma * squares), atol=5 * np.sqrt(1.5 / width))
    assert f"{width} random Fourier features (seed 5, gamma {gamma:.3g})" in done.provenance["notes"][0]
    _, other = extracted(people, tmp_path, out="other.npz", fourier=width, seed=6, categories=("plan",))
    assert not np.allclose(features, other)


def test_a_saved_transformer_gives_the_same_features_and_estimates_nothing(people, tmp_path):
    import skops.io

    file = tmp_path / "people.skops"
    _, features = extracted(people, tmp_path, fourier=16, categories=("plan",), transformer=file)
    new = people.iloc[:7].copy()
    new.loc[2, "region"] = "west"
    done, again = extracted(new, tmp_path, backbone=f"tabular:{file}", out="again.npz")
    same = np.arange(7) != 2
    np.testing.assert_array_equal(again[same], features[:7][same])
    assert not np.allclose(again[2], features[2])
    assert done.provenance["notes"] == [
        "Features by people.skops: nothing was estimated from these rows.",
        "Categories unknown to people.skops, encoded as no category: region 1.",
    ]
    pipeline = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    frame = people.assign(
        plan=people["plan"].astype(str).astype(object), region=people["region"].astype(object)
    )
    np.testing.assert_allclose(pipeline.transform(frame), features, atol=1e-6)


def test_labels_and_membership_do_not_move_features(people, tmp_path):
    _, features = extracted(people, tmp_path, fourier=8)
    changed = people.assign(outcome=people["outcome"].to_numpy()[::-1], was_in=1 - people["was_in"])
    _, again = extracted(changed, tmp_path, out="again.npz", fourier=8)
    np.testing.assert_array_equal(features, again)


BAD = {
    "text": (
        {"note": [f"patient {row} came" for row in range(ROWS)] + ["x"] * 200},
        "column='note' must have at most 200 categories, got 201",
    ),
    "mixed": (
        {"age": ["41"] * (ROWS - 1) + ["unknown"]},
        "column='age' must hold only numbers; 1 of 40 values are none (first: 'unknown')",
    ),
    "empty": ({"age": [None] * ROWS}, "column='age' must hold values; it has none in 40 rows: --drop age"),
    "infinite": ({"age": ["inf"] * ROWS}, "column age='inf' must hold finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_feature_is_refused_by_name(people, tmp_path, name):
    column, message = BAD[name]
    rows = len(next(iter(column.values())))
    if name == "text":
        column = {"note": [f"patient {row} came" for row in range(201)]}
        people = pd.concat([people] * 6, ignore_index=True).iloc[:201]
        people["key"] = np.arange(201).astype(str)
        rows = 201
    assert rows == len(people)
    with pytest.raises(InputError) as caught:
        extracted(people.assign(**column), tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "out.npz").exists()
    extracted(people.assign(**column), tmp_path, drop=tuple(column))  # what the message says to do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ("agee",)}, "drop='agee' must be one of"),
        ({"categories": ("outcome",)}, "categories='outcome' must be one of"),
        ({"drop": ("age",), "categories": ("age",)}, "categories=['age'] must be left out of drop"),
        ({"drop": ("age", "weight", "region", "plan")}, "must hold one beside"),
        ({"fourier": -1}, "fourier=-1 must be an integer of at least 0"),
        ({"seed": 2**32}, "seed=4294967296 must be below 2**32"),
    ],
)
def test_bad_options_are_refused(people, tmp_path, options, message):
    with pytest.raises(InputError) as caught:
        extracted(people, tmp_path, **options)
    assert message in str(caught.value)


def test_values_that_are_neither_numbers_nor_words_are_refused(people, tmp_path):
    with pytest.raises(InputError, match="column='codes' must hold numbers or words, got a list"):
        extracted(people.assign(codes=[[1, 2]] * ROWS), tmp_path, suffix=".jsonl")


def test_a_file_that_is_no_transformer_is_refused(people, tmp_path):
    import skops.io
    from sklearn.linear_model import LogisticRegression

    bad = tmp_path / "bad.skops"
    bad.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"must be a readable \.skops file"):
        extracted(people, tmp_path, backbone=f"tabular:{bad}")
    skops.io.dump(LogisticRegression(), bad)
    with pytest.raises(InputError, match="must hold a transformer that --save-transformer wrote"):
        extracted(people, tmp_path, backbone=f"tabular:{bad}")
    skops.io.dump(np.random.default_rng(0).normal, bad)
    with pytest.raises(InputError, match="must hold a transformer of scikit-learn alone"):
        extracted(people, tmp_path, backbone=f"tabular:{bad}")
    file = tmp_path / "people.skops"
    extracted(people, tmp_path, transformer=file)
    with pytest.raises(InputError, match=r"columns of people.skops that the table lacks=\['age'\]"):
        extracted(people.drop(columns="age"), tmp_path, backbone=f"tabular:{file}", out="new.npz")


def test_what_may_be_a_mistake_is_said(people, tmp_path):
    done, _ = extracted(people.assign(number=np.arange(ROWS), site=3), tmp_path)
    said = " ".join(done.provenance["notes"])
    assert (
        "Columns with a different whole number in every row, probably a key (--drop leaves it out): number."
        in said
    )
    assert "Columns with a single value, without information: site." in said


def test_the_command_line(people, tmp_path, capsys):
    people.to_csv(tmp_path / "people.csv", index=False)
    words = ("--label-column", "outcome", "--drop", "key", "--drop", "was_in", "--categories", "plan")
    out = tmp_path / "out.npz"
    code, printed, said = jaxmia(
        capsys,
        "extract",
        tmp_path / "people.csv",
        "--backbone",
        "tabular",
        *words,
        "--fourier",
        12,
        "--out",
        out,
    )
    assert (code, "40 items, 2 classes" in printed, "12 random Fourier features" in printed + said) == (
        0,
        True,
        True,
    )
    assert json.loads(str(np.load(out)["provenance"]))["backbone"]["seed"] == 0
    bad = ("extract", tmp_path, "--backbone", "tabular", "--out", tmp_path / "no.npz")
    code, _, said = jaxmia(capsys, *bad)
    assert code == 2
    assert "must be a .csv, .parquet or .jsonl for a tabular backbone" in " ".join(said.split())
    code, _, said = jaxmia(
        capsys,
        "extract",
        tmp_path,
        "--backbone",
        "timm:resnet18",
        "--drop",
        "x",
        "--out",
        tmp_path / "no.npz",
    )
    assert code == 2


def test_a_column_says_whose_the_rows_are(people, tmp_path, capsys):
    """The column is not a feature, and load_features passes the file's persons to audits and runs."""
    people["patient"] = np.repeat(np.arange(ROWS // 4), 4).astype(float)
    people.to_csv(tmp_path / "people.csv", index=False)
    words = ("extract", tmp_path / "people.csv", "--backbone", "tabular", "--label-column", "outcome")
    words += ("--id-column", "key", "--member-column", "was_in", "--fourier", "0")
    code, _, said = jaxmia(capsys, *words, "--person-column", "patient", "--out", tmp_path / "a.npz")
    assert code == 0, said
    data = load_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.person, [str(row // 4) for row in range(ROWS)])
    left_out = people.drop(columns="patient")
    _, alone = extracted(left_out, tmp_path, fourier=0)
    np.testing.assert_array_equal(data.features, alone)
    people.loc[2, "patient"] = None
    people.to_csv(tmp_path / "people.csv", index=False)
    code, _, said = jaxmia(capsys, *words, "--person-column", "patient", "--out", tmp_path / "b.npz")
    assert code == 2
    assert "'p02': missing person" in " ".join(said.split())
