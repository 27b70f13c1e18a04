"""Does any request of a mebibyte stop the API? For each kind of body: what it costs by its size, and who else waits.

`python -m benchmarks.hostile_input [--json] [--seconds S] [--kind KIND]`. `cpu_ms` is what the API's process computes for one
request of 1 MiB, `ratio` that by what it computes for 512 KiB: 2 is linear, 4 quadratic, and less where it is refused early.
The others are of GET /healthz while 8 clients send such requests of 1 MiB one after the other: how long it took, and in
`p99_cpu_ms` how long the API computed meanwhile, which says the same of a machine that does nothing else. `harmless` is what
one long string does.
"""

import argparse
import asyncio
import json
import secrets
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from benchmarks.services import RunningApi, running_api

MEBIBYTE = 1024**2
CLIENTS = 8
SIZE = MEBIBYTE - 1024  # with the rest of a request it is what the API takes at most
ROUNDS = 3  # of which the cheapest counts
FEWEST = 20  # looks
PAUSE_SECONDS = 0.005  # between two looks at /healthz


def as_json(path: str, body: bytes, key: str | None = "KEY") -> bytes:
    return request(f"POST {path}", {"content-type": "application/json"}, body, key)


def as_form(body: bytes, boundary: str = "b") -> bytes:
    return request("POST /datasets", {"content-type": f"multipart/form-data; boundary={boundary}"}, body)


def request(line: str, headers: dict[str, str], body: bytes, key: str | None = "KEY") -> bytes:
    """A request as it goes over the wire; the word KEY stands for the key."""
    given = {"host": "x", **({"authorization": f"Bearer {key}"} if key else {}), "content-length": str(len(body))} | headers
    if "transfer-encoding" in headers:
        del given["content-length"]
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{line} HTTP/1.1\r\n{head}\r\n".encode() + body


def repeated(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def listed(piece: bytes, size: int) -> bytes:
    return b"[" + repeated(piece + b",", size - len(piece)) + piece + b"]"


def with_field(name: str, value: bytes) -> bytes:
    return b'{"base_model": "emoji-dit", "dataset": "ds_0", "%s": %s}' % (name.encode(), value)


def part(name: str, content: bytes = b"x", filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\ncontent-disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


def numbered_keys(size: int) -> bytes:
    return b"{" + b",".join(b'"k%07d":1' % i for i in range(size // 13)) + b"}"


KINDS: dict[str, Callable[[int], bytes]] = {
    "harmless": lambda n: as_json("/jobs", b'"' + b"a" * n + b'"'),
    "open string without a key": lambda n: as_json("/jobs", b"[" * 65 + b'"' + repeated(b'\\"', n), key=None),
    "open string to no route": lambda n: as_json("/no/route", b"[" * 65 + b'"' + repeated(b'\\"', n), key="wrong"),
    "open string": lambda n: as_json("/jobs", b"[" * 65 + b'"' + repeated(b'\\"', n)),
    "backslashes": lambda n: as_json("/jobs", b"[" * 65 + b'"' + b"\\" * n),
    "quotes": lambda n: as_json("/jobs", b"[" * 65 + b'"' * n),
    "brackets": lambda n: as_json("/jobs", b"[" * n),
    "pairs of brackets": lambda n: as_json("/jobs", listed(b"[]", n)),
    "closing brackets": lambda n: as_json("/jobs", b"[" * 65 + b"]" * n),
    "unknown keys": lambda n: as_json("/jobs", numbered_keys(n)),
    "unknown keys within": lambda n: as_json("/jobs", with_field("hyperparameters", numbered_keys(n))),
    "wrong labels": lambda n: as_json("/generate", b'{"base_model": "emoji-dit", "labels": %s}' % listed(b"1.5", n)),
    "one long key": lambda n: as_json("/jobs", b'{"' + b"steps" * (n // 5) + b'": 1}'),
    "a long value": lambda n: as_json("/jobs", with_field("seed", b'"' + b"7" * n + b'"')),
    "long numbers": lambda n: as_json("/jobs", listed(b"1" * 640, n)),
    "long fractions": lambda n: as_json("/jobs", listed(b"9007199254740993." + b"0" * 1000 + b"1", n)),
    "escapes": lambda n: as_json("/jobs", with_field("name", b'"' + repeated(b"\\ud83d\\ude00", n) + b'"')),
    "base64": lambda n: as_json("/generate", b'{"base_model": "emoji-dit", "condition_image": "%s"}' % repeated(b"iVBO", n)),
    "files of one name": lambda n: as_form(repeated(part("file", b"x", "a.png"), n) + b"--b--\r\n"),
    "labels": lambda n: as_form(repeated(part("label"), n)),
    "almost boundaries": lambda n: as_form(b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
                                           + repeated(b"\r\n--", n)),
    "heads of parts": lambda n: as_form(repeated(b"--b\r\n" + b"x-a: b\r\n" * 7 + b"\r\n\r\n", n)),
    "an endless end": lambda n: as_form(part("file", b"x", "a.png") + b"--b--\r\n" + b"\n" * n),
    "tiny chunks": lambda n: request(
        "POST /jobs", {"content-type": "application/json", "transfer-encoding": "chunked"}, repeated(b"1\r\n1\r\n", n)
    ),
    "headers": lambda n: request("POST /jobs", {f"x-{i:06}": "y" for i in range(n // 13)}, b""),
    "a long header": lambda n: request("GET /jobs", {"x-long": "y" * n}, b""),
    "a query": lambda n: request(f"GET /jobs?{'a&' * (n // 2)}", {}, b""),
    "boundaries under a key": lambda n: request(
        "POST /datasets",
        {"content-type": "multipart/form-data; boundary=-", "idempotency-key": secrets.token_hex(8)},
        b"-" * n,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="For each kind of request")
    parser.add_argument("--kind", choices=[*KINDS], help="Only this one, beside the harmless")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    kinds = [*KINDS] if arguments.kind is None else ["harmless", arguments.kind]
    key = f"difffit_{secrets.token_hex(16)}"
    with running_api(key) as api:
        found = {kind: asyncio.run(measure(api, key, kind, arguments.seconds)) for kind in kinds}
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"{'kind':<28}" + "".join(f"{name:>11}" for name in next(iter(found.values()))))
        for kind, row in found.items():
            print(f"{kind:<28}" + "".join(f"{value:>11}" for value in row.values()))


async def measure(api: RunningApi, key: str, kind: str, seconds: float) -> dict[str, Any]:
    half, whole = [await cost(api.url, api.pid, made(kind, size, key)) for size in (SIZE // 2, SIZE)]
    looks, sent = await attacked(api.url, api.pid, made(kind, SIZE, key), seconds)
    waits, computing = (quantiles(values, n=100) for values in zip(*looks, strict=True))
    row = {"cpu_ms": whole, "p50_ms": waits[49], "p99_ms": waits[98], "p99_cpu_ms": computing[98]}
    return {name: round(1e3 * value, 1) for name, value in row.items()} | {
        "ratio": round(whole / half, 2) if half else None,  # both may cost less than the clock of a process counts
        "requests": sent,
    }


def made(kind: str, size: int, key: str) -> bytes:
    return KINDS[kind](size).replace(b"Bearer KEY", f"Bearer {key}".encode(), 1)


async def cost(url: str, pid: int, message: bytes) -> float:
    """Seconds that the process computes from such a request to its answer."""
    took = []
    for _ in range(ROUNDS):
        before = computed(pid)
        await send(url, message)
        took.append(computed(pid) - before)
    return min(took)


def computed(pid: int) -> float:
    """Seconds that a process has run so far, with threads that have ended: its clock, as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


async def attacked(url: str, pid: int, message: bytes, seconds: float) -> tuple[list[tuple[float, float]], int]:
    """While `CLIENTS` send this message again and again: how long each GET /healthz took, how much of that the process
    computed, and how often they sent it."""
    until = time.perf_counter() + seconds
    looks, sent = list[tuple[float, float]](), 0

    async def attack() -> None:
        nonlocal sent
        while time.perf_counter() < until or len(looks) < FEWEST:
            await send(url, message)
            sent += 1

    async def look() -> None:
        while time.perf_counter() < until or len(looks) < FEWEST:
            began, before = time.perf_counter(), computed(pid)
            assert await send(url, request("GET /healthz", {}, b"", None)) == 200
            looks.append((time.perf_counter() - began, computed(pid) - before))
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(look(), *(attack() for _ in range(CLIENTS)))
    return looks, sent


async def send(url: str, message: bytes) -> int | None:
    """The status of the answer; None where the connection was closed without one."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(message)
        line = await reader.readline()
        return int(line.split()[1]) if line else None
    except ConnectionError:
        return None
    finally:
        writer.transport.abort()


if __name__ == "__main__":
    main()
