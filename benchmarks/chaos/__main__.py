"""Does the service lose anything? `python -m benchmarks.chaos --minutes 3 --seed 1 [--json]`; exits with 1 where it does.

The real stack works off jobs and pictures of two tenants, while a random one of its processes is killed or stopped, PostgreSQL
once for 40 seconds, or a checkpoint is damaged; in the end every job must have ended once and as it should, and every adapter
be that of an undisturbed run.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos.checks import Found, References, check_database, check_tenant, references
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.load import SEEDS, Tenant, job_spec
from benchmarks.chaos.stack import GARBAGE_SECONDS, Stack, running, running_stack, wait_for
from client import Client
from client.upload import prepare_upload
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.objects import ObjectStore

DATASET = Path(__file__).parents[2] / "examples" / "fluent"
DRAIN_SECONDS = 600.0  # for what was accepted, after the last fault


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--minutes", type=float, default=3.0, help="of faults")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and the work")
    parser.add_argument("--folder", type=Path, help="keep the data and the logs here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="difffit-chaos-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures, found = run(folder, arguments.minutes, arguments.seed)
    print(json.dumps(figures) if arguments.json else "\n".join(f"{name:<22} {value}" for name, value in figures.items()))
    return 0 if found.clean() else 1


def run(folder: Path, minutes: float, seed: int) -> tuple[dict[str, Any], Found]:
    found, data_dir = Found(), folder / "data"
    with running_stack(data_dir) as stack:
        tenants, known, accepted = prepare(stack, seed)
        faults = Faults(stack, seed)
        workers = [threading.Thread(target=tenant.run) for tenant in tenants]
        for worker in workers:
            worker.start()
        faults.run(60 * minutes)
        for tenant in tenants:
            tenant.stop.set()
        for worker in workers:
            worker.join()
        began = time.monotonic()
        settle(stack, tenants)
        drained = time.monotonic() - began
        for tenant in tenants:
            check_tenant(found, tenant, known)
        time.sleep(2 * GARBAGE_SECONDS + 5)  # every file is older than the grace period, and a collection has begun since
        engine = make_engine(database_url(stack))
        accepted |= {job.id for tenant in tenants for job in tenant.jobs}
        check_database(found, session_factory(engine), ObjectStore((data_dir / "files").as_uri()), accepted, faults.removed)
        engine.dispose()
        family = set(stack.processes())
    for process in family & set(running()):
        found.add("orphans", f"process {process.pid} still runs: {process.command}")
    return figures_of(faults, tenants, found, drained), found


def prepare(stack: Stack, seed: int) -> tuple[list[Tenant], References, set[str]]:
    """Two tenants with the same pictures, and what their jobs should give: from runs without a fault."""
    with Client(stack.url, stack.api_key) as operator:
        second = operator.create_tenant("second")["key"]["key"]
        tenants = []
        for number, key in enumerate((stack.api_key, second)):
            with Client(stack.url, key) as client, prepare_upload([DATASET]) as prepared:
                dataset = client.wait_dataset(client.upload_dataset(prepared.files)["id"])["id"]
            tenants.append(Tenant(stack.url, key, dataset, seed + number))
        made = {seed: operator.create_job(job_spec(tenants[0].dataset, seed))["id"] for seed in SEEDS}
        for job_id in made.values():
            wait_for(lambda job=job_id: operator.job(job)["status"] == "succeeded", DRAIN_SECONDS)  # type: ignore[misc]
        adapters = {seed: str(operator.job(job_id)["adapter"]) for seed, job_id in made.items()}
        return tenants, references(operator, adapters), set(made.values())


def settle(stack: Stack, tenants: list[Tenant]) -> None:
    """Wait until the last fault is over and everything accepted has ended; what is paused still is resumed."""
    wait_for(stack.answers, 60)
    for tenant in tenants:
        with Client(stack.url, tenant.key) as client:
            for job in tenant.jobs:

                def resumed(job_id: str = job.id) -> bool:
                    if client.job(job_id)["status"] == "paused":
                        client.resume_job(job_id)
                    return client.job(job_id)["status"] not in {"pausing", "paused"}

                wait_for(resumed, 60)
        tenant.join(DRAIN_SECONDS)
        with Client(stack.url, tenant.key) as client:
            for _, generation in tenant.pictures:
                wait_for(lambda row=generation: client.generation(row)["status"] in {"succeeded", "failed"}, 60)  # type: ignore[misc]


def database_url(stack: Stack) -> str:
    """From the environment of the API, which has it from the launcher."""
    environ = Path(f"/proc/{stack.find('api')[0].pid}/environ").read_bytes().split(b"\0")
    return next(entry for entry in environ if entry.startswith(b"DATABASE_URL=")).decode().partition("=")[2]


def figures_of(faults: Faults, tenants: list[Tenant], found: Found, drained: float) -> dict[str, Any]:
    recoveries = faults.recoveries([at for tenant in tenants for at in tenant.progress]) or [0.0]
    return {
        "faults": faults.counts(),
        "faults_in_all": len(faults.injected),
        "jobs": sum(len(tenant.jobs) for tenant in tenants),
        "pictures": sum(len(tenant.pictures) for tenant in tenants),
        **found.counts(),
        "recovery_seconds_median": round(statistics.median(recoveries), 2),
        "recovery_seconds_max": round(max(recoveries), 2),
        "drain_seconds": round(drained, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
