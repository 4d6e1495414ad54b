"""Changes where the services require tokens: the scope admin decides, and no token is seen anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.world import settings_for, visiting, write
from tests.worlds import wait_for

ADMIN, READER = "admin-secret-0123456789", "reader-secret-0123456789"


class Guarded:
    """A store, and services that require a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.old, self.live = write(self.store, seed=1), write(self.store, seed=2)
        (folder / "tokens").write_text(f"{ADMIN} ops\n{READER} shop read\n")
        (folder / "own").write_text(ADMIN + "\n")
        self.pair = Pair(self.store.root, folder / "logs", flags={"token-file": str(folder / "tokens")})

    def is_live(self, version: str) -> bool:
        pointer = self.store.live()
        return pointer is not None and pointer.version == version


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path)
    with guarded.pair:
        yield guarded


def test_only_a_token_with_the_scope_admin_promotes(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path, fields = f"/bundles/{guarded.old}/promote", {"expected_live": guarded.live}
    with visiting(settings_for(guarded.store, guarded.pair)) as visitor:
        assert "Token with the scope admin" in visitor.get(path).text
        for token in ("", "wrong", READER, "with blank", "x" * 5000):
            answer = visitor.post(path, {**fields, "token": token})
            assert answer.status_code in (400, 403), token
            assert token == "" or token not in answer.text
            assert guarded.is_live(guarded.live), token
        answer = visitor.post(path, {**fields, "token": ADMIN})
        assert answer.headers["location"] == "/fleet"
        wait_for(lambda: guarded.is_live(guarded.old), "promoted")
        # The token of one form is not kept.
        answer = visitor.post("/roll-back", {"expected_live": guarded.old, "expected_previous": guarded.live})
        assert answer.status_code == 403
        assert guarded.is_live(guarded.old)
    assert ADMIN not in caplog.text
    assert READER not in caplog.text


def test_a_token_that_is_kept_serves_its_own_session_alone(guarded: Guarded) -> None:
    path, fields = f"/bundles/{guarded.old}/promote", {"expected_live": guarded.live}
    with visiting(settings_for(guarded.store, guarded.pair)) as visitor:
        refused = visitor.get("/api/fleet").json()["pairs"][0]["replicas"][0]["error"]
        assert "token" in refused
        assert visitor.post("/token", {"token": ADMIN}).headers["location"] == "/token"
        assert ADMIN not in visitor.get("/token").text
        told = visitor.get("/api/fleet").json()["pairs"][0]
        assert [replica["live"] for replica in told["replicas"]] == [guarded.live] * 2
        kept = dict(visitor.http.cookies)
        visitor.http.cookies.clear()  # another browser
        assert visitor.post(path, fields).status_code == 403
        visitor.http.cookies.clear()
        visitor.http.cookies.update(kept)
        visitor.post("/token", {"token": ""})
        assert visitor.post(path, fields).status_code == 403
        assert guarded.is_live(guarded.live)
        visitor.post("/token", {"token": ADMIN})
        assert visitor.post(path, fields).status_code == 303
        wait_for(lambda: guarded.is_live(guarded.old), "promoted")


def test_a_token_file_serves_everybody(guarded: Guarded) -> None:
    with visiting(settings_for(guarded.store, guarded.pair, token_file=str(guarded.folder / "own"))) as visitor:
        assert "Token with the scope admin" not in visitor.get(f"/bundles/{guarded.old}/promote").text
        visitor.post(f"/bundles/{guarded.old}/promote", {"expected_live": guarded.live})
        wait_for(lambda: guarded.is_live(guarded.old), "promoted")


@pytest.mark.parametrize("token", ["two words", "ümlaut", "x" * 4097, "a\r\nb"])
def test_refuses_what_is_no_token(tmp_path: Path, token: str) -> None:
    with visiting(settings_for(FolderStore(tmp_path / "store"), None)) as visitor:
        assert visitor.post("/token", {"token": token}).status_code == 400
