"""What a user of the chart switches on and off, and the dashboard and alerts, whose names must exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from csi.base.addresses import parse_address
from csi.cli.parsing import parser
from csi.observe.metrics import METRICS, Kind
from tests.support.paths import ROOT
from tests.tools.manifests import CLUSTER_WIDE, DEPLOY, NAMESPACE, containers, one, pods, render, rendered

DASHBOARDS = [json.loads(path.read_text()) for path in sorted((DEPLOY / "dashboards").glob("*.json"))]
ALERTS = yaml.safe_load((DEPLOY / "chart" / "alerts.yaml").read_text())
EXAMPLES = DEPLOY / "examples"
ADAPTER = yaml.safe_load((EXAMPLES / "prometheus-adapter" / "values.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "chart" / "values.yaml").read_text())
SCHEMA = json.loads((DEPLOY / "chart" / "values.schema.json").read_text())
REACHABLE = ("--set", "metrics.node.bind=node")
#: What the schema leaves to Helm and the API server.
OPEN = {
    "global",
    "keeper.cacheDirs.[].emptyDir",
    *(f"networkPolicy.{name}.[]" for name in ("metricsFrom", "webhookFrom", "egress")),
} | {
    f"{part}.{name}"
    for part in ("keeper", "node", "network", "controller", "operator", "webhook")
    for name in ("affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity", "env.[].valueFrom")
}
#: What serves metrics, and on which port in these tests.
_PORTS = {"node": 19820, "controller": 19821, "operator": 19823}
#: Prometheus' own words and labels in expressions; a word before "(" is a function, one in quotes a value.
_WORDS = {"by", "or", "unless", "sum", "max", "min", "count", "le"}
_LABELS = {"node", "container", "job", *(label for metric in METRICS.values() for label in metric.labels)}


def monitored(*options: str) -> list[dict[str, Any]]:
    return rendered(*REACHABLE, *options)


def arguments(objects: list[dict[str, Any]], container: str) -> dict[str, str]:
    pairs = (argument.partition("=") for argument in containers(objects)[container]["args"])
    return {name: value for name, _, value in pairs}


def test_metrics_are_served_where_the_values_say() -> None:
    objects = rendered()
    assert arguments(objects, "node")["--metrics-address"] == "127.0.0.1:9820"
    assert arguments(objects, "controller")["--metrics-address"] == "$(POD_ADDRESS):9821"
    assert arguments(objects, "operator")["--metrics-address"] == "$(POD_ADDRESS):9823"
    ports = ",".join(f"metrics.{name}.port={port}" for name, port in _PORTS.items())
    objects = monitored("--set", ports)
    for name, variable, field in (
        ("node", "NODE_ADDRESS", "status.hostIP"),
        ("controller", "POD_ADDRESS", "status.podIP"),
        ("operator", "POD_ADDRESS", "status.podIP"),
    ):
        port = _PORTS[name]
        container = containers(objects)[name]
        assert {"name": "metrics", "containerPort": port} in container["ports"]
        (address,) = (item for item in container["env"] if item["name"] == variable)
        assert address["valueFrom"]["fieldRef"]["fieldPath"] == field
        given = arguments(objects, name)["--metrics-address"]
        for ip in ("10.1.2.3", "fd00::1"):
            assert parse_address(given.replace(f"$({variable})", ip), noun="address") == (ip, port)


def test_metrics_can_be_off() -> None:
    objects = rendered("--set", ",".join(f"metrics.{name}.enabled=false" for name in _PORTS))
    for name in _PORTS:
        assert "--metrics-address" not in arguments(objects, name)
        assert "metrics" not in [port["name"] for port in containers(objects)[name].get("ports", [])]
        parser().parse_args(containers(objects)[name]["args"])


def test_no_port_is_one_of_the_nodes_or_of_kubernetes() -> None:
    """Outside of what services (NodePort) and outgoing connections take."""
    ports = [*(VALUES["metrics"][name]["port"] for name in _PORTS), VALUES["operator"]["livenessPort"]]
    assert len(ports) == len(set(ports))
    for port in ports:
        assert 1024 <= port < 30000
        assert port not in {10248, 10249, 10250, 10256}


def test_a_pod_monitor_selects_what_serves() -> None:
    assert not [item for item in rendered() if item["apiVersion"].startswith("monitoring")]
    objects = monitored("--set", "monitoring.podMonitor.enabled=true,monitoring.podMonitor.labels.release=x")
    monitor = one(objects, "PodMonitor", "efc-csi")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["namespace"] == NAMESPACE
    assert monitor["metadata"]["labels"]["release"] == "x"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    selector = monitor["spec"]["selector"]
    (expression,) = selector["matchExpressions"]
    chosen = set()
    for item in objects:
        if item["kind"] in {"DaemonSet", "Deployment"}:
            template = item["spec"]["template"]
            labels = template["metadata"]["labels"]
            if selector["matchLabels"].items() <= labels.items() and labels[expression["key"]] in expression["values"]:
                ports = {
                    port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])
                }
                assert endpoint["port"] in ports
                chosen.add(item["metadata"]["name"])
    assert chosen == {"efc-node", "efc-controller", "efc-operator"}


def test_a_pod_monitor_needs_an_address_that_is_reached() -> None:
    done = render("--set", "monitoring.podMonitor.enabled=true")
    assert done.returncode != 0
    assert "metrics.node.bind=node" in done.stderr
    assert render("--set", "monitoring.podMonitor.enabled=true,metrics.node.enabled=false").returncode == 0


@pytest.mark.parametrize("part", ["controller", "operator"])
def test_policies_admit_scrapes_and_nothing_else(part: str) -> None:
    assert one(rendered(), "NetworkPolicy", f"efc-{part}")["spec"]["ingress"] == []
    options = ("--set", "monitoring.podMonitor.enabled=true")
    (rule,) = one(monitored(*options), "NetworkPolicy", f"efc-{part}")["spec"]["ingress"]
    assert rule == {"from": [{"namespaceSelector": {}}], "ports": [{"port": "metrics", "protocol": "TCP"}]}
    peers = '[{"podSelector": {"matchLabels": {"app": "prometheus"}}}]'
    (rule,) = one(
        monitored(*options, "--set-json", f"networkPolicy.metricsFrom={peers}"), "NetworkPolicy", f"efc-{part}"
    )["spec"]["ingress"]
    assert rule["from"] == json.loads(peers)
    for off in ("networkPolicy.metricsFrom=[]", f"metrics.{part}.enabled=false"):
        policy = one(monitored(*options, "--set-json", off), "NetworkPolicy", f"efc-{part}")
        assert policy["spec"]["ingress"] == []
    assert not [item for item in rendered("--set", "networkPolicy.enabled=false") if item["kind"] == "NetworkPolicy"]


def test_the_operator_can_be_off() -> None:
    objects = rendered("--set", "operator.enabled=false")
    assert not [item for item in objects if item["metadata"]["name"] == "efc-operator"]
    on = {(item["kind"], item["metadata"]["name"]) for item in rendered()}
    off = {(item["kind"], item["metadata"]["name"]) for item in objects}
    assert {name for _, name in on - off} == {"efc-operator", "efc-datasets-view", "efc-datasets-edit"}
    assert off < on


def test_the_operators_values_are_used() -> None:
    objects = rendered("--set", "operator.livenessPort=19822,operator.logLevel=debug")
    assert arguments(objects, "operator")["--liveness-address"] == "$(POD_ADDRESS):19822"
    assert arguments(objects, "operator")["--log-level"] == "debug"
    container = containers(objects)["operator"]
    assert {"name": container["livenessProbe"]["httpGet"]["port"], "containerPort": 19822} in container["ports"]
    pod = dict(pods(objects))["efc-operator"]
    assert pod["securityContext"]["runAsNonRoot"]


def test_alerts_are_the_rules_of_the_chart() -> None:
    objects = rendered("--set", "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.labels.release=x")
    rule = one(objects, "PrometheusRule", "efc-csi")
    (group,) = rule["spec"]["groups"]
    assert group["rules"] == ALERTS
    assert rule["metadata"]["labels"]["release"] == "x"
    document = (ROOT / "docs" / "METRICS.md").read_text()
    for alert in ALERTS:
        assert f"| `{alert['alert']}` |" in document
        assert alert["labels"]["severity"] in {"critical", "warning"}
        # A label that the expression drops would be empty in the message.
        kept = re.search(r"by \(([^)]*)\)", alert["expr"])
        assert kept
        used = re.findall(r"\$labels\.([a-z_]+)", json.dumps(alert["annotations"]))
        assert set(used) <= {label.strip() for label in kept[1].split(",")}, alert["alert"]


def promtool(folder: Path, rules: list[dict[str, Any]], *command: str) -> subprocess.CompletedProcess[str]:
    """What Prometheus' own tool says of these rules, which are ``rules.yaml`` in the folder."""
    groups = {"groups": [{"name": "efc-csi", "rules": rules}]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    program = ROOT / ".tools" / "bin" / "promtool"
    return subprocess.run([program, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """By Prometheus' engine, over the series in alerts.yaml beside this file; each alert is fired there once."""
    (tmp_path / "alerts.yaml").write_text((Path(__file__).parent / "alerts.yaml").read_text())
    done = promtool(tmp_path, ALERTS, "test", "rules", "alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    for left_out in ALERTS:
        others = [alert for alert in ALERTS if alert is not left_out]
        assert promtool(tmp_path, others, "test", "rules", "alerts.yaml").returncode != 0, left_out["alert"]


def test_expressions_are_prometheus(tmp_path: Path) -> None:
    """Those of dashboards, with values for Grafana's variables, and of the adapter."""
    queries = [(where, re.sub(r"\$(__[a-z_]+|[a-z]+)", "5m", query)) for where, query in expressions()]
    rules = [
        {"record": f"query_{number}", "expr": query, "labels": {"of": where}}
        for number, (where, query) in enumerate(queries)
        if not query.startswith("label_values(")  # Grafana's own
    ]
    done = promtool(tmp_path, rules, "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_autoscaler_goes_by_what_the_adapter_makes() -> None:
    """prometheus-adapter puts labels and selectors into its template: as for the runtime of dataset.yaml."""
    (rule,) = ADAPTER["rules"]["custom"]
    assert rule["seriesQuery"] in METRICS
    series = set(METRICS[rule["seriesQuery"]].labels)
    assert set(rule["resources"]["overrides"]) == series
    runtime = rule["resources"]["overrides"]["dataset_name"]
    scaler = yaml.safe_load((EXAMPLES / "hpa.yaml").read_text())
    target = scaler["spec"]["scaleTargetRef"]
    assert (runtime["group"], runtime["resource"]) == (target["apiVersion"].partition("/")[0], target["kind"].lower())
    (metric,) = scaler["spec"]["metrics"]
    assert metric["object"]["metric"]["name"] == rule["name"]["as"]
    assert metric["object"]["describedObject"] == target
    named = [found["metadata"]["name"] for found in yaml.safe_load_all((EXAMPLES / "dataset.yaml").read_text())]
    assert named == [target["name"]] * 2


def expressions() -> Iterator[tuple[str, str]]:
    for rule in ADAPTER["rules"]["custom"]:
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "dataset_namespace, dataset_name")
        yield rule["name"]["as"], query.replace("<<.LabelMatchers>>", 'dataset_name="efc-demo"')
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for dashboard in DASHBOARDS:
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield variable["name"], variable["query"]["query"]


def known_names() -> set[str]:
    """As they stand in expressions: a histogram has three."""
    histograms = {f"{name}_{part}" for name, metric in METRICS.items() if metric.kind is Kind.HISTOGRAM for part in
                  ("bucket", "sum", "count")}  # fmt: skip
    return {name for name, metric in METRICS.items() if metric.kind is not Kind.HISTOGRAM} | histograms


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: str(value)[:40])
def test_expressions_name_what_is_served(where: str, expression: str) -> None:
    bare = re.sub(r'"[^"]*"', '""', expression)
    for word in re.findall(r"[a-z_]{2,}(?![a-z_]*\()", re.sub(r"\$__[a-z_]+|\$[a-z]+|\[[^]]*\]", "", bare)):
        assert word in known_names() | _LABELS | _WORDS, f"{where}: {word}"
    assert bare.count("(") == bare.count(")")
    assert any(name in bare for name in METRICS), f"{where} shows nothing of ours"
    # Only counters and histograms may be differentiated.
    for name in re.findall(r"(?:rate|increase)\(([a-z_]+)", bare):
        assert (
            METRICS.get(name, METRICS[re.sub("_bucket$", "", name)] if name.endswith("_bucket") else None) is not None
        )
        assert name.endswith(("_total", "_bucket")), name


@pytest.mark.parametrize(
    ("where", "expression"), [one for one in expressions() if " / " in one[1]], ids=lambda value: str(value)[:40]
)
def test_nothing_is_divided_by_zero(where: str, expression: str) -> None:
    """Of what rests there is no ratio, and Grafana would say NaN."""
    for divisor in expression.split(" / ")[1:]:
        assert divisor.startswith("("), where
        assert re.search(r" > 0\)+$", divisor), f"{where}: {divisor}"


def test_dashboards_are_several() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS}) == len(DASHBOARDS) >= 2


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: str(dashboard["uid"]))
def test_every_panel_shows_something(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]


def objects_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects_of(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from objects_of(schema["items"], f"{path}.[]")


def test_the_schema_knows_every_value_and_no_other() -> None:
    checked = dict(objects_of(SCHEMA))
    for path, schema in checked.items():
        assert (schema.get("additionalProperties", True) is True) == (path in OPEN), path

    def compare(values: dict[str, Any], path: str) -> None:
        properties = checked[path].get("properties")
        if properties is None or path.endswith(("resources", "requests", "limits", "affinity")):
            return
        assert set(values) == set(properties) - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, f"{path}.{name}".lstrip("."))

    compare(VALUES, "")


@pytest.mark.parametrize(
    "setting",
    [
        "metrics.node.bind=0.0.0.0",
        "metrics.node.port=80",
        "metrics.node.prot=9820",
        "metrics.controller.port=70000",
        "metrics.operator.bind=node",
        "monitoring.podMonitor.enable=true",
        "monitoring.prometheusRule.severity=high",
        "operator.livenessPort=0",
        "operator.tolerations[0].operater=Exists",
        "operator.resources.request.cpu=1",
        "keeper.resources.limit.cpu=1",
        "imagePullSecrets[0].nam=x",
        "networkPolicy.metricsFrom=all",
    ],
)
def test_values_that_are_refused(setting: str) -> None:
    done = render(*REACHABLE, "--set", setting)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_a_bad_interval_is_refused_in_words() -> None:
    done = render(*REACHABLE, "--set", "monitoring.podMonitor.interval=often")
    assert done.returncode != 0
    assert "a number and ms, s or m" in done.stderr


def test_every_kind_with_a_namespace_has_ours() -> None:
    options = "monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true"
    for item in monitored("--set", options):
        assert item["metadata"].get("namespace") == (None if item["kind"] in CLUSTER_WIDE else NAMESPACE)
