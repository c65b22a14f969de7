"""docs/alerts.yml and docs/grafana.json, in the hands of Prometheus' own tool.

`drills/metrics.py` has them on an app at work.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drills import metrics
from pyramid_dbpool.cli.pdbpool import _parser
from pyramid_dbpool.prometheus import families
from pyramid_dbpool.telemetry.metrics import METRICS, prometheus_name
from tests.support import reports

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/alerts.yml"
PANELS = json.loads((ROOT / "docs/grafana.json").read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTS = set(re.findall(r"alert: (\w+)", RULES.read_text()))

POOL = '{app="notes",role="web",pid="1",db_client_connection_pool_name="default",engine="0"}'
PROCESS = '{app="notes",role="web",pid="1"}'
WAITING = "db_client_connection_pending_requests" + POOL
TIMEOUTS = "db_client_connection_timeouts_total" + POOL
OUTAGE = "dbpool_outage_time_seconds_total" + POOL
AWAY = "dbpool_outage_seconds" + POOL
PAUSED = "dbpool_paused_seconds" + POOL
UP = 'dbpool_process_up{pid="1"}'
# What a calm pool says; one value each 15 s.
CALM = dict.fromkeys(
    (
        WAITING,
        TIMEOUTS,
        OUTAGE,
        AWAY,
        PAUSED,
        "dbpool_longest_hold_seconds" + POOL,
        "dbpool_write_outage_seconds" + POOL,
    ),
    "0x40",
) | {UP: "1x40", "dbpool_engines" + PROCESS: "2x40"}


@pytest.fixture
def promtool(installed_prometheus: Path) -> str:
    """Give Prometheus' tool for rules."""
    return str(installed_prometheus / "promtool")


@pytest.mark.programs
@pytest.mark.parametrize(
    "says, alerts",
    [
        ({}, set()),
        ({WAITING: "3x40"}, {"DbpoolExhausted"}),
        ({TIMEOUTS: "0x10 1+1x30"}, {"DbpoolExhausted"}),
        # Now and then somebody waits.
        ({WAITING: "0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0 3 0"}, set()),
        ({"dbpool_longest_hold_seconds" + POOL: "0+15x40"}, {"DbpoolConnectionHeld"}),
        ({AWAY: "0+15x40", OUTAGE: "0+15x40"}, {"DbpoolDatabaseAway"}),
        # Whoever waits in an outage waits for the database.
        ({AWAY: "0+15x40", OUTAGE: "0+15x40", WAITING: "3x40"}, {"DbpoolDatabaseAway"}),
        ({"dbpool_write_outage_seconds" + POOL: "0+15x40"}, {"DbpoolReadOnly"}),
        ({UP: "1x10 0x30"}, {"DbpoolProcessSilent"}),
        ({"dbpool_engines" + PROCESS: "2+1x40"}, {"DbpoolTooManyEngines"}),
        ({PAUSED: "0+15x40"}, {"DbpoolPausedForLong"}),
        ({PAUSED: "0+15x40", WAITING: "3x40"}, {"DbpoolPausedForLong"}),
        ({PAUSED: "0+15x10 0x30"}, set()),
    ],
)
def test_an_alert_fires_when_it_should(
    promtool: str, says: dict[str, str], alerts: set[str], tmp_path: Path
) -> None:
    """And no other one does."""
    series = [{"series": name, "values": values} for name, values in (CALM | says).items()]
    firing = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(alerts)]
    query = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "10m",
        "exp_samples": firing,
    }
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [query]}
    file = tmp_path / "test.yml"
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]})
    )
    run(promtool, "test", "rules", str(file))


def test_what_the_rules_ask_for_is_there() -> None:
    """Each name and label is one that the collector writes."""
    text = "".join(re.findall(r"expr: (.*?)\n +(?:for|labels):", RULES.read_text(), re.DOTALL))
    check_names(text)
    assert len(ALERTS) == 7


def test_each_alert_is_drilled() -> None:
    """On an app at work."""
    assert {trouble.alert for trouble in metrics.TROUBLES} == ALERTS


def test_what_the_dashboard_asks_for_is_there() -> None:
    """And each of the metrics is in it."""
    asked = check_names(" ".join(QUERIES))
    told = {family.name for family in families({1: reports.report(1)})}
    assert [name for name in told if not any(each.startswith(name) for each in asked)] == []


@pytest.mark.programs
def test_the_dashboard_s_queries_can_be_read(promtool: str, tmp_path: Path) -> None:
    """As Grafana sends them."""
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))


def test_each_metric_is_in_the_page_s_table() -> None:
    """With its unit, and nothing else is."""
    rows = re.findall(
        r"\* - ``(\w+)``\n +- (\w+), ([\w ]+): (.+)\n",
        (ROOT / "docs/metrics.rst").read_text(),
    )
    told = families({1: reports.report(1)})
    names = {(family.name + ("_total" if family.type == "counter" else "")) for family in told}
    assert sorted(names) == sorted(name for name, *_ in rows)
    units = {prometheus_name(each.name, each.kind, each.unit): each.unit for each in METRICS}
    for name, _kind, unit, _text in rows:
        if name in units:
            assert units[name] in ("s" if unit == "seconds" else f"{{{unit[:-1]}}}")


def test_the_panels_cover_each_other_nowhere() -> None:
    """Each has its place, its number and a sentence of what it shows."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    squares = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24


def run(*words: str) -> None:
    """Run a program that has to find nothing wrong."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_names(text: str) -> set[str]:
    """Give the names in these queries, each of which is one that the collector writes."""
    asked = set(re.findall(r"\b(?:dbpool|db_client_connection)_\w+", text))
    told = list(families({1: reports.report(1)}))
    known = {sample.name for family in told for sample in family.samples}
    known |= {label for family in told for sample in family.samples for label in sample.labels}
    assert asked
    assert asked - known == set()
    return asked


def annotations() -> dict[str, Any]:
    """Give what each alert says of what to do."""
    parts = re.split(r"- alert: ", RULES.read_text())[1:]
    return {part.split("\n")[0]: " ".join(part.split("action:")[1].split()) for part in parts}


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_what_to_do(alert: str) -> None:
    """With a command that shows more, and is one."""
    named = set(re.findall(r"pdbpool (\w+)", annotations()[alert]))
    known = set(re.findall(r"^    (\w+)", _parser().format_help(), re.MULTILINE))
    assert named
    assert named - known == set()
