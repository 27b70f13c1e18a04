"""The processes that train one adapter together: this one alone, or as many as torchrun has started."""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor

# The others wait while the first encodes the dataset, validates or draws samples; the usual 10 or 30 minutes are too few.
PATIENCE = timedelta(days=1)


class Processes:
    """`count` processes, of which this one is number `rank`; the first writes all files. `device` is this process's own."""

    def __init__(self, device: torch.device) -> None:
        self.count, self.rank, self.device = 1, 0, device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
            self.count, self.rank = state.num_processes, state.process_index
            if device.type != "cpu":
                self.device = state.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> Tensor:
        """The positions in a batch that are this process's to compute."""
        return torch.arange(batch).tensor_split(self.count)[self.rank]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange; every process gets the same bits."""
        if self.count > 1:
            from accelerate.utils import reduce

            tensors = list(tensors)
            total: Tensor = reduce(torch.cat([t.flatten().float() for t in tensors]), "sum")
            for tensor, part in zip(tensors, total.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def close(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()
