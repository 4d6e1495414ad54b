"""What the settings allow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from console.command import main
from console.settings import MetricsPort, Pair, Settings, SettingsError

PAIR = Pair("services", "localhost:50051", "localhost:50052")


def settings(**fields: Any) -> Settings:
    return Settings(**{"store": "store", "pairs": (PAIR,), **fields})


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_listens_on_loopback_without_a_password(host: str) -> None:
    assert settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "console.example"])
def test_listens_elsewhere_only_with_a_password_and_tls(host: str, password: Path) -> None:
    with pytest.raises(SettingsError, match="give a password with --password-file"):
        settings(host=host, certificate="c.pem", key="k.pem")
    with pytest.raises(SettingsError, match="in plain text"):
        settings(host=host, password_file=password)
    assert settings(host=host, password_file=password, insecure=True).password == "correct horse"
    assert not settings(host=host, password_file=password, certificate="c.pem", key="k.pem").is_loopback


def test_elsewhere_loopback_is_no_name_of_the_console(password: Path) -> None:
    elsewhere = settings(host="10.0.0.1", password_file=password, insecure=True, names=("Console.Example",))
    assert elsewhere.host_names == {"10.0.0.1", "console.example"}


def test_refuses_a_short_or_missing_password(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("12345678901\n")
    with pytest.raises(SettingsError, match="has 11 characters, expected at least 12"):
        settings(password_file=tmp_path / "short")
    with pytest.raises(SettingsError, match="cannot be read"):
        settings(password_file=tmp_path / "none")


def test_the_password_is_not_shown(password: Path) -> None:
    assert "correct horse" not in repr(settings(password_file=password))


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("localhost:9100", MetricsPort("localhost", 9100)),
        ("10.0.0.1:50051=10.0.0.1:9100", MetricsPort("10.0.0.1", 9100, "10.0.0.1:50051")),
        ("[::1]:9100", MetricsPort("::1", 9100)),
    ],
)
def test_reads_a_metrics_port(text: str, port: MetricsPort) -> None:
    assert MetricsPort.parse(text) == port


@pytest.mark.parametrize("text", ["", "9100", "localhost", "localhost:", "localhost:0", "localhost:x", ":9100", "a=b"])
def test_refuses_what_is_no_metrics_port(text: str) -> None:
    with pytest.raises(SettingsError, match="expected HOST:PORT"):
        MetricsPort.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--password-file"),
        (["--other-ann", "localhost:1"], "go together"),
        (["--metrics", "x"], "expected HOST:PORT"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["--key", "k.pem"], "go together"),
        (["--timeout-s", "0"], "above 0 and at most 15"),
        (["--timeout-s", "nan"], "above 0 and at most 15"),
        (["--ann", "localhost"], "is not host:port"),
        (["--token-file", "/nowhere"], "/nowhere"),
        (["--cert-file", "c.pem"], "go together"),
        (["--users", "/nowhere"], "--users cannot be read"),
    ],
)
def test_wrong_usage_is_said_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TWO_TOWER_TOKEN_FILE", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_token_is_not_sent_in_plain_text_to_another_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("admin-secret\n")
    assert main(["--ann", "10.0.0.1:50052", "--token-file", str(tmp_path / "token")]) == 2
    error = capsys.readouterr().err
    assert "plain text to 10.0.0.1:50052" in error
    assert "admin-secret" not in error


def test_says_what_to_install_if_a_package_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "console.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "two-tower console: uvicorn is missing: install it with  pip install 'two-tower-retrieval[console]'\n"
    )
