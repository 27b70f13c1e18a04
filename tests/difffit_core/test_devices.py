"""Telling that memory is short from every other failure."""

import pytest
import torch

from difffit_core.devices import is_out_of_memory


def test_memory_that_cannot_be_had_is_told_from_other_failures() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as wrong:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(wrong.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_that_is_full_is_recognised() -> None:
    with pytest.raises(torch.OutOfMemoryError) as refused:
        torch.empty(2**50, device="cuda")
    assert is_out_of_memory(refused.value)
