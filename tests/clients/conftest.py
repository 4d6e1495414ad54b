"""Two scripted services with model m1, and their addresses."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.clients.world import ScriptedAnn, ScriptedQueryTower, serving


@dataclass
class World:
    query_tower: ScriptedQueryTower
    ann: ScriptedAnn
    query_tower_address: str
    ann_address: str

    @property
    def addresses(self) -> dict[str, str]:
        return {"query_tower": self.query_tower_address, "ann": self.ann_address}

    @property
    def flags(self) -> list[str]:
        return ["--query-tower", self.query_tower_address, "--ann", self.ann_address]


@pytest.fixture
def world() -> Iterator[World]:
    query_tower, ann = ScriptedQueryTower(("b1", "m1")), ScriptedAnn(("b1", "m1"))
    with serving(query_tower, ann) as addresses:
        yield World(query_tower, ann, *addresses)
