"""Whether attacks and seeds single out the same records: counts of planted agreement."""

import numpy as np
import pandas as pd

from jaxmia.report.records import RecordsOf
from jaxmia.report.stability import attacks_table, seeds_table
from jaxmia.stats.result import AttackResult
from jaxmia.vulnerability.stability import agreement, flagged, flags_of_attacks, top


def result(seed, *, models=41, records=50, shifted=10):
    """Statistics of noise, in which the first records of the target stand out; nobody else trained on them."""
    rng = np.random.default_rng(seed)
    member = np.zeros((models, records), bool)
    member[0] = True
    statistic = rng.normal(size=member.shape)
    statistic[0] = np.where(np.arange(records) < shifted, 100.0, -100.0)
    return AttackResult(statistic, member, np.ones_like(member))


def save(folder, **results):
    (folder / "statistics").mkdir()
    for name, each in results.items():
        np.savez(
            folder / "statistics" / f"{name}.npz",
            **{"statistic": each.statistic, "member": each.member, "defined": each.defined},
        )


def test_a_record_is_flagged_by_its_rank_among_those_that_never_saw_it():
    flags = flagged(result(0), 0.3)
    np.testing.assert_array_equal(flags, np.arange(50) < 10)
    assert flagged(result(0), 0.1) is None  # 40 nulls: 10 / 0.1 are needed


def test_agreement_counts_records_in_both_and_what_chance_gives():
    first, second = np.arange(100) < 20, (np.arange(100) >= 15) & (np.arange(100) < 25)
    assert agreement(first, second) == (20, 10, 5, 2.0)


def test_attacks_are_compared_on_the_members(tmp_path):
    save(tmp_path, lira=result(1), rmia=result(2, shifted=20))
    flags = flags_of_attacks(tmp_path, ["lira", "rmia"], 0.3)
    table = attacks_table(flags, np.arange(50) >= 5, 0.3)
    assert table.rows[0][:4] == ("lira, rmia", 5, 15, 5)
    np.testing.assert_allclose(table.rows[0][4].value, 5 * 15 / 45)
    assert flags_of_attacks(tmp_path, ["lira"], 0.1) == {}


def test_the_top_percent_holds_at_least_one_and_never_a_missing_value():
    np.testing.assert_array_equal(top(np.array([0.1, np.nan, 3.0])), [False, False, True])
    assert top(np.arange(1000.0)).sum() == 10


def test_seeds_are_compared_on_the_records_of_both_pools():
    def of_seed(seed, ids, separation, cell="set, recipe, C = 2, S = 8"):
        table = pd.DataFrame({"id": ids, "separation": separation})
        return RecordsOf(f"{cell}, seed {seed}", table, [0.1], 100.0)

    same, other = np.arange(300.0), -np.arange(300.0)
    records = [
        of_seed(0, np.arange(300), same),
        of_seed(1, np.arange(100, 400), np.arange(300.0)),
        of_seed(2, np.arange(300), other),
        of_seed(0, np.arange(300), same, cell="set, recipe, C = 2, S = 16"),
    ]
    rows = {row[0]: row for row in seeds_table(records).rows}
    assert len(rows) == 3  # pairs of one cell alone
    alike = rows["set, recipe, C = 2, S = 8, seeds 0 and 1"]
    assert alike[1:5] == (200, 2, 2, 2)
    np.testing.assert_allclose(alike[6].value, 1.0)
    opposed = rows["set, recipe, C = 2, S = 8, seeds 0 and 2"]
    assert opposed[1:5] == (300, 3, 3, 0)
    np.testing.assert_allclose(opposed[6].value, -1.0)
    assert seeds_table(records[:1]) is None
