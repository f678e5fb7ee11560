"""Every test runs with jaxtyping's shapes checked by beartype and with strict dtype promotion.

XLA takes most of the tests' time. So its optimisation is reduced, unless XLA_FLAGS is set (slow tests keep the
default). Compiled programs are cached for later runs, for other workers and for processes that tests start.
"""

import os
import pathlib
import shutil

KEPT = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "programs"
# Before JAX is imported; xdist's workers and the processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# An int is accepted as a float, as in Python's numeric tower.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("jaxmia", CHECKER)
jax.config.update("jax_numpy_dtype_promotion", "strict")

CHROMIUM = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
CHROMIUM += " --disable-component-update"


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by Playwright; without either the test skips. `.ci/run` installs both."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=CHROMIUM.split())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an address in the browser; return (page, console messages, requested addresses)."""
    pages = []

    def opened(address, *, width=1100, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        pages.append(page)
        return page, said, asked

    yield opened
    for page in pages:
        page.close()
