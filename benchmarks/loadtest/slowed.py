"""Runs a service whose handlers sleep first: ``python -m benchmarks.loadtest.slowed MILLISECONDS SERVICE FLAG …``.

It is used to check that the load test detects slow handlers. The services have no option for it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from ann_service import app as ann_assembly
from ann_service.config import AnnConfig
from ann_service.servicer import AnnServicer
from query_tower_service import app as query_tower_assembly
from query_tower_service.config import QueryTowerConfig
from query_tower_service.servicer import QueryTowerServicer
from retrieval.serving.process.program import run_program

_PROGRAMS: dict[str, tuple[Any, Any, type, str]] = {
    "ann_service": (AnnConfig, ann_assembly.assemble, AnnServicer, "SearchItems"),
    "query_tower_service": (QueryTowerConfig, query_tower_assembly.assemble, QueryTowerServicer, "EmbedQueries"),
}


def main(milliseconds: float, service: str, flags: list[str]) -> int:
    """Runs a service with slowed handlers, and returns its exit code.

    Args:
        milliseconds: time that every handler sleeps before it answers.
        service: package of the service.
        flags: arguments of the service.
    """
    config_class, assemble, servicer, method = _PROGRAMS[service]
    handle = getattr(servicer, method)

    def slow(*arguments: Any) -> Any:
        time.sleep(milliseconds / 1000)
        return handle(*arguments)

    setattr(servicer, method, slow)
    return run_program(service, __doc__ or "", config_class, assemble, flags)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
