"""The table of limits in docs/operating.md: every limit is in it, with its default."""

from __future__ import annotations

import dataclasses
import importlib
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from ann_service import requests as ann_requests
from ann_service.config import AnnConfig
from ann_service.filters import conditions
from ann_service.reranking import options
from query_tower_service import event_requests
from query_tower_service import requests as query_requests
from query_tower_service.config import QueryTowerConfig
from retrieval.live_features import records
from retrieval.serving.rpc import calls, health

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "s": 1}
FIELDS = {field.name: field.default for config in (AnnConfig, QueryTowerConfig) for field in dataclasses.fields(config)}

# How far recall may fall is no limit for callers.
OTHER = {"max_recall_loss"}


def rows() -> list[list[str]]:
    """Limit, setting or constant, default, what it is checked before, and what is beyond it."""
    lines = PAGE.split("\n## Limits\n")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["limit", "setting or constant", "default", "checked before", "beyond it"]
    return table[2:]


def named() -> dict[str, str]:
    """The default in the table by the name of the setting or constant."""
    return {row[1].strip("`"): row[2] for row in rows() if row[1].startswith("`")}


def value_of(name: str) -> Any:
    if not name.startswith("--"):
        module, _, constant = name.rpartition(".")
        return getattr(importlib.import_module(module), constant)
    field = name[2:].replace("-", "_")
    return FIELDS[field] * (UNITS["MiB"] if field.endswith("_mib") else 1)


def test_every_default_in_the_table_is_the_real_one() -> None:
    assert len(named()) > 30
    for name, default in named().items():
        number, _, unit = default.replace(",", "").partition(" ")
        assert float(Fraction(number)) * UNITS.get(unit, 1) == value_of(name), name


def test_every_limit_is_in_the_table() -> None:
    limits = {name for name in FIELDS if re.search(r"^max_|_max_|_timeout_s$|_cache_", name)} - OTHER
    assert {f"--{name.replace('_', '-')}" for name in limits} <= set(named())
    for module in (ann_requests, conditions, options, query_requests, event_requests, records, calls, health):
        own = {name for name, value in vars(module).items() if re.match(r"_?(MAX|LONGEST|LARGEST)_", name) and value}
        # The number of listed violations is the same in both services; the table has it once.
        own = {f"{module.__name__}.{name}" for name in own if not name.endswith("VIOLATIONS")}
        assert own <= set(named()), module.__name__


def test_every_row_says_what_a_caller_gets() -> None:
    assert all(len(row) == 5 and all(row) for row in rows())


def test_no_size_of_a_request_in_the_protos_is_outdated() -> None:
    default_mib = FIELDS["max_request_bytes"] >> 20
    for proto in (ROOT / "protos").rglob("*.proto"):
        assert set(re.findall(r"(\d+) MiB by default", proto.read_text(encoding="utf-8"))) == {str(default_mib)}, proto
