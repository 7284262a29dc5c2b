"""Gives freed memory back to the operating system."""

import ctypes
import gc

__all__ = ["release_memory"]


def release_memory() -> bool:
    """Collect garbage, and return the heap's free pages. Returns False where the C library cannot (musl).

    Imports and decoding a plan leave 2 to 3 MB of free pages in a meter's process of 80 MB: glibc keeps them.
    Takes some 50 ms.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
