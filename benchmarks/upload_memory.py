"""How much memory does the API need for a large upload? `python benchmarks/upload_memory.py [--bytes N] [--json]`."""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from pydantic import SecretStr

from jobstore.embedded import postgres, valkey
from jobstore.embedded.directory import DataDirectory
from jobstore.migrate import upgrade

MEBIBYTE = 1024**2
START_SECONDS = 30.0
HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="big.tar"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1024 * MEBIBYTE, help="Size of the upload")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    key = secrets.token_urlsafe(24)
    with running_api(key) as (pid, url):
        before, started = resident(pid, "VmRSS"), time.monotonic()
        upload(url, key, arguments.bytes)
        seconds, peak = time.monotonic() - started, resident(pid, "VmHWM")
    growth = peak - before
    found = {"upload_bytes": arguments.bytes, "resident_before": before, "resident_peak": peak, "growth": growth}
    if arguments.json:
        print(json.dumps(found | {"seconds": round(seconds, 2)}))
    else:
        print(f"{arguments.bytes / MEBIBYTE:.0f} MiB in {seconds:.1f} s; the API grew by {growth / MEBIBYTE:.1f} MiB")


@contextmanager
def running_api(key: str) -> Iterator[tuple[int, str]]:
    """The API on embedded servers in a temporary folder: its process id and URL."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="difffit-benchmark-")))
        directory = stack.enter_context(DataDirectory(folder))
        for server in (valkey, postgres):
            part = server.start(directory)
            stack.callback(part.stop, 10)
            server.wait(part, directory)
        upgrade(postgres.url(directory), SecretStr(key))
        environment = {"DATABASE_URL": postgres.url(directory), "REDIS_URL": valkey.url(directory)}
        environment["DIFFFIT_STORAGE_URL"] = (folder / "files").as_uri()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", "--port", port, "--log-level", "error"]
        api = subprocess.Popen(command, env=os.environ | environment)
        stack.callback(api.wait)
        stack.callback(api.terminate)
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url)
        yield api.pid, url


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/readyz", timeout=START_SECONDS).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("The API did not become ready.")


def upload(url: str, key: str, size: int) -> None:
    chunk = os.urandom(MEBIBYTE)

    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(size // MEBIBYTE):
            yield chunk
        yield chunk[: size % MEBIBYTE]
        yield TAIL

    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{url}/datasets", content=body(), headers=headers, timeout=600)
    answer.raise_for_status()
    assert answer.json()["bytes"] == size


def resident(pid: int, field: str) -> int:
    """Bytes resident: now (`VmRSS`), or the most so far (`VmHWM`)."""
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"{field}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
