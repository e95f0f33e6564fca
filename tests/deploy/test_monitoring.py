"""deploy/monitoring: every name and label that the dashboard and the alerts use is one that /metrics has, and they say what they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from app.database import Database
from app.settings import Settings
from app.training import presence
from app.training.execution import Executor
from tests.conftest import QUICK, Client, missing

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
ADDED_BY_PROMETHEUS = {"instance", "job"}
NAME = re.compile(r"\b(engram_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


def read_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def read_targets() -> list[dict[str, Any]]:
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    return [target for panel in panels for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """{name: its labels} of a service that has done everything once."""
    import migrations

    settings = Settings(data_dir=tmp_path_factory.mktemp("var"))
    database = Database(settings.database_url)
    migrations.upgrade(database)
    with Client(settings) as client:
        executor = Executor(database, settings, "boot/1/1", ("cpu",))
        client.post_air()
        assert client.train(executor, "air", dataset="air", horizon=3, **QUICK)["status"] == "succeeded"
        assert client.post("/v1/models/air/forecasts", json={}).status_code == 200
        with database.write() as session:
            presence.register_worker(session, "here", ("cpu",), executor.name)
            session.commit()
        text = client.get("/metrics").text
    database.close()
    found: dict[str, set[str]] = {"up": set()}
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def list_wrong(expression: str, shown: str, exposed: dict[str, set[str]]) -> list[str]:
    known, wrong = set(ADDED_BY_PROMETHEUS), []
    for name, matchers in NAME.findall(expression):
        labels = exposed.get(name)
        if labels is None:
            wrong.append(f"no such name: {name}")
            continue
        known |= labels
        wrong += [f"{name} has no label {label}" for label in MATCHER.findall(matchers) if label not in labels | known]
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",") if label.strip()}
    wrong += [f"nothing has the label {label}" for label in grouped - known]
    return wrong + [f"{label} is shown and not kept" for label in SHOWN.findall(shown) if label not in grouped | {"instance"}]


def test_a_name_or_label_that_is_not_there_is_found(exposed: dict[str, set[str]]) -> None:
    assert list_wrong("max(engram_queue_length)", "", exposed)
    assert list_wrong('max(engram_queue_depth{worker="a"})', "", exposed)
    assert list_wrong("max by (route) (engram_queue_depth)", "", exposed)
    assert list_wrong("max by (device) (engram_queue_depth)", "{{route}}", exposed)
    assert not list_wrong("max by (device) (engram_queue_depth)", "{{device}}", exposed)


def test_the_dashboard_uses_what_there_is(exposed: dict[str, set[str]]) -> None:
    targets = read_targets()
    assert len(targets) > 20
    assert not {
        target["expr"]: wrong for target in targets if (wrong := list_wrong(target["expr"], target["legendFormat"], exposed))
    }


def test_the_alerts_use_what_there_is(exposed: dict[str, set[str]]) -> None:
    rules = read_rules()
    assert len(rules) > 5
    shown = {rule["alert"]: " ".join(rule["annotations"].values()) for rule in rules}
    wrong = {rule["alert"]: list_wrong(rule["expr"], shown[rule["alert"]].replace("$value", ""), exposed) for rule in rules}
    assert not {alert: found for alert, found in wrong.items() if found}


def test_every_number_of_ours_is_on_the_dashboard_or_in_an_alert(exposed: dict[str, set[str]]) -> None:
    used = " ".join([target["expr"] for target in read_targets()] + [rule["expr"] for rule in read_rules()])
    ours = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in exposed if name.startswith("engram_")}
    assert {name for name in ours if name not in used} == {"engram_build_info"}


def test_panels_have_a_place_of_their_own() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
    assert len({panel["id"] for panel in panels}) == len(panels)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        missing("no promtool here (Debian: apt install prometheus)")
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_promtool_takes_the_alerts_and_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    checked = promtool("check", "rules", FOLDER / "alerts.yml")
    assert checked.returncode == 0, checked.stderr
    expressions = [re.sub(r"\$__(rate_)?interval", "5m", target["expr"]) for target in read_targets()]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", tmp_path / "panels.yml")
    assert checked.returncode == 0, checked.stderr


ALERTS = [
    # alert, the series from which it fires, the same as it should be
    ("EngramDown", {'up{job="engram",instance="a"}': "0x20"}, {'up{job="engram",instance="a"}': "1x20"}),
    ("EngramDatabaseAway", {"engram_database_up": "0x20"}, {"engram_database_up": "1x20"}),
    ("EngramNoWorker", {'engram_queue_depth{device="cpu"}': "3x20"}, {"engram_queue_depth{device='cpu'}": "0x20"}),
    (
        "EngramNoWorker",
        {'engram_queue_depth{device="cuda"}': "3x20", 'engram_workers{device="cpu"}': "1x20"},
        {'engram_queue_depth{device="cpu"}': "3x20", 'engram_workers{device="cpu"}': "1x20"},
    ),
    (
        "EngramNoWorker",
        {'engram_queue_depth{device="auto"}': "3x20", 'engram_workers{device="cpu"}': "0x20"},
        {'engram_queue_depth{device="auto"}': "3x20", 'engram_workers{device="cuda"}': "1x20"},
    ),
    ("EngramQueueOld", {'engram_queue_oldest_seconds{device="cpu"}': "1800+60x20"}, {"engram_queue_oldest_seconds": "10x20"}),
    ("EngramWorkerLost", {'engram_worker_seen_seconds{worker="w"}': "61+60x20"}, {"engram_worker_seen_seconds": "4x20"}),
    ("EngramLeasesExpired", {"engram_expired_leases": "1x20"}, {"engram_expired_leases": "1x2 0x18"}),
    (
        "EngramHousekeepingLate",
        {"engram_housekeeping_timestamp_seconds": "0x400"},
        {"engram_housekeeping_timestamp_seconds": "0+60x400"},
    ),
    (
        "EngramErrors",
        {'engram_requests_total{status="500"}': "0+10x20", 'engram_requests_total{status="200"}': "0+100x20"},
        {'engram_requests_total{status="404"}': "0+10x20", 'engram_requests_total{status="200"}': "0+100x20"},
    ),
    (
        "EngramTrainingsFail",  # two replicas say the same
        {
            'engram_training_seconds_count{status="failed",instance="a"}': "0+1x20",
            'engram_training_seconds_count{status="failed",instance="b"}': "0+1x20",
            'engram_training_seconds_count{status="succeeded",instance="a"}': "0+1x20",
        },
        {
            'engram_training_seconds_count{status="failed",instance="a"}': "0+1x20",
            'engram_training_seconds_count{status="failed",instance="b"}': "0+1x20",
            'engram_training_seconds_count{status="succeeded",instance="a"}': "0+9x20",
        },
    ),
    ("EngramModelWithoutSkill", {'engram_model_skill{model="m"}': "-1x99"}, {"engram_model_skill": "0.2x99"}),
    (
        "EngramModelMiscalibrated",
        {'engram_model_coverage{level="0.95"}': "0.5x99"},
        {'engram_model_coverage{level="0.5"}': "0.5x99"},
    ),
    (
        "EngramForecastsSlow",
        {
            f'engram_request_seconds_bucket{{route="/v1/models/{{model}}/forecasts",le="{le}"}}': f"0+{more}x40"
            for le, more in (("1.0", 1), ("2.5", 10), ("+Inf", 10))
        },
        {
            f'engram_request_seconds_bucket{{route="/v1/models/{{model}}/forecasts",le="{le}"}}': f"0+{more}x40"
            for le, more in (("0.5", 10), ("1.0", 10), ("+Inf", 10))
        },
    ),
]


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = []
    for alert, bad, good in ALERTS:
        for series, count in ((bad, 1), (good, 0)):
            minutes = 300 if "x400" in str(series) else 90 if "99" in str(series) else 30 if "x40" in str(series) else 18
            query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [
                        {"expr": query, "eval_time": f"{minutes}m", "exp_samples": [{"labels": "{}", "value": count}]}
                    ],
                }
            )
    assert {alert for alert, _, _ in ALERTS} == {rule["alert"] for rule in read_rules()}
    content = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    tested = promtool("test", "rules", tmp_path / "tests.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
