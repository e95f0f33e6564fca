"""Debian's Chromium, driven by Playwright through the real service: embedded, on a free port."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import missing
from tests.processes import Service, run_service

CHROMIUM = os.environ.get("ENGRAM_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
WAIT_MS = 40_000
"""Long enough not to matter where the machine is busy with other tests."""
AXE = Axe()
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        missing("no Chromium (Debian's package chromium, or ENGRAM_TEST_CHROMIUM)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("var")
    with run_service({"ENGRAM_DATA_DIR": str(folder)}, folder) as service:
        service.serve()
        yield service


class Visit:
    """One browser window on a service, and what must not happen in it: errors in the console, requests to other hosts."""

    def __init__(self, browser: Browser, service: Service, **options: Any) -> None:
        self.url = str(service.http.base_url).rstrip("/")
        self.context: BrowserContext = browser.new_context(
            base_url=self.url, viewport={"width": 1280, "height": 800}, **options
        )
        self.context.set_default_timeout(WAIT_MS)
        self.errors: list[str] = []
        self.urls: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", lambda request: self.urls.append(request.url))

    def expect_errors(self, *words: str) -> None:
        """Forgets the console's lines that hold one of `words`: the browser writes one for every refused request."""
        self.errors = [line for line in self.errors if not any(word in line for word in words)]

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        foreign = [url for url in self.urls if not url.startswith((self.url, "data:", "blob:"))]
        assert foreign == []


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    visit = Visit(browser, service)
    yield visit
    visit.close()


def drop(page: Page, selector: str, path: Path) -> None:
    """Drops a file from the desktop: the event that a browser sends, with the file in it."""
    transfer = page.evaluate_handle(
        "([text, name]) => { const moved = new DataTransfer(); moved.items.add(new File([text], name)); return moved; }",
        [path.read_text(), path.name],
    )
    page.dispatch_event(selector, "dragover", {"dataTransfer": transfer})
    page.dispatch_event(selector, "drop", {"dataTransfer": transfer})


def drawn(page: Page, selector: str) -> list[dict[str, Any]]:
    """The traces of a chart, once it is drawn."""
    page.wait_for_selector(f"{selector} .plot-container")
    traces: list[dict[str, Any]] = page.eval_on_selector(
        selector, "chart => chart.data.map(({name, x, y, fill}) => ({name, x: [...x], y: [...y], fill}))"
    )
    return traces


def wait_until(page: Page, condition: Callable[[], Any], seconds: float = WAIT_MS / 1000) -> None:
    """Polls from here: the pages' policy forbids Playwright's own way, which evaluates text in the page."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(50)


def get_json(service: Service, path: str) -> dict[str, Any]:
    answer = service.get(path)
    with suppress(httpx.HTTPStatusError):
        answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
