"""The site that `make docs` has built: its links, and its pages in a browser, without any request to outside.

SITE names the folder. Without it, or without a browser and its driver, these tests skip. `.ci/run` has all three.
"""

import functools
import html.parser
import http.server
import os
import pathlib
import threading
import urllib.parse

import pytest

SITE = pathlib.Path(os.environ.get("SITE", "no-site")).resolve()
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
pytestmark = pytest.mark.skipif(not PAGES, reason="SITE names no folder with a site")
OPENED = (
    "index.html",
    "api/training.html",
    "tutorials/audit.html",
    "notebooks/audit_a_head.html",
    "evidence/index.html",
    "architecture.html",
)


class Page(html.parser.HTMLParser):
    """Anchors, links and resources of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.parts = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.anchors |= {held[name] for name in ("id", "name") if held.get(name)}
        if tag == "a" and held.get("href"):
            self.links.add(held["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            self.parts |= {held[name] for name in ("href", "src") if held.get(name)}


def read():
    return {path: Page(path) for path in PAGES}


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the site on this machine."""
    handler = functools.partial(Silent, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wrong(site, said, asked):
    """Complaints of the console, and requested addresses outside the site."""
    complaints = [text for kind, text in said if kind in ("error", "warning")]
    return complaints + [address for address in asked if not address.startswith((f"{site}/", "data:"))]


def test_every_link_inside_leads_somewhere():
    pages = read()
    assert len(pages) > 40
    lost = []
    for path, page in pages.items():
        for link in page.links | page.parts:
            address = urllib.parse.urlsplit(link)
            if address.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            anchor = urllib.parse.unquote(address.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                lost.append(f"{path.relative_to(SITE)}: {link}")
    assert lost == []


def test_pages_take_nothing_from_elsewhere():
    outside = {part for page in read().values() for part in page.parts if "//" in part.partition("?")[0]}
    assert outside == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", OPENED)
def test_pages_open_in_silence_and_ask_for_nothing_outside(open_page, site, name, scheme):
    page, said, asked = open_page(f"{site}/{name}", scheme=scheme)
    assert page.locator("h1").first.inner_text()
    page.wait_for_timeout(300)  # for what scripts ask for once the page is there
    assert wrong(site, said, asked) == []


@pytest.mark.parametrize("name", OPENED)
def test_nothing_overflows_on_a_phone(open_page, site, name):
    page, _, _ = open_page(f"{site}/{name}", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_word_is_found_by_the_search(open_page, site):
    page, said, asked = open_page(f"{site}/search.html?q=noise_multiplier_for")
    page.wait_for_selector("#search-results li")
    assert "jaxmia.privacy" in page.locator("#search-results").inner_text()
    assert wrong(site, said, asked) == []


def test_every_public_name_is_in_the_reference():
    import jaxmia

    anchors = {
        anchor for path, page in read().items() if path.parent.name == "api" for anchor in page.anchors
    }
    missing = {name for name in jaxmia.__all__ if name != "attacks" and f"jaxmia.{name}" not in anchors}
    assert missing == set()
    assert all(f"jaxmia.attacks.{name}" in anchors for name in jaxmia.attacks.REGISTRY)
