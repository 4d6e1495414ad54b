"""What the console refuses before any page sees it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.web.sessions import Sessions
from retrieval.store.folder_store import FolderStore
from tests.console.world import Visitor, settings_for, visiting


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    with visiting(settings_for(FolderStore(tmp_path_factory.mktemp("guard") / "store"), None)) as visitor:
        yield visitor


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8300", "127.0.0.1.evil.example", "", "a@127.0.0.1"])
def test_refuses_the_name_of_another_site(visitor: Visitor, host: str) -> None:
    for path in ("/", "/api/fleet", "/static/console.css"):
        answer = visitor.http.get(path, headers={"host": host})
        assert answer.status_code == 421, path
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:8300"])
def test_answers_to_its_own_names_at_any_port(visitor: Visitor, host: str) -> None:
    assert visitor.http.get("/token", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1", "http://localhost:1"])
def test_refuses_a_change_from_another_page(visitor: Visitor, origin: str | None) -> None:
    fields = {"csrf": visitor.csrf(), "token": "secret"}
    answer = visitor.http.post("/token", data=fields, headers={"origin": origin} if origin else {})
    assert answer.status_code == 403
    assert "given" not in visitor.get("/token").text


def test_refuses_a_change_without_the_secret_of_the_session(visitor: Visitor) -> None:
    origin = {"origin": str(visitor.http.base_url).rstrip("/")}
    for csrf in ("", "guess", visitor.csrf() + "x"):
        assert visitor.http.post("/token", data={"csrf": csrf, "token": "x"}, headers=origin).status_code == 403
        headers = {**origin, "x-csrf-token": csrf}
        assert visitor.http.post("/api/recommend", json={}, headers=headers).status_code == 403


def test_the_secret_of_one_session_is_no_secret_of_another(visitor: Visitor) -> None:
    csrf, origin = visitor.csrf(), {"origin": str(visitor.http.base_url).rstrip("/")}
    visitor.http.cookies.clear()
    assert visitor.http.post("/token", data={"csrf": csrf, "token": "x"}, headers=origin).status_code == 403


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (413, "application/json", b" " * (300 << 10)),
        (415, "multipart/form-data; boundary=x", b""),
        (415, "", b""),
        (400, "application/json", b"{"),
        (400, "application/json", b"[1]"),
        (400, "application/json", b"[" * 100_000),
        (400, "application/x-www-form-urlencoded", b"a=1&" * 100),
        (400, "application/x-www-form-urlencoded", "ä=1".encode()),
    ],
)
def test_refuses_what_it_cannot_read(visitor: Visitor, status: int, kind: str, body: bytes) -> None:
    headers = {"x-csrf-token": visitor.csrf(), "content-type": kind}
    headers["origin"] = str(visitor.http.base_url).rstrip("/")
    assert visitor.http.post("/api/recommend", content=body, headers=headers).status_code == status


def test_refuses_a_large_request_without_a_length(visitor: Visitor) -> None:
    headers = {"x-csrf-token": visitor.csrf(), "content-type": "application/json"}
    headers["origin"] = str(visitor.http.base_url).rstrip("/")
    parts = (b" " * (64 << 10) for _ in range(6))
    assert visitor.http.post("/api/recommend", content=parts, headers=headers).status_code == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_refuses_other_methods(visitor: Visitor, method: str) -> None:
    assert visitor.http.request(method, "/").status_code == 405


@pytest.mark.parametrize("path", ["/", "/fleet", "/playground", "/figures", "/token", "/nothing", "/static/fleet.js"])
def test_every_answer_forbids_other_scripts_frames_and_sites(visitor: Visitor, path: str) -> None:
    headers = visitor.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_no_page_has_a_script_style_or_resource_from_elsewhere(visitor: Visitor) -> None:
    for path in ("/", "/fleet", "/playground", "/figures", "/token"):
        text = visitor.get(path).text
        assert "//" not in text.replace("<!DOCTYPE html>", ""), path
        assert " style=" not in text
        assert text.count("<script") == text.count('<script type="module" src="/static/'), path


def test_the_cookie_is_for_this_console_alone(visitor: Visitor) -> None:
    visitor.http.cookies.clear()
    cookie = visitor.get("/").headers["set-cookie"]
    assert cookie.startswith("two_tower_console_")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}


def test_static_files_open_no_session(visitor: Visitor) -> None:
    visitor.http.cookies.clear()
    assert "set-cookie" not in visitor.get("/static/console.css").headers


@pytest.mark.parametrize("path", ["/static/../settings.py", "/static/%2e%2e/settings.py", "/static/..%2fsettings.py"])
def test_static_files_lead_nowhere_else(visitor: Visitor, path: str) -> None:
    connection = http.client.HTTPConnection(visitor.http.base_url.host, visitor.http.base_url.port or 80, timeout=10)
    connection.putrequest("GET", path, skip_host=True)  # as it is, without tidying the path
    connection.putheader("Host", "127.0.0.1")
    connection.endheaders()
    assert connection.getresponse().status == 404
    connection.close()


PASSWORD = "correct horse battery"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Visitor]:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with visiting(settings_for(FolderStore(tmp_path / "store"), None, password_file=tmp_path / "password")) as visitor:
        yield visitor


def test_asks_for_the_password_before_anything_else(guarded: Visitor) -> None:
    for path in ("/", "/fleet", "/bundles/20261124T031645Z-3f9a1c", "/nothing"):
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), path
    assert guarded.get("/api/fleet").status_code == 401
    assert guarded.get("/static/console.css").status_code == 200


def csrf_of(page: str) -> str:
    return page.split('<meta name="csrf" content="')[1].split('"')[0]


def test_the_right_password_opens_a_new_session_and_signing_out_ends_it(guarded: Visitor) -> None:
    origin = {"origin": str(guarded.http.base_url).rstrip("/")}
    csrf = csrf_of(guarded.get("/sign-in").text)
    (before,) = guarded.http.cookies.values()
    wrong = guarded.http.post("/sign-in", data={"csrf": csrf, "password": PASSWORD[:-1]}, headers=origin)
    assert wrong.status_code == 403
    assert "not the password" in wrong.text
    assert guarded.get("/").status_code == 303
    right = guarded.http.post("/sign-in", data={"csrf": csrf, "password": PASSWORD}, headers=origin)
    assert (right.status_code, right.headers["location"]) == (303, "/")
    (after,) = guarded.http.cookies.values()
    assert after != before  # a cookie that somebody planted before is worth nothing
    page = guarded.get("/")
    assert page.status_code == 200
    guarded.http.post("/sign-out", data={"csrf": csrf_of(page.text)}, headers=origin)
    assert guarded.get("/").status_code == 303


def test_no_change_without_the_password(guarded: Visitor) -> None:
    csrf = csrf_of(guarded.get("/sign-in").text)
    headers = {"origin": str(guarded.http.base_url).rstrip("/")}
    assert guarded.http.post("/token", data={"csrf": csrf, "token": "x"}, headers=headers).status_code == 401


def test_a_session_ends_when_it_is_idle_for_twelve_hours() -> None:
    now = [0.0]
    sessions = Sessions("cookie", lambda: now[0])
    session = sessions.open()
    now[0] = 12 * 3600 - 1
    assert sessions.find(session.key) is session
    now[0] += 12 * 3600
    assert sessions.find(session.key) is session
    now[0] += 12 * 3600 + 1
    assert sessions.find(session.key) is None


def test_there_are_at_most_two_hundred_sessions_and_the_idlest_ends() -> None:
    sessions = Sessions("cookie", lambda: 0.0)
    first, second = sessions.open(), sessions.open()
    assert sessions.find(first.key) is first
    for _ in range(199):
        last = sessions.open()
    assert sessions.find(second.key) is None
    assert sessions.find(first.key) is first
    assert sessions.find(last.key) is last


def test_strangers_cannot_end_the_session_of_somebody_who_has_signed_in() -> None:
    sessions = Sessions("cookie", lambda: 0.0)
    signed_in, with_token = sessions.open(signed_in=True), sessions.open()
    with_token.token = "secret"
    for _ in range(500):
        stranger = sessions.open()
    assert all(sessions.find(each.key) is each for each in (signed_in, with_token, stranger))


def test_there_are_at_most_two_hundred_people() -> None:
    sessions = Sessions("cookie", lambda: 0.0)
    people = [sessions.open(signed_in=True) for _ in range(201)]
    assert [each for each in people if sessions.find(each.key) is None] == people[:1]
