"""The job that a path names."""

from typing import Annotated

from fastapi import Depends

from api.kit.auth import TenantId
from api.kit.dependencies import Transaction, owned
from jobstore.kit.tables import Job


def find_job(job_id: str, tenant: TenantId, session: Transaction) -> Job:
    return owned(session, Job, job_id, tenant)


FoundJob = Annotated[Job, Depends(find_job)]
