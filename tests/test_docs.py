"""Form of Markdown pages: lines that fit into a terminal and a code review."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "jaxmia", "tests")
PAGES = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
PAGES = [
    page for page in PAGES if not page.is_relative_to(ROOT / "docs" / "_build")
]  # copies in the built site


def test_no_line_of_markdown_is_longer_than_120_characters():
    """Except rows of tables, which Markdown cannot break."""
    assert len(PAGES) > 20
    long = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)}"
        for path in PAGES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert long == []
