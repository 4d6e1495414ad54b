"""Makes the screenshots of docs/console.md: trains on MovieLens-100k, serves, and opens the console in a browser.

The third bundle is trained for one epoch, so that it fails its publish gates.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from retrieval.store.folder_store import FolderStore
from testbed.movielens import read_dataset, train
from testbed.services import ROOT, Pair, wait_until
from two_tower_client import Retriever, TwoTowerError
from two_tower_client.fleet import Fleet

_FOLDER = Path("runs/console")
_IMAGES = ROOT / "docs" / "images"
_CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_COLOURS = 160
_USER = "42"
_HISTORY = 20
_CALLS_PER_S = 60
_TIMEOUT_MS = 60_000


def main() -> int:
    """Makes the screenshots, and returns 0."""
    parser = argparse.ArgumentParser(prog="examples.console_screenshots", description=__doc__)
    parser.add_argument("--epochs", type=int, default=7, help="epochs of the first two trainings (default: 7)")
    parser.add_argument("--again", action="store_true", help="use the bundles of runs/console that are there already")
    arguments = parser.parse_args()
    store = FolderStore(_FOLDER / "store")
    if not arguments.again:
        shutil.rmtree(_FOLDER, ignore_errors=True)
        prepare(store, arguments.epochs)
    *_, old, new, _ = store.versions()
    store.promote(old)
    store.promote(new)
    users = write_users(_FOLDER / "users.jsonl")
    _IMAGES.mkdir(exist_ok=True)
    shutil.rmtree(_FOLDER / "logs", ignore_errors=True)
    pair = Pair(store.root, _FOLDER / "logs", replicas=2)
    ports = [_free_port() for _ in pair.replicas]
    for replica, port in zip(pair.replicas, ports, strict=True):
        replica.flags = {**replica.flags, "metrics-port": str(port)}
    expect.set_options(timeout=_TIMEOUT_MS)
    with pair, asking(pair), console(pair, ports, store, users) as address, sync_playwright() as playwright:
        wait_until_open(pair, {old, new})
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        take_store(browser, address)
        take_playground(browser, address, old)
        take_figures(browser, address)
        take_fleet(browser, address, pair, old)
        browser.close()
    return 0


def wait_until_open(pair: Pair, versions: set[str]) -> None:
    """Waits until every replica has opened both bundles, the second of which is opened behind the live one."""
    query_towers, anns = ([each.address for each in side] for side in (pair.query_towers, pair.anns))
    with Fleet(query_towers, anns, timeout_s=5.0) as fleet:
        wait_until(lambda: all(versions <= set(each.open_bundles) for each in fleet.ask()), "both bundles to be open")


def prepare(store: FolderStore, epochs: int) -> None:
    """Publishes two bundles that go live, and one that fails its gates."""
    for seed in (1, 2):
        train(_FOLDER, store, epochs, seed, force=True)
    command = [sys.executable, "-m", "trainer", "train", "movielens_100k", "--store", str(store.root), "--no-baselines"]
    run = ["--epochs", "1", "--no-refit", "--seed", "3", "--run", str(_FOLDER / "runs" / "seed-3")]
    subprocess.run([*command, *run], cwd=ROOT, check=True)


def write_users(path: Path) -> Path:
    """Writes the users of MovieLens with their profiles and newest films, as `two-tower console --users` reads them."""
    dataset = read_dataset()
    events, starts = dataset.events, dataset.events.starts(len(dataset.user_ids))
    with path.open("w", encoding="utf-8") as file:
        for row, user_id in enumerate(dataset.user_ids):
            history = [dataset.items.ids[item] for item in events.items[starts[row] : starts[row + 1]][-_HISTORY:]]
            profile = {name: column[row] for name, column in dataset.user_columns.items() if column[row] is not None}
            file.write(json.dumps({"user_id": user_id, "features": {"history": history, **profile}}) + "\n")
    return path


@contextmanager
def asking(pair: Pair) -> Iterator[None]:
    """Asks the services for recommendations some sixty times a second, so that there are figures."""
    stop = threading.Event()
    query_towers, anns = ([each.address for each in side] for side in (pair.query_towers, pair.anns))

    def ask() -> None:
        with Retriever(query_towers, anns, timeout_s=5.0) as retriever:
            while not stop.wait(1 / _CALLS_PER_S):
                try:
                    retriever.retrieve({"history": ["50", "181"], "age": 24}, k=10)
                except TwoTowerError as error:
                    print(f"a call failed: {error}", file=sys.stderr)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def console(pair: Pair, ports: list[int], store: FolderStore, users: Path) -> Iterator[str]:
    """Runs the console in a process of its own; yields its address."""
    port_file = _FOLDER / "port"
    port_file.unlink(missing_ok=True)
    query_towers, anns = (",".join(each.address for each in side) for side in (pair.query_towers, pair.anns))
    command = [
        sys.executable,
        "-m",
        "console",
        "--store",
        str(store.root),
        "--query-tower",
        query_towers,
        "--ann",
        anns,
    ]
    command += ["--users", str(users), "--port", "0", "--port-file", str(port_file)]
    for replica, port in zip(pair.replicas, ports, strict=True):
        command += ["--metrics", f"{replica.address}=127.0.0.1:{port}"]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, "the console to listen")
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def take_store(browser: Browser, address: str) -> None:
    """The list of bundles, the live one, and one that failed its gates."""
    page = _open(browser, f"{address}/", height=620)
    expect(page.locator("tbody tr")).to_have_count(3)
    _save(page, "store.png")


def take_playground(browser: Browser, address: str, old: str) -> None:
    """User 42: history, and the recommendations of both open bundles."""
    page = _open(browser, f"{address}/playground", height=1420)
    page.get_by_label("Beside it").select_option(f"0 {old}")
    page.get_by_label("Diversity").fill("0.2")
    page.get_by_role("button", name="Add a filter").click()
    page.locator("#filters .attribute").select_option("year")
    page.locator("#filters .operator").select_option(">=")
    page.locator("#filters .value").fill("1990")
    page.get_by_label("User of the file").fill(_USER)
    page.get_by_role("button", name="Load").click()
    expect(page.locator(".result")).to_have_count(2)
    page.evaluate("document.activeElement.blur()")
    _save(page, "playground.png")


def take_figures(browser: Browser, address: str) -> None:
    """Most of a minute of throughput and latency."""
    page = _open(browser, f"{address}/figures", height=860)
    points = "document.querySelector('.chart .line')?.getAttribute('d').split('L').length ?? 0"
    page.wait_for_function(f"() => ({points}) > 24", timeout=120_000)
    _save(page, "figures.png")


def take_fleet(browser: Browser, address: str, pair: Pair, target: str) -> None:
    """A roll back as it rolls, while one replica is away."""
    page = _open(browser, f"{address}/fleet", height=900, scheme="dark")
    events, away = page.locator("#events"), pair.anns[1]
    expect(page.get_by_role("status")).to_contain_text("All 4 replicas answer")
    away.stop()
    expect(events).to_contain_text(f"ANN {away.address} does not answer")
    other = page.context.new_page()
    other.goto(f"{address}/roll-back")
    other.get_by_role("button", name="Roll back").click()
    expect(events).to_contain_text(f"ANN {pair.anns[0].address} answers with {target}")
    away.start()
    expect(events).to_contain_text(f"ANN {away.address} answers again")
    expect(page.get_by_role("status")).to_contain_text("All 4 replicas answer")
    _save(page, "fleet.png")


def _open(browser: Browser, url: str, height: int, scheme: str = "light") -> Page:
    size = {"width": 1120, "height": height}
    context = browser.new_context(viewport=size, device_scale_factor=1.5, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(_TIMEOUT_MS)
    page.goto(url)
    return page


def _save(page: Page, name: str) -> None:
    """Writes what the page shows as a PNG of few colours, which takes a third of the bytes."""
    shot = Image.open(BytesIO(page.screenshot(animations="disabled")))
    shot.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(_IMAGES / name, optimize=True)
    print(f"{_IMAGES / name}: {(_IMAGES / name).stat().st_size:,} bytes")
    page.context.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
