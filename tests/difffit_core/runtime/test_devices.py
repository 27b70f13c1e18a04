"""Telling that memory is short from every other failure."""

import pytest
import torch

from difffit_core.runtime.devices import is_out_of_memory


def test_memory_that_cannot_be_had_is_told_from_other_failures() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)
    told = ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    for words in (*told, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as wrong:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(wrong.value)


@pytest.mark.gpu
def test_a_gpu_that_is_full_is_recognised() -> None:
    with pytest.raises(torch.OutOfMemoryError) as refused:
        torch.empty(2**50, device="cuda")
    assert is_out_of_memory(refused.value)
