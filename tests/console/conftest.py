"""A store with two bundles, and both services on it, two replicas of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from console.settings import MetricsPort
from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.browsing import CHROMIUM, open_page
from tests.console.world import FAILED, PASSED, free_port, running, settings_for, write


@dataclass(frozen=True)
class World:
    """Services, their store, and the bundles in it.

    Attributes:
        store: Store of the services.
        pair: Services.
        old: Bundle that was live before.
        live: Live bundle, of another model.
        failed: Newest bundle, which failed a publish gate.
    """

    store: FolderStore
    pair: Pair
    old: str
    live: str
    failed: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("console")
    store = FolderStore(folder / "store")
    old = write(store, seed=1)
    live = write(store, seed=2, catalogue_seed=2)
    failed = write(store, {"worse_than_live/ndcg@10": FAILED, "ann_recall": PASSED}, promote=False)
    with Pair(store.root, folder / "logs", replicas=2) as pair:
        # The previous bundle is opened behind the live one.
        yield World(store, pair, old, live, failed)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no browser at {CHROMIUM}: install Debian's package chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(world: World) -> Iterator[str]:
    port = free_port()  # nothing answers there, which the page says
    settings = settings_for(world.store, world.pair, metrics=(MetricsPort("127.0.0.1", port),))
    with running(settings) as (_, address):
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page, problems = open_page(browser)
    yield page
    page.context.close()
    assert problems == []
