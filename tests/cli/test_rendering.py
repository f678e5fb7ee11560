"""Tables on a terminal: names once, lines between groups, marks with their meaning below."""

import rich.console

from jaxmia.cli.rendering import draw, rendered, text
from jaxmia.tables import NONE, Measured, Table, number


def printed(*blocks):
    console = rich.console.Console(width=80, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(*rendered(blocks))
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]


def test_values_have_their_interval_error_or_status():
    assert text("x") == "x"
    assert text(3) == "3"
    assert text(Measured(0.5, 0.25, 0.75)) == "0.500 0.250-0.750"
    assert text(Measured(-0.07, -0.09, -0.05, form="+.2f")) == "-0.07 -0.09 to -0.05"
    assert text(Measured(1234.4, form=",.0f", status="extrapolated")) == "1,234‡"
    assert text(number(-0.5, error=0.01)) == "-0.500±0.010"
    assert text(Measured(None, status="saturated")) == "saturated"
    assert text(NONE) == "-"


def test_names_that_repeat_stand_once_until_one_before_them_changes():
    rows = (("a", "x", 1), ("a", "x", 2), ("a", "y", 2), ("b", "y", 2))
    lines = printed(Table("t", ("one", "two", "n"), rows, stub=2))
    assert [line.split() for line in lines[3:]] == [["a", "x", "1"], ["2"], ["y", "2"], ["b", "y", "2"]]
    whole = printed(Table("t", ("one", "two", "n"), rows, stub=0))
    assert [line.split() for line in whole[3:]] == [[*map(str, row)] for row in rows]


def test_lines_are_drawn_between_groups():
    table = Table("t", ("one", "two"), (("a", 1), ("a", 2), ("b", 2)), ruled=1)
    assert [row.end_section for row in draw(table).rows] == [False, True, False]
    plain = Table("t", ("one", "two"), table.rows)
    assert not any(row.end_section for row in draw(plain).rows)


def test_marks_and_words_are_explained_once_below_the_note():
    off = Measured(0.1, status="off", reason="why it is off")
    full = Measured(None, status="saturated", reason="TPR 0.99 or more")
    lines = printed(Table("t", ("", "n"), (("a", off), ("b", off), ("c", full)), "A note."))
    assert lines[-3:] == ["A note.", "†: why it is off", "saturated: TPR 0.99 or more"]
    assert "a 0.100†" in lines


def test_words_stand_left_and_numbers_right():
    drawn = draw(Table("t", ("name", "n", "range"), (("ab", 1, "0.1…0.2"), ("c", number(0.5), "-"))))
    assert [column.justify for column in drawn.columns] == ["left", "right", "right"]
