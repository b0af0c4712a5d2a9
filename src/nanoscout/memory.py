"""Memory that was freed, back to the system."""

import ctypes


def trim() -> None:
    """Return what this process has freed but its C library keeps, where that is glibc.

    Rollouts and learning free gigabytes in pieces of all sizes. Kept, the pieces of one are of
    little use to the other, and their peaks add up.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
