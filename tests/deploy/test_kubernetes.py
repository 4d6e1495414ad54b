"""The objects of `deploy/kubernetes`: valid, consistent with one another, and with what the programs have."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.metrics_core import Metric

from retrieval.serving.rpc.health import LIVENESS
from retrieval.serving.runtime.metrics import Metrics
from tests.deploy.manifests import (
    KUBERNETES,
    KUSTOMIZATION,
    ROOT,
    Object,
    container,
    find,
    flags,
    gibibytes,
    pod_spec,
    rendered,
    written,
)
from tests.docs.promql import Selector, read
from trainer.cli.commands import app as trainer_app
from two_tower_client.cli.parser import make_parser

SERVICES = ("query-tower", "ann")
SCHEMA = "1.32"


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def all_containers() -> list[tuple[str, Object]]:
    pods = [
        (each["metadata"]["name"], pod_spec(each)) for each in written() if each["kind"] in ("Deployment", "CronJob")
    ]
    return [(name, one) for name, pod in pods for one in [*pod.get("initContainers", []), *pod["containers"]]]


def test_every_object_is_valid() -> None:
    assert len(written()) == 16
    for each in written():
        kubernetes_validate.validate(each, SCHEMA, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    wrong = find("Deployment", "ann")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, SCHEMA, strict=True)


def test_every_file_is_part_of_the_base() -> None:
    files = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files


def test_what_kustomize_renders_is_valid_and_complete() -> None:
    objects = rendered()
    assert {(e["kind"], e["metadata"]["name"]) for e in objects} == {
        (e["kind"], e["metadata"]["name"]) for e in written()
    }
    for each in objects:
        kubernetes_validate.validate(each, SCHEMA, strict=True)
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "two-tower"


def test_images_are_those_of_this_release() -> None:
    version = (ROOT / "clients" / "VERSION").read_text().strip()
    assert {one["name"]: one["newTag"] for one in KUSTOMIZATION["images"]} == {
        one["image"]: version for _, one in all_containers()
    }


@pytest.mark.parametrize("name", SERVICES)
def test_selectors_match_the_pods_of_their_service_alone(name: str) -> None:
    labels = {each: find("Deployment", each)["spec"]["template"]["metadata"]["labels"] for each in SERVICES}
    selectors = [
        find("Deployment", name)["spec"]["selector"]["matchLabels"],
        find("Service", name)["spec"]["selector"],
        find("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        find("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod_spec(find("Deployment", name))["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        assert [each for each in SERVICES if matches(selector, labels[each])] == [name]
    scaled = find("HorizontalPodAutoscaler", name)["spec"]["scaleTargetRef"]
    assert scaled == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    assert "replicas" not in find("Deployment", name)["spec"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_those_of_the_flags(name: str) -> None:
    one, given = container(name), flags(container(name)["args"])
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert ports == {
        "grpc": int(given["port"]),
        "health": int(given["health-port"]),
        "metrics": int(given["metrics-port"]),
    }
    # The kubelet speaks no TLS, so it asks at the health port; a replica without a bundle must not be restarted.
    assert one["readinessProbe"]["grpc"] == {"port": ports["health"]}
    assert one["livenessProbe"]["grpc"] == {"port": ports["health"], "service": LIVENESS}
    service = find("Service", name)["spec"]
    assert service["clusterIP"] == "None"
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(ports["grpc"], "grpc")]
    allowed = [port["port"] for rule in find("NetworkPolicy", name)["spec"]["ingress"] for port in rule["ports"]]
    assert allowed == ["grpc", "metrics"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_drain_fits_into_the_grace_period(name: str) -> None:
    given = flags(container(name)["args"])
    drain_s = float(given["drain-delay-s"]) + float(given["drain-timeout-s"])
    # docs/operating.md asks for 15 s more than the drain.
    assert pod_spec(find("Deployment", name))["terminationGracePeriodSeconds"] >= drain_s + 15


def test_pods_are_restricted() -> None:
    for each in written():
        if each["kind"] in ("Deployment", "CronJob"):
            pod = pod_spec(each)
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == 10001
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            # With service links, a Service `ann` would set ANN_SERVICE_PORT, which is a setting of the service.
            assert pod["enableServiceLinks"] is False
    for _, one in all_containers():
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]


def test_mounts_and_accounts_exist_and_what_is_written_has_a_volume() -> None:
    accounts = {each["metadata"]["name"] for each in written() if each["kind"] == "ServiceAccount"}
    for each in written():
        if each["kind"] in ("Deployment", "CronJob"):
            pod = pod_spec(each)
            assert pod["serviceAccountName"] in accounts
            volumes = {volume["name"] for volume in pod["volumes"]}
            containers = [*pod.get("initContainers", []), *pod["containers"]]
            assert {mount["name"] for one in containers for mount in one["volumeMounts"]} == volumes
    for name, one in all_containers():
        writable = {mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")}
        assert "/tmp" in writable, name
        if "envFrom" in one:
            assert "/var/cache/two-tower" in writable, name


def test_a_full_cache_fits_into_its_volume_and_the_volumes_into_the_request() -> None:
    bound = float(find("ConfigMap", "two-tower-store")["data"]["TWO_TOWER_CACHE_GIB"])
    for each in written():
        if each["kind"] in ("Deployment", "CronJob"):
            pod = pod_spec(each)
            sizes = {v["name"]: gibibytes(v["emptyDir"]["sizeLimit"]) for v in pod["volumes"] if "emptyDir" in v}
            assert sizes["cache"] > bound
            first = [*pod.get("initContainers", []), *pod["containers"]][0]
            assert gibibytes(first["resources"]["requests"]["ephemeral-storage"]) >= sum(sizes.values())


def test_settings_in_the_environment_come_from_objects_that_exist_or_are_optional() -> None:
    data = find("ConfigMap", "two-tower-store")["data"]
    for _, one in all_containers():
        for source in one.get("envFrom", []):
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] == "two-tower-store"
            else:
                assert source["secretRef"]["optional"] is True
        used = [word for word in one["args"] if "$(" in word]
        assert used in ([], ["--store=$(TWO_TOWER_STORE)"])
    assert "TWO_TOWER_STORE" in data


@pytest.mark.parametrize("name", SERVICES)
def test_autoscaling_uses_metrics_that_the_adapter_makes_of_exported_ones(name: str) -> None:
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yml").read_text())
    made = {rule["name"]["as"]: rule["seriesQuery"].split("{")[0] for rule in adapter["rules"]}
    metrics = find("HorizontalPodAutoscaler", name)["spec"]["metrics"]
    used = {each["pods"]["metric"]["name"] for each in metrics if each["type"] == "Pods"}
    assert used == set(made)
    # A pod's share of the metric: what the adapter fills in for a namespace and its pods.
    filled = {"<<.GroupBy>>": "pod", "<<.Series>>": "two_tower_queue_seconds_sum", "<<.LabelMatchers>>": 'pod=~"a|b"'}
    for rule in adapter["rules"]:
        query = rule["metricsQuery"]
        for placeholder, value in filled.items():
            query = query.replace(placeholder, value)
        assert read(query) == ([Selector("two_tower_queue_seconds_sum", (("pod", "=~", "a|b"),))], {"pod"})
    registry = Metrics()
    registry.queue_seconds.labels("SearchItems")
    families: list[Metric] = list(registry.registry.collect())
    assert set(made.values()) <= {sample.name for family in families for sample in family.samples}


def test_scraped_pods_get_the_job_names_of_the_alerts() -> None:
    scrape: Any = yaml.safe_load((ROOT / "deploy" / "prometheus" / "kubernetes.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [KUSTOMIZATION["namespace"]]
    rename = next(rule for rule in job["relabel_configs"] if rule.get("target_label") == "job")
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    for name in SERVICES:
        assert rename["replacement"].replace("$1", name) in alerts


def test_the_training_job_uses_commands_and_flags_that_exist() -> None:
    pod = pod_spec(find("CronJob", "retrain"))
    (train,), (wait,) = pod["initContainers"], pod["containers"]
    command, bound, _ = trainer_app.parse_args(train["args"], exit_on_error=False, print_error=False)
    assert command.__name__ == "train"
    assert bound.arguments["recipe_name"] == "/data/recipe.toml"
    assert wait["command"] == ["two-tower"]
    arguments = make_parser().parse_args(wait["args"])
    assert arguments.bundle_version == "live"
    assert arguments.quorum == min(find("HorizontalPodAutoscaler", name)["spec"]["minReplicas"] for name in SERVICES)
    for given, name in ((arguments.query_tower, "query-tower"), (arguments.ann, "ann")):
        assert given == f"dns:///{name}:{find('Service', name)['spec']['ports'][0]['port']}"
    # It has to be let in.
    labels = find("CronJob", "retrain")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    for name in SERVICES:
        callers = find("NetworkPolicy", name)["spec"]["ingress"][0]["from"]
        assert matches(callers[0]["podSelector"]["matchLabels"], labels)
