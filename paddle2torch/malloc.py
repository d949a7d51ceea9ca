"""How the process's allocator treats memory that is freed and asked for again at once, as every layer does."""

from __future__ import annotations

import ctypes
import platform

# glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
FROM = 1 << 30
"""Bytes from which a block goes back to the system when it is freed."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks of up to 1 GiB for the next that asks; True where that could be set.

    Otherwise a feature map of a page is given back to the system after its layer and taken again for the next, page
    fault by page fault. All threads share one heap: with one each, as glibc gives them, each would keep the memory of a
    page. It is a setting of the whole process: the command line sets it, `import paddle2torch` does not. A process then
    stays at its peak memory, and does not go above it. On other systems nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {M_MMAP_THRESHOLD: FROM, M_TRIM_THRESHOLD: 2 * FROM - 1, M_ARENA_MAX: 1}
    return all(libc.mallopt(name, value) for name, value in settings.items())
