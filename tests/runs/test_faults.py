"""What a person is told of an exception."""

import errno

import pytest
import torch

from retmask.runs.faults import is_expected, is_out_of_memory, sentence

CPU = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "the memory ran out"),
        (RuntimeError(CPU), "the memory ran out"),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), "the memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "the GPU ran out of memory"),
        (RuntimeError("CUDA error: out of memory"), "the GPU ran out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the GPU ran out of memory"),
        (RuntimeError("MPS backend out of memory (allocated 9 GB)"), "the GPU ran out of memory"),
    ],
)
def test_memory_that_ran_out_is_known(error: Exception, says: str) -> None:
    assert is_out_of_memory(error)
    assert is_expected(error)
    assert sentence(error).startswith(says)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes cannot be multiplied"),
        RuntimeError("its worker ended without a word: it may have been killed or run out of memory"),
        ValueError("CUDA out of memory"),
        OSError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_other_failures_are_not_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert "memory ran out" not in sentence(error)
