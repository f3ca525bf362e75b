"""Tell glibc to keep large blocks instead of returning them to the kernel after each request.

A request body of 128 KiB and more is by default a mapping of its own, made and unmapped for every request: page faults took
more than half of the CPU of such a pick (1,104 against 493 µs for a 256 KB body).
"""

import ctypes

__all__ = ["keep_large_blocks"]

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3

# Larger than the largest body (32 MiB is glibc's own upper bound for the mmap threshold on 64-bit machines).
MMAP_THRESHOLD_BYTES = 32 << 20
TRIM_THRESHOLD_BYTES = 256 << 20
TOP_PAD_BYTES = 16 << 20


def keep_large_blocks() -> bool:
    """Set the thresholds for this process; return False where the C library has no ``mallopt`` (musl, macOS)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(ctypes.c_int(parameter), ctypes.c_int(value)) == 1
        for parameter, value in (
            (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
            (M_TOP_PAD, TOP_PAD_BYTES),
        )
    )
