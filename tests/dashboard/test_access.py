"""The dashboard of a service with keys, on the API alone: a wrong key, a session, a restart, a hundred thousand series."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.conftest import Visit, drawn, drop, wait_until
from tests.processes import Service, run_service

SERIES = 100_000
KEYS: dict[str, str] = {}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("closed")
    with run_service({"ENGRAM_DATA_DIR": str(folder)}, folder) as service:
        service.migrate()
        for scope in ("admin", "read"):
            KEYS[scope] = service.command("keys", "create", scope, "--scopes", scope)
        service.http.headers["Authorization"] = f"Bearer {KEYS['admin']}"
        service.start_api()
        yield service


@pytest.fixture
def visit(browser: Browser, closed: Service) -> Iterator[Visit]:
    visit = Visit(browser, closed)
    yield visit
    visit.close()


def sign_in(visit: Visit, scope: str = "admin") -> None:
    visit.page.get_by_placeholder("engram_…").fill(KEYS[scope])
    visit.page.get_by_role("button", name="Sign in").click()
    expect(visit.page.locator("#key-dialog")).to_be_hidden()
    visit.expect_errors("401")


def test_a_key_is_asked_for_once_and_kept_where_no_script_reads_it(visit: Visit, closed: Service, tmp_path: Path) -> None:
    page = visit.page
    page.goto("/")
    page.get_by_placeholder("engram_…").fill("engram_notakey00_" + "x" * 43)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#key-problem")).to_contain_text("not a key that works here")
    sign_in(visit)
    expect(page.get_by_role("heading", name="From a table to a forecast")).to_be_visible()
    cookies = {cookie["name"]: cookie for cookie in visit.context.cookies()}
    session = cookies["engram_session"]
    assert session["httpOnly"]
    assert session["sameSite"] == cookies["engram_csrf"]["sameSite"] == "Strict"
    secret = KEYS["admin"][17:]
    seen = page.evaluate(
        "document.cookie + JSON.stringify({...localStorage, ...sessionStorage}) + document.documentElement.outerHTML"
    )
    assert session["value"] not in seen
    assert secret not in seen + session["value"] + "".join(visit.urls)
    file = tmp_path / "kept.csv"
    file.write_text("timestamp,value\n2024-01-01,1\n2024-01-02,2\n2024-01-03,4\n")
    drop(page, ".welcome-drop .drop-zone", file)
    page.get_by_role("button", name="Store 3 observations").click()
    expect(page.locator(".welcome-drop .receipt")).to_contain_text("New3")
    page.reload()
    expect(page.locator("#datasets")).to_contain_text("kept")
    change = {"method": "PATCH", "url": f"{visit.url}/v1/datasets/kept", "json": {"description": "by another site"}}
    cookie = {"Cookie": f"engram_session={session['value']}"}
    for forged in (cookie, {**cookie, "X-CSRF-Token": "0" * 64}, {**cookie, "X-CSRF-Token": session["value"]}):
        assert httpx.request(**change, headers=forged).status_code == 403
    assert httpx.request(**change, headers={**cookie, "X-CSRF-Token": cookies["engram_csrf"]["value"]}).status_code == 200
    other_end = session["value"].replace(session["value"].split(".")[1], "99999999999")
    assert httpx.get(f"{visit.url}/v1/datasets", headers={"Cookie": f"engram_session={other_end}"}).status_code == 401
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#key-dialog")).to_be_visible()
    assert visit.context.cookies() == []
    visit.expect_errors("401")


def test_a_key_that_may_only_read_is_told_what_it_lacks(visit: Visit, closed: Service) -> None:
    page = visit.page
    closed.post(
        "/v1/datasets/kept/observations",
        content=b"timestamp,value\n2024-01-01,1\n2024-01-02,2\n",
        headers={"Content-Type": "text/csv"},
    )
    page.goto("/datasets/kept")
    sign_in(visit, "read")
    drawn(page, "#chart")
    page.get_by_role("button", name="Train a model").click()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#train-dialog .problem")).to_contain_text("a key with the scope 'train'")
    visit.expect_errors("403")


def test_a_hundred_thousand_series_are_paged_and_searched(visit: Visit, closed: Service) -> None:
    page = visit.page
    names = np.repeat(np.array([f"sku-{index:06}" for index in range(SERIES)]), 2)
    body = io.BytesIO()
    days = np.tile(np.array(["2024-01-01", "2024-01-02"], "datetime64[us]"), SERIES)
    pl.DataFrame({"series": names, "timestamp": days, "value": np.arange(2.0 * SERIES)}).write_parquet(body)
    parquet = {"Content-Type": "application/vnd.apache.parquet"}
    closed.post("/v1/datasets/shop/observations", content=body.getvalue(), headers=parquet).raise_for_status()
    page.goto("/datasets/shop")
    sign_in(visit)
    rows = page.locator("#list tbody tr")
    expect(rows).to_have_count(25)
    expect(page.locator("#where")).to_have_text("1 – 25 of 100,000")
    page.get_by_role("button", name="Next →").click()
    expect(rows.first).to_contain_text("sku-000025")
    page.get_by_label("Series that begin with").fill("sku-09999")
    expect(rows).to_have_count(10)
    rows.last.get_by_role("button").click()
    wait_until(page, lambda: drawn(page, "#chart")[0]["y"] == [199998.0, 199999.0])
    page.get_by_label("Series that begin with").fill("none")
    expect(page.locator("#list")).to_contain_text("No series begins with “none”")


def test_a_long_series_is_thinned_and_refined_where_one_looks_closer(visit: Visit, closed: Service) -> None:
    page = visit.page
    values = [float(step % 50) for step in range(60_000)]
    values[31_234] = 900.0
    body = {"series": [{"id": "long", "start": "2024-01-01T00:00:00Z", "freq": "min", "values": values}]}
    closed.post("/v1/datasets/long/observations", json=body).raise_for_status()
    page.goto("/datasets/long")
    sign_in(visit)
    whole = drawn(page, "#chart")[0]
    assert len(whole["y"]) < 5000
    assert max(whole["y"]) == 900.0
    expect(page.locator("#chart-note")).to_contain_text("60,000 steps, thinned")
    page.evaluate(
        "Plotly.relayout(document.querySelector('#chart'), {'xaxis.range': ['2024-01-22 16:00:00', '2024-01-22 20:00:00']})"
    )
    expect(page.locator("#chart-note")).to_contain_text("241 steps, all drawn")
    assert drawn(page, "#chart")[0]["y"] == values[31_200:31_441]


def test_the_page_goes_on_after_the_service_was_away(visit: Visit, closed: Service) -> None:
    page = visit.page
    closed.post(
        "/v1/datasets/kept/observations",
        content=b"timestamp,value\n2024-01-01,1\n2024-01-02,2\n",
        headers={"Content-Type": "text/csv"},
    )
    page.goto("/")
    sign_in(visit)
    expect(page.locator("#datasets")).to_contain_text("kept")
    api = closed.processes[-1]
    api.terminate()
    api.wait(20)
    expect(page.locator("#connection")).to_contain_text("does not answer")
    closed.start("api", f"--port={closed.http.base_url.port}")
    closed.wait_for(lambda: closed.get("/health/live").status_code == 200)
    closed.http.put("/v1/datasets/after", json={"freq": "D"}).raise_for_status()
    expect(page.locator("#connection")).to_be_hidden(timeout=15_000)
    expect(page.locator("#datasets")).to_contain_text("after")  # and the session is good as before
    visit.expect_errors("ERR_CONNECTION")
