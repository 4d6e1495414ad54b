"""The settings of telemetry."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from ann_service.app import assemble
from ann_service.config import AnnConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"otlp_endpoint": "localhost:4317"}, "expected a URL such as http://localhost:4317"),
        ({"log_share": 1.5}, "log_share is 1.5, expected 0 to 1"),
        ({"admin_port": 65536}, "admin_port is 65536, expected 0 to 65535"),
        ({"admin_port": 65534, "workers": 3}, "choose one that is at most 65533"),
        ({"admin_host": "0.0.0.0"}, "admin_host 0.0.0.0 can be reached from elsewhere"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AnnConfig(store=Path("x"), **settings)


def test_each_worker_has_its_own_admin_port() -> None:
    config = AnnConfig(store=Path("x"), workers=3, admin_port=9200)
    assert [config.for_worker(number, 50052).admin_port for number in (1, 2, 3)] == [9200, 9201, 9202]
    assert AnnConfig(store=Path("x"), workers=3).for_worker(2, 50052).admin_port == 0


@pytest.mark.parametrize(
    ("settings", "package"),
    [({"otlp_endpoint": "http://127.0.0.1:1"}, "opentelemetry"), ({"admin_port": 9200}, "grpc_channelz")],
)
def test_says_which_extra_is_missing(settings: dict[str, Any], package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip("the extra telemetry is installed")
    with pytest.raises(ValueError, match=r"two-tower-retrieval\[telemetry\]"):
        assemble(AnnConfig(store=Path("x"), **settings))
