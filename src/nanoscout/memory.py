"""Memory that was freed: kept for the next to need some, or back to the system; and torch's.

Where the C library is not glibc, `keep` and `trim` do nothing.
"""

import ctypes
import os

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""Parameters of glibc's mallopt."""


def keep() -> None:
    """Keep what this process frees until `trim`.

    Left alone, the C library gets each large tensor from the system and gives it back at once, and
    the system clears every page anew: a quarter of an optimiser step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)


def trim() -> None:
    """Return what this process has freed but its C library keeps.

    Rollouts and learning free gigabytes in pieces of all sizes. Kept, the pieces of one are of
    little use to the other, and their peaks add up.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def keep_few_products() -> None:
    """Let torch keep at most 64 compiled matrix products on a CPU; to be called before the first.

    oneDNN compiles one for each shape and keeps 1,024, of more than 0.1 MB each. Each block of a
    long attention has a shape of its own, which does not come again. Rollouts get a few percent
    slower.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
