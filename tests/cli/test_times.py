"""Where the time of a run went: stages add up to the command's seconds, and a profile is written."""

import pstats

import pytest

from jaxmia.cli.clock import profiled
from jaxmia.cli.tables.times import times_tables

CELLS = {
    "small": {
        "seconds_tuning": 0.0,
        "seconds_preparing": 1.0,
        "seconds_training": 2.0,
        "seconds_attacking": 1.0,
    },
    "large": {
        "seconds_tuning": 1.0,
        "seconds_preparing": 0.0,
        "seconds_training": 8.0,
        "seconds_attacking": 2.0,
    },
}
CELLS = {name: cell | {"heads_trained": 50} for name, cell in CELLS.items()}


def test_stages_are_sums_over_cells_and_with_the_rest_the_whole_command():
    table, line = times_tables(CELLS, 20.0)
    seconds = {row[0].split(":")[0]: row[1].value for row in table.rows}
    assert seconds == {
        "tuning": 1.0,
        "preparing": 1.0,
        "training": 10.0,
        "attacks, intervals, tables of the cells": 3.0,
        "the rest": 5.0,
    }
    assert sum(row[2].value for row in table.rows) == pytest.approx(1)
    assert line == "10 heads/s in training; slowest of 2 cells: large, 11.0 s"


def test_without_the_seconds_of_the_command_there_is_no_rest():
    table, _ = times_tables(CELLS, None)
    assert len(table.rows) == 4
    assert sum(row[2].value for row in table.rows) == pytest.approx(1)


def test_a_profile_is_written_even_if_the_command_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), profiled(tmp_path):
        divmod(1, 0)
    assert any("divmod" in name for _, _, name in pstats.Stats(str(tmp_path / "profile.pstats")).stats)


def test_without_a_folder_nothing_is_written(tmp_path):
    with profiled(None) as clock:
        pass
    assert clock.seconds >= 0
    assert list(tmp_path.iterdir()) == []
