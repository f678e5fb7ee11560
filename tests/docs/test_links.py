"""Links of the Markdown files lead to existing files and headings of this repository. No address is opened."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BUILT = {"api"}  # written when the site is built
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")]
PAGES += [page for page in ROOT.glob("docs/**/*.md") if not re.search(r"/docs/(_|api/)", page.as_posix())]


def prose(page):
    """Text without code blocks and inline code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)


def anchors(page):
    """Names of headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        parts = file.relative_to(ROOT).parts
        if parts[0] == "docs" and (parts[1] in BUILT or parts[1].startswith("_")):
            continue
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_is_in_the_site(page):
    if page.is_relative_to(ROOT / "docs") and page.name != "index.md":
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert re.search(rf"^{name}$", (ROOT / "docs" / "index.md").read_text(), re.M)
