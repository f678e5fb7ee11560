"""What a finding says in each case, from numbers; and how numbers stand to a declared limit."""

import pytest

from jaxmia.tables import Measured, Table
from jaxmia.tables.finding import Finding, Limit, alarms, limit_sentence, sentences, share, verdict
from jaxmia.tables.reasons import explained, grouped

FOUND = Measured(0.07, 0.05, 0.09)
WORST = Measured(0.99, 0.96, 1.0)
FINDING = Finding("the model's probabilities", 0.01, FOUND, WORST, 0.01, "4711")


def said(**changes):
    return " ".join(sentences(Finding(**({**FINDING.__dict__, **changes}))))


def test_an_ordinary_finding_names_how_many_and_whom():
    assert said() == (
        "An attacker who sees the model's probabilities and accepts one false alarm in a hundred recognises about 7 in"
        " 100 of the records in the training data (95% interval: 5 in 100 to 9 in 100); guessing would recognise 1 in"
        " 100. The record most at risk, 4711, is nearly always recognised at that rate of false alarms (95% interval:"
        " 96 in 100 to 100 in 100)."
    )
    assert "4711" not in said(worst_name="")
    assert "persons in the training data" in said(unit="person")
    assert "recognised in about 60 in 100 re-trainings" in said(worst=Measured(0.6, 0.3, 0.9))
    assert "an extrapolation" in said(worst=Measured(0.6, 0.3, 0.9, "extrapolated"))
    assert "which these tests cannot tell from chance" in said(worst=Measured(0.1, 0.005, 0.9))
    assert "at one false alarm in ten" in said(worst_fpr=0.1)


def test_chance_is_called_so_and_what_it_does_not_exclude_is_said():
    words = said(found=Measured(0.012, 0.004, 0.03))
    assert "no more than chance" in words
    assert "do not exclude up to 3 in 100" in words


def test_what_is_unresolved_is_no_sign_of_safety():
    words = said(found=Measured(None, status="unresolved", reason="too few."), worst=Measured(None))
    assert "was not resolved by these tests (too few): this is no sign of safety" in words
    assert "Which record is most at risk was not resolved" in words


def test_a_void_audit_says_nothing_of_the_model():
    assert said(void=True).startswith("Nothing was found out")
    assert "recognises" not in said(void=True)


def test_a_guarantee_bounds_every_attack_and_more_than_that_is_told():
    words = said(bound=0.2, guarantee="(ε = 1, δ = 1e-05)-differential privacy")
    assert (
        "With (ε = 1, δ = 1e-05)-differential privacy, if it holds, no attack can recognise more than 20 in"
        in words
    )
    assert "more than that" not in words.partition("if it holds")[2].replace("recognise more than", "")
    assert "What was found is more than that" in said(bound=0.03, guarantee="a guarantee")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "100 in 100"),
        (0.9999, "more than 99 in 100"),
        (0.5, "50 in 100"),
        (0.07, "7 in 100"),
        (0.0012, "1.2 in 1 000"),
        (1e-5, "fewer than 1 in 10 000"),
        (0.0, "none"),
    ],
)
def test_rates_are_counts_of_people(value, words):
    assert share(value) == words


def test_false_alarms_in_words():
    assert alarms(0.001) == "one false alarm in a thousand"
    assert alarms(0.05) == "false alarms on 5 in 100 of the others"


LIMIT = Limit(0.01, 0.1)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([Measured(0.05, 0.02, 0.09), Measured(0.04, 0.01, 0.1)], "within"),
        ([Measured(0.05, 0.02, 0.09), Measured(0.3, 0.2, 0.4)], "beyond"),
        ([Measured(0.05, 0.02, 0.12)], "not decided"),
        ([Measured(0.05, 0.02, 0.09, "extrapolated")], "not decided"),
        ([Measured(0.5, 0.4, 0.9, "extrapolated")], "not decided"),
        ([Measured(None, status="unresolved"), Measured(0.05, 0.02, 0.09)], "not decided"),
        ([], "not decided"),
    ],
)
def test_a_limit_is_kept_only_if_all_intervals_lie_below_it(numbers, expected):
    assert verdict(LIMIT, numbers) == expected


def test_the_limit_is_told_with_its_intervals_and_never_as_more():
    told = limit_sentence(LIMIT, {"the record most at risk": Measured(0.05, 0.02, 0.09)})
    assert told == (
        "The controller's own limit: at most 10 in 100 recognised at one false alarm in a hundred. What these tests"
        " found is within it: the record most at risk about 5 in 100 (95% interval: 2 in 100 to 9 in 100)."
    )
    assert "Not decided: nothing was tested" in limit_sentence(LIMIT, {})
    assert "beyond it" in limit_sentence(LIMIT, {"x": Measured(0.5, 0.4, 0.6)})
    assert "anonym" not in told


def test_reasons_of_several_fprs_and_cells_are_one():
    reasons = [
        "fpr=0.01 needs at least 1000 non-member scores, got 753.",
        "fpr=0.001 needs at least 10000 non-member scores, got 753.",
        "fpr=0.001 needs at least 10000 non-member scores, got 1522.",
        "another.",
    ]
    one = "FPR 0.01, 0.001 need at least 1,000, 10,000 non-member scores, got 753 to 1,522."
    assert grouped(reasons) == [one, "another."]
    cells = [Measured(None, status="unresolved", reason=reason) for reason in reasons]
    table = Table("t", ("", "n"), (*(("x", cell) for cell in cells), ("y", Measured(1.0, reason="not told"))))
    assert explained(table) == {"unresolved": [one, "another."]}
