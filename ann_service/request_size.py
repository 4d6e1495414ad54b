"""Checks numbers and sizes in a serialized SearchItemsRequest, before it is decoded."""

from __future__ import annotations

from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import fields
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_FIELDS = 150_000
"""Largest number of fields of all searches of a request together; each exclusion is one."""

MAX_FILTER_BYTES = 1 << 20
"""Largest size of all filters of a request together, in bytes."""

_FIELDS_A_STEP = 2000


def check_size(body: bytes, max_batch_size: int) -> Steps[None]:
    """Checks numbers and sizes in a serialized request, before it is decoded.

    Args:
        body: serialized SearchItemsRequest.
        max_batch_size: largest number of searches.

    Raises:
        InvalidRequest: there are too many searches or exclusions, the filters are too long, or the bytes are not a
            request.
    """
    search_count = field_count = filter_bytes = 0
    for number, start, end in fields(body):
        if number != pb.SearchItemsRequest.SEARCHES_FIELD_NUMBER:
            continue
        search_count += 1
        if search_count > max_batch_size:
            raise InvalidRequest([("searches", f"more than {max_batch_size} searches")])
        path = f"searches[{search_count - 1}]"
        for part, part_start, part_end in fields(body, start, end):
            field_count += 1
            if part == pb.Search.FILTER_FIELD_NUMBER:
                filter_bytes += part_end - part_start
            if field_count > MAX_FIELDS:
                fault = f"more than {MAX_FIELDS} fields up to here, most of them exclusions; send several requests"
                raise InvalidRequest([(f"{path}.exclude_item_ids", fault)])
            if filter_bytes > MAX_FILTER_BYTES:
                fault = f"filters of {filter_bytes} bytes up to here, expected at most {MAX_FILTER_BYTES} in a request"
                raise InvalidRequest([(f"{path}.filter", fault)])
            if field_count % _FIELDS_A_STEP == 0:
                yield
