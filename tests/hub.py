"""A Hugging Face Hub of a few files on this machine, as far as downloads ask for it: listing a revision, and its files."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@contextmanager
def running_hub(repositories: Path, gated: tuple[str, ...] = ()) -> Iterator[str]:
    """The URL of a Hub whose repositories are the folders `owner/name` in `repositories`."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            listing = parts[:2] == ["api", "models"]
            owner_name = "/".join(parts[2:4] if listing else parts[:2])
            repository = repositories / owner_name
            if not repository.is_dir() or owner_name in gated:
                code = "GatedRepo" if owner_name in gated else "RepoNotFound"
                self._send(403 if owner_name in gated else 404, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, body)
                return
            files = sorted(path for path in repository.rglob("*") if path.is_file())
            if listing:
                names = [{"rfilename": str(path.relative_to(repository))} for path in files]
                document: object = {"id": owner_name, "sha": COMMIT, "siblings": names}
                if "tree" in parts:
                    document = [
                        {
                            "type": "file",
                            "path": str(path.relative_to(repository)),
                            "size": path.stat().st_size,
                            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                        }
                        for path in files
                    ]
                self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body)
                return
            data = (repository / "/".join(parts[4:])).read_bytes()
            self._send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
