"""Runs a service whose calls sleep first: ``python -m benchmarks.loadtest.slowed MILLISECONDS SERVICE FLAG …``.

It is used to check that the load test detects slow calls. The services have no option for it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from ann_service import app as ann_assembly
from ann_service.config import AnnConfig
from ann_service.servicer import SearchItems
from query_tower_service import app as query_tower_assembly
from query_tower_service.config import QueryTowerConfig
from query_tower_service.embed_queries import EmbedQueries
from retrieval.serving.process.program import run_program

_PROGRAMS: dict[str, tuple[Any, Any, Any]] = {
    "ann_service": (AnnConfig, ann_assembly.assemble, SearchItems),
    "query_tower_service": (QueryTowerConfig, query_tower_assembly.assemble, EmbedQueries),
}


def main(milliseconds: float, service: str, flags: list[str]) -> int:
    """Runs a service with slowed calls, and returns its exit code.

    Args:
        milliseconds: time that a thread sleeps before it answers a call, or several together.
        service: package of the service.
        flags: arguments of the service.
    """
    config_class, assemble, method = _PROGRAMS[service]
    answer = method.answer

    def slow(self: Any, calls: Any) -> Any:
        time.sleep(milliseconds / 1000)
        yield from answer(self, calls)

    method.answer = slow
    method.is_short = lambda *_: False
    return run_program(service, __doc__ or "", config_class, assemble, flags)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
