"""A stranger's way through the dashboard, by clicks alone: example, own file, training, promotion. In this order: each builds on the last."""

import csv
import io
import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.conftest import AIR_CSV
from tests.dashboard.conftest import AXE, Visit, drawn, drop, get_json, wait_until
from tests.processes import Service

EXAMPLE_MS = 60_000
GOOD_ROWS = ["shop,day,sales,colour"] + [
    f"{shop},2024-01-{day:02}T00:00:00Z,{day % 7 * 10 + 5}," for shop in ("a", "b") for day in range(1, 32)
]


def test_first_visit_to_a_forecast_by_one_click(visit: Visit, service: Service) -> None:
    page = visit.page
    page.goto("/")
    expect(page.get_by_role("heading", name="From a table to a forecast")).to_be_visible()
    page.get_by_role("button", name="Try it with example data").click()
    expect(page.locator("#example-steps .now")).to_be_visible()
    page.wait_for_url("**/models/air", timeout=EXAMPLE_MS)
    traces = {trace["name"]: trace for trace in drawn(page, "#fan")}
    forecast = service.post("/v1/models/air/forecasts", json={}).json()["forecasts"][0]
    assert traces["Median"]["y"] == forecast["median"]
    assert {"95 %", "80 %", "50 %", "Observed"} <= traces.keys()
    assert len(traces["Observed"]["y"]) == 144
    expect(page.locator("#sentence")).to_contain_text("less than seasonal naive")
    happened = {trace["name"]: trace for trace in drawn(page, "#backtest")}["What happened"]
    assert happened["y"] == [float(row["value"]) for row in csv.DictReader(io.StringIO(AIR_CSV.read_text()))][-12:]
    calibration = {trace["name"]: trace for trace in drawn(page, "#calibration")}["Version 1"]
    assert calibration["x"] == [0.5, 0.8, 0.95]
    assert calibration["y"] == list(get_json(service, "/v1/models/air/versions/1")["metrics"]["backtest"]["coverage"].values())
    assert {trace["name"] for trace in drawn(page, "#steps")} == {"Seasonal naive", "Version 1"}


def test_nothing_can_be_chosen_before_the_page_has_loaded(visit: Visit) -> None:
    """What somebody typed before would be written over, in the middle of a number."""
    page = visit.page
    held: list[Route] = []
    page.route("**/v1/models/air", lambda route: held.append(route))
    page.goto("/models/air")
    controls = [page.locator(f"#{name}") for name in ("version", "horizon", "csv", "png")]
    wait_until(page, lambda: held)
    for control in controls:
        expect(control).to_be_disabled()
    held[0].continue_()
    for control in controls:
        expect(control).to_be_enabled()
    expect(page.get_by_label("Horizon")).to_have_value("12")


def test_the_forecast_on_screen_as_code_csv_and_png(visit: Visit, service: Service) -> None:
    page = visit.page
    page.goto("/models/air")
    page.get_by_label("Horizon").fill("5")
    page.get_by_label("Horizon").press("Enter")
    wait_until(page, lambda: [len(trace["y"]) for trace in drawn(page, "#fan") if trace["name"] == "Median"] == [5])
    expect(page.locator("#code")).to_contain_text(f"curl -X POST {visit.url}/v1/models/air/forecasts")
    expect(page.locator("#code")).to_contain_text('{"series":["air"],"horizon":5}')
    page.get_by_role("tab", name="Python").click()
    code = page.locator("#code").inner_text()
    compile(code, "snippet", "exec")
    printed: list[tuple[str, float]] = []
    exec(code, {"print": lambda *columns: printed.append(columns)})  # noqa: S102 - the page's own snippet
    assert len(printed) == 5
    page.get_by_role("tab", name="JavaScript").click()
    expect(page.locator("#code")).to_contain_text("await fetch(")
    with page.expect_download() as told:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(told.value.path()).read_text())))
    assert [(row["timestamp"], float(row["median"])) for row in rows] == printed
    with page.expect_download() as told:
        page.locator("#png").click()
    assert Path(told.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_file_with_a_broken_row_is_refused_and_a_good_one_stored(visit: Visit, service: Service, tmp_path: Path) -> None:
    page = visit.page
    broken, good = tmp_path / "Shop Sales.csv", tmp_path / "shop-sales.csv"
    broken.write_text("series,timestamp,value\na,2024-01-01T00:00:00Z,5\na,2024-01-02T00:00:00Z,five\na,yesterday,7\n")
    good.write_text("\n".join(GOOD_ROWS).replace(",2024-01-05T00:00:00Z,55,", ",2024-01-05T00:00:00Z,,") + "\n")
    page.goto("/")
    drop(page, ".overview-side .drop-zone", broken)
    problem = page.locator(".overview-side .problem")
    expect(problem).to_contain_text("Row 3, value")
    expect(problem).to_contain_text("Row 4, timestamp")
    expect(problem).to_contain_text("Nothing was stored")
    assert service.get("/v1/datasets/shop-sales").status_code == 404
    drop(page, ".overview-side .drop-zone", good)
    expect(page.locator(".overview-side .problem")).to_contain_text("'colour'")
    page.get_by_label("Column of the series").fill("shop")
    page.get_by_label("Column of the timestamp").fill("day")
    page.get_by_label("Column of the value").fill("sales")
    page.get_by_role("button", name="Look again").click()
    preview = page.locator(".overview-side .preview")
    expect(preview).to_contain_text("2 by “shop”")
    expect(preview).to_contain_text("2024-01-01 – 2024-01-31")
    expect(preview.locator("tbody tr")).to_have_count(8)
    expect(preview).to_contain_text("missing")
    assert service.get("/v1/datasets/shop-sales").status_code == 404, "a preview stores nothing"
    page.get_by_role("button", name="Store 62 observations").click()
    receipt = page.locator(".overview-side .receipt")
    expect(receipt).to_contain_text("New62")
    assert get_json(service, "/v1/datasets/shop-sales")["observations"] == 62
    visit.expect_errors("422", "404")


def test_two_clicks_from_a_dataset_to_a_training_and_its_live_end(visit: Visit, service: Service) -> None:
    page = visit.page
    page.goto("/datasets/shop-sales")
    drawn(page, "#chart")
    expect(page.locator("#chart-note")).to_contain_text("1 run without a value")
    page.get_by_role("button", name="Train a model").click()
    expect(page.get_by_label("Horizon")).to_have_value("7")  # a quarter of 31 days
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/trainings/*")
    states = set()
    for _ in range(300):
        states.add(page.locator("#state .chip").inner_text())
        if "succeeded" in states:
            break
        page.wait_for_timeout(100)
    assert "succeeded" in states
    assert len(states) > 1, "it was followed while it ran"
    history = get_json(service, f"/v1/trainings/{page.url.split('/')[-1]}/history")["items"]
    wait_until(page, lambda: drawn(page, "#loss")[0]["x"] == [item["step"] for item in history])
    assert drawn(page, "#loss")[0]["y"] == [item["loss"] for item in history]
    expect(page.locator("#config")).to_contain_text("calendar and autocorrelation say")
    page.get_by_role("link", name="See the forecast").click()
    page.wait_for_url("**/models/shop-sales")
    page.get_by_role("combobox", name="Series").click()
    expect(page.locator("#series-options [aria-selected=true]")).to_have_text("a")
    page.get_by_role("combobox", name="Series").press("ArrowDown")  # from "a", which is chosen, to "b", by keyboard
    page.get_by_role("combobox", name="Series").press("Enter")
    expect(page.locator("#backtest-of")).to_have_text("version 1 · b")


def test_train_again_with_changes_then_roll_back_and_promote(visit: Visit, service: Service) -> None:
    page = visit.page
    first = get_json(service, "/v1/models/air/versions/1")["training"]
    page.goto(f"/trainings/{first}")
    page.get_by_role("button", name="Train again with changes").click()
    dialog = page.locator("#again-dialog")
    for field in dialog.locator("input, select").all():
        told = dialog.locator(f"[id='{field.get_attribute('aria-describedby')}']").inner_text()
        assert re.search(r"\w.+\. Default: .+\.", told), field.get_attribute("name")
    dialog.get_by_label("Max steps").fill("lots")
    dialog.get_by_role("button", name="Start training").click()
    expect(dialog.locator(".problem")).to_contain_text("expected a number")
    dialog.get_by_label("Max steps").fill("3")
    dialog.get_by_role("button", name="Start training").click()
    page.wait_for_url(lambda url: first not in url)
    expect(page.locator("#state .chip")).to_have_text("succeeded", timeout=EXAMPLE_MS)
    assert get_json(service, f"/v1/trainings/{page.url.split('/')[-1]}")["request"]["fit"]["max_steps"] == 3
    page.goto("/models/air")
    row = page.locator("#versions tr", has_text="Version 1")
    row.get_by_role("button", name="Roll back").click()
    expect(page.locator("#confirm-dialog")).to_contain_text("Version 2, which serves now")
    page.get_by_role("button", name="Keep as it is").click()
    assert get_json(service, "/v1/models/air")["aliases"] == {"champion": 2}
    row.get_by_role("button", name="Roll back").click()
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.locator("#sentence")).to_contain_text("version 1 serves")
    assert get_json(service, "/v1/models/air")["aliases"] == {"champion": 1}
    page.locator("#versions tr", has_text="Version 2").get_by_role("button", name="Promote").click()
    page.get_by_role("button", name="Promote version 2").click()
    expect(page.locator("#sentence")).to_contain_text("version 2 serves")
    assert get_json(service, "/v1/models/air")["aliases"] == {"champion": 2}


def test_a_training_is_cancelled_after_a_question(visit: Visit, service: Service) -> None:
    page = visit.page
    body = {"dataset": "air", "horizon": 6, "fit": {"max_seconds": 60}}
    training = service.post("/v1/models/air/trainings", json=body).json()["id"]
    page.goto("/")
    expect(page.locator("#now-list")).to_contain_text("air")
    page.locator("#now-list a").first.click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the training").click()
    expect(page.locator("#state .chip")).to_have_text("cancelled")
    assert get_json(service, f"/v1/trainings/{training}")["status"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/models/none", "there is no model 'none'"),
        ("/datasets/none", "there is no dataset 'none'"),
        ("/trainings/none", "there is no training"),
    ],
)
def test_what_is_not_there_is_a_sentence_with_a_cure(visit: Visit, path: str, told: str) -> None:
    visit.page.goto(path)
    expect(visit.page.locator("#problem")).to_contain_text(told)
    expect(visit.page.locator("#problem .cure")).to_contain_text("Look at the name")
    visit.expect_errors("404")


PAGES = {"home": "/", "dataset": "/datasets/shop-sales", "model": "/models/air", "training": "/trainings/"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nobody_is_shut_out(browser: Browser, service: Service, name: str, scheme: Literal["light", "dark"]) -> None:
    """axe finds nothing serious, and on a phone nothing stands beyond the edge."""
    visit = Visit(browser, service, color_scheme=scheme)
    page = visit.page
    path = PAGES[name] + (get_json(service, "/v1/models/air/versions/1")["training"] if name == "training" else "")
    page.goto(path)
    page.wait_for_load_state("networkidle")
    if name != "home":
        page.locator(".plot-container").first.wait_for()
    found = AXE.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = {one["id"]: [node["html"] for node in one["nodes"]] for one in found if one["impact"] in ("serious", "critical")}
    assert serious == {}
    page.set_viewport_size({"width": 360, "height": 740})
    wait_until(page, lambda: page.evaluate("document.documentElement.scrollWidth") <= 360)
    visit.close()


def test_what_travels_and_how_soon_a_model_can_be_used(browser: Browser, service: Service) -> None:
    """Under 1.6 MB cold with the chart library, under 60 kB warm, usable within a second on this machine."""
    visit = Visit(browser, service)
    sizes: list[float] = []
    network = visit.context.new_cdp_session(visit.page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    travelled, usable = [], []
    for _ in range(4):
        sizes.clear()
        visit.page.goto("/models/air")
        drawn(visit.page, "#calibration")
        visit.page.wait_for_load_state("networkidle")
        travelled.append(sum(sizes))
        usable.append(visit.page.evaluate("performance.getEntriesByName('interactive')[0].startTime"))
    print(f"bytes cold {travelled[0]:.0f}, warm {travelled[1]:.0f}; usable after ms: {[round(one) for one in usable]}")
    assert 1_000_000 < travelled[0] < 1_600_000
    assert travelled[1] < 60_000
    assert min(usable) < 1000
    visit.close()
