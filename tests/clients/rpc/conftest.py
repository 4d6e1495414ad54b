"""A service that answers when the test says so."""

from collections.abc import Iterator

import pytest

from tests.clients.rpc.gated import Gated
from tests.clients.world import serving


@pytest.fixture
def gated() -> Iterator[tuple[Gated, str]]:
    service = Gated()
    with serving(service) as (address,):
        try:
            yield service, address
        finally:
            service.open.set()
