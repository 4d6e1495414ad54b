"""The fields of GetServingStatusResponse that both services have."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles

M = TypeVar("M", bound=Message)


def build_status(
    response_class: type[M], open_bundles: OpenBundles[Any], snapshot: Snapshot[Any], **service_fields: Any
) -> M:
    """Returns a GetServingStatusResponse: worker, live and loading bundle, problems, and the fields of one service.

    Args:
        response_class: GetServingStatusResponse of the service's proto package.
        open_bundles: names the worker process.
        snapshot: state to report; `service_fields` are made from the same one.
        service_fields: further fields of the message by name.
    """
    return response_class(
        live_bundle_version=snapshot.live_version,
        loading_bundle_version=snapshot.loading_version,
        worker=open_bundles.worker,
        worker_count=open_bundles.worker_count,
        problems=[
            {
                "bundle_version": problem.version,
                "gate": problem.gate,
                "message": problem.message,
                "refused_at_ms": problem.refused_at_ms,
            }
            for problem in snapshot.problems
        ],
        **service_fields,
    )
