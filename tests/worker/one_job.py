"""A worker process for one job: `python -m tests.worker.one_job OPTIONS…`, options of the small trainer."""

import sys

from tests.worker.conftest import SMALL_TRAINER
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import Standby

if __name__ == "__main__":
    standby = Standby(SMALL_TRAINER + sys.argv[1:])
    run_next(standby)
    standby.close()
