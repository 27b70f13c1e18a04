"""The embedded servers: any user, any path, nothing left behind, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text

from jobstore.embedded.directory import LONGEST_SOCKET_PATH, DataDirectory
from jobstore.embedded.postgres import NAME
from jobstore.kit.errors import EmbeddedServerError
from tests.jobstore.processes import alive, descendants
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]
NOBODY = 65534

# An ordinary user of the test's may read Python wherever root has installed it.
AS_NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"]
AS_NOBODY += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
WITHOUT_NAMESPACES = ["--bounding-set=-setfcap"]  # root may then not map itself into a user namespace

root_only = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")


@dataclass
class Servers:
    process: subprocess.Popen[str]
    database_url: str
    redis_url: str

    def write(self, value: str) -> None:
        engine = create_engine(self.database_url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS kept (value text)"))
            connection.execute(text("INSERT INTO kept VALUES (:value)"), {"value": value})
        engine.dispose()
        with redis.Redis.from_url(self.redis_url) as client:
            client.rpush("kept", value)

    def read(self) -> list[list[str]]:
        engine = create_engine(self.database_url)
        with engine.connect() as connection:
            rows = [str(value) for value in connection.scalars(text("SELECT value FROM kept ORDER BY value"))]
        engine.dispose()
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            return [rows, sorted(str(client.lindex("kept", i)) for i in range(client.llen("kept")))]


@contextmanager
def running(data: Path, privileges: Sequence[str] = ()) -> Iterator[Servers]:
    command = [sys.executable, "-m", "tests.jobstore.servers", str(data)]
    if privileges:
        command = ["setpriv", *privileges, *command]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        yield Servers(process, urls["database"], urls["redis"])


def test_data_survives_an_orderly_stop_and_a_path_with_spaces(tmp_path: Path) -> None:
    data = tmp_path / "my data 'of' \"today\", ünïcode"
    with running(data) as servers:
        servers.write("first")
        tree = descendants(servers.process.pid)
    assert servers.process.returncode == 0
    assert alive(tree) == set()
    with running(data) as servers:
        assert servers.read() == [["first"], ["first"]]


def test_killing_the_launcher_leaves_no_process_and_whole_data(tmp_path: Path) -> None:
    for written in ("a", "b"):
        with running(tmp_path) as servers:
            servers.write(written)
            tree = descendants(servers.process.pid)
            assert len(tree) > 4
            servers.process.kill()
        # Started again at once, while the old servers may still be ending.
    with running(tmp_path) as servers:
        assert servers.read() == [["a", "b"], ["a", "b"]]
    wait_for(lambda: not alive(tree))


def test_a_start_that_is_killed_half_way_does_no_harm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.jobstore.servers", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_for(lambda: any((tmp_path / "postgres.unfinished").glob("*")))
        process.kill()
    with running(tmp_path) as servers:
        servers.write("x")
        assert servers.read() == [["x"], ["x"]]
    assert not (tmp_path / "postgres.unfinished").exists()


@root_only
def test_an_ordinary_user_can_run_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    for written in ("a", "b"):
        with running(data, AS_NOBODY) as servers:
            servers.write(written)
            owners = {pid_owner(pid) for pid, _ in descendants(servers.process.pid)}
            assert owners == {NOBODY}
    with running(data, AS_NOBODY) as servers:
        assert servers.read() == [["a", "b"]] * 2


@root_only
def test_root_can_run_it_with_and_without_user_namespaces(tmp_path: Path) -> None:
    for privileges, owner in (([], 0), (WITHOUT_NAMESPACES, NOBODY), ([], 0)):
        with running(tmp_path, privileges) as servers:
            servers.write("x")
            files = [tmp_path / "postgres" / name for name in ("PG_VERSION", "postmaster.pid", "base")]
            assert {file.stat().st_uid for file in files} == {owner}
    with running(tmp_path) as servers:
        assert servers.read() == [["x"] * 3] * 2


def pid_owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_a_data_directory_is_held_by_one(tmp_path: Path) -> None:
    with DataDirectory(tmp_path):
        with pytest.raises(EmbeddedServerError, match="Another") as refused, DataDirectory(tmp_path):
            pass
        assert refused.value.code == "data_directory_in_use"
        assert str(tmp_path) in refused.value.message
    with DataDirectory(tmp_path):
        pass  # free again


def test_sockets_of_a_long_path_move_to_a_short_private_folder(tmp_path: Path) -> None:
    data = tmp_path / ("deep" * 30)
    with DataDirectory(data) as directory:
        assert len(os.fsencode(directory.sockets / ".s.PGSQL.5432")) <= LONGEST_SOCKET_PATH
        assert directory.sockets.stat().st_mode & 0o777 == 0o700
        first = directory.sockets
    with DataDirectory(data) as directory:
        assert directory.sockets == first
    first.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="only this user"), DataDirectory(data):
        pass
    first.rmdir()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "postgresql.conf").write_text("nonsense = 1\n")
    command = [sys.executable, "-m", "tests.jobstore.servers", str(tmp_path)]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode != 0
    assert "nonsense" in failed.stderr
    assert str(tmp_path / "logs" / f"{NAME}.log") in failed.stderr
