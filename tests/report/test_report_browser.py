"""The report in a browser, as a reader meets it: Debian's Chromium, driven by Playwright; axe-core from npm.

AXE_CORE names axe.min.js. Without browser, driver or script these tests skip; `.ci/run` installs all three.
"""

import functools
import io
import os
import pathlib
import re

import pytest
from audits import head_of_members, lay_out, real_records

from jaxmia import write_report
from jaxmia.audit.run import run_audit
from jaxmia.report.pdf import to_pdf

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
    table = page.get_by_role("table", name=re.compile("records most at risk"))
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


OPEN = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.mark.parametrize("width", [320, 390, 1100, 1280])
def test_nothing_overflows_and_nothing_scrolls_sideways(opened, width):
    page, _, _ = opened(width=width)
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """[...document.querySelectorAll('main *')].filter(each => !each.closest('svg'))
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1 || each.scrollWidth > innerWidth)
        .map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(beyond) == []
    narrow = "[...document.querySelectorAll('tbody th')].filter(each => each.clientWidth < 30).length"
    assert page.evaluate(narrow) == 0  # headings of rows are not squeezed to a letter a line


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_axe_finds_no_violation(opened, scheme, width):
    """All rules of WCAG 2 A and AA, contrast in both schemes among them, and best practices."""
    page, _, _ = opened(width=width, scheme=scheme)
    page.evaluate(OPEN)
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


# Points of all text: of HTML as computed, of figures as they are scaled.
POINTS = """[...document.querySelectorAll('main *, header *')]
    .filter(each => [...each.childNodes].some(part => part.nodeType === 3 && part.textContent.trim()))
    .filter(each => !['STYLE', 'style', 'SCRIPT'].includes(each.tagName) && each.getClientRects().length)
    .map(each => {
        const svg = each.closest('svg'), size = parseFloat(getComputedStyle(each).fontSize);
        const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
        return [0.75 * size * scale, each.outerHTML.slice(0, 80)];
    })"""


@pytest.mark.parametrize(("media", "width"), [("screen", 390), ("screen", 1280), ("print", 688)])
def test_no_type_is_smaller_than_8_points(opened, media, width):
    """On paper the page is 182 mm wide, 688 pixels of CSS."""
    page, _, _ = opened(width=width)
    page.evaluate(OPEN)
    page.emulate_media(media=media)
    sizes = page.evaluate(POINTS)
    assert len(sizes) > 500
    assert [each for each in sizes if each[0] < 7.99] == []


def test_depths_open_and_close_by_keyboard_and_links_reveal_what_is_closed(opened):
    page, said, _ = opened()
    section = page.locator("#reproduction details")
    assert section.get_attribute("open") is None  # evidence
    assert page.locator("#results details").get_attribute("open") is not None
    page.get_by_role("button", name="the summary").press("Enter")
    assert page.locator("#results details").get_attribute("open") is None
    assert page.locator("#summary details").get_attribute("open") is not None
    page.locator("#results summary").press("Enter")
    assert page.locator("#results details").get_attribute("open") is not None
    page.locator("nav").get_by_role("link", name="Reproduction").press("Enter")
    assert section.get_attribute("open") is not None
    page.get_by_role("link", name="95% interval").first.press("Enter")
    assert page.locator("#term-interval").is_visible()
    assert said == []


def printed_pages(content):
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed")
    pages = pypdf.PdfReader(io.BytesIO(content)).pages
    return [" ".join(page.extract_text().split()) for page in pages]


@pytest.mark.parametrize("printer", ["chromium", "weasyprint"])
def test_every_printed_page_has_its_header_rows_and_none_is_blank(opened, report, printer):
    if printer == "chromium":
        page, _, _ = opened()
        content = page.pdf(format="A4", tagged=True)
    else:
        pytest.importorskip("weasyprint", reason="weasyprint is not installed")
        content = to_pdf(pathlib.Path(report.removeprefix("file://")).read_text(encoding="utf-8"))
    pages = printed_pages(content)
    assert min(map(len, pages)) > 100
    listed = [text for text in pages if re.search(r"record- ?0\d{4}", text)]
    ranked = [text for text in listed if "1. Summary" not in text]
    assert len(ranked) >= 2
    for text in ranked:
        assert "TPR at FPR 0.1" in text  # the list goes on, and its header with it
    assert "2. Release context" not in pages[0]
    assert "1. Summary" in pages[0]
    assert "Not tested" in pages[0]  # the last of the first page
    assert "version of jaxmia" in " ".join(pages)  # what is closed on a screen is open on paper


def test_it_prints_without_what_is_for_screens(opened):
    page, _, _ = opened()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("th.by button").first.is_visible()
