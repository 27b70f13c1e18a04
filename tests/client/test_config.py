"""Which server and which key a command uses."""

from pathlib import Path

import pytest

from client.config import ServerConfig, find_server
from client.errors import ConfigError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "url").write_text("http://127.0.0.1:8000\n")
    (tmp_path / "api-key").write_text("local-key\n")
    return tmp_path


def test_the_command_line_wins_over_the_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_URL", "http://from-environment")
    monkeypatch.setenv("DIFFFIT_API_KEY", "environment-key")
    assert find_server("http://from-flag/", "flag-key", data_dir) == ServerConfig("http://from-flag", "flag-key")


def test_the_environment_wins_over_the_data_directory(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_URL", "http://from-environment")
    monkeypatch.setenv("DIFFFIT_API_KEY", "environment-key")
    assert find_server(data_dir=data_dir) == ServerConfig("http://from-environment", "environment-key")


def test_the_data_directory_of_up_is_found_without_settings(data_dir: Path) -> None:
    assert find_server(data_dir=data_dir) == ServerConfig("http://127.0.0.1:8000", "local-key")


def test_the_local_key_opens_the_local_server_named_by_hand(data_dir: Path) -> None:
    assert find_server("http://127.0.0.1:8000/", None, data_dir).api_key == "local-key"


def test_the_local_key_is_never_sent_to_another_server(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no key for http://elsewhere") as caught:
        find_server("http://elsewhere", None, data_dir)
    assert caught.value.param == "api_key"


def test_without_any_server_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="difffit up"):
        find_server(data_dir=tmp_path)


def test_an_address_without_a_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="http://") as caught:
        find_server("localhost:8000", "key", tmp_path)
    assert caught.value.param == "url"
