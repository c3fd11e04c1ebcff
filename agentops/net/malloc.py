"""Keeps a long-lived process from holding on to memory that it used for a moment.

glibc raises the size from which a block is mapped by itself to that of the largest one ever freed, up to 32 MiB.
After one list of ten thousand objects, the bytes of the next come out of the heap, between small blocks that stay, and
are never given back: each list may add a step. A size that is set stays.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 256 * 1024
_ARENAS = 2
"""Worker threads read files and ask resolvers; glibc would give up to eight per core a heap of their own."""


def return_large_blocks() -> bool:
    """Give blocks of 256 KiB and more back to the system when they are freed; whether the C library can.

    For the whole process, so only for whoever owns it, at its start. What `MALLOC_*` variables say, it overrules.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, macOS: their allocators have no such threshold
        return False
    return all(
        mallopt(option, value)
        for option, value in (
            (_M_MMAP_THRESHOLD, _LARGE_BYTES),
            (_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES),
            (_M_ARENA_MAX, _ARENAS),
        )
    )
