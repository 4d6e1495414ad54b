"""Paths and URLs of stores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.bundle.errors import StoreError
from retrieval.store.folder_store import FolderStore
from retrieval.store.location import open_store


@pytest.mark.parametrize("location", ["{}/my store", "file://{}/my%20store", "file://localhost{}/my%20store"])
def test_a_path_and_a_url_of_a_folder_are_the_same_store(tmp_path: Path, location: str) -> None:
    store = open_store(location.format(tmp_path))
    assert isinstance(store, FolderStore)
    assert store.root == tmp_path / "my store"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s4://bucket/store", "a store is a folder, or a URL that starts with file://, s3:// or gs:// or az://"),
        ("http://host/store", "a store is a folder, or a URL"),
        ("file://store", "three slashes, as file:///srv/store"),
        ("s3://", "it names no bucket; expected s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/store", "credentials come from the environment"),
        ("s3://bucket/store?secret=1", "credentials come from the environment"),
        ("az://container/store", "Account must be specified"),
        ("s3://[bucket/store", "Invalid IPv6 URL"),
        ("s3:/bucket/store", "a URL starts with s3://"),
        (" s3://bucket/store", "without a blank before it"),
        ("s3://bucket/sto\nre", "a URL has no line breaks"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra_a_bucket_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"pip install 'two-tower-retrieval\[object-store\]'"):
        open_store("s3://bucket/store")


def test_urls_of_one_place_have_one_cache() -> None:
    urls = ("s3://bucket/store", "S3://bucket/store", "s3://bucket/store/")
    assert len({open_store(url).path("20260101T000000Z-000000") for url in urls}) == 1


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"])
def test_a_line_break_in_a_setting_is_refused_without_its_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "https://secret\n")
    with pytest.raises(StoreError, match=f"{name} has a line break") as caught:
        open_store("s3://bucket/store")
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user whom nobody knows")
def test_a_user_without_a_home_is_told_to_name_a_cache() -> None:
    code = (
        "import os, obstore.store\n"
        "from retrieval.store.location import open_store\n"
        "os.setuid(54321)\n"
        "open_store('s3://bucket/store')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment.pop("TWO_TOWER_CACHE", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "StoreError: this user has no home folder for copies of s3://bucket/store: name a folder in" in done.stderr


@pytest.mark.parametrize("gib", ["many", "0", "-1", "nan"])
def test_a_bound_of_the_cache_that_is_none_is_refused(gib: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWO_TOWER_CACHE_GIB", gib)
    with pytest.raises(StoreError, match=f"TWO_TOWER_CACHE_GIB is '?{gib}'?, expected a number of GiB"):
        open_store("s3://bucket/store")


@pytest.mark.parametrize("program", ["query_tower_service", "ann_service", "trainer"])
def test_every_program_refuses_such_a_url_in_one_line(program: str) -> None:
    arguments = ["bundles"] if program == "trainer" else []
    command = [sys.executable, "-m", program, *arguments, "--store", "s4://bucket/store"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    assert "cannot use s4://bucket/store: a store is a folder, or a URL" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
