"""docs/deploying.md, followed as far as that is possible without a cluster; test_flags.py uses its certificates."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.deploy.guide import PAGE, block, commands
from tests.deploy.manifests import KUBERNETES, ROOT, find, pod_spec, written
from tests.deploy.test_kubernetes import SCHEMA


def test_the_overlay_names_images_and_store_and_is_valid(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    shutil.copytree(KUBERNETES, tmp_path / "two-tower" / "deploy" / "kubernetes")
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(block("yaml", "2. Write an overlay"))
    command = ["kubectl", "kustomize", "overlay"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert len(objects) == len(written())
    for each in objects.values():
        kubernetes_validate.validate(each, SCHEMA, strict=True)
    data = objects["ConfigMap", "two-tower-store"]["data"]
    assert (data["TWO_TOWER_STORE"], data["TWO_TOWER_CACHE_GIB"]) == ("s3://my-bucket/shop", "10")
    (ann,) = pod_spec(objects["Deployment", "ann"])["containers"]
    version = (ROOT / "clients" / "VERSION").read_text().strip()
    assert ann["image"] == f"registry.example/two-tower/ann:{version}"
    assert ann["resources"]["limits"]["memory"] == "8Gi"


def test_every_secret_and_claim_that_a_pod_needs_is_made_by_the_guide() -> None:
    pods = [pod_spec(each) for each in written() if each["kind"] in ("Deployment", "CronJob")]
    secrets = {volume["secret"]["secretName"] for pod in pods for volume in pod["volumes"] if "secret" in volume}
    secrets |= {
        source["secretRef"]["name"]
        for pod in pods
        for one in [*pod.get("initContainers", []), *pod["containers"]]
        for source in one.get("envFrom", [])
        if "secretRef" in source
    }
    made = {}
    for line in [*commands("3. Certificates and tokens"), *commands("4. Credentials of the store")]:
        words = shlex.split(line)
        if "secret" in words:
            made[words[words.index("generic") + 1]] = [
                word.split("=")[0] for flag, word in itertools.pairwise(words) if flag == "--from-file"
            ]
    assert secrets == set(made)
    # The keys are the files that the pods name.
    assert made["two-tower-tls"] == ["tls.crt", "tls.key", "ca.crt"]
    assert (made["two-tower-tokens"], made["two-tower-operator-token"]) == (["tokens"], ["token"])
    claims = {
        v["persistentVolumeClaim"]["claimName"] for pod in pods for v in pod["volumes"] if "persistentVolumeClaim" in v
    }
    assert all(f"`{claim}`" in PAGE for claim in claims)


def test_a_file_that_the_guide_applies_alone_changes_no_other_namespace() -> None:
    applied = re.findall(r"kubectl apply -f two-tower/(\S+)", PAGE)
    assert applied == ["deploy/kubernetes/namespace.yaml"]
    for path in applied:
        for each in yaml.safe_load_all((ROOT / path).read_text()):
            named = each["metadata"]["name"] if each["kind"] == "Namespace" else each["metadata"].get("namespace")
            assert named == "two-tower", each["kind"]


def test_settings_that_the_guide_names_are_those_of_the_base() -> None:
    (ann,) = pod_spec(find("Deployment", "ann"))["containers"]
    for flag in re.findall(r"`(--[a-z-]+=[^`]+)`", PAGE):
        assert flag in ann["args"], flag
    quorum = find("HorizontalPodAutoscaler", "ann")["spec"]["minReplicas"]
    assert f"two-tower wait --for live --quorum {quorum}" in PAGE
    assert f"runs {quorum} to {find('HorizontalPodAutoscaler', 'ann')['spec']['maxReplicas']} pods" in PAGE
