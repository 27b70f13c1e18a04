"""The command without a service: help, exit codes, and how errors are shown."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.cli import exit_code
from client.errors import ApiError
from jobstore.embedded.directory import DataDirectory
from tests.client.conftest import Command


def test_help_documents_the_exit_codes(difffit: Command) -> None:
    result = difffit("--help")
    assert result.exit_code == 0
    assert "no server answers" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such-option"],
        ["jobs", "create"],
        ["jobs", "create", "--dataset", "ds_1", "--set", "steps"],
        ["jobs", "create", "--dataset", "ds_1", "--method", "lora", "--method-set", "rank"],
        ["params", "--model", "dit-xl-2-256", "--classes", "0"],
        ["generate", "--label", "cat"],
        ["generate", "--base", "emoji-dit", "--prompt", "a cat", "--size", "768"],
    ],
)
def test_wrong_usage_is_2(difffit: Command, words: list[str]) -> None:
    assert difffit(*words).exit_code == 2


def test_no_known_server_is_2_and_says_what_to_do(difffit: Command) -> None:
    result = difffit("jobs", "list")
    assert result.exit_code == 2
    assert "difffit up" in result.stderr
    assert result.stdout == ""


def test_a_server_that_is_away_is_3(difffit: Command) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = difffit("--url", url, "--api-key", "k", "jobs", "list", "--json")
    assert result.exit_code == 3
    assert result.json()["error"]["code"] == "cannot_reach_server"
    assert url in result.stderr


def test_an_answer_of_something_else_is_3(difffit: Command) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a router's page</html>")

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        result = difffit("--url", f"http://127.0.0.1:{server.server_port}", "--api-key", "k", "jobs", "list")
    assert result.exit_code == 3
    assert "not as a DiffFit server does" in result.stderr


def test_a_missing_file_is_2(difffit: Command, tmp_path: Path) -> None:
    result = difffit("--url", "http://127.0.0.1:1", "--api-key", "k", "datasets", "upload", tmp_path / "absent", "--json")
    assert result.exit_code == 2
    assert result.json()["error"]["param"] == "path"


@pytest.mark.parametrize(("status", "expected"), [(401, 4), (404, 4), (409, 4), (422, 4), (429, 4), (500, 3), (503, 3)])
def test_refusals_are_4_and_a_server_in_trouble_is_3(status: int, expected: int) -> None:
    error = ApiError("message", code="code", param=None, status=status, request_id="r")
    assert exit_code(error) == expected


def test_a_second_up_on_the_same_data_directory_is_3(tmp_path: Path) -> None:
    """The launcher takes the command's place, so its exit code is the command's."""
    with DataDirectory(tmp_path):
        command = [sys.executable, "-m", "client.cli", "up", "--data-dir", str(tmp_path), "--port", "0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert str(tmp_path) in result.stderr


def test_the_client_imports_neither_torch_nor_the_server() -> None:
    code = "import client.cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "numpy", "sqlalchemy", "celery", "fastapi", "PIL", "jobstore", "api", "worker"} & set(modules)
