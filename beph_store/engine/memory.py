"""How much memory a process may use while it decodes a slide: a file of a few bytes may ask for any amount.

Linux only, elsewhere nothing is limited. RLIMIT_DATA counts what a process may write and shares with nobody: the heap,
and what decoders map for pixels. RLIMIT_AS would count files that are mapped, and address space that allocators and
threads reserve and never touch, which grows with the cores of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from beph_store.errors import UsageError

#: What one slide may take beside what the process holds before it opens any. Sound ones take 0.1 GB of it as a rule,
#: and 2.1 at most: a picture of 89 Mpx with transparency, or a macro-tile of 8,192 px in JPEG 2000.
DEFAULT_GB = 4.0
LEAST_GB = 0.25
#: For whatever opens slides without options of its own.
VARIABLE = "BEPH_STORE_READER_MEMORY_GB"

#: How C libraries say it; Python itself raises MemoryError.
_WORDS = re.compile(
    r"insufficient memory|out of memory|not enough memory|memory allocation|alloc\w* failed"
    r"|(failed|unable|cannot|could not|couldn't) (to )?alloc|failed to map|MemoryError",
    re.IGNORECASE,
)
#: GLib and others end the process where there is no memory; some read from the null pointer that they got.
_ENDS = frozenset(-int(number) for number in (signal.SIGABRT, signal.SIGSEGV, getattr(signal, "SIGTRAP", 5)))


def limit_bytes(gigabytes: float | None = None) -> int:
    """The limit in bytes: what is asked for, else what the environment says, else the default. Raises UsageError."""
    name = "--reader-memory-gb"
    if gigabytes is None and os.environ.get(VARIABLE):
        name = VARIABLE
        try:
            gigabytes = float(os.environ[VARIABLE])
        except ValueError:
            raise UsageError(f"{VARIABLE}={os.environ[VARIABLE]!r} is not a number of gigabytes") from None
    gigabytes = DEFAULT_GB if gigabytes is None else gigabytes
    if not LEAST_GB <= gigabytes < 1e6:
        raise UsageError(f"{name} {gigabytes:g}: a reader needs at least {LEAST_GB:g} GB")
    return int(gigabytes * 1e9)


@contextlib.contextmanager
def memory_limit(most_bytes: int) -> Iterator[None]:
    """Let this process take so many bytes more than it holds; afterwards what it was before.

    What earlier slides left behind counts as held up to the same amount, and no further.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = min(_held(), _held_at_first() + most_bytes) + most_bytes
    unlimited = resource.RLIM_INFINITY
    most = min([most, *(bound for bound in (before, hard) if bound != unlimited)])
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


@functools.cache
def _held_at_first() -> int:
    return _held()


def _held() -> int:
    """Bytes that count for RLIMIT_DATA now."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Let the system have what is free: glibc keeps it, some 40 MB more with every ingest of one process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)


def for_want_of_memory(error: BaseException) -> bool:
    """Whether this came of the limit, as far as one can tell."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError) or _WORDS.search(str(chain)):
            return True
        chain = chain.__cause__
    return False


def too_much(most_bytes: int) -> str:
    """The reason why a slide failed that did not fit."""
    return (
        f"decoding it takes more than the {most_bytes / 1e9:g} GB of memory that a reader may use: if the slide is "
        f"sound, pass --reader-memory-gb {most_bytes / 5e8:g} (or set {VARIABLE})"
    )


def crashed(exit_code: int | None, how: str, most_bytes: int) -> str:
    """The reason why a slide failed whose reader died."""
    perhaps = f", as for want of memory beyond {most_bytes / 1e9:g} GB, see --reader-memory-gb"
    if sys.platform != "linux" or exit_code not in _ENDS:
        perhaps = ""
    if exit_code == -getattr(signal, "SIGKILL", 9):
        perhaps = ", as the system does when memory is short: fewer --workers need less"
    return f"the reader crashed on this file ({how}{perhaps}): check it with another viewer, or convert it"
