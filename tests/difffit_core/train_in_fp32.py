"""The trainer as on a CPU that does not multiply bf16: what differs by rounding alone differs very little."""

import sys

import torch

from difffit_core.train import main

if __name__ == "__main__":
    torch.cpu._is_avx512_bf16_supported = lambda: False
    sys.exit(main())
