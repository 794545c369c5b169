"""What a person is told of an exception: one sentence, the same on the command line, the pages and in a run's record.

ValueError and OSError are how the project says what is wrong with an input. Anything else is a fault of ours or of a
library's: it is told as what it is, and `--debug` (or RETMASK_DEBUG=1) shows the traceback.
"""

import os
import re

_MOST = 2000  # characters of what an exception says: some quote whole files
_MEMORY = "the memory ran out: choose a shorter context, fewer trials or columns, or a smaller model"
_GPU = "the GPU ran out of memory: choose a shorter context, or fewer columns or trials"
_CPU_WORDS = re.compile("allocate memory|DefaultCPUAllocator")  # PyTorch's, in a RuntimeError, and the system's
_GPU_WORDS = re.compile("(CUDA|HIP|XPU|backend|error:) out of memory|ALLOC_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a CPU or on a GPU. PyTorch is not imported to ask it."""
    return _on_gpu(error) or isinstance(error, MemoryError) or _says(error, _CPU_WORDS)


def _on_gpu(error: BaseException) -> bool:
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__) or _says(error, _GPU_WORDS)


def _says(error: BaseException, words: re.Pattern[str]) -> bool:
    return isinstance(error, RuntimeError | OSError) and bool(words.search(str(error)))


def is_expected(error: BaseException) -> bool:
    """Whether what the exception says was written for a person to read."""
    known = isinstance(error, ValueError | OSError) or is_out_of_memory(error)
    return known and not isinstance(error, UnicodeError)


def sentence(error: BaseException) -> str:
    """What an exception says, on one line; its type before it where it was not meant for a person."""
    if is_out_of_memory(error):
        return _GPU if _on_gpu(error) else _MEMORY
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
        return _one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read: RecursionError"
    name, said = type(error).__name__, _one_line(str(error))
    return said if said and is_expected(error) else f"{name}: {said}" if said else name


def unexpected(error: BaseException) -> str:
    """The same for an exception that nobody has foreseen."""
    return f"something unexpected happened: {sentence(error)}; run again with --debug for the traceback"


def debugging() -> bool:
    """Whether tracebacks are asked for: RETMASK_DEBUG is set, by the person or by `--debug`."""
    return os.environ.get("RETMASK_DEBUG", "") not in ("", "0")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST else f"{line[:_MOST]}…"
