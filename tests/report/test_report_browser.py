"""The report in a browser, as a reader meets it: Debian's Chromium, driven by Playwright; axe-core from npm.

AXE_CORE names axe.min.js. Without browser, driver or script these tests skip; `.ci/run` installs all three.
"""

import functools
import os
import pathlib

import pytest
from audits import head_of_members, lay_out, real_records

from jaxmia import write_report
from jaxmia.audit.run import run_audit

AXE = pathlib.Path(os.environ.get("AXE_CORE", "axe.min.js"))
pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="AXE_CORE names no axe.min.js")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of an audit: sortable tables, figures, unresolved numbers, long ids."""
    place, records = tmp_path_factory.mktemp("audit"), real_records()
    records["ids"] = [f"a/long/path/to/the/file/of/record-{number:05}.png" for number in range(240)]
    lay_out(place, records, head_of_members(records))
    run_audit(place / "audit.toml", place / "out")
    return write_report(place / "out")[0].as_uri()


@pytest.fixture
def opened(open_page, report):
    """Open the report: open_page with its address."""
    return functools.partial(open_page, report)


def test_it_opens_in_silence_and_asks_for_nothing(opened, report):
    page, said, asked = opened()
    assert page.title() == "Membership inference report: audit"
    assert said == []
    assert [address for address in asked if not address.startswith("data:")] == [report]


def test_the_list_of_records_is_sorted_by_mouse_and_by_keyboard(opened):
    page, said, _ = opened()
    table = page.locator("table", has_text="records most at risk")
    cells = table.locator("tbody tr > :nth-child(4)")

    def keys():
        return [float(cell.get_attribute("data-key")) for cell in cells.all()]

    before = keys()
    assert before == sorted(before, reverse=True)
    heading = table.get_by_role("columnheader", name="TPR at FPR 0.1")
    button = heading.get_by_role("button")
    button.click()
    assert (heading.get_attribute("aria-sort"), keys()) == ("descending", sorted(before, reverse=True))
    button.press("Enter")
    assert (heading.get_attribute("aria-sort"), keys()) == ("ascending", sorted(before))
    assert "sorted by TPR at FPR 0.1, ascending" in page.get_by_role("status").inner_text()
    first = table.get_by_role("columnheader", name="rank")
    first.get_by_role("button").click()
    first.get_by_role("button").click()
    assert keys() == before
    assert heading.get_attribute("aria-sort") is None
    assert said == []


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_nothing_overflows(opened, width):
    page, _, _ = opened(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """[...document.querySelectorAll('main > section > *')]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(beyond) == []
    narrow = "[...document.querySelectorAll('tbody th')].filter(each => each.clientWidth < 30).length"
    assert page.evaluate(narrow) == 0  # headings of rows are not squeezed to a letter a line


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_axe_finds_no_violation(opened, scheme, width):
    """All rules of WCAG 2 A and AA, contrast in both schemes among them, and best practices."""
    page, _, _ = opened(width=width, scheme=scheme)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(each["id"], each["nodes"][0]["html"][:120]) for each in found["violations"]] == []


def test_dark_is_dark_and_text_of_figures_follows(opened):
    luminance = """selector => getComputedStyle(document.querySelector(selector))
        [selector === 'body' ? 'backgroundColor' : 'fill'].match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"""
    light, dark = (opened(scheme=scheme)[0] for scheme in ("light", "dark"))
    assert dark.evaluate(luminance, "body") < 150 < 600 < light.evaluate(luminance, "body")
    assert (
        light.evaluate(luminance, "figure svg text") < 150 < 600 < dark.evaluate(luminance, "figure svg text")
    )


def test_it_prints_with_the_summary_on_a_page_of_its_own(opened):
    page, _, _ = opened()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 5
    page.emulate_media(media="print")
    bottom = page.evaluate("document.getElementById('summary').getBoundingClientRect().bottom + scrollY")
    assert bottom < 1123  # CSS pixels of an A4 page
    assert not page.locator("nav").is_visible()
