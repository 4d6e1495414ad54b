"""A running console, stores with bundles whose titles are hostile, and services for them."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from console.server import make_server
from console.settings import Pair as Addresses
from console.settings import Settings
from console.state import Console
from retrieval.bundle.catalogue.items import ItemTable, StringColumn
from retrieval.bundle.layout import ITEMS
from retrieval.bundle.manifest import GateResult, Manifest
from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.worlds import item_table, write_bundle

HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> \x1b[31mred\u202e & 'so'"
)
"""A title with markup, an escape sequence, a mark of the writing direction, and quotes."""

SHOWN = HOSTILE.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e")
"""How a page shows it."""

FAILED = GateResult(0.05, 0.09, False, "ndcg@10 is 0.0500, at least 0.0900 is required: train longer")
PASSED = GateResult(0.99, 0.95, True, "recall@100 of the index is 0.9900, at least 0.9500 is required")


def with_hostile_titles(folder: Path) -> None:
    """Gives all items of a staged bundle the same hostile title, whatever else they have."""
    items = item_table(300)
    columns = {
        **items.attributes,
        "title": StringColumn.of([HOSTILE if row % 2 else f"Title {row}" for row in range(300)]),
    }
    (folder / ITEMS).unlink()
    ItemTable.of(items.ids, columns).write(folder / ITEMS)


def write(store: FolderStore, gates: dict[str, GateResult] | None = None, **fields: Any) -> str:
    """Writes a bundle with hostile titles, by default promotes it, and returns its version."""

    def with_gates(manifest: Manifest) -> Manifest:
        return replace(manifest, gates=gates or {"ann_recall": PASSED})

    return write_bundle(store, **{"manifest": with_gates, "damage": with_hostile_titles, **fields}).bundle_version


def free_port() -> int:
    """Returns a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def settings_for(store: FolderStore, pair: Pair | None, **options: Any) -> Settings:
    """Returns settings for the replicas of a pair; without one, for addresses at which nothing answers."""
    if pair is None:
        addresses = Addresses("services", f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    else:
        query_towers, anns = (",".join(each.address for each in side) for side in (pair.query_towers, pair.anns))
        addresses = Addresses("services", query_towers, anns)
    return Settings(**{"store": str(store.root), "pairs": (addresses,), "port": 0, **options})


@dataclass
class Visitor:
    """A browser without scripts.

    Attributes:
        http: HTTP client with the cookies of its session.
    """

    http: httpx2.Client

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(path)

    def csrf(self) -> str:
        """Returns the secret of the session, as a page names it."""
        found = re.search(r'<meta name="csrf" content="([^"]+)">', self.http.get("/token").text)
        assert found is not None
        return found[1]

    def post(
        self, path: str, fields: dict[str, str] | None = None, *, json: Any = None, **headers: str
    ) -> httpx2.Response:
        """Sends a form, or JSON, as a page of the console does."""
        sent = {"origin": str(self.http.base_url).rstrip("/"), **headers}
        if json is not None:
            return self.http.post(path, json=json, headers={"x-csrf-token": self.csrf(), **sent})
        return self.http.post(path, data={"csrf": self.csrf(), **(fields or {})}, headers=sent)


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Console, str]]:
    """Serves a console on a free port; yields it, and its address."""
    with Console(settings) as console, socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(console)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield console, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def visiting(settings: Settings) -> Iterator[Visitor]:
    """Serves a console, and yields a visitor of it."""
    with running(settings) as (_, address), httpx2.Client(base_url=address, timeout=30, trust_env=False) as http:
        yield Visitor(http)


Visit = Callable[..., Visitor]
