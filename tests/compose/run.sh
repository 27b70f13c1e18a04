#!/usr/bin/env bash
# Builds the images and drives the whole main job through `docker compose`, in a project of its own that is removed afterwards.
# Needs any Docker engine with compose v2, and a Python that has this package: COMPOSE_TEST_PYTHON, else .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${COMPOSE_TEST_PYTHON:-.venv/bin/python}
if ! "$python" -c 'import client.api' 2>/dev/null; then
    echo "compose-test: $python has not this package; run \`make setup\`, or set COMPOSE_TEST_PYTHON." >&2
    exit 2
fi
if ! docker compose version >/dev/null 2>&1; then
    echo "compose-test: \`docker compose\` was not found; install Docker Engine with the compose v2 plugin." >&2
    exit 2
fi
if ! docker info >/dev/null 2>&1; then
    echo "compose-test: no Docker engine answers; start it, or point DOCKER_HOST at one." >&2
    exit 2
fi
exec "$python" -m tests.compose.drive
