"""Decodes SearchItemsRequest. Of a large one, numbers and sizes are checked on its bytes before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.serving.answering.call import SMALL_BYTES
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import FIELDS_A_STEP, decode, decode_parts, fields
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_FIELDS = 150_000
"""Largest number of fields of all searches of a request together; each exclusion is one."""

MAX_OTHER_BYTES = 1 << 20
"""Largest size of all searches of a request together without embeddings and exclusions: mostly that of filters."""

_MANY = (pb.Search.EMBEDDING_FIELD_NUMBER, pb.Search.EXCLUDE_ITEM_IDS_FIELD_NUMBER)


def decode_request(body: bytes, max_batch_size: int) -> Steps[tuple[pb.SearchItemsRequest, Sequence[pb.Search]]]:
    """Returns a request, and its searches. Pauses between the parts of a large one.

    Args:
        body: serialized SearchItemsRequest.
        max_batch_size: largest number of searches.

    Raises:
        InvalidRequest: there are too many searches or exclusions, or the filters are too long.
        Undecodable: the bytes are not a request.
    """
    if len(body) <= SMALL_BYTES:
        request = decode(body, pb.SearchItemsRequest)
        return request, request.searches
    limits = _Limits()
    return (yield from decode_parts(body, pb.SearchItemsRequest, pb.Search, "searches", max_batch_size, limits.check))


class _Limits:
    """The limits on the searches of one request together."""

    def __init__(self) -> None:
        self._field_count = self._other_bytes = 0

    def check(self, path: str, body: bytes, start: int, end: int) -> Steps[None]:
        """Checks one more search; see `retrieval.serving.answering.wire.decode_parts`."""
        for number, field_start, field_end in fields(body, start, end):
            self._field_count += 1
            if number not in _MANY:
                self._other_bytes += field_end - field_start
            if self._field_count > MAX_FIELDS:
                fault = f"more than {MAX_FIELDS} fields up to here, most of them exclusions; send several requests"
                raise InvalidRequest([(f"{path}.exclude_item_ids", fault)])
            if self._other_bytes > MAX_OTHER_BYTES:
                fault = (
                    f"more than {MAX_OTHER_BYTES} bytes of filters and other fields up to here; send several requests"
                )
                raise InvalidRequest([(f"{path}.filter", fault)])
            if self._field_count % FIELDS_A_STEP == 0:
                yield
