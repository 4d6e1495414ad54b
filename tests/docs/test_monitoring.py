"""Alert rules, dashboard and runbook, against what running services really export."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from retrieval.bundle.layout import GOLDEN_QUERIES, LIVE
from retrieval.store.folder_store import FolderStore
from tests.docs.promql import Selector, read
from tests.harness import Running, ann_service, failure, query_tower_service
from tests.worlds import DIMENSION, wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as ann_pb
from two_tower.query.v1 import query_tower_service_pb2 as query_pb

ROOT = Path(__file__).parents[2]
RULES_FILE = ROOT / "deploy" / "prometheus" / "alerts.yml"
TESTS_FILE = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "two-tower.json").read_text())
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
QUERIES += re.findall(r"^```promql\n(.*?)\n```", RUNBOOK, flags=re.DOTALL | re.MULTILINE)

# Prometheus adds these to what a service exports.
OF_PROMETHEUS = {"up"}
OF_THE_TARGET = {"job", "instance"}

READ, ADMIN = [("authorization", "Bearer reader")], [("authorization", "Bearer admin")]
EMBED = query_pb.EmbedQueriesRequest(queries=[query_pb.Query()])

# Values of each label of each exported sample, by the name of the sample.
Exported = dict[str, dict[str, set[str]]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(port: int) -> list[Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return [s for family in text_string_to_metric_families(response.read().decode()) for s in family.samples]


def total(port: int, name: str, **labels: str) -> float:
    return sum(s.value for s in scrape(port) if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """What both services export after calls, failures, a refused bundle, a store fault and a bad token file."""
    folder = tmp_path_factory.mktemp("monitoring")
    store = FolderStore(folder / "store")
    tokens = folder / "tokens"
    tokens.write_text("admin ops\nreader shop read\n")
    (folder / "log").mkdir()
    live = write_bundle(store).bundle_version
    ports = [free_port(), free_port()]
    settings: dict[str, Any] = {"token_file": tokens, "receive_timeout_s": 0.2, "retry_after_s": 0.05}
    with ExitStack() as stack:
        query_tower = stack.enter_context(
            query_tower_service(
                store,
                metrics_port=ports[0],
                max_in_flight=1,
                query_log=folder / "log" / "queries.jsonl",
                query_log_share=1.0,
                served_log=folder / "served",
                **settings,
            )
        )
        ann = stack.enter_context(ann_service(store, metrics_port=ports[1], served_log=folder / "served", **settings))
        for service in (query_tower, ann):
            wait_for(lambda service=service: service.health() == "SERVING", "it serves")
        call(query_tower, ann, live)
        fail(query_tower, ports[0])
        (folder / "log" / "queries.jsonl").unlink()
        (folder / "log").rmdir()
        query_tower.stub.EmbedQueries(EMBED, metadata=READ, timeout=10)
        wait_for(lambda: total(ports[0], "two_tower_query_log_drops_total"), "a line of the query log is lost")
        refused = write_bundle(store, damage=lambda staged: (staged / GOLDEN_QUERIES).write_bytes(b"damaged"))
        store.promote(refused.bundle_version)
        for port in ports:
            wait_for(lambda port=port: total(port, "two_tower_bundle_refusals_total"), "the bundle is refused")
        tokens.write_text("too many words here\n")
        (store.root / LIVE).write_text("../elsewhere\n")
        for port in ports:
            wait_for(lambda port=port: total(port, "two_tower_store_faults_total"), "the store is at fault")
            wait_for(
                lambda port=port: total(port, "two_tower_credential_reloads_total", file="tokens", result="failed"),
                "the tokens are not reloaded",
            )
        found: Exported = defaultdict(lambda: defaultdict(set))
        for port in ports:
            for sample in scrape(port):
                found[sample.name].update()
                for label, value in sample.labels.items():
                    found[sample.name][label].add(value)
        yield found


def call(query_tower: Running, ann: Running, live: str) -> None:
    query_tower.stub.EmbedQueries(EMBED, metadata=READ, timeout=10)
    query_tower.stub.GetServingStatus(query_pb.GetServingStatusRequest(), metadata=ADMIN, timeout=10)
    search = ann_pb.Search(
        embedding=ann_pb.Embedding(values=[1.0] * DIMENSION),
        k=5,
        filter=ann_pb.Filter(range=ann_pb.Range(attribute="year", min=1960)),
    )
    request = ann_pb.SearchItemsRequest(model_version=live, searches=[search])
    assert len(ann.stub.SearchItems(request, metadata=READ, timeout=10).results[0].item_ids) == 5


def fail(query_tower: Running, port: int) -> None:
    stub, method = query_tower.stub, "/two_tower.query.v1.QueryTowerService/EmbedQueries"
    status = query_pb.GetServingStatusRequest()
    assert failure(stub.EmbedQueries, EMBED)[0] == "UNAUTHENTICATED"
    assert failure(stub.GetServingStatus, status, metadata=READ)[0] == "PERMISSION_DENIED"
    assert failure(query_tower.channel.unary_unary(method), b"\xff", metadata=READ)[0] == "INVALID_ARGUMENT"
    release = threading.Event()

    def silence() -> Iterator[bytes]:
        release.wait(20)
        yield b""

    silent = query_tower.channel.stream_unary(method).future(silence(), metadata=READ)
    assert silent.exception(10).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    release.set()
    many = query_pb.EmbedQueriesRequest(queries=[query_pb.Query()] * 1000)

    def is_overloaded() -> bool:
        for future in [stub.EmbedQueries.future(many, metadata=READ, timeout=10) for _ in range(20)]:
            future.exception(10)
        return total(port, "two_tower_refused_total", reason="overloaded") > 0

    wait_for(is_overloaded, "a call is refused")
    for reason in ("unauthenticated", "scope_missing", "not_received"):
        assert total(port, "two_tower_refused_total", reason=reason) == 1, reason
    assert total(port, "two_tower_undecodable_total") == 1


def faults_of(expression: str, exported: Exported) -> Iterator[str]:
    """Yields the metrics, labels and label values of an expression that no service exports."""
    selectors, groups = read(expression)
    assert selectors, expression
    ours = [selector for selector in selectors if selector.metric not in OF_PROMETHEUS]
    for selector in ours:
        if selector.metric not in exported:
            yield f"{selector.metric} is not exported: {expression}"
        else:
            yield from _matcher_faults(selector, exported)
    known = {label for selector in ours for label in exported.get(selector.metric, ())} | OF_THE_TARGET
    yield from (f"no metric has the label {label}: {expression}" for label in groups - known)


def _matcher_faults(selector: Selector, exported: Exported) -> Iterator[str]:
    for label, operator, value in selector.matchers:
        if label in OF_THE_TARGET:
            continue
        values = exported[selector.metric].get(label)
        if values is None:
            yield f"{selector.metric} has no label {label}"
        elif operator in ("=", "=~"):
            for part in value.split("|") if operator == "=~" else [value]:
                if not any(re.fullmatch(part, exported_value) for exported_value in values):
                    yield f"{selector.metric} has no {label} {part}, it has {sorted(values)}"


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_what_rules_dashboard_and_runbook_name_is_exported(expression: str, exported: Exported) -> None:
    assert list(faults_of(expression, exported)) == []


def test_what_is_not_exported_is_noticed(exported: Exported) -> None:
    wrong = 'sum by (jobb) (rate(two_tower_request_total{code="OK"}[5m])) / two_tower_requests_total{cod="OK"} > 0.5'
    assert [fault.split(":")[0] for fault in faults_of(wrong, exported)] == [
        "two_tower_request_total is not exported",
        "two_tower_requests_total has no label cod",
        "no metric has the label jobb",
    ]
    assert list(faults_of('two_tower_refused_total{reason=~"overloaded|tired"}', exported)) != []


def test_an_expression_is_read_to_its_metrics_and_labels() -> None:
    expression = (
        'a:b{x="y", z!~"}|{"} unless on (job, x) histogram_quantile(0.9, sum by (le) (rate(c_bucket[5m]))) > 1e-3'
    )
    selectors, groups = read(expression)
    assert selectors == [Selector("a:b", (("x", "=", "y"), ("z", "!~", "}|{"))), Selector("c_bucket", ())]
    assert groups == {"job", "x", "le"}


def test_every_metric_is_described_and_every_described_metric_exists(exported: Exported) -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    table = page.split("\n## Metrics\n")[1].split("\n## ")[0]
    described = set(re.findall(r"`(two_tower_\w+)`", table))
    names = {name for name in exported if name.startswith("two_tower_") and not name.endswith("_created")}
    existing = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert described == existing


def test_every_alert_is_in_the_runbook_and_the_runbook_has_no_other() -> None:
    headings = re.findall(r"^### (TwoTower\w+)$", RUNBOOK, flags=re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_alert_has_a_unit_test() -> None:
    tests = yaml.safe_load(TESTS_FILE.read_text())["tests"]
    tested = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert tested == {rule["alert"] for rule in RULES}


def test_the_panels_of_the_dashboard_can_be_told_apart() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not on the path (Debian: apt-get install prometheus)")
    return found


def test_promtool_accepts_the_rules_and_their_unit_tests(promtool: str) -> None:
    for command in (["check", "rules", RULES_FILE.name], ["test", "rules", TESTS_FILE.name]):
        done = subprocess.run(
            [promtool, *command], cwd=RULES_FILE.parent, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_queries_of_dashboard_and_runbook(promtool: str, tmp_path: Path) -> None:
    expressions = [query.replace("$__rate_interval", "5m") for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
