"""How the C library keeps memory that tensors have freed."""

import ctypes

# glibc's mallopt(3): parameters, and the largest threshold that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEPT_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Reuse freed blocks instead of giving them back to the system, up to _KEPT_BYTES.

    A layer's intermediate tensors are a few MB each and live for microseconds. By default glibc
    returns such blocks at once, and every next one is zeroed by the kernel page by page: 100,000
    page faults for 512 tokens, a quarter of the time. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
