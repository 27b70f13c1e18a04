"""The trainer as on a CPU that does not multiply bf16: what differs by rounding alone differs very little."""

import sys

from difffit_core.runtime import devices
from difffit_core.training.__main__ import main

if __name__ == "__main__":
    devices.multiplies_bf16 = lambda device: False
    sys.exit(main())
