"""The processes that train one adapter together: this one alone, or as many as torchrun has started."""

import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from torch import Tensor

BUCKET = 2**24  # numbers that are exchanged at once, in a copy of 64 MiB

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
        """Replace each tensor by its sum over all processes, in few exchanges; every process gets the same bits."""
        if self.count > 1:
            from accelerate.utils import reduce

            for bucket in _buckets(tensors):
                total: Tensor = reduce(torch.cat([t.flatten().float() for t in bucket]), "sum")
                for tensor, part in zip(bucket, total.split([t.numel() for t in bucket]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def close(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups that are full with `BUCKET` numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(t.numel() for t in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
