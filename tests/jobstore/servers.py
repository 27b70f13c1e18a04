"""Run as a process: starts the embedded servers on a data directory, prints one JSON line, and stops them when stdin closes."""

import json
import sys
from pathlib import Path

from jobstore.embedded import postgres, valkey
from jobstore.embedded.directory import DataDirectory


def main(data: Path) -> None:
    with DataDirectory(data) as directory:
        broker, database = valkey.start(directory), postgres.start(directory)
        valkey.wait(broker, directory)
        postgres.wait(database, directory)
        urls = {"database": postgres.url(directory), "redis": valkey.url(directory)}
        sys.stdout.write(json.dumps(urls) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        database.stop(30)
        broker.stop(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
