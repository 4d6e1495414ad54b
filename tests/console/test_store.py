"""The store on the page: what is live, why a bundle was refused, promotion and roll back."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from console.app import make_app
from console.bundles import change
from retrieval.bundle.layout import GOLDEN_QUERIES, LIVE, REPORT
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.conftest import World
from tests.console.world import Visitor, running, settings_for, visiting, write
from tests.worlds import wait_for


@pytest.fixture(scope="module")
def visitor(world: World) -> Iterator[Visitor]:
    with visiting(settings_for(world.store, world.pair)) as visitor:
        yield visitor


def live_of(store: FolderStore) -> str:
    pointer = store.live()
    return pointer.version if pointer else ""


def test_shows_the_bundles_the_newest_first_with_their_states(world: World, visitor: Visitor) -> None:
    page = visitor.get("/").text
    rows = page.split("<tbody>")[1].split("</tr>")
    for version, row in zip((world.failed, world.live, world.old), rows, strict=False):
        assert f'href="/bundles/{version}"' in row
    assert ">1 of 2 failed<" in rows[0]
    assert "worse_than_live/ndcg@10" in rows[0]
    assert "Make live" not in rows[0]
    assert ">live<" in rows[1]
    assert ">previous<" in rows[2]
    assert f'href="/bundles/{world.old}/promote"' in rows[2]


def test_says_why_a_bundle_failed_its_publish_gates(world: World, visitor: Visitor) -> None:
    page = visitor.get(f"/bundles/{world.failed}").text
    assert "Why it was refused" in page
    assert "ndcg@10 is 0.0500, at least 0.0900 is required: train longer" in page
    assert "Why it was refused" not in visitor.get(f"/bundles/{world.live}").text


def test_says_which_gate_of_which_replica_refused_a_bundle(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = write(store)
    with Pair(store.root, tmp_path / "logs") as pair, visiting(settings_for(store, pair)) as visitor:
        damaged = write(store, promote=False, damage=lambda folder: (folder / GOLDEN_QUERIES).write_bytes(b"<b>no</b>"))
        store.promote(damaged)

        def refused() -> str | None:
            page = visitor.get(f"/bundles/{damaged}").text
            return page if page.count("at gate <code>") == 2 else None

        page = html.unescape(wait_for(refused, "both services refuse the bundle"))
        assert f"query tower {pair.query_towers[0].address}" in page
        assert f"ANN {pair.anns[0].address}" in page
        assert "at gate <code>contents</code>" in page
        page = visitor.get("/").text
        assert "refused by 2 of 2" in page
        assert "The live bundle was refused" in page
        assert f'href="/bundles/{first}"' in page


@pytest.mark.parametrize(
    "path", ["/bundles/20260101T000000Z-abcdef", "/bundles/x", "/bundles/%2e%2e%2fLIVE", "/nothing"]
)
def test_what_does_not_exist_is_a_page_that_says_so(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 404
    assert "That did not work" in answer.text


def test_a_store_without_a_bundle_says_what_to_do(tmp_path: Path) -> None:
    with visiting(settings_for(FolderStore(tmp_path / "none"), None)) as visitor:
        page = visitor.get("/").text
        assert "python -m trainer train" in page
        assert "Roll back" not in page
        assert "there is no store at" in visitor.get("/roll-back").text


def test_a_damaged_live_pointer_is_shown(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store)
    (store.root / LIVE).write_text("<script>\n")
    with visiting(settings_for(store, None)) as visitor:
        page = visitor.get("/").text
        assert "promote a bundle to write it anew" in page
        assert "<script>" not in page.replace("<script type=", "")
        assert f'href="/bundles/{version}/promote"' in page


def test_a_damaged_manifest_is_shown_and_cannot_go_live(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    live, damaged = write(store), write(store, promote=False)
    (store.path(damaged) / "manifest.json").write_text("{")
    with visiting(settings_for(store, None)) as visitor:
        assert ">damaged<" in visitor.get("/").text
        assert "Why it was refused" in visitor.get(f"/bundles/{damaged}").text
        assert "It cannot go live" in visitor.get(f"/bundles/{damaged}/promote").text
        assert live_of(store) == live


ODD = (None, True, 10**400, math.nan, "<b>odd</b>", [{}], {"odd": None})


def edit_everywhere(value: Any) -> Iterator[Any]:
    """Yields a JSON value with each of its parts in turn replaced by each odd value."""
    yield from ODD
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from ({**value, key: edited} for edited in edit_everywhere(part))


def test_pages_name_a_bundle_with_any_damage(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    live, damaged = write(store), write(store)
    store.promote(live)
    path = store.path(damaged) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = dict(list(manifest["files"].items())[:1])
    with running(settings_for(store, None)) as (console, _):
        client = TestClient(make_app(console), "http://127.0.0.1", raise_server_exceptions=False)
        for edited in edit_everywhere(manifest):
            path.write_text(json.dumps(edited))
            for page in ("/", f"/bundles/{damaged}"):
                answer = client.get(page)
                assert answer.status_code == 200, (page, edited, answer.text)
                assert damaged in answer.text
                assert "<b>odd</b>" not in answer.text


def test_a_report_is_of_no_origin(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store, damage=lambda folder: (folder / REPORT).write_text("<p>figures</p>"))
    without = write(store)
    with visiting(settings_for(store, None)) as visitor:
        answer = visitor.get(f"/bundles/{version}/report")
        assert answer.text == "<p>figures</p>"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts;")
        assert "allow-same-origin" not in policy
        assert visitor.get(f"/bundles/{without}/report").status_code == 404
        (store.path(version) / REPORT).write_text("<p>changed</p>")
        assert visitor.get(f"/bundles/{version}/report").status_code == 502  # not the file that was published


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[FolderStore, Pair, str, str]]:
    """A store with an old and a live bundle, and services without tokens."""
    store = FolderStore(tmp_path / "store")
    old, live = write(store, seed=1), write(store, seed=2)
    with Pair(store.root, tmp_path / "logs") as pair:
        yield store, pair, old, live


def test_promotes_after_a_confirmation_and_rolls_back(own: tuple[FolderStore, Pair, str, str]) -> None:
    store, pair, old, live = own
    with visiting(settings_for(store, pair)) as visitor:
        question = visitor.get(f"/bundles/{old}/promote").text
        assert "Make this bundle live?" in question
        assert live in question
        assert "0.1000 → 0.1000" in question  # ndcg@10
        assert live_of(store) == live  # a look changes nothing
        answer = visitor.post(f"/bundles/{old}/promote", {"expected_live": live})
        assert (answer.status_code, answer.headers["location"]) == (303, "/fleet")
        wait_for(lambda: live_of(store) == old, "the old bundle is live")
        wait_for(lambda: visitor.get("/api/fleet").json()["change"]["state"] == "done", "the change is told")
        question = visitor.get("/roll-back").text
        assert "Roll back?" in question
        visitor.post("/roll-back", {"expected_live": old, "expected_previous": live})
        wait_for(lambda: live_of(store) == live, "rolled back")


@pytest.mark.parametrize("path", ["/bundles/{old}/promote", "/roll-back"])
def test_changes_nothing_if_another_bundle_went_live_meanwhile(
    own: tuple[FolderStore, Pair, str, str], path: str
) -> None:
    store, pair, old, live = own
    newer = write(store, seed=2, catalogue_seed=5)
    with visiting(settings_for(store, pair)) as visitor:
        visitor.post(path.format(old=old), {"expected_live": live, "expected_previous": old})

        def told() -> dict[str, str] | None:
            state: dict[str, str] = visitor.get("/api/fleet").json()["change"]
            return state if state["state"] != "running" else None

        failed = wait_for(told, "the change ends")
        assert failed["state"] == "failed"
        assert newer in failed["message"]
        assert live_of(store) == newer


def test_does_not_override_failed_gates(world: World, visitor: Visitor) -> None:
    page = visitor.get(f"/bundles/{world.failed}/promote").text
    assert "does not override" in page
    assert "<button" not in page.split("<main")[1]
    visitor.post(f"/bundles/{world.failed}/promote", {"expected_live": world.live})
    state = wait_for(lambda: (c := visitor.get("/api/fleet").json()["change"])["state"] != "running" and c, "it ends")
    assert state["state"] == "failed"
    assert "train longer" in state["message"]
    assert live_of(world.store) == world.live


def test_a_page_cannot_start_a_change_by_an_address_alone(world: World, visitor: Visitor) -> None:
    for path in (f"/bundles/{world.old}/promote?expected_live={world.live}", "/roll-back?expected_live=x"):
        assert visitor.get(path).status_code == 200
    assert live_of(world.store) == world.live


class SlowStore(FolderStore):
    """A store of large bundles: somebody else promotes one while the files of another are verified."""

    meanwhile = ""

    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        manifest = super().verify(version, files)
        if self.meanwhile:
            FolderStore(self.root).promote(self.meanwhile)
        return manifest


@pytest.mark.parametrize("kind", ["promotion", "first promotion", "roll back"])
def test_a_change_overrides_none_that_happens_while_files_are_verified(tmp_path: Path, kind: str) -> None:
    store = SlowStore(tmp_path / "store")
    promoted = kind != "first promotion"
    old, live, newer = write(store, promote=promoted), write(store, promote=promoted), write(store, promote=False)
    store.meanwhile = newer
    changes = change.Changes(store)
    if kind == "roll back":
        changes.roll_back(expected_live=live, expected_previous=old)
    else:
        changes.promote(old, expected_live=live if promoted else "")
    last = wait_for(lambda: (c := changes.last) and c.state != "running" and c, "the change ends")
    assert (last.state, live_of(store)) == ("failed", newer)


def test_a_promotion_writes_a_damaged_live_pointer_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store)
    (store.root / LIVE).write_text("damaged")
    changes = change.Changes(store)
    changes.promote(version, expected_live="")
    wait_for(lambda: (last := changes.last) is not None and last.state == "done", "the change is done")
    assert live_of(store) == version


def test_one_change_at_a_time(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    old, live = write(store), write(store)
    changes = change.Changes(store)
    with store._changing():  # another process holds the lock
        changes.promote(old, expected_live=live)
        with pytest.raises(change.Busy, match="under way"):
            changes.promote(live, expected_live=live)
    wait_for(lambda: (last := changes.last) is not None and last.state == "done", "the first change is done")
    assert live_of(store) == old


def test_without_a_service_that_answers_nobody_may_change_anything(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    old, live = write(store), write(store)
    with visiting(settings_for(store, None)) as visitor:
        assert "can say whether you may do this" in visitor.get(f"/bundles/{old}/promote").text
        assert visitor.post(f"/bundles/{old}/promote", {"expected_live": live}).status_code == 403
        assert live_of(store) == live


def test_lists_pages_of_twenty(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = write(store)
    for _ in range(20):
        version = store.new_version()
        text = (store.path(first) / "manifest.json").read_text().replace(first, version)
        store.path(version).mkdir()
        (store.path(version) / "manifest.json").write_text(text)
    with running(settings_for(store, None)) as (console, _):
        assert console.store.versions()[0] == first
    with visiting(settings_for(store, None)) as visitor:
        assert f'href="/bundles/{first}"' not in visitor.get("/").text.split("<tbody>")[1]
        assert f'href="/bundles/{first}"' in visitor.get("/?page=2").text.split("<tbody>")[1]
        for page in ("0", "-1", "x", "9" * 50):
            assert visitor.get(f"/?page={page}").status_code == 200
