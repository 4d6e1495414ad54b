"""The objects of `deploy/kubernetes`, as they are written and as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())

Object = dict[str, Any]


def written() -> list[Object]:
    """The objects of all files but the kustomization."""
    paths = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"})
    return [each for path in paths for each in yaml.safe_load_all(path.read_text())]


def rendered() -> list[Object]:
    """The objects that `kubectl kustomize` makes; skips the test without kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def find(kind: str, name: str) -> Object:
    """The written object of a kind and name."""
    (found,) = [each for each in written() if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_spec(each: Object) -> Object:
    """The pod of a Deployment or CronJob."""
    spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each["spec"]
    return spec["template"]["spec"]


def container(name: str) -> Object:
    """The only container of a Deployment."""
    (found,) = pod_spec(find("Deployment", name))["containers"]
    return found


def flags(arguments: list[str]) -> dict[str, str]:
    """The values of flags that are written `--name=value`, by name."""
    return dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)


def gibibytes(quantity: str) -> float:
    """A quantity of memory or disk in GiB."""
    number, unit = float(quantity[:-2]), quantity[-2:]
    return number * {"Ki": 2.0**-20, "Mi": 2.0**-10, "Gi": 1.0}[unit]
