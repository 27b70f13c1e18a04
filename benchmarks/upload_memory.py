"""How much memory does the API need for a large upload? `python -m benchmarks.upload_memory [--bytes N] [--json]`."""

import argparse
import json
import os
import secrets
import time
from collections.abc import Iterator

import httpx

from benchmarks.services import resident, running_api

MEBIBYTE = 1024**2
HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="big.tar"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1024 * MEBIBYTE, help="Size of the upload")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    key = secrets.token_urlsafe(24)
    with running_api(key) as api:
        before, started = resident(api.pid), time.monotonic()
        upload(api.url, key, arguments.bytes)
        seconds, peak = time.monotonic() - started, resident(api.pid, "VmHWM")
    growth = peak - before
    found = {"upload_bytes": arguments.bytes, "resident_before": before, "resident_peak": peak, "growth": growth}
    if arguments.json:
        print(json.dumps(found | {"seconds": round(seconds, 2)}))
    else:
        print(f"{arguments.bytes / MEBIBYTE:.0f} MiB in {seconds:.1f} s; the API grew by {growth / MEBIBYTE:.1f} MiB")


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


if __name__ == "__main__":
    main()
